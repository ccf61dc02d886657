"""What a call gets beside its tensors, by device; no GPU is needed."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dyndeploy.errors import DynError
from dyndeploy.native import abi, devices, kernels, library
from dyndeploy.ops._spec import spec_of

API = (Path(__file__).parents[2] / "plugins" / "common" / "api.h").read_text(encoding="utf-8")
C_TYPES = {"uint64_t": "c_ulong", "int32_t": "c_int", "void*": "c_void_p"}


def on_gpu(index=0, dtype=torch.float32):
    """As much of a tensor as is looked at."""
    return SimpleNamespace(device=torch.device("cuda", index), dtype=dtype)


@pytest.fixture
def gpus(monkeypatch):
    """torch.cuda of a machine with two GPUs, the first one current; what devices are entered is listed."""
    entered = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda index: entered.append(index) or "entered")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=0x1000 + index))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: ((9, 0), (7, 5))[index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: ("NVIDIA H200", "Tesla T4")[index])
    devices._is_new_enough.cache_clear()
    yield entered
    devices._is_new_enough.cache_clear()


@pytest.mark.parametrize(("name", "struct"), [("resources", abi.Resources), ("cuda_resources", abi.CudaResources)])
def test_structs_are_those_of_the_header(name, struct):
    body = re.search(rf"typedef struct dyndeploy_{name} {{(.*?)}} dyndeploy_{name};", API, re.DOTALL)[1]
    fields = re.findall(r"^\s*(?:const )?(\w+\*?) (\w+);", body, re.MULTILINE)
    assert [name for _, name in fields] == [name for name, _ in struct._fields_]
    for (c_type, _), (_, python_type) in zip(fields, struct._fields_):
        assert C_TYPES.get(c_type, "LP_Threads") == python_type.__name__


def test_devices_by_tensor():
    assert devices.device_of(torch.zeros(1)).kind == "cpu"
    assert devices.device_of(on_gpu()).kind == "cuda"
    assert devices.device_of(torch.zeros(1, device="meta")) is None
    with library.emulating(Path("libdyndeploy_cuda_emulated.so")):
        assert devices.device_of(torch.zeros(1)).kind == "cuda"
        assert devices.device_of(torch.zeros(1)) is devices.device_of(torch.zeros(1))
        assert devices.device_of(on_gpu()) is devices.device_of(on_gpu())
    assert devices.device_of(torch.zeros(1)).kind == "cpu"


def test_a_call_on_a_gpu_has_its_stream_device_and_precision(gpus, float32_products):
    cuda = devices.device_of(on_gpu())
    float32_products("tf32")
    assert cuda.setting(on_gpu(0)) == (0, True)
    assert cuda.setting(on_gpu(1)) == (1, True)
    assert cuda.setting(on_gpu(1, torch.float16)) == (1, False)
    float32_products("ieee")
    assert cuda.setting(on_gpu(1)) == (1, False)
    for index, tf32 in ((0, True), (1, False)):
        resources = cuda.resources((index, tf32))
        assert (resources.stream, resources.tf32, resources.workspace) == (0x1000 + index, tf32, None)
        assert resources.size == 56
    with cuda.entered((0, False)):
        assert gpus == []
    assert cuda.entered((1, False)) == "entered"
    assert gpus == [1]


def test_the_older_api_of_torch_is_heard_as_well():
    cuda, before = devices.device_of(on_gpu()), torch.backends.cudnn.allow_tf32
    try:
        for allowed in (False, True):
            torch.backends.cudnn.allow_tf32 = allowed
            assert cuda.setting(on_gpu()) == (0, allowed)
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_an_old_gpu_is_said_to_be_once(gpus, monkeypatch, recwarn):
    monkeypatch.setattr(devices.Device, "has", lambda self, folder, function: True)
    spec = spec_of("ddf")
    assert kernels.available(spec, "forward", on_gpu(0))
    with pytest.warns(
        RuntimeWarning, match=r"references on Tesla T4: the kernels need compute capability 8\.0, it has 7"
    ):
        assert not kernels.available(spec, "forward", on_gpu(1))
    assert not kernels.available(spec, "forward", on_gpu(1))
    assert len(recwarn) == 0


@pytest.mark.parametrize(("status", "who"), [(1, "native kernel"), (2, "native kernel"), (3, "CUDA runtime")])
def test_a_status_is_an_error_with_the_message_of_its_library(status, who):
    given = SimpleNamespace(dyndeploy_message=lambda: b"kernel sample <<<(1, 1, 1), 128, 0>>>: no kernel image")
    with pytest.raises(DynError, match=rf"^ddf: the {who} refuses the call\.\n  why: kernel sample.*no kernel image"):
        library.check_status("ddf", status, given)
    library.check_status("ddf", 0, given)


def test_the_emulator_is_another_library(tmp_path):
    file = tmp_path / "libdyndeploy_cuda_emulated.so"
    file.write_bytes(b"not a library")
    with library.emulating(file), pytest.warns(RuntimeWarning, match="does not load"):
        assert not kernels.available(spec_of("ddf"), "forward", torch.zeros(1))
    assert kernels.available(spec_of("ddf"), "forward", torch.zeros(1))

"""Engines that do not fit, are not whole, or cannot run here: each refusal, as docs/tensorrt.md quotes it."""

import subprocess
import sys
from pathlib import Path

import pytest

import dyndeploy.cuda
from dyndeploy.bundle import ONNX
from dyndeploy.errors import DynError, MissingPackageError
from dyndeploy.runtimes import UnavailableError, open_session
from dyndeploy.tensorrt.record import EngineTensor, Gpu, Runtime

PROFILE = [[-1, 3, -1], [1, 3, 2], [2, 3, 4], [8, 3, 64]]
DOCS = Path(__file__).parents[2] / "docs" / "tensorrt.md"


def refused(world, kind=DynError):
    """The error of opening the bundle; nothing is left on the GPU."""
    with pytest.raises(DynError) as caught:
        world.open()
    assert type(caught.value) is kind, caught.value
    assert world.alive() == []
    return caught.value


def quoted(error, world):
    """Whether the documentation has the first line of the message, with its own names of what was given."""
    line = error.what
    for given, name in (
        (str(world.bundle.path), "bundles/digits"),
        (str(world.plugins), world.plugins.name),
        ("fake_tensorrt", "tensorrt"),
        (world.device.name, "NVIDIA L4"),
    ):
        line = line.replace(given, name)
    assert line in DOCS.read_text(encoding="utf-8").splitlines()
    return True


def rebuild(world, target="tensorrt"):
    return f"dyndeploy build {world.bundle.path} --target {target}"


def test_a_bundle_without_an_engine(world):
    (world.bundle.path / "engines" / "tensorrt" / "record.json").unlink()
    error = refused(world, UnavailableError)
    assert error.fix == rebuild(world)
    assert quoted(error, world)


def test_a_record_that_cannot_be_read(world):
    (world.bundle.path / "engines" / "tensorrt" / "record.json").write_text("{")
    error = refused(world)
    assert "record.json cannot be read" in error.what
    assert error.fix == rebuild(world)


def test_an_onnx_file_is_no_engine(world):
    with pytest.raises(DynError, match="The runtime 'tensorrt' cannot open an ONNX file") as caught:
        open_session(world.bundle.onnx_path, "tensorrt")
    assert "dyndeploy build BUNDLE --target tensorrt" in caught.value.fix
    assert quoted(caught.value, world)


def test_a_truncated_engine(world):
    file = world.bundle.path / "engines" / "tensorrt" / "engine"
    content = file.read_bytes()
    file.write_bytes(content[:100])
    error = refused(world)
    assert "engine is truncated" in error.what
    assert error.why == f"It has 100 bytes, and {len(content)} were written."
    assert error.fix == rebuild(world)
    assert quoted(error, world)
    file.unlink()
    assert "is missing" in refused(world).what


def test_a_corrupt_engine(world):
    file = world.bundle.path / "engines" / "tensorrt" / "engine"
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    error = refused(world)
    assert "engine is corrupt, or is not the engine that was built" in error.what
    assert "its record says sha256:" in error.why
    assert error.fix == rebuild(world)
    assert quoted(error, world)
    assert world.module.runtimes == []  # the vendor's code never sees it


def test_another_model(world):
    (world.bundle.path / ONNX).write_bytes(b"another model")
    error = refused(world)
    assert "was built from another model.onnx" in error.what
    assert error.fix == rebuild(world)
    assert quoted(error, world)


def test_another_version(world):
    world.build(runtime=Runtime(package="fake_tensorrt", version="10.16.1.11"))
    error = refused(world)
    assert error.what.endswith("was built by fake_tensorrt 10.16.1.11, and here is fake_tensorrt 11.4.0.106.")
    assert error.fix == f"{rebuild(world)}, or pip install fake_tensorrt==10.16.1.11"
    assert quoted(error, world)


def test_another_library_of_plugins(world, fakes):
    from dyndeploy.bundle import file_digest

    content = fakes.vendor.engine({"x": PROFILE}, ("y", "s"), needs_plugin=True)
    world.build(content, plugin_sha256=file_digest(world.plugins))
    world.open().close()
    assert world.module.registry.libraries == [str(world.plugins)]  # before the engine is loaded
    world.plugins.write_bytes(b"other plugins")
    error = refused(world)
    assert "was built with another library of plugins" in error.what
    assert error.fix == rebuild(world)
    assert quoted(error, world)


def test_a_library_of_plugins_that_is_not_taken(world, fakes):
    from dyndeploy.bundle import file_digest

    world.build(
        fakes.vendor.engine({"x": PROFILE}, ("y", "s"), needs_plugin=True), plugin_sha256=file_digest(world.plugins)
    )
    world.module.registry.refuses = True
    assert "does not take the plugin library" in refused(world).what


def test_plugins_inside_the_engine_need_no_library(world, fakes):
    content = fakes.vendor.engine({"x": PROFILE}, ("y", "s"), needs_plugin=True, embedded=True)
    world.build(content, plugin_sha256="sha256:of another installation", plugins_embedded=True)
    world.open().close()
    assert [r.engine_host_code_allowed for r in world.module.runtimes] == [True]
    assert world.module.registry.libraries == []
    world.build()
    world.open().close()
    assert world.module.runtimes[-1].engine_host_code_allowed is False
    world.build(content, plugin_sha256="sha256:x", plugins_embedded=True, onnx_sha256="sha256:y")
    assert refused(world).fix == f"{rebuild(world)} --embed-plugins"


def test_another_gpu(world):
    world.build(gpus=(Gpu(compute_capability="9.0", name="Large GPU"),))
    error = refused(world)
    assert error.what.endswith("is not for Fake GPU (compute capability 8.9).")
    assert error.why == "It was built for Large GPU (sm_90)."
    assert error.fix == f"{rebuild(world)}, on this machine"
    assert quoted(error, world)


def test_another_generation(rtx_world):
    rtx_world.build(gpus=(Gpu(compute_capability="8.0"), Gpu(compute_capability="8.6")))
    error = refused(rtx_world)
    assert error.why == "It was built for sm_80, sm_86."
    assert error.fix == f"{rebuild(rtx_world, 'tensorrt-rtx')} --gpus sm_89"


def test_a_gpu_that_the_vendor_does_not_support(rtx_world):
    rtx_world.device.compute_capability, rtx_world.device.name = (9, 0), "NVIDIA H100"
    error = refused(rtx_world, UnavailableError)
    assert error.what.endswith("does not support NVIDIA H100 (compute capability 9.0).")
    assert "8.9, 12.0" in error.why
    assert "--target tensorrt" in error.fix
    rtx_world.device.name = "Fake GPU"
    assert quoted(error, rtx_world)


def test_what_the_vendor_refuses_is_told_in_its_words(world):
    world.build(b"not an engine")
    error = refused(world)
    assert error.what == "TensorRT 11.4.0.106 does not load the engine."
    assert "magicTag" in error.why
    assert error.fix == rebuild(world)
    assert quoted(error, world)


def test_what_the_vendor_knows_before_it_loads(rtx_world):
    rtx_world.module.invalid = 33
    error = refused(rtx_world)
    assert "VERSION_MISMATCH, MALFORMED_ENGINE" in error.why
    assert rtx_world.module.loaded == []
    rtx_world.module.invalid = 4
    error = refused(rtx_world, UnavailableError)
    assert error.what == "The driver is too old for TensorRT for RTX 1.7.1.116."
    assert error.why.startswith("It serves CUDA up to 13.0.")
    assert quoted(error, rtx_world)


def test_a_driver_that_is_too_old_for_tensorrt(world, fakes):
    world.build(fakes.vendor.engine({"x": PROFILE}, ("y", "s"), driver=1))
    assert refused(world, UnavailableError).what == "The driver is too old for TensorRT 11.4.0.106."
    world.build()
    world.module.old_driver = True  # it says so when the runtime is made, and gives out one that crashes
    error = refused(world, UnavailableError)
    assert error.what == "The driver is too old for TensorRT 11.4.0.106."
    assert "createInferRuntime" in error.why


def test_an_engine_of_another_model_with_the_right_digests(world, fakes):
    """Its record belongs to it, but neither to this bundle."""
    names = ("x", "y", "other")
    tensors = [EngineTensor(name=n, mode="output" if n != "x" else "input", dtype="float32", shape=()) for n in names]
    world.build(tensors=tuple(tensors))
    error = refused(world)
    assert quoted(error, world)
    assert "is not of this bundle: its outputs are y, other" in error.what
    assert error.fix == rebuild(world)
    world.build(fakes.vendor.engine({"x": PROFILE}, ("y",)))
    error = refused(world)
    assert error.what.endswith("is not the one of its record.")
    assert error.why == "s is not there in it, float32 in the record."
    assert quoted(error, world)
    world.build(fakes.vendor.engine({"x": PROFILE}, ("y", "s"), dtype="INT32"))
    assert refused(world).why == "s is int32 in it, float32 in the record."


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"host": "x"}, "The engine wants x in the memory of the host"),
        ({"format": "y"}, "y of the engine is not linear: channels last"),
        ({"depends": "s"}, r"depends on values: \[-1\]"),
    ],
)
def test_engines_that_a_session_cannot_run(world, fakes, faults, message):
    world.build(fakes.vendor.engine({"x": PROFILE}, ("y", "s"), **faults))
    with pytest.raises(DynError, match=message):
        world.open()
    assert world.alive() == []


def test_a_dtype_that_numpy_lacks(world, fakes):
    world.build(fakes.vendor.engine({"x": PROFILE}, ("y", "s"), dtype="FP8"))
    with pytest.raises(DynError, match="x of the engine is FP8"):
        world.open()


def test_without_the_package(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "fake_tensorrt", None)
    error = refused(world, MissingPackageError)
    assert error.fix == 'pip install "dyndeploy[tensorrt]"'


def test_a_package_that_is_too_old(world):
    world.module.__version__ = "8.6.1"
    assert "is older than" in refused(world, UnavailableError).what


def test_without_cuda_python(world, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(MissingPackageError, match="Running an engine needs the package 'cuda-core'"):
        dyndeploy.cuda.open_device()


NO_GPU = """
from dyndeploy.cuda import open_device
from dyndeploy.runtimes import UnavailableError
try:
    open_device()
except UnavailableError as error:
    print(error.what)
"""


def test_without_a_driver():
    """In a process of its own, which sees no driver even where there is one."""
    pytest.importorskip("cuda.core")
    environment = {"CUDA_VISIBLE_DEVICES": "", "LD_LIBRARY_PATH": "", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", NO_GPU], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() in ("There is no usable CUDA driver here.", "There is no GPU here."), done.stderr
    assert done.stdout.strip() in DOCS.read_text(encoding="utf-8").splitlines()


def test_the_command_that_builds_it_again_has_what_was_asked_for(world):
    from dyndeploy.tensorrt.record import EngineOp
    from dyndeploy.tensors import Dim

    op = EngineOp(
        name="bend", type="ModulatedDeformConv2d", how="inlined", version=None, layers=9, dtype="float32", format=None
    )
    dims = dict(world.bundle.manifest.dims)
    world.build(onnx_sha256="sha256:x", ops=(op,), precision="fp16", dims=dims | {"batch": Dim(min=1, opt=1, max=2)})
    assert refused(world).fix == f"{rebuild(world)} --precision fp16 --no-plugins --dim batch=1:1:2"
    config = {"inline": ["bend"], "tf32": True, "workspace": None}
    world.build(onnx_sha256="sha256:x", ops=(op,), plugin_sha256="sha256:y", config=config)
    assert refused(world).fix == f"{rebuild(world)} --inline bend --tf32"


def test_what_is_said_in_a_request_is_quoted(world, fakes):
    import numpy as np

    lines = DOCS.read_text(encoding="utf-8").splitlines()
    array = np.zeros((2, 3, 4), np.float32)
    given = world.device.array(array)
    elsewhere = fakes.cuda.Array(given.memory, (2, 3, 4), "float32")
    elsewhere.device = 1
    session = world.open()
    for request in (
        lambda: session.run({"x": np.zeros((9, 3, 4), np.float32)}),
        lambda: session.run({"x": array.astype("float64")}),
        lambda: session.run_device({"x": fakes.cuda.Array(given.memory, (2, 3, 4), "float32", strides=(4, 8, 24))}),
        lambda: session.run_device({"x": fakes.cuda.Array(given.memory, (2, 3, 4), "float32", offset=4)}),
        lambda: session.run_device({"x": elsewhere}),
        lambda: session.run_device({"x": [1, 2]}),
    ):
        with pytest.raises(DynError) as caught:
            request()
        assert caught.value.what in lines
    session.close()
    with pytest.raises(DynError) as caught:
        session.run({"x": array})
    assert caught.value.what in lines
    session = world.open()
    session.run({"x": array[:1]})
    world.fate.failing = "enqueue"
    with pytest.raises(DynError) as caught:
        session.run({"x": array[:1]})
    assert caught.value.what in lines
    session = world.open()
    world.fate.failing, world.fate.code = "synchronize", "CUDA_ERROR_ILLEGAL_ADDRESS"
    for _ in range(2):
        with pytest.raises(DynError) as caught:
            session.run({"x": array[:1]})
        assert caught.value.what in lines

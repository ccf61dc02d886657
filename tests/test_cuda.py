"""dyndeploy/cuda.py on the genuine cuda-python, on a driver that is host memory (tests/tensorrt/fake_driver.c)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).parent / "tensorrt" / "fake_driver.c"
START = """
import ctypes, gc, json
import numpy as np
from dyndeploy.cuda import CudaError, open_device
from dyndeploy.errors import DynError

def live():
    gc.collect()
    counts = (ctypes.c_long * 4)()
    ctypes.CDLL("libcuda.so.1").fake_driver_live(counts)
    return list(counts)

def told(work):
    try:
        return work()
    except DynError as error:
        return [type(error).__name__, error.what, error.why, getattr(error, "sticky", None)]

def say(*values):
    print(json.dumps(values))

device = told(open_device)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs code in a process that finds the fake driver; returns what it says, line by line."""
    pytest.importorskip("cuda.core")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the fake driver is compiled by a C compiler on Linux")
    folder = tmp_path_factory.mktemp("driver")
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
        folder / "libcuda.so.1",
        DRIVER,
        "-ldl",
    ]
    subprocess.run(command, check=True)

    def run(code, fail=""):
        environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "FAKE_DRIVER_FAIL": fail}
        done = subprocess.run(
            [sys.executable, "-c", START + code],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


COPIES = """
say(device.name, device.compute_capability, device.driver, device.index)
stream = device.stream()
source, target, middle = device.pinned(1000), device.pinned(1000), device.allocate(1000, stream)
assert middle.address % 256 == 0 and source.host.shape == (1000,)

def there_and_back():
    stream.copy(middle.address, source.address, 1000)
    stream.copy(target.address, middle.address, 1000)

source.host[:] = np.arange(1000) % 251
there_and_back()
stream.synchronize()
say(bool((target.host == source.host).all()))
graph = stream.capture(there_and_back)
source.host[:] = 7
say(bool((target.host == 7).all()))  # a capture runs nothing
graph.launch()
stream.synchronize()
say(bool((target.host == 7).all()))
other = device.stream()
for handle in (other.handle, 0, 1, 2):
    stream.wait_for(handle)
    stream.hold(handle)
say(live()[:3])
for each in (graph, source, target, middle, stream, other):
    each.close()
del graph, source, target, middle, stream, other, each
say(live())
"""


def test_copies_graphs_and_streams(run):
    machine, copied, early, replayed, alive, left = run(COPIES)
    assert machine == ["Fake GPU", [8, 9], "13.0", 0]
    assert (copied, early, replayed) == ([True], [False], [True])
    assert alive == [[3, 2, 1]]
    assert left == [[0, 0, 0, 0]]


ARRAYS = """
import ml_dtypes
from dyndeploy.tensorrt.arrays import DeviceArray
stream = device.stream()

class Interface:
    def __init__(self, array):
        self.__cuda_array_interface__ = array.__cuda_array_interface__

for dtype in ("float32", "int64", ml_dtypes.bfloat16):
    memory = device.allocate(200, stream)
    memory.free_behind(stream.handle)
    given = DeviceArray(memory, (2, 3), np.dtype(dtype), 0)
    for taken in (given, *([Interface(given)] if dtype != ml_dtypes.bfloat16 else [])):
        view = device.view(taken, stream)
        strides = list(view.strides or (3, 1))
        say(view.address == memory.address, list(view.shape), view.dtype.name, strides, view.device, view.readonly)
    view = device.view(given, stream)
    del memory, given, taken
    say(live()[0])  # the view keeps it alive
    del view
import torch

for wrong in (np.zeros(3), torch.zeros(3), "text"):
    try:
        device.view(wrong, stream)
    except Exception as error:
        say(str(error))
say(live()[0])
"""


def test_arrays_of_both_protocols_come_in_and_go_out(run):
    said = run(ARRAYS)
    expected = [True, [2, 3], "float32", [3, 1], 0, False]
    as_int = [*expected[:2], "int64", *expected[3:]]
    as_bfloat16 = [*expected[:2], "bfloat16", *expected[3:]]
    assert said[:8] == [expected, expected, [1], as_int, as_int, [1], as_bfloat16, [1]]
    assert said[8] == said[9] == ["It is in the memory of the host."]
    assert said[-1] == [0]


REFUSED = [
    ("cuStreamCreateWithPriority:2", "CUDA failed to create a stream.", "CUDA_ERROR_OUT_OF_MEMORY", False),
    ("cuMemAllocFromPoolAsync:2", "CUDA failed to allocate 8 bytes on GPU 0.", "CUDA_ERROR_OUT_OF_MEMORY", False),
    ("cuMemAllocHost:2", "CUDA failed to allocate 8 bytes of pinned memory.", "CUDA_ERROR_OUT_OF_MEMORY", False),
    ("cuMemcpyAsync:700", "CUDA failed to copy.", "CUDA_ERROR_ILLEGAL_ADDRESS", True),
    ("cuStreamBeginCapture:1", "CUDA failed to capture a graph.", "CUDA_ERROR_INVALID_VALUE", False),
    ("cuStreamEndCapture:700", "CUDA failed to capture a graph.", "CUDA_ERROR_ILLEGAL_ADDRESS", True),
    ("cuGraphLaunch:700", "CUDA failed to launch a graph.", "CUDA_ERROR_ILLEGAL_ADDRESS", True),
    ("cuStreamWaitEvent:700", "CUDA failed to order streams.", "CUDA_ERROR_ILLEGAL_ADDRESS", True),
    ("cuStreamSynchronize:700", "CUDA failed to run.", "CUDA_ERROR_ILLEGAL_ADDRESS", True),
]
REFUSALS = """
import os

def work():
    stream = device.stream()
    memory, pinned = device.allocate(8, stream), device.pinned(8)
    stream.copy(memory.address, pinned.address, 8)
    stream.capture(lambda: stream.copy(pinned.address, memory.address, 8)).launch()
    stream.wait_for(device.stream().handle)
    stream.synchronize()

for fail in FAILS:
    os.environ["FAKE_DRIVER_FAIL"] = fail
    say(*told(work))
say(*told(lambda: open_device(1)))
"""


def test_what_the_driver_refuses_is_told(run):
    said = run(f"FAILS = {[fail for fail, *_ in REFUSED]}" + REFUSALS)
    for (kind, what, why, sticky), (_, expected, code, lost) in zip(said, REFUSED):
        assert (kind, what, sticky) == ("CudaError", expected, lost)
        assert code in why
    assert said[len(REFUSED) :] == [["DynError", "There is no GPU 1.", None, None]]


def test_a_driver_without_a_gpu(run):
    (((kind, what, why, _),),) = run("say(device)", "cuInit:100")
    assert (kind, what) == ("UnavailableError", "There is no GPU here.")
    assert "CUDA_ERROR_NO_DEVICE" in why


def test_a_capture_that_fails_leaves_the_stream_as_it_was(run):
    code = """
stream = device.stream()
pinned = device.pinned(16)
pinned.host[:8] = 5

def fails():
    stream.copy(pinned.address + 8, pinned.address, 8)
    raise DynError("no")

say(*told(lambda: stream.capture(fails))[:2])
stream.copy(pinned.address + 8, pinned.address, 8)
say(pinned.host[8:].tolist())
"""
    assert run(code) == [["DynError", "no"], [[5] * 8]]

"""Arrays that lie on the GPU go into an engine and come out of it where they lie."""

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from dyndeploy.cuda import View
from dyndeploy.errors import DynError
from dyndeploy.tensorrt.arrays import DeviceArray, check_view


def x(batch, width=4, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, 3, width)).astype(np.float32)


def is_right(y, array):
    np.testing.assert_array_equal(y, (array * np.float32(2) + np.float32(1)).astype(np.float32))


def values(world, array):
    return world.device.values(array.address, array.shape, array.dtype).copy()


def test_what_lies_on_the_gpu_is_not_copied(world):
    given = world.device.array(x(2))
    with world.open() as session:
        before = len(world.fate.names)
        outputs = session.run_device({"x": given})
        assert list(outputs) == ["y", "s"]
        assert "copy" not in world.fate.names[before:]
        assert "allocate pinned" not in world.fate.names
        assert all(isinstance(a, DeviceArray) for a in outputs.values())
        is_right(values(world, outputs["y"]), x(2))
        assert outputs["s"].shape == (2,)
        again = session.run_device({"x": world.device.array(x(2, seed=1))})
        is_right(values(world, outputs["y"]), x(2))  # it is the caller's
        is_right(values(world, again["y"]), x(2, seed=1))


def test_outputs_go_where_the_caller_wants_them(world):
    y = world.device.array(np.zeros((2, 3, 4), np.float32))
    with world.open() as session:
        outputs = session.run_device({"x": world.device.array(x(2))}, outputs={"y": y})
        assert outputs["y"] is y
        is_right(y.numpy(), x(2))
        assert isinstance(outputs["s"], DeviceArray)


def test_an_array_on_the_host_may_be_among_the_inputs(world):
    y = world.device.array(np.zeros((2, 3, 4), np.float32))
    with world.open() as session:
        for seed in range(4):
            session.run_device({"x": x(2, seed=seed)}, outputs={"y": y})
            is_right(y.numpy(), x(2, seed=seed))


def test_graphs_know_addresses(world):
    """Arrays that stay are replayed; those that come once are never captured."""
    s = world.device.array(np.zeros(2, np.float32))
    given, y = world.device.array(x(2)), world.device.array(np.zeros((2, 3, 4), np.float32))
    with world.open() as session:
        for seed in range(4):
            world.device.values(given.memory.address, given.shape, given.dtype)[...] = x(2, seed=seed)
            session.run_device({"x": given}, outputs={"y": y, "s": s})
            is_right(y.numpy(), x(2, seed=seed))
        assert (session.statistics.captured, session.statistics.replayed) == (1, 2)
        others = [world.device.array(x(2, seed=seed)) for seed in range(8)]
        for seed, other in enumerate(others):
            session.run_device({"x": other}, outputs={"y": y, "s": s})
            is_right(y.numpy(), x(2, seed=seed))
        assert session.statistics.captured == 1


@pytest.mark.parametrize("first", ["caller", "session"])
def test_it_happens_in_the_order_of_the_callers_stream(world, first):
    """Nothing waits: what makes the input is queued before, and what reads the output behind it.

    Whichever stream the GPU looks at first.
    """
    given, y = world.device.array(x(2)), world.device.array(np.zeros((2, 3, 4), np.float32))
    late = x(2, seed=9)
    with world.open() as session:
        stream = world.device.stream()
        stream.push(lambda: world.device.values(given.memory.address, late.shape, late.dtype).__setitem__(..., late))
        before = len(world.fate.names)
        session.run_device({"x": given}, outputs={"y": y}, stream=stream.handle)
        assert "synchronize" not in world.fate.names[before:]
        seen = []
        stream.push(lambda: seen.append(y.numpy()))
        assert not y.numpy().any()
        if first == "session":
            session._lanes[0].stream.drain()
        stream.drain()
        is_right(seen[0], late)
        stream.close()


def test_a_request_from_the_host_waits_for_one_that_is_still_queued(world):
    """Its staged input would be written while the one before is being read."""
    y = world.device.array(np.zeros((2, 3, 4), np.float32))
    with world.open() as session:
        stream = world.device.stream()
        session.run_device({"x": x(2)}, outputs={"y": y}, stream=stream)
        is_right(session.run({"x": x(2, seed=1)})["y"], x(2, seed=1))
        is_right(y.numpy(), x(2))


def test_memory_of_outputs_ends_behind_the_stream_that_may_read_it(world):
    with world.open() as session:
        stream = world.device.stream()
        outputs = session.run_device({"x": x(2)}, stream=stream)
        assert outputs["y"]._memory.behind == stream.handle
        assert session.run_device({"x": x(2)})["y"]._memory.behind == 0


@pytest.mark.parametrize("make", ["cuda_stream", "ptr", "handle", "numba", "protocol"])
def test_streams_of_all_libraries(world, make):
    stream = world.device.stream()
    foreign = {
        "cuda_stream": SimpleNamespace(cuda_stream=stream.handle),
        "ptr": SimpleNamespace(ptr=stream.handle),
        "handle": SimpleNamespace(handle=stream.handle),
        "numba": SimpleNamespace(handle=SimpleNamespace(value=stream.handle)),
        "protocol": SimpleNamespace(__cuda_stream__=lambda: (0, stream.handle)),
    }[make]
    with world.open() as session:
        session.run_device({"x": x(1)}, stream=foreign)
        assert world.fate.names[-1] == "hold a stream"
        with pytest.raises(DynError, match="stream is a str"):
            session.run_device({"x": x(1)}, stream="mine")


def test_what_does_not_fit_is_refused_before_it_is_queued(world, fakes):
    device = world.device
    good = device.array(x(2))
    memory = device.array(np.zeros((8, 3, 64), np.float32)).memory
    other = fakes.cuda.Array(memory, (2, 3, 4), "float32")
    other.device = 1
    with world.open() as session:
        for arrays, outputs, message in (
            ({"x": device.array(x(9))}, {}, "batch=9 is outside 1..8"),
            ({"x": device.array(x(2).astype("float64"))}, {}, "Input x is float64, expected float32"),
            ({}, {}, "Missing: x"),
            (None, {}, "The inputs are a NoneType"),
            ({"x": [1, 2]}, {}, "Input x is a list that cannot be taken as an array on the GPU"),
            ({"x": fakes.cuda.Array(memory, (2, 3, 4), "float32", offset=4)}, {}, "address that is no multiple of 256"),
            ({"x": fakes.cuda.Array(memory, (2, 3, 4), "float32", strides=(4, 8, 24))}, {}, "not in C order"),
            ({"x": other}, {}, "Input x is on GPU 1, the session on GPU 0"),
            ({"x": good}, {"z": good}, "There is no output z"),
            (
                {"x": good},
                {"y": device.array(x(3))},
                r"Output y is given as float32 \[3, 3, 4\], and is float32 \[2, 3",
            ),
            ({"x": good}, {"y": fakes.cuda.Array(memory, (2, 3, 4), "float32", readonly=True)}, "read-only"),
            ({"x": good}, {"y": np.zeros((2, 3, 4), np.float32)}, "Output y is a ndarray that cannot be taken"),
        ):
            with pytest.raises(DynError, match=message):
                session.run_device(arrays, outputs=outputs)
        assert session.statistics.requests == 0
        is_right(values(world, session.run_device({"x": good})["y"]), x(2))


def test_slices_that_are_in_c_order_all_the_same():
    for strides in ((12, 4, 1), None, (99, 4, 1)):
        check_view("x", View(256, (1, 3, 4), np.dtype("f4"), strides), 0)
    check_view("x", View(256, (2, 0, 4), np.dtype("f4"), (1, 1, 1)), 0)
    with pytest.raises(DynError, match="C order"):
        check_view("x", View(256, (2, 3, 4), np.dtype("f4"), (99, 4, 1)), 0)


def test_what_a_session_gives_can_be_taken_by_other_libraries(world):
    with world.open() as session:
        y = session.run_device({"x": x(2)})["y"]
    assert y.__dlpack_device__() == (2, 0)
    interface = y.__cuda_array_interface__
    assert (interface["shape"], interface["typestr"], interface["version"]) == ((2, 3, 4), "<f4", 3)
    assert repr(y) == "DeviceArray(float32 [2, 3, 4] on GPU 0)"
    is_right(np.from_dlpack(SimpleNamespace(__dlpack__=y.__dlpack__, __dlpack_device__=lambda: (1, 0))), x(2))
    half = DeviceArray(y._memory, (2,), np.dtype(ml_dtypes.bfloat16), 0)
    assert not hasattr(half, "__cuda_array_interface__")  # it has no name for bfloat16; DLPack has

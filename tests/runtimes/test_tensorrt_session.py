"""Sessions of TensorRT on a fake GPU: what comes out, graphs, buffers, callers at once, arrays on the GPU."""

import threading
import warnings

import numpy as np
import pytest

from dyndeploy.errors import DynError
from dyndeploy.runtimes import DeviceSession, Session


def x(batch, width=4, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, 3, width)).astype(np.float32)


def is_right(outputs, array):
    expected = (array * np.float32(2) + np.float32(1)).astype(np.float32)
    np.testing.assert_array_equal(outputs["y"], expected)
    np.testing.assert_array_equal(outputs["s"], expected.reshape(len(array), -1).sum(axis=1))


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def either(request):
    return request.getfixturevalue("world" if request.param == "tensorrt" else "rtx_world")


def test_it_runs(either):
    with either.open() as session:
        assert isinstance(session, Session)
        assert isinstance(session, DeviceSession)
        assert session.runtime == either.target
        assert [str(s) for s in session.outputs] == ["y: float32 [batch, 3, width]", "s: float32 [batch]"]
        for batch, width in ((2, 4), (1, 2), (8, 64), (2, 4)):
            is_right(session.run({"x": x(batch, width)}), x(batch, width))
        kept = session.run({"x": x(1)})
        session.run({"x": x(1, seed=1)})
        is_right(kept, x(1))  # it is the caller's: the next request does not write to it
    assert either.alive() == []


def test_any_layout_of_numpy_is_taken(world):
    with world.open() as session:
        wide = x(4, 8)
        is_right(session.run({"x": wide[::2, ::-1, ::2]}), wide[::2, ::-1, ::2])
        is_right(session.run({"x": np.asfortranarray(wide)}), wide)


def test_what_does_not_fit_is_refused_before_anything_is_called(world):
    with world.open() as session:
        before = len(world.fate.names)
        for wrong, message in (
            ({"x": x(9)}, "batch=9 is outside 1..8"),
            ({"x": x(2).astype("float64")}, "Input x is float64, expected float32"),
            ({"x": x(2)[:, :2]}, "size 2 in dim 1, expected 3"),
            ({}, "Missing: x"),
        ):
            with pytest.raises(DynError, match=message):
                session.run(wrong)
        assert len(world.fate.names) == before
        assert session.statistics.requests == 0


def test_buffers_are_made_once(world):
    with world.open(graphs=0) as session:
        session.run({"x": x(1)})
        made = [(b.size, b.pinned) for b in world.device.blocks.values()]
        largest = [8 * 3 * 64 * 4, 8 * 3 * 64 * 4, 8 * 4]
        assert sorted(made) == sorted([(1000, False), *((s, p) for s in largest for p in (False, True))])
        for batch in (8, 3, 1):
            session.run({"x": x(batch, 64)})
        assert len(world.device.blocks) == len(made)


def test_a_graph_is_captured_at_the_second_sight_of_a_shape_and_launched_from_then_on(world):
    with world.open() as session:
        for count, (replayed, captured) in enumerate([(0, 0), (0, 1), (1, 1), (2, 1)], 1):
            is_right(session.run({"x": x(2, seed=count)}), x(2, seed=count))
            assert (session.statistics.replayed, session.statistics.captured) == (replayed, captured)
        before = len(world.fate.names)
        session.run({"x": x(2)})
        assert world.fate.names[before:] == ["activate", "launch", "synchronize"]  # copies are in the graph
        for _ in range(3):
            is_right(session.run({"x": x(3)}), x(3))
        is_right(session.run({"x": x(2)}), x(2))
        assert (session.statistics.replayed, session.statistics.captured) == (5, 2)
        assert session.statistics.requests == 9


def test_the_graph_used_least_recently_goes(world):
    with world.open(graphs=2) as session:
        for batch in (1, 1, 2, 2, 1, 3, 3):  # 2 is the oldest when 3 is captured
            is_right(session.run({"x": x(batch)}), x(batch))
        assert len(world.device.graphs) == 2
        assert (session.statistics.captured, session.statistics.evicted) == (3, 1)
        before = session.statistics.replayed
        for batch in (1, 3):
            is_right(session.run({"x": x(batch)}), x(batch))
        assert session.statistics.replayed == before + 2
        is_right(session.run({"x": x(2)}), x(2))
        assert session.statistics.captured == 4
        assert len(world.device.graphs) == 2


def test_without_graphs(world):
    with world.open(graphs=0) as session:
        for _ in range(4):
            is_right(session.run({"x": x(2)}), x(2))
        assert session.statistics.captured == session.statistics.replayed == 0
        assert not world.device.graphs


def test_an_engine_that_cannot_be_captured_runs_and_says_so_once(world, fakes):
    world.build(fakes.vendor.engine({"x": [[-1, 3, -1], [1, 3, 2], [2, 3, 4], [8, 3, 64]]}, ("y", "s"), capture=1))
    with world.open() as session:
        for _ in range(4):
            is_right(session.run({"x": x(2)}), x(2))
        assert session.statistics.replayed == session.statistics.captured == session.statistics.failed == 0
        assert session.statistics.refused == {"TensorRT does not run. this run cannot be captured": 1}


def test_warming_up_captures_before_the_first_caller(world):
    with world.open(contexts=2) as session:
        session.warm_up([{"batch": 1, "width": 4}, {"batch": 8, "width": 64}])
        assert session.statistics.captured == 4
        before = session.statistics.replayed
        is_right(session.run({"x": x(8, 64)}), x(8, 64))
        assert session.statistics.replayed == before + 1
        with pytest.raises(DynError, match="warm_up has no size for width"):
            session.warm_up([{"batch": 1}])
        with pytest.raises(DynError, match="batch=9 is outside"):
            session.warm_up([{"batch": 9, "width": 4}])


def test_callers_at_once_get_their_own_answers(world):
    """More callers than lanes, sizes that mix, graphs that come and go."""
    wrong = []
    with world.open(contexts=3, graphs=2) as session:

        def call(seed):
            for step in range(20):
                array = x(1 + (seed + step) % 4, seed=100 * seed + step)
                try:
                    is_right(session.run({"x": array}), array)
                except Exception as error:
                    wrong.append(error)

        threads = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert session.statistics.requests == 120
    assert world.alive() == []


def test_closing_waits_for_who_runs_and_tells_who_waits(world, monkeypatch):
    entered, go = threading.Event(), threading.Event()
    session = world.open()
    run = session._lanes[0].run

    def slow(arrays):
        entered.set()
        assert go.wait(10)
        return run(arrays)

    monkeypatch.setattr(session._lanes[0], "run", slow)
    results = {}

    def call(name):
        try:
            results[name] = session.run({"x": x(1)})
        except DynError as error:
            results[name] = error.what

    first = threading.Thread(target=call, args=("first",))
    first.start()
    assert entered.wait(10)
    second = threading.Thread(target=call, args=("second",))
    second.start()
    closing = threading.Thread(target=session.close)
    closing.start()
    second.join(10)
    assert results == {"second": "The tensorrt session is closed."}
    go.set()
    first.join(10)
    closing.join(10)
    is_right(results["first"], x(1))
    assert world.alive() == []
    with pytest.raises(DynError, match="The tensorrt session is closed"):
        session.run({"x": x(1)})
    session.close()


def test_options_are_checked(world):
    for options in ({"contexts": 0}, {"graphs": -1}, {"device": "cuda"}):
        with pytest.raises(DynError, match=next(iter(options))):
            world.open(**options)
    assert world.alive() == []


def test_a_remark_where_the_engine_was_timed_on_another_gpu(world):
    from dyndeploy.tensorrt.record import Gpu

    world.build(gpus=(Gpu(compute_capability="8.9", name="Another GPU"),))
    with pytest.warns(UserWarning, match="timed on Another GPU; on Fake GPU another one may be faster"):
        world.open().close()
    world.build(gpus=(Gpu(compute_capability="8.9", name="Fake GPU"),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        world.open().close()


def test_an_engine_for_fewer_sizes_than_the_bundle_has(world):
    from dyndeploy.tensors import Dim

    world.build(dims={"batch": Dim(min=1, opt=2, max=4), "width": world.bundle.manifest.dims["width"]})
    with world.open() as session:
        is_right(session.run({"x": x(4)}), x(4))
        with pytest.raises(DynError, match=r"batch=5 is outside 1\.\.4\.") as caught:
            session.run({"x": x(5)})
        assert caught.value.why == "The bundle has this size, and the engine was built for fewer."
        assert caught.value.fix == f"dyndeploy build {world.bundle.path} --target tensorrt"
        with pytest.raises(DynError, match=r"batch=9 is outside 1\.\.8\.") as caught:
            session.run({"x": x(9)})
        assert "Export again" in caught.value.fix


def test_kernels_compiled_on_the_gpu_are_kept_for_the_next_session(rtx_world):
    rtx_world.open().close()
    (file,) = (rtx_world.folder / "cache" / "kernels").iterdir()
    assert file.name.startswith("fake_tensorrt_1.7.1.116_Fake_GPU_")
    assert file.read_bytes() == b"compiled"
    rtx_world.open().close()
    assert file.read_bytes() == b"compiled again"
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("in the way")
    with pytest.warns(UserWarning, match="Compiled kernels are not kept"):
        rtx_world.open().close()

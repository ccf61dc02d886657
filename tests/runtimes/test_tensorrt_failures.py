"""Whatever fails, and whenever: a request says which it was, and the session is usable or dead, and says so."""

import re
import threading

import numpy as np
import pytest

from dyndeploy.errors import DynError

OUT_OF_MEMORY, ILLEGAL_ADDRESS = "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_ERROR_ILLEGAL_ADDRESS"
REQUESTS = (2, 2, 2, 3, 3, 1)  # plain, captured, replayed; another graph takes the first one's place; a new shape


def x(batch):
    return np.arange(batch * 12, dtype=np.float32).reshape(batch, 3, 4)


class Said:
    """An error without its frames, which would keep alive what they had."""

    def __init__(self, error):
        self.what, self.why, self.fix = error.what, error.why, error.fix

    def __repr__(self):
        return f"{self.what} {self.why} {self.fix}"


def scenario(world):
    """Open, run, run on the GPU, close. What the caller sees: "right", or the error of each step."""
    seen = []
    try:
        session = world.open(graphs=1)
    except DynError as error:
        return [Said(error)]
    given = world.device.array(x(2))
    for step in (*REQUESTS, "device"):
        try:
            if step == "device":
                y = session.run_device({"x": given})["y"]
                result = world.device.values(y.address, y.shape, y.dtype).copy()
                del y
            else:
                result = session.run({"x": x(step)})["y"]
        except DynError as error:
            seen.append(Said(error))
            continue
        np.testing.assert_array_equal(result, 2 * x(2 if step == "device" else step) + 1)
        seen.append("right")
    session.close()
    return seen


def _count(world):
    assert scenario(world) == ["right"] * 7
    assert world.alive() == []
    return len(world.fate.names)


@pytest.mark.parametrize("code", [OUT_OF_MEMORY, ILLEGAL_ADDRESS])
def test_a_failure_at_every_single_call(world, code, fakes):
    count = _count(world)
    assert count > 100
    words = set()
    for call in range(count):
        world.fate.__init__()
        world.fate.failing, world.fate.code = call, code
        world.device.streams.clear()
        world.device.graphs.clear()
        try:
            seen = scenario(world)
        except Exception as error:
            raise AssertionError(f"call {call}, {world.fate.failed}") from error
        words.add(world.fate.failed)
        where = f"call {call}, {world.fate.failed}: {seen}"
        errors = [e for e in seen if e != "right"]
        if world.fate.lost:
            first = next((i for i, e in enumerate(seen) if e != "right"), len(seen))
            assert all(e != "right" for e in seen[first:]), where
            if len(seen) > 1:
                dead = r"Request \d+ \(x \[\d, 3, 4\]\) failed, and the tensorrt session is dead"
                assert all(re.match(dead, error.what) for error in errors[:1]), where
                for error in errors[1:]:
                    assert "session is dead" in error.what, where
                    assert "Request" in error.why, where
                    assert "new process" in error.fix, where
            continue
        assert len(errors) <= 1, where
        if len(seen) > 1:
            for error in errors:
                assert re.match(r"Request \d+ \(x \[\d, 3, 4\]\) failed\.", error.what), where
                assert error.fix == "The session can be used again.", where
        left = world.alive()
        assert not left or world.fate.failed in ("free", "destroy stream", "destroy graph"), where
        assert len(left) <= 1, where
    assert {"activate", "allocate", "allocate pinned", "copy", "launch", "begin capture", "end capture"} <= words
    assert {"create stream", "synchronize", "free", "destroy graph", "destroy stream"} <= words
    assert {"deserialize", "create context", "set shape", "set address", "enqueue"} <= words


def test_a_failed_capture_costs_no_request(world):
    _count(world)
    captures = [i for i, name in enumerate(world.fate.names) if name in ("begin capture", "end capture")]
    assert len(captures) == 4
    for call in captures:
        world.fate.__init__()
        world.fate.failing = call
        assert scenario(world) == ["right"] * 7


def test_the_vendors_words_are_the_reason(world):
    with world.open(graphs=0) as session:
        session.run({"x": x(1)})
        for call, words in (("enqueue", "enqueue as the test says"), ("set shape", "no shape for x")):
            world.fate.failing = call
            with pytest.raises(DynError, match=r"Request \d \(x \[1, 3, 4\]\) failed\.") as caught:
                session.run({"x": x(1)})
            assert words in caught.value.why


def test_those_who_wait_for_a_lane_are_told_that_the_gpu_is_lost(world, monkeypatch):
    session = world.open(graphs=0)
    run, entered, go = session._lanes[0].run, threading.Event(), threading.Event()

    def slow(arrays):
        entered.set()
        assert go.wait(10)
        return run(arrays)

    monkeypatch.setattr(session._lanes[0], "run", slow)
    errors = {}

    def call(name):
        try:
            session.run({"x": x(1)})
        except DynError as error:
            errors[name] = error

    first, second = (threading.Thread(target=call, args=(name,)) for name in ("first", "second"))
    first.start()
    assert entered.wait(10)
    second.start()
    world.fate.code, world.fate.failing = ILLEGAL_ADDRESS, "synchronize"
    go.set()
    first.join(10)
    second.join(10)
    assert errors["first"].what == "Request 1 (x [1, 3, 4]) failed, and the tensorrt session is dead."
    assert errors["second"].what == "The tensorrt session is dead."
    assert ILLEGAL_ADDRESS in errors["second"].why
    session.close()


def test_one_lane_fails_and_the_others_go_on(world):
    with world.open(contexts=2) as session:
        session.run({"x": x(1)})
        world.fate.failing = "enqueue"
        with pytest.raises(DynError, match="Request 2"):
            session.run({"x": x(2)})
        np.testing.assert_array_equal(session.run({"x": x(2)})["y"], 2 * x(2) + 1)
        assert (session.statistics.requests, session.statistics.failed) == (3, 1)

"""How long a server stays awake after a request."""

import asyncio

import pytest

from dyndeploy.serving.models.traffic import Traffic


class Turns:
    """Counts what a loop is asked to call."""

    def __init__(self, monkeypatch):
        self.asked = []
        self.now = 100.0
        monkeypatch.setattr("dyndeploy.serving.models.traffic.time.perf_counter", lambda: self.now)
        monkeypatch.setattr("dyndeploy.serving.models.traffic.asyncio.get_running_loop", lambda: self)

    def call_soon(self, function, *arguments):
        self.asked.append((function, arguments))

    def turn(self):
        function, arguments = self.asked.pop(0)
        function(*arguments)


@pytest.fixture
def turns(monkeypatch):
    return Turns(monkeypatch)


def test_it_sleeps_at_once_unless_it_is_told_not_to(turns):
    traffic = Traffic()
    traffic.begin()
    traffic.end()
    assert not turns.asked


def test_it_stays_awake_until_the_time_after_the_last_request_is_over(turns):
    traffic = Traffic(2000)
    traffic.begin()
    assert not turns.asked
    traffic.end()
    for step in (0.0015, 0.0003):
        turns.now += step
        turns.turn()
        assert len(turns.asked) == 1
    traffic.begin()
    traffic.end()
    assert len(turns.asked) == 1
    turns.now += 0.0019
    turns.turn()
    assert len(turns.asked) == 1
    turns.now += 0.0002
    turns.turn()
    assert not turns.asked
    traffic.begin()
    traffic.end()
    assert len(turns.asked) == 1


def test_a_server_that_stays_awake_answers_and_ends(serve, bundles, rest, samples, alone):
    x = samples()
    with serve(bundles / "linear", spin_us=50_000) as server:
        for _ in range(3):
            status, y = rest(server).infer(x)
            assert status == 200
            assert (y == alone(x)).all()


def test_the_loop_is_asyncios():
    """`call_soon` from within a callback keeps a loop from sleeping, and lets other callbacks in between."""

    async def run():
        traffic, seen = Traffic(20_000), []
        traffic.begin()
        traffic.end()
        asyncio.get_running_loop().call_later(0.005, seen.append, traffic._spinning)
        await asyncio.sleep(0.05)
        return seen, traffic._spinning

    assert asyncio.run(run()) == ([True], False)

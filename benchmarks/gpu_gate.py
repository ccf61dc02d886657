"""The measuring rule of the GPU benchmarks: which calls are timed, how, and what is made of the times.

1. Every engine has a process of its own (gate.Worker), all on one GPU. Engines take turns, in rounds, another one first
   each time. One works, all others sleep; a turn begins with calls that are not counted, which also raise the clocks.
2. A turn times an engine in three ways, always between two events on the GPU:

       replayed    a CUDA graph of many calls; the share of one. What a call reads fits into L2 or not: "warm"
       cold        a CUDA graph of one call, after the whole L2 cache has been overwritten (that is not timed)
       launched    many calls from Python, one after the other; small ones take as long as Python needs to launch them

   The median of several such times counts. Between the events of "cold" lies also the start of a graph, some
   microseconds: that is why an engine that copies one element is measured with the others.
3. An engine that cannot be captured into a graph, or whose graph computes something else, is only launched; engines are
   compared in a way that all of them know.
4. The time of an engine is the median of its turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gate import Timing, in_turns

WARM_MS = 50.0
#: What one "replayed" or "launched" time should last, by its number of calls.
LASTING_MS = 2.0
MOST_CALLS, FEWEST_CALLS = 200, 3
TIMES, COLD_TIMES = 7, 15
#: So many times the L2 cache is written to have nothing else in it.
FLUSH = 4
WAYS = ("replayed", "cold", "launched")

Call = Callable[[], Any]


@dataclass(frozen=True)
class Turn:
    """Milliseconds of a call, by way: "replayed", "cold" and "launched", or the last alone."""

    ms: Mapping[str, float]


class Recorded:
    """A call, and its graphs where it can be captured.

    Args:
        call: enqueues work on the current stream and returns a tensor, or a tuple of them.
        agrees: whether a result is right, in its own form.

    Attributes:
        refusal: why there are no graphs; "" where there are.
    """

    def __init__(self, call: Call, agrees: Callable[[Any], bool]) -> None:
        self.call, self.refusal = call, ""
        for _ in range(2):
            call()
        once = elapsed_ms(lambda: [call() for _ in range(FEWEST_CALLS)]) / FEWEST_CALLS
        self.calls = max(FEWEST_CALLS, min(MOST_CALLS, round(LASTING_MS / max(once, 1e-6))))
        stream = torch.cuda.current_stream()
        try:
            self._one, result = _capture(call, 1)
            for tensor in several(result):
                tensor.fill_(float("nan"))
            self._one.replay()
            if not agrees(result):
                self.refusal = "its CUDA graph computes something else"
            self._many, _ = _capture(call, self.calls)
        except RuntimeError as error:
            # A capture that fails leaves its own stream behind as the current one.
            torch.cuda.set_stream(stream)
            self.refusal = f"cannot be captured into a CUDA graph: {str(error).splitlines()[0]}"

    def replay_one(self) -> None:
        """A graph of one call."""
        self._one.replay()

    def replay_many(self) -> None:
        """A graph of `calls` calls."""
        self._many.replay()

    def launch_many(self) -> None:
        """`calls` calls."""
        for _ in range(self.calls):
            self.call()


def several(result: Any) -> tuple[Any, ...]:
    """The tensors of a call's result."""
    return result if isinstance(result, tuple) else (result,)


def take_turn(recorded: Recorded) -> Turn:
    """Step 2."""
    warm = 0.0
    while warm < WARM_MS:
        warm += max(elapsed_ms(recorded.launch_many), 0.1)
    ms = {}
    if not recorded.refusal:
        ms["replayed"] = _median(recorded.replay_many, TIMES) / recorded.calls
        ms["cold"] = _cold(recorded.replay_one)
    ms["launched"] = _median(recorded.launch_many, TIMES) / recorded.calls
    return Turn(ms)


def measure(engines: Mapping[str, Callable[[], Turn]], rounds: int) -> dict[str, dict[str, Timing]]:
    """Measure engines against each other: way -> engine -> time."""
    turns: dict[str, list[Turn]] = {name: [] for name in engines}
    for name in in_turns(list(engines), rounds):
        turns[name].append(engines[name]())
    found: dict[str, dict[str, Timing]] = {way: {} for way in WAYS}
    for name, taken in turns.items():
        for way in taken[0].ms if taken else ():
            times = [turn.ms[way] for turn in taken]
            found[way][name] = Timing(statistics.median(times), min(times), len(times), 0)
    return found


def elapsed_ms(work: Callable[[], Any]) -> float:
    """Milliseconds on the GPU from the first to the last of what `work` enqueues."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _median(work: Callable[[], Any], times: int) -> float:
    work()
    return statistics.median(elapsed_ms(work) for _ in range(times))


def _cold(work: Callable[[], Any]) -> float:
    """The median of calls that find nothing of theirs in L2."""
    size = FLUSH * int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)
    flush = torch.zeros(size, dtype=torch.uint8, device="cuda")
    events = []
    for _ in range(COLD_TIMES):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # Read, not written: what is written would have to leave L2 during the call. It lasts longer than the next
        # three lines: the GPU has them before it is done, and waits for none.
        flush.sum()
        start.record()
        work()
        end.record()
        events.append((start, end))
        end.synchronize()
    return statistics.median(float(start.elapsed_time(end)) for start, end in events)


def _capture(call: Call, calls: int) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of calls, and the last one's result."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is allocated or chosen at the first call on a stream is not for the graph
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    result = None
    with torch.cuda.graph(graph):
        for _ in range(calls):
            result = call()
    return graph, result

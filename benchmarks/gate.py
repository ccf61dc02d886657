"""The measuring rule of the CPU benchmarks: which calls are timed, when, and what is made of the times.

1. Every engine runs in a process of its own (`Worker`): the threads of one engine spin after its calls, and would take
   part in the next one's.
2. Engines take turns, in rounds, another one first each time. One works, all others sleep.
3. A turn begins when the machine is idle: other processes used less than IDLE of the CPUs for PAUSE_S. Then come calls
   that are not counted, for WARM_S, then counted ones, for TURN_S; the turn's time is the median of these.
4. A turn during which other processes used more than DISTURBED of the CPUs is repeated.
5. Waiting and repeating end when `patience` is over; the turn is then a busy one.
6. The time of an engine is the median of its turns, of the busy ones only where it has no others. The shortest single
   call is kept beside it.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PAUSE_S = 0.2
WARM_S = 0.05
TURN_S = 0.15
FEWEST_CALLS = 3
IDLE = 0.07
#: More than IDLE: /proc/stat counts in steps of 10 ms, 3 % of a turn on two CPUs.
DISTURBED = 0.12

Call = Callable[[], Any]


@dataclass(frozen=True)
class Turn:
    """What one turn gave; `cpu_s` is the CPU time that the engine's process used for it, warm-up included."""

    median_ms: float
    min_ms: float
    cpu_s: float


@dataclass(frozen=True)
class Timing:
    """What an engine needs for a call; `busy` of the `turns` fell on a machine that was not idle."""

    median_ms: float
    min_ms: float
    turns: int
    busy: int


class LeftOutError(Exception):
    """An engine cannot take part; the message says what it lacks."""


def take_turn(call: Call) -> Turn:
    """The calls of step 3: uncounted ones, then counted ones."""
    cpu = time.process_time()
    _repeat(call, WARM_S, 1)
    times = _repeat(call, TURN_S, FEWEST_CALLS)
    return Turn(1000 * statistics.median(times), 1000 * min(times), time.process_time() - cpu)


def _repeat(call: Call, seconds: float, fewest: int) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < fewest or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


class Machine:
    """The CPUs that this process may use, and what others do on them; off Linux nobody knows, and nothing is gated."""

    _STAT = Path("/proc/stat")

    def __init__(self) -> None:
        self.gated = self._STAT.is_file()
        self._names = {f"cpu{index}" for index in os.sched_getaffinity(0)} if self.gated else set()
        self.cpus = len(self._names) or os.cpu_count() or 1

    def used_s(self) -> float:
        """CPU seconds that all processes have used so far; time stolen by other machines is use, too."""
        if not self.gated:
            return 0.0
        lines = (line.split() for line in self._STAT.read_text().splitlines())
        ticks = 0
        for name, *counts in lines:
            if name in self._names:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, counts[:8])
                ticks += user + nice + system + irq + softirq + steal
        return ticks / os.sysconf("SC_CLK_TCK")

    def wait_idle(self, deadline: float) -> bool:
        """Sleep until others leave the CPUs alone, or until the deadline (of time.monotonic); always once."""
        while True:
            before, start = self.used_s(), time.monotonic()
            time.sleep(PAUSE_S)
            if self._share(self.used_s() - before, start) < IDLE:
                return True
            if time.monotonic() >= deadline:
                return False

    def quiet_turn(self, engine: Callable[[], Turn], patience: float) -> tuple[Turn, bool]:
        """A turn by steps 3 to 5, and whether the machine was idle."""
        deadline = time.monotonic() + patience
        while True:
            idle = self.wait_idle(deadline)
            before, start = self.used_s(), time.monotonic()
            turn = engine()
            idle = idle and self._share(self.used_s() - before - turn.cpu_s, start) < DISTURBED
            if idle or time.monotonic() >= deadline:
                return turn, idle

    def _share(self, used_s: float, start: float) -> float:
        return used_s / (self.cpus * (time.monotonic() - start))


def measure(
    engines: Mapping[str, Callable[[], Turn]], machine: Machine, rounds: int = 3, patience: float = 5.0
) -> dict[str, Timing]:
    """Measure engines against each other.

    Args:
        engines: name -> what takes a turn.
        machine: tells whether it is idle.
        rounds: turns per engine.
        patience: seconds that a turn may wait for an idle machine, repetitions included.
    """
    turns: dict[str, list[tuple[Turn, bool]]] = {name: [] for name in engines}
    for name in in_turns(list(engines), rounds):
        turns[name].append(machine.quiet_turn(engines[name], patience))
    return {name: _timing(taken) for name, taken in turns.items()}


def in_turns(names: Sequence[str], rounds: int) -> Iterator[str]:
    """All names once a round, another one first each time."""
    for index in range(rounds):
        first = index % max(len(names), 1)
        yield from (*names[first:], *names[:first])


def _timing(turns: Sequence[tuple[Turn, bool]]) -> Timing:
    quiet = [turn for turn, idle in turns if idle]
    median = statistics.median(turn.median_ms for turn in quiet or [turn for turn, _ in turns])
    return Timing(median, min(turn.min_ms for turn, _ in turns), len(turns), len(turns) - len(quiet))


class Worker:
    """A process for one engine, which is given one task after another.

    Args:
        prepare: a module's function that gets a task ready: task -> (what is timed, an answer about it).
        take: a module's function that times it: a turn.
    """

    def __init__(self, prepare: Callable[..., tuple[Any, Any]], take: Callable[[Any], Any] = take_turn) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the threads' locks
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(prepare, take, other), daemon=True)
        self._process.start()
        other.close()

    def give(self, *task: Any) -> None:
        """Hand over a task; several workers get ready at the same time."""
        self._pipe.send(task)

    def answer(self) -> Any:
        """Wait for what `prepare` has to say.

        Raises:
            LeftOutError: the engine cannot do it.
            RuntimeError: it failed.
        """
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"an engine's process ended with {self._process.exitcode}") from None
        if isinstance(answer, LeftOutError):
            raise answer
        if isinstance(answer, _Failure):
            raise RuntimeError(answer.text)
        return answer

    def turn(self) -> Any:
        """Take a turn with the last task; what `take` made of it."""
        self._pipe.send(None)
        return self.answer()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


@dataclass(frozen=True)
class _Failure:
    text: str


def _serve(prepare: Callable[..., tuple[Any, Any]], take: Callable[[Any], Any], pipe: Connection) -> None:
    call: Any = None
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):  # closed by the other side
            return
        try:
            if task is None:
                assert call is not None
                answer: Any = take(call)
            else:
                call = None  # the last task's memory
                call, answer = prepare(*task)
        except LeftOutError as reason:
            answer = reason
        except Exception:
            answer = _Failure(traceback.format_exc())
        pipe.send(answer)

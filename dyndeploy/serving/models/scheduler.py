"""The queue of one model: who runs when, and with whom. Everything here happens on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence

from dyndeploy.bundle import Arrays
from dyndeploy.errors import DynError
from dyndeploy.serving.errors import (
    ClientGoneError,
    DeadlineError,
    ExecutionError,
    OverloadedError,
    UnavailableModelError,
    one_line,
)
from dyndeploy.serving.models.batching import Batching
from dyndeploy.serving.models.execution import Executed, Instance, execute
from dyndeploy.serving.models.statistics import Statistics

#: A run that is expected to be as short as this happens on the event loop, and holds it up that long. With a model of
#: 0.08 ms, a request took 0.19 to 0.28 ms within the process so, and 1.4 to 2.0 ms by way of a thread (medians of
#: 3000, 2 cores, load 20: on a busy machine, a thread that is woken gets its turn late).
INLINE_NS = 300_000
#: The same for a request that is the only one in the server: nobody waits for the loop meanwhile.
ALONE_INLINE_NS = 2_000_000
#: So many sizes of requests are remembered with what they cost.
_COSTS = 1024

#: What becomes of a request: its outputs, or a RequestError.
Outcome = Arrays | DynError


class Ticket:
    """A request in the queue.

    Attributes:
        done: is called with the outcome; None when it has been.
        inputs, rows, key: arrays, number of samples, and what must be equal for requests that run together.
        arrived_ns: when it was submitted, on the clock of time.perf_counter_ns.
    """

    __slots__ = ("arrived_ns", "done", "inputs", "key", "rows", "timer", "waiting")

    def __init__(self, done: Callable[[Outcome], None], inputs: Arrays, rows: int, key: Hashable) -> None:
        self.done: Callable[[Outcome], None] | None = done
        self.inputs, self.rows, self.key = inputs, rows, key
        self.arrived_ns = time.perf_counter_ns()
        self.timer: asyncio.TimerHandle | None = None
        self.waiting = True


class Scheduler:
    """Puts waiting requests together and hands them to idle instances, the oldest first.

    Args:
        instances: what runs them.
        batching: which may run together.
        max_queue: so many may wait; further ones are refused.
        statistics: is kept.
        inline_ns: runs that are expected to take at most this long happen on the event loop; 0 for none.
        alone_inline_ns: the same for a request that is the only one.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        batching: Batching,
        max_queue: int,
        statistics: Statistics,
        inline_ns: int = INLINE_NS,
        alone_inline_ns: int = ALONE_INLINE_NS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle = list(instances)
        self._instances = len(self._idle)
        self._batching, self._max_queue, self._statistics = batching, max_queue, statistics
        self._inline_ns, self._alone_inline_ns = inline_ns, alone_inline_ns
        self._lonely = True
        self._lanes: dict[Hashable, deque[Ticket]] = {}
        self._active: list[list[Ticket]] = []
        self._costs: dict[tuple[Hashable, int], float] = {}
        self._planned: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.waiting = 0

    @property
    def running(self) -> int:
        """Instances at work."""
        return self._instances - len(self._idle)

    def submit(
        self,
        inputs: Arrays,
        rows: int,
        key: Hashable,
        done: Callable[[Outcome], None],
        deadline: float | None = None,
        alone: bool = False,
    ) -> Ticket:
        """Queue a request.

        Args:
            inputs: arrays that fit the model.
            rows: number of samples.
            key: only requests of equal keys run together.
            done: is called once with the outcome, on the event loop, perhaps before this returns; must not raise.
            deadline: on the loop's clock; past it the request is not executed any more.
            alone: no other request is on its way; where the last run was one request too, this one runs at once.

        Raises:
            OverloadedError: the queue is full.
            DeadlineError: the deadline has passed.
        """
        if self.waiting >= self._max_queue:
            raise OverloadedError(
                f"{self.waiting} requests are waiting, and no more may.", fix="Try again, or start more instances."
            )
        if deadline is not None and deadline <= self._loop.time():
            raise DeadlineError("The time limit of the request has passed.")
        ticket = Ticket(done, inputs, rows, key)
        if deadline is not None:
            error = DeadlineError("The time limit of the request passed before it was answered.")
            ticket.timer = self._loop.call_at(deadline, self._drop, ticket, error)
        self._lanes.setdefault(key, deque()).append(ticket)
        self.waiting += 1
        # After a batch, those who were in it ask again one after the other: the first one is not alone.
        if alone and self._lonely and self._idle:
            self._dispatch(self._alone_inline_ns)
        else:  # what else arrived with it is read first, and runs with it
            self._plan()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for it any more; it is not executed unless it already runs."""
        self._drop(ticket, ClientGoneError("The client has gone."))

    def give_up(self) -> None:
        """Refuse what waits and what runs; for the end of a drain that takes too long."""
        for lane in [*self._lanes.values(), *self._active]:
            for ticket in list(lane):
                self._drop(ticket, UnavailableModelError("The server is shutting down."))

    def _drop(self, ticket: Ticket, error: DynError) -> None:
        if ticket.waiting:
            ticket.waiting = False
            self.waiting -= 1
            lane = self._lanes[ticket.key]
            lane.remove(ticket)
            if not lane:
                del self._lanes[ticket.key]
        _settle(ticket, error)

    def _plan(self) -> None:
        if self._planned is None:
            self._planned = self._loop.call_soon(self._dispatch)

    def _dispatch(self, inline_ns: int | None = None) -> None:
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle and self._lanes:
            lane, due_ns = self._next(time.perf_counter_ns())
            if lane is None:
                self._timer = self._loop.call_later(due_ns / 1e9, self._dispatch)
                return
            self._start(self._take(lane), self._inline_ns if inline_ns is None else inline_ns)

    def _next(self, now_ns: int) -> tuple[deque[Ticket] | None, int]:
        """The lane to take from, or None and how long until one is due, in nanoseconds."""
        delay_ns = 1000 * self._batching.delay_us
        best: deque[Ticket] | None = None
        soonest = delay_ns
        for lane in self._lanes.values():
            age = now_ns - lane[0].arrived_ns
            if age < delay_ns and sum(ticket.rows for ticket in lane) < self._batching.rows:
                soonest = min(soonest, delay_ns - age)
            elif best is None or lane[0].arrived_ns < best[0].arrived_ns:
                best = lane
        return best, soonest

    def _take(self, lane: deque[Ticket]) -> list[Ticket]:
        """The front of a lane, as many as may run together."""
        batch = [lane.popleft()]
        rows = batch[0].rows
        while self._batching.dim and lane and rows + lane[0].rows <= self._batching.rows:
            rows += lane[0].rows
            batch.append(lane.popleft())
        if not lane:
            del self._lanes[batch[0].key]
        self.waiting -= len(batch)
        for ticket in batch:
            ticket.waiting = False
        return batch

    def _start(self, batch: list[Ticket], inline_ns: int) -> None:
        instance = self._idle.pop()
        self._lonely = len(batch) == 1
        started_ns = time.perf_counter_ns()
        for ticket in batch:
            self._statistics.queue.add(started_ns - ticket.arrived_ns)
        inputs, rows = [ticket.inputs for ticket in batch], [ticket.rows for ticket in batch]
        expected = self._costs.get((batch[0].key, sum(rows)))
        if expected is not None and expected <= inline_ns and not self._lanes:
            self._finish(instance, batch, execute(instance.session, inputs, rows))
            return
        self._active.append(batch)
        finish: Callable[[Instance, list[Ticket], Executed], None] = self._finish
        loop = self._loop
        instance.submit(lambda: _report(loop, finish, instance, batch, execute(instance.session, inputs, rows)))

    def _finish(self, instance: Instance, batch: list[Ticket], executed: Executed) -> None:
        self._idle.append(instance)
        self._active = [active for active in self._active if active is not batch]
        for requests, rows, input_ns, infer_ns, output_ns in executed.runs:
            self._statistics.executed(requests, rows, input_ns, infer_ns, output_ns)
            self._learn((batch[0].key, rows), infer_ns)
        for ticket, result in zip(batch, executed.results):
            _settle(ticket, result)
        if self._lanes:
            self._plan()

    def _learn(self, size: tuple[Hashable, int], infer_ns: int) -> None:
        if len(self._costs) >= _COSTS and size not in self._costs:
            self._costs.clear()  # clients choose the sizes: what is remembered must not grow with them
        known = self._costs.get(size)
        # One slow run says that the machine was busy, several that the model is slow.
        self._costs[size] = infer_ns if known is None else min(infer_ns, 1.25 * known)


def _report(
    loop: asyncio.AbstractEventLoop,
    finish: Callable[[Instance, list[Ticket], Executed], None],
    instance: Instance,
    batch: list[Ticket],
    executed: Executed,
) -> None:
    try:
        loop.call_soon_threadsafe(finish, instance, batch, executed)
    except RuntimeError:  # the loop has ended: nobody waits
        return


def _settle(ticket: Ticket, result: Arrays | Exception) -> None:
    if ticket.timer is not None:
        ticket.timer.cancel()
        ticket.timer = None
    done, ticket.done = ticket.done, None
    if done is None:
        return
    if not isinstance(result, Exception):
        done(result)
    elif not isinstance(result, DynError):
        done(ExecutionError("The model failed.", why=f"{type(result).__name__}: {result}"))
    else:
        done(result if hasattr(result, "status") else ExecutionError("The model failed.", why=one_line(result)))

"""When the requests for one model run, and where: on the event loop, or in the thread of a session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence

from dyndeploy._remembered import Remembered
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
from dyndeploy.serving.models.queue import Outcome, Queue, Ticket
from dyndeploy.serving.models.statistics import Statistics

#: A run that is expected to be as short as this happens on the event loop, and holds it up that long. With a model of
#: 0.08 ms, a request took 0.19 to 0.28 ms within the process so, and 1.4 to 2.0 ms by way of a thread (medians of
#: 3000, 2 cores, load 20: on a busy machine, a thread that is woken gets its turn late).
INLINE_NS = 300_000
#: The same for a request that is the only one in the server: nobody waits for the loop meanwhile.
ALONE_INLINE_NS = 2_000_000
#: After a run as long as this, its thread takes what waits by then. After a shorter one the event loop reads what has
#: come in the meantime and puts it together, unless a whole batch waits: small models gain more from larger batches
#: than the way to the loop costs.
FOLLOW_NS = 3_000_000
#: So many sizes of requests are remembered with what they cost.
_COSTS = 1024


class Scheduler:
    """Puts waiting requests together and hands them to idle instances, the oldest first.

    An instance that has ended a long run takes the next one itself: by way of the event loop it would lose a turn of
    the loop and two changes of thread between any two runs. All else happens on the event loop.

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
        self._idle = list(instances)  # threads only append, and the loop only takes
        self._instances = len(self._idle)
        self._queue, self._largest = Queue(batching), batching.rows
        self._max_queue, self._statistics = max_queue, statistics
        self._inline_ns, self._alone_inline_ns = inline_ns, alone_inline_ns
        self._lonely, self._turn = True, False
        self._active: dict[Instance, list[Ticket]] = {}
        self._costs: Remembered[tuple[Hashable, int], float] = Remembered(_COSTS)
        self._planned: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

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
        self._queue.push(ticket)
        # After a batch, those who were in it ask again one after the other: the first one is not alone. And what comes
        # in the same turn of the loop as another one is not either, although that one may have been answered.
        if alone and self._lonely and self._idle and not self._turn:
            self._turn = True
            self._loop.call_soon(self._end_turn)
            self._dispatch(self._alone_inline_ns)
        else:  # what else arrived with it is read first, and runs with it
            self._plan()
        return ticket

    def _end_turn(self) -> None:
        self._turn = False

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for it any more; it is not executed unless it already runs."""
        self._drop(ticket, ClientGoneError("The client has gone."))

    def give_up(self) -> None:
        """Refuse what waits and what runs; for the end of a drain that takes too long."""
        for batch in [self._queue.tickets(), *list(self._active.values())]:
            for ticket in batch:
                self._drop(ticket, UnavailableModelError("The server is shutting down."))

    def _drop(self, ticket: Ticket, error: DynError) -> None:
        self._queue.remove(ticket)
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
        while self._idle and len(self._queue):
            batch, due_ns = self._queue.take()
            if batch:
                self._start(batch, self._inline_ns if inline_ns is None else inline_ns)
            elif due_ns:
                self._timer = self._loop.call_later(due_ns / 1e9, self._dispatch)
                return

    def _start(self, batch: list[Ticket], inline_ns: int) -> None:
        instance = self._idle.pop()
        rows = sum([ticket.rows for ticket in batch])
        expected = self._costs.get((batch[0].key, rows))
        if expected is not None and expected <= inline_ns and not len(self._queue):
            started_ns = time.perf_counter_ns()
            executed = _execute(instance, batch)
            self._idle.append(instance)
            self._finish(batch, started_ns, executed)
        else:
            self._active[instance] = batch
            instance.submit(lambda: self._work(instance, batch))

    def _work(self, instance: Instance, batch: list[Ticket]) -> None:
        """Run a batch, and what is due by then; in the instance's thread."""
        while batch:
            started_ns = time.perf_counter_ns()
            executed = _execute(instance, batch)
            took_ns = time.perf_counter_ns() - started_ns
            follow = took_ns >= FOLLOW_NS or len(self._queue) >= self._largest
            following = self._queue.take()[0] if follow else []
            if following:
                self._active[instance] = following
            else:
                del self._active[instance]
                self._idle.append(instance)
            try:
                self._loop.call_soon_threadsafe(self._finish, batch, started_ns, executed)
            except RuntimeError:  # the loop has ended: nobody waits
                return
            del executed  # it is not kept until the next run ends
            batch = following

    def _finish(self, batch: list[Ticket], started_ns: int, executed: Executed) -> None:
        self._lonely = len(batch) == 1
        for ticket in batch:
            self._statistics.queue.add(started_ns - ticket.arrived_ns)
        for requests, rows, input_ns, infer_ns, output_ns in executed.runs:
            self._statistics.executed(requests, rows, input_ns, infer_ns, output_ns)
            self._learn((batch[0].key, rows), infer_ns)
        for ticket, result in zip(batch, executed.results):
            _settle(ticket, result)
        if len(self._queue) and self._idle:
            self._plan()

    def _learn(self, size: tuple[Hashable, int], infer_ns: int) -> None:
        known = self._costs.get(size)
        # One slow run says that the machine was busy, several that the model is slow.
        self._costs[size] = infer_ns if known is None else min(infer_ns, 1.25 * known)


def _execute(instance: Instance, batch: list[Ticket]) -> Executed:
    return execute(instance, [ticket.inputs for ticket in batch], [ticket.rows for ticket in batch])


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

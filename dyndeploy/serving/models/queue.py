"""Requests that wait for a session, and which of them run next together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable

from dyndeploy.bundle import Arrays
from dyndeploy.errors import DynError
from dyndeploy.serving.models.batching import Batching

#: What becomes of a request: its outputs, or a RequestError.
Outcome = Arrays | DynError


class Ticket:
    """A request in the queue.

    Attributes:
        done: is called with the outcome; None when it has been.
        inputs, rows, key: arrays, number of samples, and what must be equal for requests that run together.
        arrived_ns: when it was submitted, on the clock of time.perf_counter_ns.
        timer: of its deadline.
        waiting: it is in the queue.
    """

    __slots__ = ("arrived_ns", "done", "inputs", "key", "rows", "timer", "waiting")

    def __init__(self, done: Callable[[Outcome], None], inputs: Arrays, rows: int, key: Hashable) -> None:
        self.done: Callable[[Outcome], None] | None = done
        self.inputs, self.rows, self.key = inputs, rows, key
        self.arrived_ns = time.perf_counter_ns()
        self.timer: asyncio.TimerHandle | None = None
        self.waiting = False


class Queue:
    """Tickets in lanes of equal keys; may be used from every thread.

    Args:
        batching: which may run together.
    """

    def __init__(self, batching: Batching) -> None:
        self._batching = batching
        self._lanes: dict[Hashable, deque[Ticket]] = {}
        self._waiting = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._waiting

    def push(self, ticket: Ticket) -> None:
        """Add a ticket."""
        with self._lock:
            ticket.waiting = True
            self._lanes.setdefault(ticket.key, deque()).append(ticket)
            self._waiting += 1

    def remove(self, ticket: Ticket) -> None:
        """Take a ticket out, unless it has been taken."""
        with self._lock:
            if ticket.waiting:
                self._leave([ticket])
                lane = self._lanes[ticket.key]
                lane.remove(ticket)
                if not lane:
                    del self._lanes[ticket.key]

    def tickets(self) -> list[Ticket]:
        """All that wait."""
        with self._lock:
            return [ticket for lane in self._lanes.values() for ticket in lane]

    def take(self) -> tuple[list[Ticket], int]:
        """Take out what runs next: of the lane whose first ticket waits longest, as many as may run together.

        Returns:
            (tickets, due_ns): no tickets where none wait, or none are due; then how long until some are, in
            nanoseconds.
        """
        with self._lock:
            lane, due_ns = self._next()
            if lane is None:
                return [], due_ns
            batch = [lane.popleft()]
            rows = batch[0].rows
            while self._batching.dim and lane and rows + lane[0].rows <= self._batching.rows:
                rows += lane[0].rows
                batch.append(lane.popleft())
            if not lane:
                del self._lanes[batch[0].key]
            self._leave(batch)
            return batch, 0

    def _next(self) -> tuple[deque[Ticket] | None, int]:
        delay_ns = 1000 * self._batching.delay_us
        now_ns = time.perf_counter_ns() if delay_ns else 0
        best: deque[Ticket] | None = None
        soonest = delay_ns
        for lane in self._lanes.values():
            age = now_ns - lane[0].arrived_ns
            if delay_ns and age < delay_ns and sum(ticket.rows for ticket in lane) < self._batching.rows:
                soonest = min(soonest, delay_ns - age)
            elif best is None or lane[0].arrived_ns < best[0].arrived_ns:
                best = lane
        return best, soonest

    def _leave(self, tickets: list[Ticket]) -> None:
        self._waiting -= len(tickets)
        for ticket in tickets:
            ticket.waiting = False

"""What is on its way in a server, and how long the server stays awake for what may follow."""

from __future__ import annotations

import asyncio
import time


class Traffic:
    """Requests for inference, of all models. Used on the event loop only.

    A CPU that goes to sleep when there is nothing to do takes its time to wake up, and to be as fast as before. With
    `spin_us` the event loop goes on asking for work that long after each request, instead of waiting to be woken.

    Args:
        spin_us: in microseconds; 0 for not.

    Attributes:
        requests: on their way.
    """

    def __init__(self, spin_us: int = 0) -> None:
        self._spin_s = spin_us / 1e6
        self._until = 0.0
        self._spinning = False
        self.requests = 0

    def begin(self) -> None:
        """A request has come."""
        self.requests += 1

    def end(self) -> None:
        """A request is answered."""
        self.requests -= 1
        if self._spin_s:
            self._until = time.perf_counter() + self._spin_s
            if not self._spinning:
                self._spinning = True
                self._turn(asyncio.get_running_loop())

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        # While something is to be called, the loop does not sleep.
        if time.perf_counter() < self._until:
            loop.call_soon(self._turn, loop)
        else:
            self._spinning = False

"""A bundle that answers requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from dyndeploy.bundle import Arrays, Bundle
from dyndeploy.errors import DynError
from dyndeploy.runtimes import Session, open_session
from dyndeploy.serving.models.batching import Batching
from dyndeploy.serving.models.execution import Instance
from dyndeploy.serving.models.limits import Limits
from dyndeploy.serving.models.queue import Outcome, Ticket
from dyndeploy.serving.models.scheduler import Scheduler
from dyndeploy.serving.models.selftest import rows_are_independent, self_test, warm_up
from dyndeploy.serving.models.statistics import Statistics
from dyndeploy.serving.models.traffic import Traffic
from dyndeploy.serving.protocol.datatypes import datatype_of
from dyndeploy.serving.settings import Settings


class Model:
    """Warm sessions of one bundle behind a queue.

    Made by `prepare` on any thread; `start` has to be called on the event loop before the first request.

    Attributes:
        name: under which it is asked for.
        bundle: what it was made from.
        runtime: that of its sessions.
        batching: which requests run together.
        limits: of one request, in bytes.
        datatypes: of the outputs, as the protocol calls them.
        instances: number of sessions.
        self_test: what the self-test found.
        batching_note: why requests do not run together although they could; None where they do.
    """

    def __init__(
        self, name: str, bundle: Bundle, settings: Settings, sessions: list[Session], batching: Batching, found: str
    ) -> None:
        self.name, self.bundle, self.runtime = name, bundle, settings.runtime
        self.batching, self.self_test = batching, found
        self.batching_note: str | None = None
        self.limits = Limits.of(bundle.manifest, settings.max_json)
        self.datatypes = {spec.name: datatype_of(spec.dtype) for spec in bundle.manifest.outputs}
        self._max_queue = settings.max_queue
        self._instances = [Instance(s, f"{name}-{index}") for index, s in enumerate(sessions)]
        self._scheduler: Scheduler | None = None
        self._traffic = Traffic()
        self._leases = 0
        self._unused: asyncio.Event | None = None

    @classmethod
    def prepare(cls, name: str, path: Path, settings: Settings) -> Model:
        """Open a bundle, warm its sessions up and test them; takes as long as that takes.

        Raises:
            MissingPackageError: the runtime's package is not installed.
            DynError: the bundle cannot be opened, or gives wrong numbers.
        """
        bundle = Bundle.open(path)
        batching = Batching.of(bundle.manifest, settings.max_batch, settings.max_queue_delay_us)
        with ExitStack() as stack:
            sessions = [
                stack.enter_context(open_session(bundle, settings.runtime, **settings.options))
                for _ in range(settings.instances)
            ]
            results = warm_up(sessions, bundle)
            found = self_test(bundle, settings.runtime, results) if settings.self_test else "not run"
            independent = rows_are_independent(sessions[0], bundle, batching)
            stack.pop_all()
        if independent:
            return cls(name, bundle, settings, sessions, batching, found)
        model = cls(name, bundle, settings, sessions, Batching(batching.dim, 1, 0), found)
        model.batching_note = "a sample gets another result beside others than alone, so that each request runs alone"
        return model

    def start(self, statistics: Statistics, traffic: Traffic) -> None:
        """Take requests from now on; on the event loop.

        Args:
            statistics: are kept.
            traffic: of the server.
        """
        self._traffic = traffic
        self._scheduler = Scheduler(self._instances, self.batching, self._max_queue, statistics)
        self._unused = asyncio.Event()

    @property
    def instances(self) -> int:
        """Number of sessions."""
        return len(self._instances)

    @property
    def largest_batch(self) -> int:
        """The most samples that one request may have."""
        return self.bundle.manifest.dims[self.batching.dim].max if self.batching.dim else 1

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._scheduler.waiting if self._scheduler else 0

    @property
    def running(self) -> int:
        """Sessions at work."""
        return self._scheduler.running if self._scheduler else 0

    def submit(
        self,
        inputs: Arrays,
        sizes: Mapping[str, int],
        done: Callable[[Outcome], None],
        deadline: float | None = None,
        prompt: bool = True,
    ) -> Ticket:
        """Queue a request; see `Scheduler.submit`.

        Args:
            inputs: arrays that fit the model.
            sizes: of its dims, as `check_arrays` gives them.
            done: is called with the outcome.
            deadline: on the loop's clock.
            prompt: it may run at once where it is the only one.
        """
        assert self._scheduler is not None
        dim = self.batching.dim
        rows = sizes[dim] if dim else 1
        key = tuple([size for name, size in sizes.items() if name != dim])
        return self._scheduler.submit(inputs, rows, key, done, deadline, alone=prompt and self._traffic.requests == 1)

    async def answer(self, inputs: Arrays, sizes: Mapping[str, int], deadline: float | None = None) -> Arrays:
        """Queue a request and wait for its outputs; it is cancelled with the task that waits.

        Raises:
            RequestError: see `Scheduler.submit`, or why it failed.
        """
        future: asyncio.Future[Outcome] | None = None
        found: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            if future is None:
                found.append(outcome)
            elif not future.done():
                future.set_result(outcome)

        ticket = self.submit(inputs, sizes, done, deadline)
        if not found:
            future = asyncio.get_running_loop().create_future()
            try:
                found.append(await future)
            except asyncio.CancelledError:
                self.cancel(ticket)
                raise
        outcome = found[0]
        if isinstance(outcome, DynError):
            raise outcome
        return outcome

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for it any more."""
        assert self._scheduler is not None
        self._scheduler.cancel(ticket)

    def give_up(self) -> None:
        """Refuse what waits and what runs."""
        if self._scheduler is not None:
            self._scheduler.give_up()

    def lease(self) -> None:
        """Keep it open until `release`, for one request."""
        self._leases += 1
        self._traffic.begin()

    def release(self) -> None:
        """See `lease`."""
        self._leases -= 1
        self._traffic.end()
        if self._leases == 0 and self._unused is not None:
            self._unused.set()

    async def retire(self) -> None:
        """Wait until nobody uses it any more, and close it. Nobody may lease it from now on."""
        while (self._leases or self.running) and self._unused is not None:
            self._unused.clear()
            if self._leases:
                await self._unused.wait()
            else:  # a run whose client has gone
                await asyncio.sleep(0.005)
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Close the sessions, after what they are doing."""
        for instance in self._instances:
            instance.close()

"""The life of a server: ports, models, signals, and an end at which nothing that began is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dyndeploy.bundle import Bundle
from dyndeploy.errors import DynError, MissingPackageError, nearest
from dyndeploy.runtimes import runtime_names
from dyndeploy.serving.budget import Budget
from dyndeploy.serving.context import Context
from dyndeploy.serving.guard import Guard
from dyndeploy.serving.journal import Journal
from dyndeploy.serving.models.limits import Limits
from dyndeploy.serving.models.registry import Registry
from dyndeploy.serving.protocol.datatypes import datatype_of
from dyndeploy.serving.settings import Settings

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger(__name__)
_GRACE_S = 1.0

Bundles = Sequence[Bundle | str | os.PathLike[str]] | Bundle | str | os.PathLike[str]


class Server:
    """Serves bundles over REST and gRPC, on an event loop of its own.

    In a `with` block it runs in a thread, and the block begins when all models are ready. `run` runs it in the calling
    thread until a signal ends it.

    Args:
        bundles: bundles or their folders, whose names are the models' names.
        **settings: fields of `Settings`.

    Raises:
        MissingPackageError: a package of the extra `serve` is not installed.
        DynError: a bundle cannot be opened, two have one name, a setting is not allowed.

    Attributes:
        settings: how it was set up.
        port, grpc_port: where it listens, once it runs; grpc_port is None without gRPC.
    """

    def __init__(self, bundles: Bundles, **settings: Any) -> None:
        self.settings = Settings.of(settings)
        if self.settings.runtime not in runtime_names():
            raise DynError(
                f"There is no runtime {self.settings.runtime!r}.", fix=nearest(self.settings.runtime, runtime_names())
            )
        _need_packages(self.settings)
        self._bundles, self._largest_message = _named(bundles, self.settings)
        self.port = 0
        self.grpc_port: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._registry: Registry | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Address of REST and the page."""
        return f"{'https' if self.settings.certificate else 'http'}://{self._host}:{self.port}"

    @property
    def grpc_url(self) -> str | None:
        """Address of gRPC, as its clients take it: HOST:PORT."""
        return None if self.grpc_port is None else f"{self._host}:{self.grpc_port}"

    @property
    def models(self) -> list[str]:
        """The names of the models."""
        return list(self._bundles)

    @property
    def _host(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.host, self.settings.host)
        return f"[{host}]" if ":" in host else host

    # In this thread.

    def run(self, *, started: Callable[[Server], None] | None = None, signals: bool = True) -> None:
        """Serve until SIGTERM or SIGINT, or `stop`.

        SIGHUP loads bundles again that were exported again.

        Args:
            started: called when all models are ready.
            signals: handle signals; only in the main thread.

        Raises:
            DynError: a model cannot be served, or a port is taken.
        """
        ran = self._main(started or (lambda _server: None), signals)
        if sys.version_info >= (3, 11):
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(ran)
        else:
            loop = _loop_factory()()
            try:
                asyncio.set_event_loop(loop)
                loop.run_until_complete(ran)
            finally:
                left = asyncio.all_tasks(loop)
                for task in left:
                    task.cancel()
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
                asyncio.set_event_loop(None)
                loop.close()

    # In a thread of its own.

    def __enter__(self) -> Self:
        ready = threading.Event()
        failure: list[BaseException] = []

        def serve() -> None:
            try:
                self.run(started=lambda _server: ready.set(), signals=False)
            except BaseException as error:
                failure.append(error)
            finally:
                ready.set()

        self._thread = threading.Thread(target=serve, name="dyndeploy-serve", daemon=True)
        self._thread.start()
        ready.wait()
        if failure:
            self._thread.join()
            raise failure[0]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def stop(self) -> None:
        """End the server as SIGTERM does; from any thread."""
        self._call(lambda: self._stop.set() if self._stop else None)

    def reload(self, name: str) -> None:
        """Load a bundle again, and wait for it; from any thread but the server's.

        Raises:
            DynError: it cannot be served; the one that was there still is.
        """
        registry, loop = self._registry, self._loop
        if registry is None or loop is None:
            raise DynError("The server does not run.")
        asyncio.run_coroutine_threadsafe(registry.load(name), loop).result()

    def _call(self, function: Callable[[], Any]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(function)

    async def _main(self, started: Callable[[Server], None], signals: bool) -> None:
        from dyndeploy.serving.rest.app import RestApp
        from dyndeploy.serving.rest.http import bind, http_server
        from dyndeploy.serving.rest.infer import Infer

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        settings = self.settings
        registry = self._registry = Registry(self._bundles, settings)
        context = Context(
            settings,
            registry,
            Budget(settings.max_memory),
            Guard(settings),
            Journal(settings.log_requests, settings.traces),
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(context.journal.close)
            listener = _bound(bind, settings)
            stack.callback(listener.close)
            self.port = listener.getsockname()[1]
            http = _http(lambda: http_server(RestApp(context), Infer(context), settings))
            rpc = None
            if settings.grpc_port is not None:
                from dyndeploy.serving.rpc.server import grpc_server

                rpc, self.grpc_port = grpc_server(context, self._largest_message)
            serving = asyncio.ensure_future(http.serve(sockets=[listener]))
            background: list[asyncio.Future[Any]] = []
            if signals:
                stack.callback(self._handle_signals(registry, background))
            try:
                if rpc is not None:
                    await rpc.start()
                await self._load(registry)
                if not self._stop.is_set():
                    self._announce(started)
                if settings.watch_s is not None:
                    background.append(asyncio.ensure_future(registry.watch(settings.watch_s)))
                stopped = asyncio.ensure_future(self._stop.wait())
                background.append(stopped)
                await asyncio.wait({stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in background:
                    task.cancel()
                _log.info("draining")
                # Requests that have begun are answered; later ones are refused, while both ports still listen.
                await registry.close(settings.drain_timeout_s)
                http.should_exit = True
                if rpc is not None:
                    await rpc.stop(_GRACE_S)
                await serving
                _log.info("stopped")

    async def _load(self, registry: Registry) -> None:
        """Load all models, unless the server is stopped meanwhile."""
        assert self._stop is not None
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            for name in self._bundles:
                loading = asyncio.ensure_future(registry.load(name))
                await asyncio.wait({loading, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not loading.done():  # a thread cannot be stopped; its model is closed with the others
                    await asyncio.wait({loading})
                loading.result()
                if stopped.done():
                    return
        finally:
            stopped.cancel()

    def _announce(self, started: Callable[[Server], None]) -> None:
        settings = self.settings
        if not settings.loopback and settings.token is None:
            _log.warning("open to every machine that reaches it, without a token", extra={"host": settings.host})
        _log.info("ready", extra={"url": self.url, "grpc": self.grpc_url, "models": ",".join(self.models)})
        started(self)

    def _handle_signals(self, registry: Registry, background: list[asyncio.Future[Any]]) -> Callable[[], None]:
        """Have signals end or reload the server; returns what undoes that."""
        loop, stop = self._loop, self._stop
        assert loop is not None and stop is not None

        def reload() -> None:
            background.append(asyncio.ensure_future(registry.reload_all()))

        handlers: dict[int, Callable[[], None]] = {signal.SIGTERM: stop.set, signal.SIGINT: stop.set}
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = reload
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)

        def undo() -> None:
            for number in handlers:
                loop.remove_signal_handler(number)

        return undo


def _need_packages(settings: Settings) -> None:
    needed = ["uvicorn", "starlette", "httptools", "orjson", "prometheus_client"]
    if settings.grpc_port is not None:
        needed += ["grpc", "google.protobuf"]
    for package in needed:
        try:
            __import__(package)
        except ModuleNotFoundError:
            raise MissingPackageError(package, "The server", "serve") from None


def _named(bundles: Bundles, settings: Settings) -> tuple[Mapping[str, Path], int]:
    """Name -> folder, and the size of the largest gRPC request that one of them takes."""
    given = [bundles] if isinstance(bundles, (Bundle, str, os.PathLike)) else list(bundles)
    if not given:
        raise DynError("There is no bundle to serve.", fix="dyndeploy serve BUNDLE")
    named: dict[str, Path] = {}
    largest = 0
    for each in given:
        bundle = each if isinstance(each, Bundle) else Bundle.open(each)
        if bundle.name in named:
            raise DynError(f"Two bundles are called {bundle.name}.", fix="Rename the folder of one.")
        for spec in (*bundle.manifest.inputs, *bundle.manifest.outputs):
            datatype_of(spec.dtype)
        named[bundle.name] = bundle.path.absolute()
        limits = Limits.of(bundle.manifest, settings.max_json)
        if limits.binary > settings.max_memory:
            raise DynError(
                f"A request of {bundle.name} may have {limits.binary} bytes, and all together {settings.max_memory}.",
                fix=f"--max-memory {2 * limits.binary}",
            )
        largest = max(largest, limits.message)
    return named, largest


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ModuleNotFoundError:  # there is none for Windows; the loop of asyncio does the same, slower
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _bound(bind: Callable[[str, int], socket.socket], settings: Settings) -> socket.socket:
    try:
        return bind(settings.host, settings.port)
    except OSError as error:
        raise DynError(
            f"REST cannot listen at {settings.host}:{settings.port}.", why=str(error), fix="--port 0 takes a free port."
        ) from None


def _http(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except OSError as error:  # ssl.SSLError is one
        raise DynError("The certificate or its key cannot be read.", why=str(error)) from None

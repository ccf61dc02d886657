"""uvicorn, run within a larger server, and its HTTP protocol with limits on what comes before a request is one."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from dyndeploy.serving.rest.infer import Infer, Inference, asked_of
from dyndeploy.serving.settings import Settings

#: Of the request line and all headers of a request.
MAX_HEAD = 64 << 10
#: In which they have to arrive, in seconds.
HEAD_TIMEOUT_S = 15.0
_log = logging.getLogger(__name__)
_log.setLevel(logging.ERROR)  # strangers send what is no HTTP; a line for each would be theirs to write


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 that holds no more of a request's head than MAX_HEAD, waits no longer than HEAD_TIMEOUT_S for it, and
    says in JSON what it cannot read. Requests for inference go to `infer`, all others to the ASGI application.
    """

    def __init__(self, infer: Infer, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = _log
        self._infer = infer
        self._head_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_since: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._prompt = True

    # asyncio calls these.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(_InOneWrite(transport, self.loop))  # type: ignore[arg-type]
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._stop_waiting()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        for cycle in (self.cycle, *(waiting for waiting, _ in self.pipeline)):
            if isinstance(cycle, Inference):
                cycle.gone()
        if isinstance(self.cycle, Inference):
            self.cycle = None  # type: ignore[assignment]  # uvicorn would tell it what it knows
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """It sent something."""
        self._idle_since, self._prompt = None, True
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head:
            if isinstance(self.cycle, Inference):
                self.cycle.expect_body()
        elif self._head_bytes > MAX_HEAD:
            if not self.transport.is_closing():
                self._refuse(431, f"The head of a request has at most {MAX_HEAD} bytes.")
        elif self._head_bytes and self._head_timer is None:
            self._wait_for_head()

    # The parser calls these.

    def on_headers_complete(self) -> None:
        """A request begins."""
        self._in_head, self._head_bytes = False, 0
        self._stop_waiting()
        asked = asked_of(self.url) if self.parser.get_method() == b"POST" else None
        if asked is None:
            super().on_headers_complete()
            return
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        waits = self._pending
        # Of many in one piece of data only the first may run at once: they would hold up the loop together.
        prompt, self._prompt = self._prompt and not waits, False
        headers = dict(self.headers)
        inference = Inference(self._infer, self, asked, headers, keep_alive, self.expect_100_continue, prompt)
        self.cycle = inference  # type: ignore[assignment]
        if waits:
            self.flow.pause_reading()
            self.pipeline.appendleft((inference, self.app))  # type: ignore[arg-type]
        else:
            inference.begin()

    def on_body(self, body: bytes) -> None:
        """A piece of its body has come."""
        if isinstance(self.cycle, Inference):
            self.cycle.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """All of a request is there."""
        self._in_head = True
        if isinstance(self.cycle, Inference):
            self.cycle.end()
        else:
            super().on_message_complete()

    # uvicorn calls these.

    def on_response_complete(self) -> None:
        """A request has been answered: begin the next one, or wait for it."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start(cycle, app)
        else:
            # One timer for all requests of the connection; uvicorn's own would be made anew for each.
            self._idle_since = self.loop.time()
            if self._idle_timer is None:
                self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._idle)

    def _start(self, cycle: Any, app: Any) -> None:
        """Begin with a request that has waited for earlier ones of the connection."""
        if isinstance(cycle, Inference):
            self.loop.call_soon(self._begin, cycle)  # not from within the one before: they may be many
            return
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def shutdown(self) -> None:
        """The server ends."""
        if isinstance(self.cycle, Inference) and not self.pipeline:
            self.cycle.abandon()
        if not self.transport.is_closing():
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        if not self.transport.is_closing():
            self._refuse(400, msg)

    # Inference calls these.

    def respond(
        self, status: int, headers: list[tuple[bytes, bytes]], parts: list[bytes | memoryview], keep_alive: bool
    ) -> None:
        """See `infer.Connection`."""
        if not self.transport.is_closing():
            lines = [STATUS_LINE[status], b"content-length: %d\r\n" % sum(map(len, parts))]
            for name, value in (*self.server_state.default_headers, *headers):
                lines += (name, b": ", value, b"\r\n")
            if not keep_alive and all(name != b"connection" for name, _ in headers):
                lines.append(b"connection: close\r\n")
            lines.append(b"\r\n")
            self.transport.writelines([b"".join(lines), *parts])
            if not keep_alive:
                self.transport.close()
        self.on_response_complete()

    def proceed(self) -> None:
        """See `infer.Connection`."""
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def close(self) -> None:
        """See `infer.Connection`."""
        self.transport.close()

    def _begin(self, inference: Inference) -> None:
        inference.begin()
        inference.expect_body()

    # Time limits, and what ends a connection.

    @property
    def _pending(self) -> bool:
        """Whether the newest request, or one before it, has no answer yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            if self._head_bytes:
                self._refuse(408, "The head of the request did not arrive in time.")
            else:
                self.transport.close()

    def _idle(self) -> None:
        self._idle_timer = None
        if self._pending:  # the end of what is on its way begins anew
            return
        if self._idle_since is None:  # the rest of what was refused came later
            self._idle_since = self.loop.time()
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._idle)
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int, what: str) -> None:
        """Answer in the place of the application, unless its own answer has begun; and end the connection."""
        cycle: Any = self.cycle
        own = self._pending and not isinstance(cycle, Inference)
        if not (own and cycle.response_started):
            body = orjson.dumps({"error": what})
            self.transport.write(
                b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
                % (status, len(body), body)
            )
        if own:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()


class _InOneWrite:
    """A transport that sends the head of a response together with what follows.

    Written one by one, they wake the client twice: of 500 small responses 473 arrived in two pieces.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: bytes | None = None
        self._timer: asyncio.Handle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes | memoryview) -> None:
        """Send data, or keep it for a moment where it is the head of a response."""
        if self._held is not None:
            held = self._release()
            if data:
                self._transport.writelines([held, data])
                return
            data = held
        elif data[:10] == b"HTTP/1.1 2":
            assert isinstance(data, bytes)
            self._held = data
            self._timer = self._loop.call_soon(self._flush)  # nothing follows an answer to HEAD
            return
        self._transport.write(data)

    def close(self) -> None:
        """Send what is kept, and end the connection."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held is not None:
            self._transport.write(self._release())

    def _release(self) -> bytes:
        held, self._held = self._held, None
        assert held is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return held


class HttpServer(uvicorn.Server):
    """uvicorn without handlers of signals: the server around it has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def http_server(app: Any, infer: Infer, settings: Settings) -> HttpServer:
    """A uvicorn server for an ASGI application and the endpoint of inference; `serve(sockets=[…])` runs it.

    Raises:
        OSError: the certificate cannot be read (ssl.SSLError, which is one, where it is none).
    """
    config = uvicorn.Config(
        app,
        http=functools.partial(Protocol, infer),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, round(settings.keep_alive_s)),
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return HttpServer(config)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: the address is not one of this machine, or is taken.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener

"""POST /v2/models/{model}/infer: from the first header to the last byte.

Without ASGI, whose scope, task, events and messages cost more than what is done here for a small model.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import unquote

import httptools

from dyndeploy.errors import DynError
from dyndeploy.serving.context import Context
from dyndeploy.serving.errors import (
    DEFECT,
    ClientGoneError,
    RequestError,
    SlowClientError,
    TooLargeError,
    UnavailableModelError,
    as_request_error,
)
from dyndeploy.serving.journal import outcome_of
from dyndeploy.serving.models.model import Model
from dyndeploy.serving.models.per_model import PerModel
from dyndeploy.serving.models.queue import Outcome, Ticket
from dyndeploy.serving.models.statistics import Statistics
from dyndeploy.serving.rest.body import TOO_SLOW, Body, Head
from dyndeploy.serving.rest.codec import Codec, Decoded
from dyndeploy.serving.rest.responses import JSON, Exchange

_BINARY = b"application/octet-stream"
_BASE, _END = "/v2/models/", "/infer"
_LONGEST_URL = 512
_log = logging.getLogger(__name__)


class Connection(Protocol):
    """Where a request came from."""

    client: tuple[str, int] | None
    loop: asyncio.AbstractEventLoop

    def respond(
        self, status: int, headers: list[tuple[bytes, bytes]], parts: list[bytes | memoryview], keep_alive: bool
    ) -> None:
        """Send a response, and end the connection unless it is kept alive."""

    def proceed(self) -> None:
        """Ask for the body, of a client that waits for that."""

    def close(self) -> None:
        """End it."""


class Infer:
    """The endpoint.

    Args:
        context: of the server.

    Attributes:
        context: as above.
        codecs: what reads and writes for each model.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.codecs = PerModel(lambda model: Codec(model.name, model.bundle.manifest, model.datatypes))


def asked_of(url: bytes) -> tuple[str, str] | None:
    """Model and version ("" where there is none), when a URL is one of inference.

    Example:
        >>> asked_of(b"/v2/models/digits/infer"), asked_of(b"/v2/models/digits/versions/1/infer"), asked_of(b"/v2")
        (('digits', ''), ('digits', '1'), None)
    """
    if b"/infer" not in url:
        return None
    return _asked_of(url) if len(url) <= _LONGEST_URL else _asked_of.__wrapped__(url)


@functools.lru_cache(256)
def _asked_of(url: bytes) -> tuple[str, str] | None:
    try:
        path = unquote((httptools.parse_url(url).path or b"").decode("ascii"))
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        return None
    if not (path.startswith(_BASE) and path.endswith(_END)):
        return None
    model, _, version = path[len(_BASE) : -len(_END)].partition("/versions/")
    return (model, version) if model and "/" not in model and "/" not in version else None


class Inference:
    """One request. It stands where uvicorn's protocol keeps a RequestResponseCycle, and has what is asked of that.

    Everything happens on the event loop, in the callbacks of the connection and of the scheduler.

    Args:
        infer: the endpoint.
        connection: where it came from.
        asked: model and version.
        headers: by their names in lower case.
        keep_alive: whether the connection goes on after the response.
        waits: whether the client waits for `100 Continue` before it sends the body.
        prompt: whether it may run at once, where it is the only request.

    Attributes:
        keep_alive: as above; may be changed until the response is sent.
        response_complete: the response has been sent, or nobody waits for it.
    """

    def __init__(
        self,
        infer: Infer,
        connection: Connection,
        asked: tuple[str, str],
        headers: Mapping[bytes, bytes],
        keep_alive: bool,
        waits: bool,
        prompt: bool,
    ) -> None:
        self._infer, self._connection, self._asked = infer, connection, asked
        self._waits, self._prompt = waits, prompt
        self._exchange = Exchange(headers)
        self._begun_ns = time.perf_counter_ns()
        self._early: list[bytes] | None = []  # what arrives before it is its turn
        self._all_there = False
        self._statistics: Statistics | None = None
        self._model: Model | None = None
        self._body: Body | None = None
        self._head: Head | None = None
        self._request: Decoded | None = None
        self._ticket: Ticket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.keep_alive = keep_alive
        self.response_complete = False

    # The connection calls these.

    def begin(self) -> None:
        """It is its turn: earlier requests of the connection have been answered."""
        if not self.response_complete:
            self._begun_ns = time.perf_counter_ns()
            self._step(self._begin)

    def add(self, piece: bytes) -> None:
        """A piece of the body."""
        if self._early is not None:
            self._early.append(piece)
        elif not self.response_complete:
            self._step(self._add, piece)

    def end(self) -> None:
        """The body is complete."""
        self._all_there = True
        if self._early is None and not self.response_complete:
            self._step(self._submit)

    def expect_body(self) -> None:
        """What has arrived is not all of it: limit the time of the rest."""
        if self._timer is None and not (self._all_there or self.response_complete):
            seconds = self._infer.context.settings.body_timeout_s
            self._timer = self._connection.loop.call_later(seconds, self._too_slow)

    def gone(self) -> None:
        """The client has closed the connection."""
        if self._ticket is not None and self._model is not None:
            self._model.cancel(self._ticket)  # which ends in `_done`
        if not self.response_complete:
            self._fail(ClientGoneError("The client has gone."))

    def abandon(self) -> None:
        """The server ends: what has not arrived by now is not waited for."""
        self.keep_alive = False
        if not (self._all_there or self.response_complete):
            self._fail(UnavailableModelError("The server is shutting down."))

    # What becomes of it.

    def _step(self, step: Callable[..., None], *arguments: Any) -> None:
        """Do a part; what goes wrong in it is the answer."""
        try:
            step(*arguments)
        except DynError as error:
            self._fail(as_request_error(error))
        except Exception:
            _log.exception("defect", extra={"request_id": self._exchange.identity, "path": self._operation})
            if self.response_complete:  # nobody knows how much of a response has left
                self._connection.close()
            self._fail(DEFECT)

    def _begin(self) -> None:
        early, self._early = self._early, None
        headers, context = self._exchange.headers, self._infer.context
        context.guard.check_origin(headers)
        context.guard.check_token(headers.get(b"authorization"))
        self._statistics = context.registry.entry(*self._asked).statistics
        model = context.registry.model(*self._asked)
        model.lease()
        self._model = model
        self._head = head = Head(headers)
        limit = model.limits.json
        if head.json_length is not None:
            if head.json_length > limit:
                raise TooLargeError(f"The JSON has {head.json_length} bytes, and at most {limit} are read.")
            limit = head.json_length + model.limits.binary
        self._body = Body(head, limit, context.budget)
        for piece in early or ():
            self._body.add(piece)
        if self._all_there:
            self._submit()
        elif self._waits:
            self._connection.proceed()

    def _add(self, piece: bytes) -> None:
        assert self._body is not None
        self._body.add(piece)

    def _submit(self) -> None:
        assert self._body is not None and self._head is not None and self._model is not None
        body, head = self._body, self._head
        request = self._infer.codecs.of(self._model).decode(body.data, body.start, head.json_length)
        body.data = b""  # the arrays keep what they need of it
        self._request = request
        deadline = self._infer.context.deadline(_seconds(head, request))
        ticket = self._model.submit(request.inputs, request.layout.sizes, self._done, deadline, self._prompt)
        if not self.response_complete:
            self._ticket = ticket

    def _done(self, outcome: Outcome) -> None:
        self._ticket = None
        if isinstance(outcome, DynError):
            self._fail(as_request_error(outcome))
        else:
            self._step(self._answer, outcome)

    def _answer(self, outputs: dict[str, Any]) -> None:
        assert self._model is not None and self._request is not None and self._statistics is not None
        parts, json_length = self._infer.codecs.of(self._model).encode(self._request, outputs)
        headers = self._exchange.reply_headers
        if json_length is None:
            kind = JSON
        else:
            kind = _BINARY
            headers = [(b"inference-header-content-length", b"%d" % json_length), *headers]
        self._exchange.status = 200
        statistics = self._statistics
        self._over()
        self._connection.respond(200, [(b"content-type", kind), *headers], parts, self.keep_alive)
        statistics.succeeded(time.perf_counter_ns() - self._begun_ns)
        self._note()

    def _fail(self, error: RequestError) -> None:
        if self.response_complete:
            return
        body, headers = self._exchange.refusal(error)
        if any(name == b"connection" for name, _ in headers):
            self.keep_alive = False
        self._over()
        if self._statistics is not None:
            self._statistics.failed(outcome_of(error), time.perf_counter_ns() - self._begun_ns)
        self._connection.respond(error.status, [(b"content-type", JSON), *headers], [body], self.keep_alive)
        self._note()

    def _over(self) -> None:
        """Let go of everything."""
        self.response_complete = True
        self._early = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._body is not None:
            self._body.give()
            self._body = None
        if self._model is not None:
            self._model.release()
            self._model = None
        self._request = self._ticket = None

    def _note(self) -> None:
        self._exchange.note(self._infer.context.journal, self._operation, self._begun_ns, self._connection.client)

    @property
    def _operation(self) -> str:
        model, version = self._asked
        return f"POST {_BASE}{model}{f'/versions/{version}' if version else ''}{_END}"[:205]

    def _too_slow(self) -> None:
        self._timer = None
        if not self.response_complete:
            self._fail(SlowClientError(TOO_SLOW))


def _seconds(head: Head, request: Decoded) -> float | None:
    """The shorter of both time limits."""
    limit = request.layout.timeout_s
    if head.timeout is None:
        return limit
    if not head.timeout.isdigit() or len(head.timeout) > 12:
        raise RequestError("X-Request-Timeout-Ms is not a number of milliseconds.")
    seconds = int(head.timeout) / 1000
    return min(seconds, limit or seconds) or None

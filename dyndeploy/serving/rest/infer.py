"""POST /v2/models/{model}/infer: from the first header to the last byte."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from dyndeploy.bundle import Arrays
from dyndeploy.errors import DynError
from dyndeploy.serving.context import Context
from dyndeploy.serving.errors import RequestError, TooLargeError, as_request_error
from dyndeploy.serving.journal import outcome_of
from dyndeploy.serving.models.model import Model
from dyndeploy.serving.models.scheduler import Ticket
from dyndeploy.serving.rest.body import Head, Receive, read_body
from dyndeploy.serving.rest.codec import Decoded, decode, encode
from dyndeploy.serving.rest.responses import JSON, Exchange, Send, send

_BINARY = b"application/octet-stream"
#: A request that is answered sooner is not watched for its client's leaving: the watch costs a task.
_WATCH_AFTER_S = 0.01
#: A server may repeat the end of the body before it tells of the client's leaving.
_MESSAGES = 4


class Infer:
    """The endpoint.

    Args:
        context: of the server.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def answer(self, name: str, version: str, exchange: Exchange, receive: Receive, to: Send) -> None:
        """Answer one request.

        Args:
            name, version: of the model; "" is its only version.
            exchange: the request.
            receive, to: ASGI's.

        Raises:
            UnknownModelError: there is no such model.
        """
        begun_ns = time.perf_counter_ns()
        registry = self._context.registry
        statistics = registry.entry(name, version).statistics
        try:
            model = registry.model(name, version)
            model.lease()
            try:
                parts, json_length = await self._infer(model, exchange, receive)
            finally:
                model.release()
        except DynError as error:
            refused = as_request_error(error)
            statistics.failed(outcome_of(refused), time.perf_counter_ns() - begun_ns)
            await exchange.refuse(to, refused)
            return
        exchange.status = 200
        if json_length is None:
            await send(to, 200, parts, JSON, exchange.reply_headers)
        else:
            length = (b"inference-header-content-length", b"%d" % json_length)
            await send(to, 200, parts, _BINARY, [length, *exchange.reply_headers])
        statistics.succeeded(time.perf_counter_ns() - begun_ns)

    async def _infer(
        self, model: Model, exchange: Exchange, receive: Receive
    ) -> tuple[list[bytes | memoryview], int | None]:
        context, manifest, limits = self._context, model.bundle.manifest, model.limits
        head = Head(exchange.headers)
        json_length = head.json_length
        limit = limits.json
        if json_length is not None:
            if json_length > limits.json:
                raise TooLargeError(f"The JSON has {json_length} bytes, and at most {limits.json} are read.")
            limit = json_length + limits.binary
        body, start = await read_body(receive, head, limit, context.budget, context.settings.body_timeout_s)
        held = len(body) - start
        try:
            request = decode(body, start, json_length, manifest.inputs, manifest.outputs, manifest.dims)
            del body
            ticket = model.submit(request.inputs, request.sizes, context.deadline(_seconds(head, request)))
            outputs = await _outcome(model, ticket, receive)
            return encode(model.name, request, outputs, model.datatypes)
        finally:
            context.budget.give(held)


def _seconds(head: Head, request: Decoded) -> float | None:
    """The shorter of both time limits."""
    if head.timeout is None:
        return request.timeout_s
    if not head.timeout.isdigit() or len(head.timeout) > 12:
        raise RequestError("X-Request-Timeout-Ms is not a number of milliseconds.")
    seconds = int(head.timeout) / 1000
    return min(seconds, request.timeout_s or seconds) or None


async def _outcome(model: Model, ticket: Ticket, receive: Receive) -> Arrays:
    """What the ticket comes to; it is cancelled when the client goes."""
    if ticket.future.done():
        return ticket.future.result()
    watch = _Watch(receive, lambda: model.cancel(ticket))
    try:
        return await ticket.future
    except asyncio.CancelledError:
        model.cancel(ticket)
        raise
    finally:
        watch.stop()


class _Watch:
    """Calls a function when the client closes the connection."""

    def __init__(self, receive: Receive, gone: Callable[[], None]) -> None:
        self._receive, self._gone = receive, gone
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_WATCH_AFTER_S, self._begin)

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._wait())

    async def _wait(self) -> None:
        for _ in range(_MESSAGES):
            if (await self._receive())["type"] == "http.disconnect":
                self._gone()
                return

    def stop(self) -> None:
        """Look no longer."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

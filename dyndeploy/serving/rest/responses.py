"""Sending what is small: JSON, text, errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import orjson

from dyndeploy.serving.errors import RequestError, one_line
from dyndeploy.serving.journal import Journal, request_id

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
JSON, TEXT = b"application/json", b"text/plain; version=0.0.4; charset=utf-8"


async def send(
    send: Send, status: int, body: bytes, content_type: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer a request.

    Args:
        send: ASGI's.
        status: of the response.
        body: of the response.
        content_type: of the body.
        headers: beside its type and length.
    """
    own = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body})


class Exchange:
    """A request on its way, and what becomes of it.

    Args:
        headers: of the request, by their names in lower case.

    Attributes:
        headers: of the request.
        identity: the client's id of it, or a new one.
        reply_headers: of every response to it.
        status: of the response; 0 before there is one.
        error: why it was refused.
    """

    __slots__ = ("error", "headers", "identity", "reply_headers", "status")

    def __init__(self, headers: Mapping[bytes, bytes]) -> None:
        self.headers = headers
        named = headers.get(b"x-request-id")
        self.identity = request_id(named.decode("latin-1") if named is not None else None)
        self.reply_headers = [(b"x-request-id", self.identity.encode())]
        self.status = 0
        self.error: RequestError | None = None

    def refusal(self, error: RequestError) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Note that it is refused; the body {"error": …} and its headers, beside type and length."""
        self.status, self.error = error.status, error
        own = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        return orjson.dumps({"error": one_line(error)}), [*own, *self.reply_headers]

    async def refuse(self, to: Send, error: RequestError) -> None:
        """Answer with {"error": …}."""
        body, headers = self.refusal(error)
        await send(to, error.status, body, JSON, headers)

    def note(self, journal: Journal, operation: str, begun_ns: int, client: Sequence[Any] | None) -> None:
        """Write it down, when it is over."""
        if journal.active:
            parent = self.headers.get(b"traceparent", b"").decode("latin-1")
            status, host = str(self.status), client[0] if client else ""
            journal.write("rest", operation, self.identity, status, begun_ns, self.error, parent, client=host)

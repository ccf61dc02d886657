"""Sending what is small: JSON, text, errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import orjson

from dyndeploy.serving.errors import RequestError, one_line

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
JSON, TEXT = b"application/json", b"text/plain; version=0.0.4; charset=utf-8"
#: Parts of a body up to this size are put together; the copy is cheaper than writing twice.
_TOGETHER = 64 << 10


async def send(
    send: Send,
    status: int,
    parts: Sequence[bytes | memoryview],
    content_type: bytes,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Answer a request.

    Args:
        send: ASGI's.
        status: of the response.
        parts: of the body, one after the other.
        content_type: of the body.
        headers: beside its type and length.
    """
    size = sum(len(part) for part in parts)
    own = [(b"content-type", content_type), (b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    if len(parts) != 1 and size <= _TOGETHER:
        parts = [b"".join(parts)]
    last = len(parts) - 1
    for index, part in enumerate(parts):
        await send({"type": "http.response.body", "body": part, "more_body": index != last})


class Exchange:
    """A request on its way, and what becomes of it.

    Attributes:
        headers: of the request, by their names in lower case.
        reply_headers: of every response to it.
        status: of the response.
        error: why it was refused.
    """

    __slots__ = ("error", "headers", "reply_headers", "status")

    def __init__(self, headers: Mapping[bytes, bytes], identity: str) -> None:
        self.headers = headers
        self.reply_headers = [(b"x-request-id", identity.encode())]
        self.status = 0
        self.error: RequestError | None = None

    async def refuse(self, to: Send, error: RequestError) -> None:
        """Answer with {"error": …}."""
        self.status, self.error = error.status, error
        own = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        await send(to, error.status, [orjson.dumps({"error": one_line(error)})], JSON, [*own, *self.reply_headers])

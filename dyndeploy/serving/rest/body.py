"""Reading the body of a request, within limits that hold before memory is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from types import TracebackType
from typing import Any

from dyndeploy.serving.budget import Budget
from dyndeploy.serving.errors import ClientGoneError, MediaTypeError, RequestError, SlowClientError, TooLargeError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
#: Where the data begins in a body that is read in pieces, so that arrays can lie in it as they are.
ALIGNMENT = 64
_JSON, _BINARY = b"application/json", b"application/octet-stream"


class Head:
    """What the headers say of a body.

    Attributes:
        length: Content-Length, or None where the body is chunked.
        json_length: length of the JSON part; None where all of the body is JSON.
        timeout: text of X-Request-Timeout-Ms, or None.
    """

    __slots__ = ("json_length", "length", "timeout")

    def __init__(self, headers: Mapping[bytes, bytes]) -> None:
        self.length = _number(headers, b"content-length")
        self.json_length = _number(headers, b"inference-header-content-length")
        self.timeout = headers.get(b"x-request-timeout-ms")
        kind = headers.get(b"content-type")
        if kind is not None:
            _check_type(kind)
        encoding = headers.get(b"content-encoding")
        if encoding is not None and encoding.strip().lower() != b"identity":
            raise MediaTypeError("Compressed bodies are not read.", fix="Leave Content-Encoding out.")


def _number(headers: Mapping[bytes, bytes], name: bytes) -> int | None:
    value = headers.get(name)
    if value is None:
        return None
    if not value.isdigit() or len(value) > 15:
        raise RequestError(f"The header {name.decode()} is {value[:40].decode('latin-1')!r}, which is not a size.")
    return int(value)


def _check_type(value: bytes) -> None:
    kind = value.partition(b";")[0].strip().lower()
    # A page of any site can make a browser send the types of forms without asking; so they are not read.
    if kind not in (_JSON, _BINARY, b""):
        raise MediaTypeError(
            f"The content type {value[:60].decode('latin-1')!r} is not read.",
            fix="Content-Type: application/json, or application/octet-stream with Inference-Header-Content-Length.",
        )


async def read_body(
    receive: Receive, head: Head, limit: int, budget: Budget, timeout_s: float
) -> tuple[bytes | bytearray, int]:
    """The whole body.

    Args:
        receive: ASGI's.
        head: its headers.
        limit: the most bytes that it may have.
        budget: the bytes returned are taken from it, for the caller to give back; after an error none are.
        timeout_s: how long it may take to arrive.

    Returns:
        (buffer, start): where in the buffer the body begins. Of a large body, what follows `head.json_length` bytes
        lies at a multiple of ALIGNMENT.

    Raises:
        TooLargeError: it has more than `limit` bytes.
        OverloadedError: the budget is used up.
        ClientGoneError: the client closed the connection before the end.
        SlowClientError: it took too long.
    """
    if head.length is not None:
        if head.length > limit:
            raise _too_large(head.length, limit)
        budget.check(head.length)  # what only was announced is not taken: it may never come
    with _TimeLimit(timeout_s):
        message = await _next(receive)
        data: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            _grow(budget, 0, len(data), limit)
            return data, 0
        start = -(head.json_length or 0) % ALIGNMENT
        buffer = bytearray(start)
        held = 0
        try:
            while True:
                held = _grow(budget, held, len(buffer) - start + len(data), limit)
                buffer += data
                if not message.get("more_body", False):
                    return buffer, start
                message = await _next(receive)
                data = message.get("body", b"")
        except BaseException:
            budget.give(held)
            raise


def _grow(budget: Budget, held: int, size: int, limit: int) -> int:
    if size > limit:
        raise _too_large(size, limit)
    budget.take(size - held)
    return size


def _too_large(size: int, limit: int) -> TooLargeError:
    return TooLargeError(
        f"The body has {size} bytes or more, and at most {limit} can be meant for this model.",
        why="Its dims end there; JSON has a limit of its own (--max-json).",
    )


async def _next(receive: Receive) -> Mapping[str, Any]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError("The client has gone.")
    return message


class _TimeLimit:
    """Ends the block with SlowClientError; a timer and no task, which would cost as much as a small request."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._passed = seconds, False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        self._passed = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._passed and kind is asyncio.CancelledError:
            if hasattr(self._task, "uncancel"):  # Python 3.11
                self._task.uncancel()
            raise SlowClientError("The body of the request did not arrive in time.") from None

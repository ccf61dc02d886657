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
TOO_SLOW = "The body of the request did not arrive in time."
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


class Body:
    """The body of a request as it arrives; its bytes are taken from a budget, and given back with `give`.

    Args:
        head: its headers.
        limit: the most bytes that it may have.
        budget: what it is taken from.

    Raises:
        TooLargeError: it announces more than `limit` bytes.
        OverloadedError: the budget has no room for what it announces.

    Attributes:
        data: the bytes, from `start` on. Of a body that comes in pieces, what follows `head.json_length` bytes lies at
            a multiple of ALIGNMENT.
    """

    __slots__ = ("_budget", "_held", "_json_length", "_limit", "data", "start")

    def __init__(self, head: Head, limit: int, budget: Budget) -> None:
        if head.length is not None:
            if head.length > limit:
                raise _too_large(head.length, limit)
            budget.check(head.length)  # what only was announced is not taken: it may never come
        self._limit, self._budget, self._json_length = limit, budget, head.json_length
        self._held = 0
        self.data: bytes | bytearray = b""
        self.start = 0

    def add(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            TooLargeError: it is longer than it may be.
            OverloadedError: the budget is used up.
        """
        size = self._held + len(piece)
        if size > self._limit:
            raise _too_large(size, self._limit)
        self._budget.take(len(piece))
        self._held = size
        if size == len(piece):
            self.data = piece
            return
        if not isinstance(self.data, bytearray):
            self.start = -(self._json_length or 0) % ALIGNMENT
            self.data = bytearray(self.start) + self.data
        self.data += piece

    def give(self) -> None:
        """Give its bytes back to the budget."""
        self._budget.give(self._held)
        self._held = 0


async def read_body(receive: Receive, head: Head, limit: int, budget: Budget, timeout_s: float) -> Body:
    """The whole body of an ASGI request, for the caller to give back; after an error nothing is held.

    Args:
        receive: ASGI's.
        head, limit, budget: see `Body`.
        timeout_s: how long it may take to arrive.

    Raises:
        TooLargeError, OverloadedError: see `Body`.
        ClientGoneError: the client closed the connection before the end.
        SlowClientError: it took too long.
    """
    body = Body(head, limit, budget)
    try:
        with _TimeLimit(timeout_s):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError("The client has gone.")
                body.add(message.get("body", b""))
                more = message.get("more_body", False)
        return body
    except BaseException:
        body.give()
        raise


def _too_large(size: int, limit: int) -> TooLargeError:
    return TooLargeError(
        f"The body has {size} bytes or more, and at most {limit} can be meant for this model.",
        why="Its dims end there; JSON has a limit of its own (--max-json).",
    )


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
            raise SlowClientError(TOO_SLOW) from None

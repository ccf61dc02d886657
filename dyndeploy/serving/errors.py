"""Why a request is refused: an HTTP status and a gRPC code beside the words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from dyndeploy.errors import DynError


class RequestError(DynError):
    """A request that is not answered with tensors; the fault is the client's unless a subclass says otherwise.

    Attributes:
        status: of the HTTP response.
        code: name of the gRPC status.
        headers: added to the HTTP response.
    """

    status: ClassVar[int] = 400
    code: ClassVar[str] = "INVALID_ARGUMENT"
    headers: ClassVar[Mapping[str, str]] = {}


class UnauthorizedError(RequestError):
    """The token is missing or wrong."""

    status, code, headers = 401, "UNAUTHENTICATED", {"WWW-Authenticate": "Bearer"}


class ForbiddenError(RequestError):
    """What is asked for is switched off, or asked for by a page of another site."""

    status, code = 403, "PERMISSION_DENIED"


class UnknownModelError(RequestError):
    """There is no such model, or no such version of it."""

    status, code = 404, "NOT_FOUND"


class SlowClientError(RequestError):
    """The body did not arrive in time."""

    status, code, headers = 408, "CANCELLED", {"Connection": "close"}


class TooLargeError(RequestError):
    """The body is larger than anything that the model takes."""

    status, code = 413, "RESOURCE_EXHAUSTED"


class MediaTypeError(RequestError):
    """The body is of a kind that is not read."""

    status = 415


class OverloadedError(RequestError):
    """The queue, or the memory for requests, is full; nothing was executed."""

    status, code, headers = 429, "RESOURCE_EXHAUSTED", {"Retry-After": "1"}


class ClientGoneError(RequestError):
    """The client closed the connection; nobody reads the answer."""

    status, code = 499, "CANCELLED"


class UnsupportedError(RequestError):
    """A part of the protocol that this server does not speak."""

    code = "UNIMPLEMENTED"


class UnavailableModelError(RequestError):
    """The model, or the server, takes no requests now."""

    status, code = 503, "UNAVAILABLE"


class DeadlineError(RequestError):
    """The request's own time limit passed before it was answered."""

    status, code = 504, "DEADLINE_EXCEEDED"


class ExecutionError(RequestError):
    """The runtime failed on inputs that fit."""

    status, code = 500, "INTERNAL"


#: What is told where the server itself went wrong, in a way that nobody expected.
DEFECT = ExecutionError("The server has a defect; its log says more.")


def as_request_error(error: DynError) -> RequestError:
    """The error itself, or one that blames the request: inputs that do not fit the model are a plain DynError."""
    if isinstance(error, RequestError):
        return error
    return RequestError(error.what, why=error.why, fix=error.fix)


def one_line(error: DynError) -> str:
    """The error as one line, as both protocols have a single string for it."""
    return " ".join(" ".join(part.split()) for part in (error.what, error.why, error.fix) if part)

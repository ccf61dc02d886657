"""What is written about requests: log lines with ids, and traces where OpenTelemetry is there."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from dyndeploy.errors import MissingPackageError
from dyndeploy.serving.errors import (
    ClientGoneError,
    DeadlineError,
    ExecutionError,
    OverloadedError,
    RequestError,
    UnavailableModelError,
)

_log = logging.getLogger("dyndeploy.serving.requests")
_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
# New ids are told apart by a number; those of other processes by what is in front of it.
_PROCESS, _COUNTER = secrets.token_hex(4), itertools.count(1)
_OUTCOMES: Mapping[type[RequestError], str] = {
    OverloadedError: "overloaded",
    DeadlineError: "deadline",
    ClientGoneError: "cancelled",
    ExecutionError: "failed",
    UnavailableModelError: "unavailable",
}


def outcome_of(error: RequestError) -> str:
    """The word under which an error is counted."""
    return _OUTCOMES.get(type(error), "invalid")


def request_id(given: str | None) -> str:
    """The client's id of a request where it is harmless to repeat, else a new one.

    Example:
        >>> request_id("a-1"), len(request_id("no spaces")), len(request_id(None))
        ('a-1', 16, 16)
    """
    return given if given is not None and _ID.fullmatch(given) else f"{_PROCESS}{next(_COUNTER) & 0xFFFFFFFF:08x}"


class Journal:
    """Writes down what was asked and how it went.

    Args:
        log_requests: a log line each.
        traces: URL of an OpenTelemetry collector, or None.

    Raises:
        MissingPackageError: traces are asked for, and OpenTelemetry is not installed.
    """

    def __init__(self, log_requests: bool, traces: str | None) -> None:
        self._log_requests = log_requests
        self._traces = _Traces(traces) if traces else None
        self.active = log_requests or traces is not None

    def write(
        self,
        protocol: str,
        operation: str,
        request: str,
        status: str,
        begun_ns: int,
        error: RequestError | None = None,
        parent: str | None = None,
        **more: Any,
    ) -> None:
        """Write one request down.

        Args:
            protocol: "rest" or "grpc".
            operation: what was asked for.
            request: its id.
            status: of the response.
            begun_ns: when it began, on the clock of time.perf_counter_ns.
            error: why it was refused.
            parent: the client's traceparent.
            **more: further fields.
        """
        took_ns = time.perf_counter_ns() - begun_ns
        if self._log_requests:
            fields = {"request_id": request, "protocol": protocol, "operation": operation, "status": status, **more}
            fields["ms"] = round(took_ns / 1e6, 3)
            if error is not None:
                fields["error"] = error.what
            _log.log(logging.WARNING if error else logging.INFO, "request", extra=fields)
        if self._traces is not None:
            self._traces.write(protocol, operation, request, status, took_ns, error, parent)

    def close(self) -> None:
        """Send what is left."""
        if self._traces is not None:
            self._traces.close()


class _Traces:
    """One span per request."""

    def __init__(self, url: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError:
            raise MissingPackageError("opentelemetry-exporter-otlp-proto-http", "Sending traces", "traces") from None
        self._provider = TracerProvider(resource=Resource.create({"service.name": "dyndeploy"}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer = self._provider.get_tracer("dyndeploy.serving")

    def write(
        self,
        protocol: str,
        operation: str,
        request: str,
        status: str,
        took_ns: int,
        error: RequestError | None,
        parent: str | None,
    ) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
        ended = time.time_ns()
        span = self._tracer.start_span(operation, context=context, kind=SpanKind.SERVER, start_time=ended - took_ns)
        span.set_attributes({"request.id": request, "network.protocol.name": protocol, "response.status": status})
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error.what))
        span.end(ended)

    def close(self) -> None:
        self._provider.shutdown()

"""Everything that can be set about a server."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dyndeploy.errors import DynError

_Port = Annotated[int, Field(ge=0, le=65535)]
_Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """How bundles are served. None means that the default is worked out.

    Attributes:
        runtime: one of `dyndeploy.runtimes.runtime_names()`.
        options: of the runtime: {"threads": 1}.
        host: address to listen at; "0.0.0.0" for every network.
        port: of REST, the page and the metrics; 0 takes a free one.
        grpc_port: of gRPC; None for none.
        instances: sessions per model; each runs one batch at a time.
        max_batch: at most so many samples together, 1 for no batching; None for what the bundle allows.
        max_queue_delay_us: how long the oldest waiting request waits for others while an instance is idle, in
            microseconds.
        spin_us: the event loop asks for work this long after each request instead of sleeping, in microseconds: less
            latency for a CPU that is never idle meanwhile.
        max_queue: requests that may wait per model; further ones are refused.
        max_memory: bytes of requests that may be in the server at once.
        max_json: bytes of JSON in one request.
        timeout_s: time limit of requests that bring none, in seconds; None for no limit.
        body_timeout_s: how long a client may take to send a request.
        keep_alive_s: how long a connection may be idle.
        drain_timeout_s: how long a shutdown waits for requests that have begun.
        self_test: run the goldens before a model is ready, and refuse it where the numbers are wrong.
        control: let clients load and unload models; None allows it with a token or on loopback.
        watch_s: look every so many seconds for a bundle that was exported again, and load it; None for not.
        token: clients send it as `Authorization: Bearer TOKEN`; None lets everybody in.
        certificate, key: files in PEM format for TLS.
        origins: pages of these origins ("https://example.org") may send requests.
        log_format: of the log on stderr.
        log_requests: a line for every request.
        traces: URL of an OpenTelemetry collector (OTLP over HTTP).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str = "onnxruntime"
    options: Mapping[str, Any] = {}
    host: str = "127.0.0.1"
    port: _Port = 8000
    grpc_port: _Port | None = 8001
    instances: Annotated[int, Field(ge=1, le=256)] = 1
    max_batch: Annotated[int, Field(ge=1)] | None = None
    max_queue_delay_us: Annotated[int, Field(ge=0, le=60_000_000)] = 0
    spin_us: Annotated[int, Field(ge=0, le=60_000_000)] = 0
    max_queue: Annotated[int, Field(ge=1)] = 256
    max_memory: Annotated[int, Field(ge=1 << 16)] = 1 << 30
    max_json: Annotated[int, Field(ge=1 << 10)] = 16 << 20
    timeout_s: _Seconds | None = None
    body_timeout_s: _Seconds = 30.0
    keep_alive_s: _Seconds = 60.0
    drain_timeout_s: _Seconds = 30.0
    self_test: bool = True
    control: bool | None = None
    watch_s: _Seconds | None = None
    token: Annotated[str, Field(min_length=8)] | None = Field(default=None, repr=False)
    certificate: Path | None = None
    key: Path | None = None
    origins: tuple[str, ...] = ()
    log_format: Literal["text", "json"] = "text"
    log_requests: bool = False
    traces: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """From keyword arguments.

        Raises:
            DynError: a name is unknown, or a value is not allowed.
        """
        try:
            settings = cls(**values)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)
            )
            raise DynError(f"The server cannot be set up so: {problems}.", fix="dyndeploy serve --help") from None
        if (settings.certificate is None) != (settings.key is None):
            raise DynError("TLS needs a certificate and its key.", fix="--certificate FILE --key FILE")
        for file in (settings.certificate, settings.key):
            if file is not None and not file.is_file():
                raise DynError(f"There is no file {file}.")
        if settings.token is not None and not (settings.token.isascii() and settings.token.isprintable()):
            raise DynError("The token has characters that no header can carry.", fix="Use letters and digits.")
        return settings

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def may_control(self) -> bool:
        """Whether clients may load and unload models."""
        return self.control if self.control is not None else self.loopback or self.token is not None

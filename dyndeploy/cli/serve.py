"""`dyndeploy serve`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dyndeploy.cli._options import JsonOption

if TYPE_CHECKING:
    from dyndeploy.serving import Server


def serve(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE", help="Folders of bundles.", show_default=False)],
    runtime: Annotated[str, typer.Option("--runtime", "-r", help="What runs them.")] = "onnxruntime",
    threads: Annotated[int | None, typer.Option(min=1, help="Of one session; default: the runtime's.")] = None,
    instances: Annotated[int, typer.Option(min=1, help="Sessions per model.")] = 1,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of REST, the page and the metrics; 0: a free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Of gRPC; 0: a free one.")] = 8001,
    grpc: Annotated[bool, typer.Option("--grpc/--no-grpc", help="Speak gRPC as well.")] = True,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Samples that run together; default: what the bundle takes.")
    ] = None,
    max_delay: Annotated[
        int, typer.Option(metavar="MICROSECONDS", min=0, help="Wait for others before an idle session runs.")
    ] = 0,
    spin: Annotated[
        int, typer.Option(metavar="MICROSECONDS", min=0, help="Stay awake after a request: less latency, a busy CPU.")
    ] = 0,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that may wait per model.")] = 256,
    max_memory: Annotated[int, typer.Option(metavar="BYTES", help="Of all requests in the server.")] = 1 << 30,
    max_json: Annotated[int, typer.Option(metavar="BYTES", help="Of JSON in one request.")] = 16 << 20,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Limit of requests without one of their own.")
    ] = None,
    drain: Annotated[float, typer.Option(metavar="SECONDS", help="For what has begun, at the end.")] = 30.0,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Clients send what is in it as a bearer token.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="For TLS, in PEM format.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Of the certificate.")] = None,
    origin: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Pages of it may send requests; may be repeated.")
    ] = None,
    watch: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Look this often for bundles exported again.")
    ] = None,
    control: Annotated[
        bool | None,
        typer.Option("--control/--no-control", help="Clients may load and unload models.", show_default=False),
    ] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="Run the goldens before a model is ready.")
    ] = True,
    log: Annotated[Literal["text", "json"], typer.Option(help="Form of the log on stderr.")] = "text",
    log_requests: Annotated[bool, typer.Option("--log-requests", help="Log every request.")] = False,
    traces: Annotated[str | None, typer.Option(metavar="URL", help="OpenTelemetry collector, OTLP over HTTP.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve bundles over REST and gRPC (Open Inference Protocol v2).

    SIGTERM and Ctrl-C end it when what has begun is answered; SIGHUP loads bundles again that were exported again.
    """
    settings: dict[str, Any] = {
        "runtime": runtime,
        "options": {} if threads is None else {"threads": threads},
        "host": host,
        "port": port,
        "grpc_port": grpc_port if grpc else None,
        "instances": instances,
        "max_batch": max_batch,
        "max_queue_delay_us": max_delay,
        "spin_us": spin,
        "max_queue": max_queue,
        "max_memory": max_memory,
        "max_json": max_json,
        "timeout_s": timeout,
        "drain_timeout_s": drain,
        "token": None if token_file is None else _token(token_file),
        "certificate": certificate,
        "key": key,
        "origins": tuple(origin or ()),
        "watch_s": watch,
        "control": control,
        "self_test": self_test,
        "log_format": log,
        "log_requests": log_requests,
        "traces": traces,
    }
    from dyndeploy.pipeline import serve as pipeline
    from dyndeploy.serving.logs import set_up

    set_up(log)
    pipeline.serve(bundles, started=_print_json if as_json else _print, **settings)


def _token(file: Path) -> str:
    from dyndeploy.errors import DynError

    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DynError(f"{file} cannot be read.", why=str(error)) from None
    if not token:
        raise DynError(f"{file} is empty.", fix=f"openssl rand -hex 24 > {file}")
    return token


def _print(server: Server) -> None:
    typer.echo(f"serving {', '.join(server.models)} at {server.url}", nl=False)
    typer.echo(f" and gRPC at {server.grpc_url}" if server.grpc_url else "")


def _print_json(server: Server) -> None:
    """One line, for programs that started the server and wait for it."""
    typer.echo(json.dumps({"url": server.url, "grpc_url": server.grpc_url, "models": server.models}))

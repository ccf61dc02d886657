"""Serve bundles until a signal ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dyndeploy.serving.server import Bundles, Server


def serve(bundles: Bundles, *, started: Callable[[Server], None] | None = None, **settings: Any) -> None:
    """Serve bundles over REST and gRPC until SIGTERM or SIGINT; call it in the main thread.

    The protocol is the Open Inference Protocol v2 of KServe and Triton. A program that goes on meanwhile takes
    `dyndeploy.serving.Server` in a `with` block.

    Args:
        bundles: bundles or their folders, whose names are the models' names.
        started: called when all models are ready; the server tells where it listens.
        **settings: fields of `dyndeploy.serving.Settings`: runtime, port, grpc_port, instances, token, ….

    Raises:
        MissingPackageError: a package of the extra `serve`, or the runtime's, is not installed.
        DynError: a bundle cannot be served, a port is taken, a setting is not allowed.
    """
    Server(bundles, **settings).run(started=started)

"""Serving bundles: the Open Inference Protocol v2, as KServe and Triton speak it, over REST and gRPC.

Server     bundles behind two ports, in a thread or until a signal
Settings   everything that can be set about one

settings.py, server.py     setting up, starting, draining
models/                    sessions, queue and batching, self-test, reloading; knows no protocol
protocol/                  what the protocol says, however it travels
rest/, rpc/                how it travels: HTTP, gRPC
guard.py, budget.py        who may ask, and how much memory requests may take
metrics.py, journal.py     statistics and Prometheus; log lines and traces of requests
page/                      the page at /
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyndeploy.serving.server import Server
    from dyndeploy.serving.settings import Settings

__all__ = ["Server", "Settings"]


def __getattr__(name: str) -> Any:
    if name == "Server":
        from dyndeploy.serving.server import Server

        return Server
    if name == "Settings":
        from dyndeploy.serving.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

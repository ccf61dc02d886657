"""A gRPC server on the running event loop."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from dyndeploy.errors import DynError
from dyndeploy.serving.context import Context
from dyndeploy.serving.rpc.service import Service
from dyndeploy.serving.settings import Settings

#: Of the names and values in a request's metadata.
_MAX_METADATA = 16 << 10


def grpc_server(context: Context, largest_message: int) -> tuple[Any, int]:
    """A server that has its port, and is started with `start()`.

    Args:
        context: of the server.
        largest_message: bytes of the largest request that it reads.

    Returns:
        The server and its port.

    Raises:
        DynError: the address is not one of this machine, or is taken.
    """
    settings = context.settings
    options = [
        ("grpc.max_receive_message_length", largest_message),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", _MAX_METADATA),
        ("grpc.so_reuseport", 0),  # two servers at one port would share its clients
    ]
    # Each request that waits is one call; what is beyond is refused before it is read.
    calls = settings.max_queue * max(1, len(context.registry.entries)) + 1024
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=calls)
    server.add_generic_rpc_handlers((Service(context).handler(),))
    address = f"{_bracketed(settings.host)}:{settings.grpc_port}"
    try:
        credentials = _credentials(settings)
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        port, reason = 0, str(error)
    else:
        reason = "The port is taken, or the address is not one of this machine."
    if not port:
        raise DynError(f"gRPC cannot listen at {address}.", why=reason, fix="--grpc-port 0 takes a free port.")
    return server, port


def _credentials(settings: Settings) -> Any:
    if settings.certificate is None or settings.key is None:
        return None
    return grpc.ssl_server_credentials([(settings.key.read_bytes(), settings.certificate.read_bytes())])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

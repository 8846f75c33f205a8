"""gRPC servers and the ports that they listen on: what a connection may cost, and who may open one."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import grpc
import msgspec

from ganserve.errors import GanserveError
from ganserve.serving.interceptor import Interceptor

ACCEPT_SECONDS = 24 * 60 * 60
"""How long a call may wait for a busy event loop to accept it. By default gRPC cancels it after 30 s, and its caller hears CANCELLED,
though it has not gone; how long to wait is for its deadline to say."""

Services: TypeAlias = Sequence[Callable[[Interceptor], None]]
"""What adds each service to the rpcs of a port."""


class Connections(msgspec.Struct, frozen=True, kw_only=True):
    """What connections may cost."""

    max_connections: int = 1024
    """The most connections of a port; more are closed at once."""
    client_connections: int = 256
    """The most connections of one address; the newest beyond are closed within a second or so."""
    max_streams: int = 1024
    """The most calls of one connection at a time; a client keeps more to itself until one has ended. gRPC refuses what comes before
    the server has let go of that one."""
    ping_seconds: float = 10.0
    """The least time between a client's keepalive pings; a connection that keeps pinging more often is closed."""


def make_server(
    interceptor: Interceptor, services: Services, connections: Connections, max_request_bytes: int
) -> grpc.aio.Server:
    """A server of ``services`` that listens nowhere yet, and reads requests of at most ``max_request_bytes``."""
    least = round(connections.ping_seconds * 1000)
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", max_request_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_allowed_incoming_connections", connections.max_connections),
        ("grpc.max_concurrent_streams", connections.max_streams),
        ("grpc.http2.min_ping_interval_without_data_ms", least),
        # Else gRPC asks for two hours between the pings of a connection without calls.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),
        ("grpc.server_max_unrequested_time_in_server", ACCEPT_SECONDS),
    ]
    server = grpc.aio.server(options=options)
    for add in services:
        add(interceptor)
    server.add_generic_rpc_handlers((interceptor,))
    return server


def bind(server: grpc.aio.Server, address: str, option: str, credentials: grpc.ServerCredentials | None) -> int:
    """Have ``server`` listen on ``address``, in plain text without ``credentials``; the port. ``option`` is what sets the address's port."""
    try:
        if credentials is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise GanserveError(
            f"cannot listen on {address}: {error}; is another server there? choose another {option}"
        ) from error

"""How the clients connect: channel options, retries, and the stubs of the services that they call."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import msgspec
from grpc_health.v1 import health_pb2_grpc

from ganserve.names import is_loopback
from ganserve.v1 import generation_pb2_grpc, inversion_pb2_grpc, latents_pb2_grpc, models_pb2_grpc, text_pb2_grpc

ADDRESS = "localhost:8001"
"""Where ``ganserve serve`` listens by default."""

TIMEOUT = 60.0
"""Seconds that a call may take, retries included, unless it says otherwise."""

MAX_REPLY_BYTES = 64 << 20
"""The largest reply that a client accepts, and so the largest unary one that it asks for."""

SERVICE_CONFIG = {
    # Where a name has several addresses, as that of a headless Service has, calls go to each in turn.
    "loadBalancingConfig": [{"round_robin": {}}],
    # A server that starts or drains refuses calls on a connection that is open, and four tries could all meet it. gRPC holds a Watch on each
    # connection and sends no call where this is not SERVING; a server that knows nothing of health gets them as before.
    "healthCheckConfig": {"serviceName": "ganserve.v1.Generation"},
    "methodConfig": [
        {
            "name": [
                {"service": f"ganserve.v1.{service}"}
                for service in ("Generation", "Inversion", "Latents", "Models", "Text")
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                # A server that stops lets gRPC cancel what it has received and not yet taken up; a caller's own cancelling ends all tries.
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        }
    ],
}
"""gRPC's service config. A server that is full names its own delay (``grpc-retry-pushback-ms``), which replaces the backoff."""


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """Files in PEM: the authorities that may have signed the server's certificate (None: those that gRPC comes with), and, for a server that
    asks for them, the client's certificate with its chain and its key."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class Access(msgspec.Struct, frozen=True):
    """How a client makes itself known: ``credentials`` of the connection (None: plain text), ``metadata`` of every call."""

    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]


def access_of(address: str, token: str | None, tls: Tls | bool | None) -> Access:
    """The access that a client of ``address`` asked for; ValueError for a token that anyone on the way could read."""
    if token is not None and tls is None and not is_loopback(_host(address)):
        raise ValueError(
            f"the token would go to {address} in plain text: give tls=True, or tls=False if something else encrypts the connection"
        )
    found = Tls() if tls is True else (tls or None)
    credentials = None
    if found is not None:
        read = [None if path is None else path.read_bytes() for path in (found.ca, found.key, found.cert)]
        credentials = grpc.ssl_channel_credentials(*read)
    return Access(credentials, () if token is None else (("authorization", f"Bearer {token}"),))


def _host(address: str) -> str:
    """The host of ``address``, with or without a port and gRPC's scheme."""
    host = address.rpartition("/")[2]
    if host.startswith("["):
        return host[1:].partition("]")[0]
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        host = host.removeprefix(scheme)
    return host if host.count(":") > 1 else host.partition(":")[0]


class Stubs(NamedTuple):
    """What the clients call."""

    generation: Any
    inversion: Any
    latents: Any
    models: Any
    text: Any
    health: Any


def channel_options(max_reply_bytes: int) -> list[tuple[str, Any]]:
    """The options of either kind of channel."""
    return [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.max_receive_message_length", max_reply_bytes),
        # A server that has just started should be found in tenths of a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]


def stubs(channel: Any) -> Stubs:
    """The stubs on ``channel``."""
    return Stubs(
        generation_pb2_grpc.GenerationStub(channel),  # type: ignore[no-untyped-call]
        inversion_pb2_grpc.InversionStub(channel),  # type: ignore[no-untyped-call]
        latents_pb2_grpc.LatentsStub(channel),  # type: ignore[no-untyped-call]
        models_pb2_grpc.ModelsStub(channel),  # type: ignore[no-untyped-call]
        text_pb2_grpc.TextStub(channel),  # type: ignore[no-untyped-call]
        health_pb2_grpc.HealthStub(channel),
    )

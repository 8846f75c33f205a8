"""How the clients connect: channel options, retries, and the stubs of the services that they call."""

import json
from typing import Any, NamedTuple

from grpc_health.v1 import health_pb2_grpc

from ganserve.v1 import generation_pb2_grpc, inversion_pb2_grpc, latents_pb2_grpc, models_pb2_grpc

ADDRESS = "localhost:8001"
"""Where ``ganserve serve`` listens by default."""

TIMEOUT = 60.0
"""Seconds that a call may take, retries included, unless it says otherwise."""

MAX_REPLY_BYTES = 64 << 20
"""The largest reply that a client accepts, and so the largest unary one that it asks for."""

SERVICE_CONFIG = {
    # Where a name has several addresses, as that of a headless Service has, calls go to each in turn.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": f"ganserve.v1.{service}"} for service in ("Generation", "Inversion", "Latents", "Models")
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ],
}
"""gRPC's service config. A server that is full names its own delay (``grpc-retry-pushback-ms``), which replaces the backoff."""


class Stubs(NamedTuple):
    """What the clients call."""

    generation: Any
    inversion: Any
    latents: Any
    models: Any
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
        health_pb2_grpc.HealthStub(channel),
    )

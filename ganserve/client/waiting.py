"""What both clients know while they wait for a server to serve."""

import time

import grpc
from grpc_health.v1 import health_pb2

from ganserve.client.status import error_of
from ganserve.errors import DeadlineExceeded

PAUSE = 0.1
"""Seconds between a watch that ended and the next: a server that drains ends each at once."""

_Status = health_pb2.HealthCheckResponse.ServingStatus


class Wait:
    """A wait of at most ``timeout`` seconds for ``model`` (empty: the server) at ``address`` to serve."""

    def __init__(self, address: str, model: str, timeout: float) -> None:
        self._what = f"model {model!r} of the server at {address}" if model else f"the server at {address}"
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._last = "it could not be reached"

    def remaining(self) -> float:
        """Seconds left; :class:`DeadlineExceeded` if there are none."""
        if (seconds := self._deadline - time.monotonic()) <= 0:
            raise DeadlineExceeded(f"{self._what} was not ready within {self._timeout:g} s: {self._last}")
        return seconds

    def over(self, reply: health_pb2.HealthCheckResponse) -> bool:
        """Whether ``reply`` ends the wait."""
        self._last = f"its health is {_Status.Name(reply.status)}"
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def failed(self, error: grpc.RpcError) -> None:
        """Note that a watch broke off; raise what no waiting will mend."""
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise error_of(error) from error
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            self._last = error.details() or "it is unavailable"

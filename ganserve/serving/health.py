"""``grpc.health.v1``: whether the server, its services and each model can answer.

Not the servicer of grpcio-health-checking: there the end of one Watch leaves the others of its service unheard, and a
Watch keeps a server that drains waiting for its whole grace period.
"""

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The statuses by name, where ``""`` is the whole server. Used on the event loop only."""

    def __init__(self) -> None:
        self._statuses = {"": NOT_SERVING}
        self._changed = asyncio.Event()
        self._closed = False

    def set(self, service: str, serving: bool) -> None:
        """Set the status of ``service``; without effect once closed."""
        if not self._closed:
            self._statuses[service] = SERVING if serving else NOT_SERVING
            self._notify()

    def serves(self, service: str) -> bool:
        """Whether ``service`` is SERVING."""
        return bool(self._statuses.get(service) == SERVING)

    def close(self) -> None:
        """Turn everything NOT_SERVING for good; every Watch says so and ends."""
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING)
        self._closed = True
        self._notify()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for a name that is unknown."""
        if (status := self._statuses.get(request.service)) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service or model {request.service!r}")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:  # noqa: N802
        """The status now and at every change; a name that is unknown may become known."""
        told = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, SERVICE_UNKNOWN)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            elif self._closed:
                return
            else:
                await changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

"""The gRPC service that finds latents. What happens between is :mod:`ganserve.serving.inversion`'s."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc

from ganserve.serving.call import Workers
from ganserve.serving.front import Front
from ganserve.serving.inversion import Bounds, Search
from ganserve.serving.repository import Repository
from ganserve.serving.told import told_by
from ganserve.serving.wire_invert import ask_of_invert, invert_field, response_of
from ganserve.v1 import inversion_pb2 as pb
from ganserve.v1 import inversion_pb2_grpc


class Inversion(Front, inversion_pb2_grpc.InversionServicer):
    """The rpc that finds the latent of a picture. A search tries at most ``max_rows`` samples."""

    def __init__(self, repository: Repository, workers: Workers, max_rows: int, bounds: Bounds) -> None:
        super().__init__(repository, workers)
        self._max_rows, self._bounds = max_rows, bounds

    async def Invert(  # noqa: N802
        self, request: pb.InvertRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[pb.InvertResponse]:
        """Messages of progress, and the result."""
        model, task = await self._target(request, "invert")
        ask = ask_of_invert(request, model, task, self._max_rows)
        self._admit(ask, context)
        with told_by(invert_field):
            search = Search(ask, self._workers, self._bounds)
            async with aclosing(search.messages()) as messages:
                async for said in messages:
                    yield response_of(said, search, model)

"""The gRPC service that works in latent spaces. What happens between is :mod:`ganserve.serving.compose`'s."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc

from ganserve.serving.call import Workers, in_lane
from ganserve.serving.compose import Composition
from ganserve.serving.front import Front, check_reply
from ganserve.serving.prompts import Guard
from ganserve.serving.repository import Repository
from ganserve.serving.wire import fill_result, fill_served
from ganserve.serving.wire_latents import Composed, combined, making_field, mixed, prompts_of, walked
from ganserve.v1 import latents_pb2 as pb
from ganserve.v1 import latents_pb2_grpc

KINDS = ("sample", "text_to_image")
"""The kinds of tasks whose latents may be walked, mixed and combined."""


class Latents(Front, latents_pb2_grpc.LatentsServicer):
    """The rpcs that walk, mix and combine latents. A call has at most ``max_rows`` points and makes at most as many images.

    ``guard`` lets their prompts pass.
    """

    def __init__(self, repository: Repository, workers: Workers, max_rows: int, guard: Guard) -> None:
        super().__init__(repository, workers)
        self._max_rows, self._guard = max_rows, guard

    async def Interpolate(  # noqa: N802
        self, request: pb.InterpolateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[pb.InterpolateResponse]:
        """One message a frame, in order."""
        model, task = await self._target(request, *KINDS)
        walk = walked(request, model, task, self._max_rows)
        made = await self._composition(walk, context)
        async with aclosing(made.results()) as results:
            async for result in results:
                key, part = walk.places[result.row]
                reply = pb.InterpolateResponse(frame=result.row, position=key + part)
                fill_result(reply, result)
                fill_served(reply.served, model, made)
                yield reply

    async def Mix(  # noqa: N802
        self, request: pb.MixRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[pb.MixResponse]:
        """One message a mixture, in order."""
        model, task = await self._target(request, *KINDS)
        mix = mixed(request, model, task, self._max_rows)
        made = await self._composition(mix, context)
        async with aclosing(made.results()) as results:
            async for result in results:
                base, style = mix.pairs[result.row]
                reply = pb.MixResponse(base=base, style=style)
                fill_result(reply, result)
                fill_served(reply.served, model, made)
                yield reply

    async def Combine(self, request: pb.CombineRequest, context: grpc.aio.ServicerContext) -> pb.CombineResponse:  # noqa: N802
        """The image of a sum."""
        model, task = await self._target(request, *KINDS)
        made = await self._composition(combined(request, model, task, self._max_rows), context)
        check_reply(made.most_reply_bytes(), request.max_reply_bytes, "or ask for a smaller format")
        async with aclosing(made.results()) as results:
            (result,) = [result async for result in results]
        reply = pb.CombineResponse()
        fill_result(reply, result)
        fill_served(reply.served, model, made)
        return reply

    async def _composition(self, wish: Composed, context: grpc.aio.ServicerContext) -> Composition:
        self._admit(wish.ask, context)
        prompts = prompts_of(wish)
        self._guard.check_length(prompts)
        made = Composition(wish.ask, wish.latent, wish.sources, wish.compose, making_field, self._workers)
        await in_lane(wish.ask.task, made.decode)
        await self._guard.let_pass(wish.ask.model.name, prompts)
        return made

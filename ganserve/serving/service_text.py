"""The gRPC service that makes pictures of prompts. What happens between is :mod:`ganserve.serving.call`'s."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import closing
from functools import partial

import grpc

from ganserve.serving.call import Call, Workers, in_lane
from ganserve.serving.front import Front, check_reply
from ganserve.serving.model import Model
from ganserve.serving.prompts import Guard
from ganserve.serving.repository import Repository
from ganserve.serving.told import told_by
from ganserve.serving.wire import fill_served
from ganserve.serving.wire_text import Wish, cuts_of, field_of, fill_imagined, wish_of
from ganserve.v1 import text_pb2 as pb
from ganserve.v1 import text_pb2_grpc


class Text(Front, text_pb2_grpc.TextServicer):
    """The rpcs that make pictures of prompts, which ``guard`` lets pass. A call makes at most ``max_rows``."""

    def __init__(self, repository: Repository, workers: Workers, max_rows: int, guard: Guard) -> None:
        super().__init__(repository, workers)
        self._max_rows, self._guard = max_rows, guard

    async def TextToImage(  # noqa: N802
        self, request: pb.TextToImageRequest, context: grpc.aio.ServicerContext
    ) -> pb.TextToImageResponse:
        """All pictures in one message."""
        model, wish, call, cuts = await self._call(request, context)
        instead = "ask for fewer pictures, or call TextToImageStream, which sends one message a picture"
        check_reply(call.most_reply_bytes(), request.max_reply_bytes, instead)
        await self._guard.let_pass(model.name, _texts(wish))
        reply = pb.TextToImageResponse()
        with told_by(field_of(wish)), closing(call.results()) as results:
            async for result in results:
                fill_imagined(reply.images.add(), result, call, wish, cuts)
        fill_served(reply.served, model, call)
        return reply

    async def TextToImageStream(  # noqa: N802
        self, request: pb.TextToImageStreamRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[pb.TextToImageStreamResponse]:
        """One message a picture, in order."""
        model, wish, call, cuts = await self._call(request.wish, context)
        await self._guard.let_pass(model.name, _texts(wish))
        with told_by(field_of(wish)), closing(call.results()) as results:
            async for result in results:
                reply = pb.TextToImageStreamResponse()
                fill_imagined(reply.image, result, call, wish, cuts)
                fill_served(reply.served, model, call)
                yield reply

    async def _call(
        self, request: pb.TextToImageRequest, context: grpc.aio.ServicerContext
    ) -> tuple[Model, Wish, Call, Sequence[bool]]:
        """The call, its prompts decoded, and which were cut: what no codec accepts is refused before a policy is asked."""
        model, task = await self._target(request, "text_to_image")
        wish = wish_of(request, model, task, self._max_rows)
        self._admit(wish.ask, context)
        self._guard.check_length(_texts(wish))
        with told_by(field_of(wish)):
            call = Call(wish.ask, self._workers)
            cuts = await in_lane(task, partial(_decode, call, wish))
        return model, wish, call, cuts


def _decode(call: Call, wish: Wish) -> Sequence[bool]:
    """Decode the prompts of ``wish``, and say which are cut."""
    call.decode()
    return cuts_of(wish)


def _texts(wish: Wish) -> dict[str, str]:
    """The prompts of ``wish`` by the fields that bring them."""
    return {f"prompts[{number}]": prompt.text for number, prompt in enumerate(wish.prompts)}

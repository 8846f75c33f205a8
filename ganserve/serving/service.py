"""The gRPC service that makes media: messages in, messages out. What happens between is :mod:`ganserve.serving.call`'s."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, closing

import grpc

from ganserve.codecs import GivenImage
from ganserve.errors import InvalidArgument
from ganserve.serving.call import Ask, Call, Workers
from ganserve.serving.frames import in_order
from ganserve.serving.front import DEFAULT_REPLY_BYTES, Front, check_reply
from ganserve.serving.model import Model
from ganserve.serving.pictures import Reader
from ganserve.serving.repository import Repository
from ganserve.serving.told import told_by
from ganserve.serving.wire import ask_of, fill, fill_served, sample_field
from ganserve.serving.wire_translate import Images, ask_of_translate, fill_translation, frame_field, translate_field
from ganserve.v1 import generation_pb2 as pb
from ganserve.v1 import generation_pb2_grpc

SMALLER = "send a smaller picture, or ask for a smaller format"


class Generation(Front, generation_pb2_grpc.GenerationServicer):
    """The rpcs that make media."""

    def __init__(self, repository: Repository, workers: Workers, max_rows: int, stream_frames: int) -> None:
        super().__init__(repository, workers)
        self._max_rows, self._stream_frames = max_rows, stream_frames

    async def Sample(self, request: pb.SampleRequest, context: grpc.aio.ServicerContext) -> pb.SampleResponse:  # noqa: N802
        """All rows in one message."""
        model, call = await self._sample(request, context)
        instead = "ask for fewer rows, or call SampleStream, which sends one message a row"
        check_reply(call.most_reply_bytes(), request.max_reply_bytes, instead)
        reply = pb.SampleResponse()
        with told_by(sample_field), closing(call.results()) as results:
            async for result in results:
                fill(reply.samples.add(), result, call)
        fill_served(reply.served, model, call)
        return reply

    async def SampleStream(  # noqa: N802
        self, request: pb.SampleStreamRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[pb.SampleStreamResponse]:
        """One message a row, in order."""
        model, call = await self._sample(request.sample, context)
        with told_by(sample_field), closing(call.results()) as results:
            async for result in results:
                reply = pb.SampleStreamResponse()
                fill(reply.sample, result, call)
                fill_served(reply.served, model, call)
                yield reply

    async def Translate(  # noqa: N802
        self, request: pb.TranslateRequest, context: grpc.aio.ServicerContext
    ) -> pb.TranslateResponse:
        """One result from one request's pictures."""
        model, task = await self._target(request, "translate")
        ask = ask_of_translate(request, request.images, model, task)
        self._admit(ask, context)
        reply = pb.TranslateResponse()
        await self._translate(ask, reply, request.max_reply_bytes or DEFAULT_REPLY_BYTES)
        # Where a result's size was not known before.
        check_reply(reply.ByteSize(), request.max_reply_bytes, SMALLER)
        return reply

    async def TranslateStream(  # noqa: N802
        self, requests: AsyncIterator[pb.TranslateStreamRequest], context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[pb.TranslateStreamResponse]:
        """One message a frame, in order, while more come in."""
        first = await anext(requests, None)
        if first is None:
            return
        if not first.HasField("settings"):
            raise InvalidArgument.of("settings", "missing; the first message of a stream carries them")
        settings = first.settings
        model, task = await self._target(settings, "translate")
        seed, kept, reader = secrets.randbits(32), dict[str, GivenImage](), Reader(self._workers)

        async def answer(frame: tuple[int, Images]) -> pb.TranslateStreamResponse:
            number, own = frame
            with told_by(frame_field(number, settings, own)):
                ask = ask_of_translate(settings, {**settings.images, **kept, **own}, model, task)
                self._admit(ask, context)
                # All frames share a seed, the caller's or this one: noise must not flicker.
                ask.seed = seed
                ask.readers = {name: reader for name in settings.images if name not in own}
                kept.update({name: ask.values[name][0] for name in ask.readers})
                reply = pb.TranslateStreamResponse(frame=number)
                await self._translate(ask, reply)
            return reply

        held = self._workers.metrics.stream_frames
        with closing(reader):
            async with aclosing(
                in_order(_frames(first, requests), answer, window=self._stream_frames, held=held)
            ) as answers:
                async for one in answers:
                    yield one

    async def _sample(self, request: pb.SampleRequest, context: grpc.aio.ServicerContext) -> tuple[Model, Call]:
        model, task = await self._target(request, "sample")
        ask = ask_of(request, model, task, self._max_rows)
        self._admit(ask, context)
        with told_by(sample_field):
            return model, Call(ask, self._workers)

    async def _translate(
        self, ask: Ask, reply: pb.TranslateResponse | pb.TranslateStreamResponse, accepted: int | None = None
    ) -> None:
        """Fill ``reply``; a unary one is ``accepted`` up to so many bytes, where its size is known before."""
        field = translate_field(ask.task)
        with told_by(field):
            call = Call(ask, self._workers)
        with closing(call):
            with told_by(field):
                await call.read()
            if accepted is not None:
                check_reply(call.most_reply_bytes(), accepted, SMALLER)
            with told_by(field), closing(call.results()) as results:
                async for result in results:
                    fill_translation(reply.translation, result, call)
        fill_served(reply.served, ask.model, call)


async def _frames(
    first: pb.TranslateStreamRequest, requests: AsyncIterator[pb.TranslateStreamRequest]
) -> AsyncGenerator[tuple[int, Images]]:
    """The pictures of each frame, with its number."""
    number = 0
    if first.images:
        yield number, first.images
        number += 1
    async for request in requests:
        if request.HasField("settings"):
            raise InvalidArgument.of(
                f"frames[{number}].settings", "given before; one stream has one, so open another stream for others"
            )
        yield number, request.images
        number += 1

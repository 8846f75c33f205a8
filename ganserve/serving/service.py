"""The gRPC services: messages in, messages out. What happens between is :mod:`ganserve.serving.call`'s."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc

from ganserve.errors import InvalidArgument
from ganserve.serving.call import Call, Workers
from ganserve.serving.interceptor import note_target
from ganserve.serving.model import LoadedTask, Model
from ganserve.serving.repository import Repository
from ganserve.serving.wire import ask_of, description_of, sample_of, served_of, summary_of
from ganserve.v1 import generation_pb2 as pb
from ganserve.v1 import generation_pb2_grpc, models_pb2, models_pb2_grpc

DEFAULT_REPLY_BYTES = 4 << 20
"""The most bytes of a unary reply whose caller named no bound: what gRPC clients accept by default."""


class Generation(generation_pb2_grpc.GenerationServicer):
    """The rpcs that make media."""

    def __init__(self, repository: Repository, workers: Workers, max_rows: int) -> None:
        self._repository, self._workers, self._max_rows = repository, workers, max_rows

    async def Sample(self, request: pb.SampleRequest, context: grpc.aio.ServicerContext) -> pb.SampleResponse:  # noqa: N802
        """All rows in one message."""
        model, call = self._call(request, context)
        accepted = request.max_reply_bytes or DEFAULT_REPLY_BYTES
        if (most := call.most_reply_bytes()) is not None and most > accepted:
            raise InvalidArgument.of(
                "max_reply_bytes",
                f"the reply may take {most} bytes and {accepted} are accepted; raise max_reply_bytes, ask for fewer rows, "
                "or call SampleStream, which sends one message a row",
            )
        async with aclosing(call.results()) as results:
            samples = [sample_of(result, call) async for result in results]
        return pb.SampleResponse(samples=samples, served=served_of(model, call))

    async def SampleStream(  # noqa: N802
        self, request: pb.SampleStreamRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[pb.SampleStreamResponse]:
        """One message a row, in order."""
        model, call = self._call(request.sample, context)
        async with aclosing(call.results()) as results:
            async for result in results:
                yield pb.SampleStreamResponse(sample=sample_of(result, call), served=served_of(model, call))

    def _call(self, request: pb.SampleRequest, context: grpc.aio.ServicerContext) -> tuple[Model, Call]:
        model, task = self._target(request)
        ask = ask_of(request, model, task, self._max_rows)
        ask.caller = context.peer()
        if (remaining := context.time_remaining()) is not None:
            ask.deadline = self._workers.executor.clock() + remaining
        return model, Call(ask, self._workers)

    def _target(self, request: pb.SampleRequest) -> tuple[Model, LoadedTask]:
        if not request.model:
            raise InvalidArgument.of("model", "empty; give a name that Models.List lists")
        if request.version < 0:
            raise InvalidArgument.of("version", f"{request.version}; expected 1 or more, or 0 for the latest")
        model = self._repository.get(request.model, request.version)
        task = model.task(request.task, "sample")
        note_target(model.name, task.task.name)
        return model, task


class Models(models_pb2_grpc.ModelsServicer):
    """The rpcs that tell what there is."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def List(self, request: models_pb2.ListRequest, context: grpc.aio.ServicerContext) -> models_pb2.ListResponse:  # noqa: N802
        """Every bundle that was found."""
        return models_pb2.ListResponse(models=[summary_of(entry) for entry in self._repository])

    async def Get(self, request: models_pb2.GetRequest, context: grpc.aio.ServicerContext) -> models_pb2.GetResponse:  # noqa: N802
        """One model in full."""
        model = self._repository.get(request.model, request.version)
        note_target(model.name, "")
        return description_of(self._repository.entry(model), model)

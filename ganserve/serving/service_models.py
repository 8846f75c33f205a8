"""The gRPC service that tells what there is, and changes it. What happens between is :mod:`ganserve.serving.repository`'s."""

from collections.abc import Sequence

import grpc

from ganserve.errors import InvalidArgument
from ganserve.serving.repository import Repository
from ganserve.serving.traffic import note_target
from ganserve.serving.wire_models import description_of, summary_of
from ganserve.v1 import models_pb2 as pb
from ganserve.v1 import models_pb2_grpc


class Models(models_pb2_grpc.ModelsServicer):
    """The rpcs about models."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def List(self, request: pb.ListRequest, context: grpc.aio.ServicerContext) -> pb.ListResponse:  # noqa: N802
        """Every bundle that was found."""
        return pb.ListResponse(models=[summary_of(entry) for entry in self._repository])

    async def Get(self, request: pb.GetRequest, context: grpc.aio.ServicerContext) -> pb.GetResponse:  # noqa: N802
        """One model in full; one that is idle is loaded for it."""
        model = await self._repository.use(request.model, request.version)
        note_target(model.name, "")
        return description_of(self._repository.entry(model), model)

    async def Load(self, request: pb.LoadRequest, context: grpc.aio.ServicerContext) -> pb.LoadResponse:  # noqa: N802
        """Have a model serve what its folders hold now."""
        await self._repository.load(_named(request.model))
        return pb.LoadResponse(models=self._became(request.model))

    async def Unload(self, request: pb.UnloadRequest, context: grpc.aio.ServicerContext) -> pb.UnloadResponse:  # noqa: N802
        """Give a model to no more calls."""
        await self._repository.unload(_named(request.model))
        return pb.UnloadResponse(models=self._became(request.model))

    async def Reload(self, request: pb.ReloadRequest, context: grpc.aio.ServicerContext) -> pb.ReloadResponse:  # noqa: N802
        """Load a model anew."""
        await self._repository.reload(_named(request.model))
        return pb.ReloadResponse(models=self._became(request.model))

    def _became(self, model: str) -> Sequence[pb.ModelSummary]:
        entries = self._repository.entries(model)
        note_target(model, "")
        return [summary_of(entry) for entry in entries]


def _named(model: str) -> str:
    if not model:
        raise InvalidArgument.of("model", "empty; give a name that Models.List lists")
    return model

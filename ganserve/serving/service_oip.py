"""The service of the Open Inference Protocol: messages in, messages out. Its requests run on the path of ``ganserve.v1``."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Container, Sequence
from contextlib import aclosing
from typing import TypeAlias

import grpc

from ganserve import __version__
from ganserve.errors import InvalidArgument, NotFound, Violation
from ganserve.inference import messages as pb
from ganserve.serving.call import Workers
from ganserve.serving.entry import Entry
from ganserve.serving.frames import in_order
from ganserve.serving.front import Front, check_reply
from ganserve.serving.health import Health
from ganserve.serving.inversion import Bounds
from ganserve.serving.model import Model
from ganserve.serving.oip import INSTEAD, Run
from ganserve.serving.oip_parameters import check_parameters
from ganserve.serving.oip_ports import task_of
from ganserve.serving.prompts import Guard
from ganserve.serving.repository import Repository
from ganserve.serving.told import told_by
from ganserve.serving.traffic import Traffic, note_stream, note_target
from ganserve.serving.wire_oip import Wish, field_of, parameters_of, prompts_of, wish_of
from ganserve.serving.wire_oip_models import config_of, index_of, metadata_of, statistics_of
from ganserve.serving.wire_oip_reply import answer_of, refusal_of, response_of

EXTENSIONS = ("model_configuration", "model_repository", "parameters", "statistics", "binary_tensor_data")

ERRORS_AS_STATUS = ("triton_grpc_error", "true")
"""The metadata of a stream whose first failed request is to end it, with a status of its own."""

LOOK_SECONDS = 0.5
"""How often a stream that waits for a request looks whether the server drains."""

Answers: TypeAlias = AsyncGenerator[pb.ModelStreamInferResponse]

_VERSION = re.compile("[1-9][0-9]{0,8}")


class OpenInference(Front):
    """The rpcs of ``inference.GRPCInferenceService``. A request has at most ``max_rows``, a batch at most ``max_batch``.

    At most ``window`` requests of a stream are read and not answered; ``guard`` lets their prompts pass, ``bounds`` limit searches.
    """

    def __init__(
        self,
        repository: Repository,
        workers: Workers,
        traffic: Traffic,
        health: Health,
        *,
        max_rows: int,
        max_batch: int,
        window: int,
        guard: Guard,
        bounds: Bounds,
    ) -> None:
        super().__init__(repository, workers)
        self._traffic, self._health, self._window, self._guard, self._bounds = traffic, health, window, guard, bounds
        self._max_rows, self._max_batch = max_rows, max_batch

    async def ServerLive(  # noqa: N802
        self, request: pb.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerLiveResponse:
        """Always true."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerReadyResponse:
        """Whether calls are taken, as the server's health says."""
        return pb.ServerReadyResponse(ready=self._health.serves(""))

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelReadyResponse:
        """Whether calls of a model are taken."""
        able = any(_is_meant(entry, request.name, request.version) for entry in self._repository)
        return pb.ModelReadyResponse(ready=able and self._traffic.accepting)

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Name and version of the server."""
        return pb.ServerMetadataResponse(name="ganserve", version=__version__, extensions=EXTENSIONS)

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """A model's inputs and outputs."""
        model = await self._noted(request.name, request.version)
        versions = [entry.version for entry in self._repository.entries(model.name) if entry.able]
        return metadata_of(model, versions)

    async def ModelConfig(  # noqa: N802
        self, request: pb.ModelConfigRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelConfigResponse:
        """How a model is batched."""
        model = await self._noted(request.name, request.version)
        device = self._workers.executor.device
        return config_of(model, max_rows=self._max_rows, max_batch=self._max_batch, device=device)

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        """What the models that serve have done."""
        found = [entry for entry in self._repository if _is_meant(entry, request.name, request.version)]
        if not found and request.name:
            version = f", version {request.version[:20]}," if request.version else ""
            raise NotFound(f"no model {request.name[:128]!r}{version} serves; RepositoryIndex tells which do")
        statistics = self._workers.metrics.statistics
        told = [statistics_of(entry.name, entry.version, statistics.of(entry.name, entry.version)) for entry in found]
        return pb.ModelStatisticsResponse(model_stats=told)

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: grpc.aio.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """Every bundle that was found."""
        _check_repository(request.repository_name)
        return index_of(entry for entry in self._repository if entry.able or not request.ready)

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: grpc.aio.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        """Have a model serve what its folders hold now."""
        _check_change(request, {})
        await self._repository.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.aio.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        """Give a model to no more calls. It has no dependents, so ``unload_dependents`` may say what it will."""
        _check_change(request, {"unload_dependents"})
        await self._repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelInferResponse:
        """All rows in one message."""
        wish, run = await self._run(request, context, streaming=False)
        return await _whole(wish, run)

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[pb.ModelInferRequest], context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[pb.ModelStreamInferResponse]:
        """The answers to many requests, in their order, several requests at a time."""
        note_stream()

        async def begin(request: pb.ModelInferRequest) -> Answers:
            answers = self._answers(request, context)
            if request.parameters.get("response_per_row", pb.InferParameter()).bool_param:
                # Its rows are computed when it is its turn: they are not to pile up while another request is answered.
                return answers
            return _again([answer async for answer in answers])

        held = self._workers.metrics.stream_frames
        requests = self._while_open(requests)
        async with aclosing(in_order(requests, begin, window=self._window, held=held)) as turns:
            async for answers in turns:
                async with aclosing(answers):
                    async for answer in answers:
                        yield answer

    async def _while_open(self, requests: AsyncIterator[pb.ModelInferRequest]) -> AsyncIterator[pb.ModelInferRequest]:
        """``requests`` until the server drains: streams are kept open for long, and whoever does is then told to find another replica."""
        while True:
            reading = asyncio.ensure_future(anext(requests, None))
            # gRPC still writes to what a read waits for, so that is let be; it ends with the call.
            reading.add_done_callback(lambda read: read.cancelled() or read.exception())
            while not (await asyncio.wait((reading,), timeout=LOOK_SECONDS))[0]:
                self._traffic.check_open()
            if (request := reading.result()) is None:
                return
            yield request

    async def _answers(self, request: pb.ModelInferRequest, context: grpc.aio.ServicerContext) -> Answers:
        """The answers to one request of a stream; what is wrong with it is the last of them, and hinders no other request."""
        watch = self._traffic.start()
        try:
            self._traffic.check_open()
            wish, run = await self._run(request, context, streaming=True)
            if wish.parameters.response_per_row:
                async with aclosing(run.rows()) as rows:
                    left = wish.rows
                    async for made in rows:
                        left -= 1
                        yield answer_of(response_of(wish, run, [made]), final=not left)
            else:
                yield answer_of(await _whole(wish, run), final=True)
        except BaseException as failure:
            error = self._traffic.failed(watch, failure)
            if error is None:
                raise
            if ERRORS_AS_STATUS in (context.invocation_metadata() or ()):
                raise error from failure
            yield refusal_of(request, error)
        else:
            self._traffic.finish(watch, "OK")

    async def _run(
        self, request: pb.ModelInferRequest, context: grpc.aio.ServicerContext, *, streaming: bool
    ) -> tuple[Wish, Run]:
        parameters = parameters_of(request)
        model = await self._model(request.model_name, request.model_version, "model_")
        task = task_of(model, parameters.task)
        model.begin()
        note_target(model.name, task.task.name, model.manifest.version, model.end)
        check_parameters(parameters, task, streaming=streaming)
        wish = wish_of(request, parameters, model, task, self._max_rows)
        for ask in wish.asks:
            self._admit(ask, context)
            if parameters.timeout is not None:
                ask.deadline = min(ask.deadline, self._workers.executor.clock() + parameters.timeout / 1e6)
        await self._guard.let_pass(model.name, prompts_of(wish))
        return wish, Run(wish, self._workers, self._bounds)

    async def _noted(self, name: str, version: str) -> Model:
        model = await self._model(name, version)
        note_target(model.name, "")
        return model

    async def _model(self, name: str, version: str, prefix: str = "") -> Model:
        """The model of a request whose fields for it begin with ``prefix``; one that is idle is loaded."""
        if not name:
            raise InvalidArgument.of(f"{prefix}name", "empty; give a name that RepositoryIndex lists")
        if version and not _VERSION.fullmatch(version):
            raise InvalidArgument.of(
                f"{prefix}version", f"{version[:20]!r}; expected a number from 1, or nothing for the latest"
            )
        return await self._repository.use(name, int(version or 0))


async def _whole(wish: Wish, run: Run) -> pb.ModelInferResponse:
    """The reply that has all rows."""
    async with aclosing(run.rows()) as rows:
        response = response_of(wish, run, [made async for made in rows])
    # Where a result's size was not known before.
    with told_by(field_of(wish.model, wish.task)):
        check_reply(response.ByteSize(), wish.parameters.max_reply_bytes, INSTEAD)
    return response


def _is_meant(entry: Entry, name: str, version: str) -> bool:
    """Whether ``entry`` answers calls and fits a request for ``name`` and ``version``, of which either may be empty."""
    return entry.able and name in ("", entry.name) and version in ("", str(entry.version))


async def _again(answers: Sequence[pb.ModelStreamInferResponse]) -> Answers:
    for answer in answers:
        yield answer


def _check_change(
    request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest, known: Container[str]
) -> None:
    _check_repository(request.repository_name)
    if not request.model_name:
        raise InvalidArgument.of("model_name", "empty; give a name that RepositoryIndex lists")
    wrong = [
        Violation(f"parameters[{name}]", "is unknown here: a bundle brings its own configuration and files")
        for name in sorted(request.parameters)
        if name not in known
    ]
    if wrong:
        raise InvalidArgument(wrong)


def _check_repository(name: str) -> None:
    if name:
        raise InvalidArgument.of(
            "repository_name", f"{name[:40]!r}; expected none: there is one repository, without a name"
        )

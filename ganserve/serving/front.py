"""What the gRPC services that run tasks have in common."""

from typing import Protocol

import grpc

from ganserve.errors import InvalidArgument
from ganserve.serving.access import charge
from ganserve.serving.call import Ask, Workers
from ganserve.serving.model import Model
from ganserve.serving.repository import Repository
from ganserve.serving.task import LoadedTask
from ganserve.serving.traffic import note_rows, note_target

DEFAULT_REPLY_BYTES = 4 << 20
"""The most bytes of a unary reply whose caller named no bound: what gRPC clients accept by default."""


class Target(Protocol):
    """A request for a task of a model."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def version(self) -> int:
        """Its version; 0 is the latest."""

    @property
    def task(self) -> str:
        """The task; empty is the only one of its kind."""


class Front:
    """A service on the models of ``repository``, whose calls run on ``workers``."""

    def __init__(self, repository: Repository, workers: Workers) -> None:
        self._repository, self._workers = repository, workers

    async def _target(self, request: Target, *kinds: str) -> tuple[Model, LoadedTask]:
        """The model and the task of one of ``kinds`` that ``request`` names; the model stays open until the running call has ended."""
        if not request.model:
            raise InvalidArgument.of("model", "empty; give a name that Models.List lists")
        if request.version < 0:
            raise InvalidArgument.of("version", f"{request.version}; expected 1 or more, or 0 for the latest")
        model = await self._repository.use(request.model, request.version)
        task = model.task(request.task, *kinds)
        model.begin()
        note_target(model.name, task.task.name, model.manifest.version, model.end)
        return model, task

    def _admit(self, ask: Ask, context: grpc.aio.ServicerContext) -> None:
        """Say who asks, and until when; :class:`ganserve.errors.QuotaExceeded` where it may not have so many rows."""
        note_rows(ask.rows)
        ask.caller = charge(ask.rows) or context.peer()
        if (remaining := context.time_remaining()) is not None:
            ask.deadline = self._workers.executor.clock() + remaining


def check_reply(most: int | None, accepted: int, instead: str) -> None:
    """Refuse a unary reply that may take ``most`` bytes where no more than ``accepted`` (0: the default) are; ``instead`` says what to do."""
    accepted = accepted or DEFAULT_REPLY_BYTES
    if most is not None and most > accepted:
        raise InvalidArgument.of(
            "max_reply_bytes",
            f"the reply may take {most} bytes and {accepted} are accepted; raise max_reply_bytes, {instead}",
        )

"""The models in memory: room for one more is made before it is loaded, and one that has been replaced is closed after its last call.

How many bytes a model takes is read off its files: those of each graph, and the parts of the weights that the graph refers to, since
every graph's session holds a copy of its own. That is known before anything is loaded, is the same on every machine, and holds for a
GPU too. By how much resident memory grows is no guide: docs/lifecycle.md has what was measured.
"""

import asyncio
import ctypes
import logging
from collections.abc import Callable, Collection

from ganserve.engines import Session
from ganserve.errors import LoadFailed, Unavailable
from ganserve.metrics import Metrics
from ganserve.serving.model import Model
from ganserve.serving.stage import Stage

log = logging.getLogger(__name__)


class Residence:
    """What is in memory, of which at most ``max_bytes`` (None: any number) are taken. Used on the event loop only.

    ``forget`` is told of every model that nobody uses any more, before its engines are closed.
    """

    def __init__(self, max_bytes: int | None, metrics: Metrics, forget: Callable[[Model], None]) -> None:
        self._max_bytes, self._forget = max_bytes, forget
        self._taken = 0
        self._models: set[Model] = set()
        self._leaving: dict[Model, asyncio.Task[None]] = {}
        self._hung: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._closed = False
        metrics.models_in_memory.set_function(lambda: len(self._models))
        metrics.model_bytes.set_function(lambda: self._taken)

    def owner(self, stage: Stage) -> Model | None:
        """The model of which ``stage`` runs graphs; None where it has been closed."""
        return next((model for model in self._models if model.owns(stage)), None)

    def has_room(self, size: int) -> bool:
        """Whether ``size`` bytes are free."""
        return self._max_bytes is None or self._taken + size <= self._max_bytes

    async def reserve(self, size: int, evict: Callable[[], bool], kept: int = 0) -> None:
        """Take ``size`` bytes, once they are free; ``evict`` is asked to :meth:`retire` a model, and says whether there was one that could go.

        Raises :class:`LoadFailed` where there will never be so many beside the ``kept`` bytes that must stay.
        """
        if self._max_bytes is not None and size + kept > self._max_bytes:
            beside = f" beside the {kept} of the one that serves, until it has taken over" if kept else ""
            raise LoadFailed(
                f"it takes {size} bytes{beside}; all models together may take {self._max_bytes}: raise --max-model-bytes"
                + (", or unload the model first" if kept else "")
            )
        while not self.has_room(size):
            if self._closed:
                raise Unavailable("the server is stopping; try another replica")
            changed = self._changed
            while not self.has_room(size - sum(model.size for model in self._leaving)) and evict():
                pass
            await changed.wait()
        self._taken += size

    def release(self, size: int) -> None:
        """Give back what was reserved for a model that did not come."""
        self._taken -= size
        self.notify()

    def settle(self, model: Model) -> None:
        """Note that ``model`` has come, for which its ``size`` is reserved."""
        self._models.add(model)

    def retire(self, model: Model) -> None:
        """Close ``model`` once the calls that use it have ended; it must be given to no new one."""
        self._leaving[model] = asyncio.get_running_loop().create_task(self._leave(model))

    def keep(
        self, model: Model, sessions: Collection[Session], until: asyncio.Future[None], evict: Callable[[], bool]
    ) -> None:
        """Count what the ``sessions`` of ``model`` take, which others replace, until the call that hangs in them ends: they are closed then.

        They are in memory whether there is room or not; ``evict`` makes what room it can.
        """
        model.hung += 1
        self._taken += model.size
        while not self.has_room(-sum(model.size for model in self._leaving)) and evict():
            pass
        task = asyncio.get_running_loop().create_task(self._give_back(model, sessions, until))
        self._hung.add(task)
        task.add_done_callback(self._hung.discard)

    def notify(self) -> None:
        """Let those who wait for room look again: some is free, or there is a model that may go."""
        self._changed.set()
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """Let nobody wait for room any more."""
        self._closed = True
        self.notify()

    async def close(self) -> None:
        """Close all models, whoever uses them."""
        leaving = [*self._leaving.values(), *self._hung]
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        for model in list(self._models):
            await self.drop(model)

    async def _leave(self, model: Model) -> None:
        await model.unused()
        await self.drop(model)
        del self._leaving[model]

    async def _give_back(self, model: Model, sessions: Collection[Session], until: asyncio.Future[None]) -> None:
        await until
        for session in sessions:
            await asyncio.to_thread(session.close)
        model.hung -= 1
        self.release(model.size)

    async def drop(self, model: Model) -> None:
        """Close ``model``, which no call uses."""
        self._forget(model)
        try:
            await asyncio.to_thread(_close, model)
        except Exception:
            log.exception("closing %s %d", model.name, model.manifest.version)
        self._models.discard(model)
        self.release(model.size)


def _close(model: Model) -> None:
    model.close()
    # glibc keeps what was freed for this process: 350 MB of 350 after a CycleGAN was closed, none after this.
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)

"""From a folder to a model in memory, off the event loop: verified, given room, loaded, golden-tested and warmed."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol, TypeVar

from ganserve.bundle import read, weight_bytes
from ganserve.engines import Session
from ganserve.errors import BundleError, LoadFailed
from ganserve.metrics import Metrics
from ganserve.plugins import Plugins
from ganserve.serving.finding import Found, Stamp, stamp_of
from ganserve.serving.model import Model, Refusal, Settings, load_model
from ganserve.serving.residence import Residence
from ganserve.serving.stage import LoadedGraph

ATTEMPTS = 3
"""How often a folder is loaded that changes meanwhile."""

Evict = Callable[[], bool]
"""Puts away a model that others need more, and says whether there was one."""


class _Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)


class NoRoom(Exception):
    """What a model takes is not free, and nothing was to make room."""


class Loader:
    """Loads models, which count as residents then."""

    def __init__(self, plugins: Plugins, settings: Settings, metrics: Metrics, residence: Residence) -> None:
        self._plugins, self._settings, self._metrics, self._residence = plugins, settings, metrics, residence

    async def load(self, found: Found, *, kept: int = 0, evict: Evict | None = None, patient: bool = False) -> Model:
        """The model of the bundle ``found``, once there is room beside the ``kept`` bytes that stay.

        Without ``evict``, :class:`NoRoom` where it is not free. Who is ``patient`` waits for engines to be built, in a thread that does not
        keep the process from ending. Raises what :func:`load_model` does and :class:`ganserve.errors.LoadFailed`.

        A folder is read more than once: to be verified, by the engines, for the golden rows. Where it changed in between, what was
        loaded is a mixture, and all is done again.
        """
        for attempts_left in reversed(range(ATTEMPTS)):
            before = await asyncio.to_thread(_stamp, found.folder)
            model, error = None, None
            try:
                model = await self._load(found, kept, evict, patient)
            except Exception as failure:
                error = failure
            if await asyncio.to_thread(_stamp, found.folder) == before or (error and not attempts_left):
                break
            if model is not None:
                await self._residence.drop(model)
                model, error = None, BundleError(f"bundle {found.folder} changes while it is loaded; load it again")
        if model is None:
            assert error is not None
            raise error
        self._metrics.loads.labels(model.name).inc()
        # There from the start, at 0: Prometheus sees no increase in a series that begins with its first event.
        self._metrics.unloads.labels(model.name)
        self._metrics.reload_failures.labels(model.name)
        self._metrics.statistics.of(model.name, model.manifest.version)
        return model

    async def _load(self, found: Found, kept: int, evict: Evict | None, patient: bool) -> Model:
        started = time.monotonic()
        bundle = await asyncio.to_thread(read, found.folder)
        named = bundle.manifest.name, bundle.manifest.version
        if named != (found.name, found.version):
            raise BundleError(
                f"bundle {found.folder} has become {named[0]} {named[1]} while it was read as {found.name} {found.version}; load it again"
            )
        size = sum((await asyncio.to_thread(weight_bytes, bundle)).values())
        if evict is None and not self._residence.has_room(size):
            raise NoRoom
        read_seconds = time.monotonic() - started
        await self._residence.reserve(size, evict or _nothing, kept)
        started = time.monotonic() - read_seconds
        run = _in_a_thread_of_its_own if patient else asyncio.to_thread
        try:
            model = await run(
                lambda: load_model(bundle, self._plugins, self._settings, patient=patient, refused=self._refused)
            )
        except BaseException:
            self._residence.release(size)
            raise
        model.size = size
        self._residence.settle(model)
        self._metrics.load_time.labels(model.name).observe(time.monotonic() - started)
        return model

    async def again(self, hung: Collection[LoadedGraph]) -> list[Session]:
        """Another session for each of the graphs ``hung``; :class:`ganserve.errors.LoadFailed` where that hangs too.

        Raises what loading a session does.
        """
        made: list[Session] = []
        try:
            async with asyncio.timeout(self._settings.hang_seconds):
                for loaded in hung:
                    assert loaded.again is not None, "a graph that was loaded can be loaded again"
                    made.append(await _in_a_thread_of_its_own(loaded.again))
        except BaseException as error:
            for session in made:
                session.close()
            if isinstance(error, TimeoutError):
                raise LoadFailed(f"it did not load within {self._settings.hang_seconds:g} s") from error
            raise
        return made

    def _refused(self, model: str, engine: str, why: Refusal) -> None:
        self._metrics.engine_refusals.labels(model, engine, why).inc()


async def _in_a_thread_of_its_own(work: Callable[[], C]) -> C:
    """What ``work`` makes; closed again if nobody waits for it by then."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[C] = loop.create_future()

    def hand_over(model: C | None, error: BaseException | None) -> None:
        if made.cancelled():
            if model is not None:
                model.close()
        elif model is not None:
            made.set_result(model)
        elif error is not None:
            made.set_exception(error)

    def run() -> None:
        outcome: tuple[C | None, BaseException | None]
        try:
            outcome = work(), None
        except BaseException as error:
            outcome = None, error
        # The loop may have ended, and the process with it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(hand_over, *outcome)

    threading.Thread(target=run, name="build", daemon=True).start()
    return await made


def _stamp(folder: Path) -> Stamp:
    """The stamp of ``folder``; empty where it is not there just now."""
    try:
        return stamp_of(folder)
    except OSError:
        return ()


def _nothing() -> bool:
    return False

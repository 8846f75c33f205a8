"""The models of a server: which bundles serve, which come, go and take over from one another, and why the others do not serve.

Everything slow (looking at folders, loading, closing) happens in threads, one change of a model at a time and beside what serves. What
calls see is :mod:`ganserve.serving.register`'s; what is in memory, :mod:`ganserve.serving.residence`'s.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ganserve.errors import BundleError, GanserveError, LoadFailed
from ganserve.metrics import Metrics
from ganserve.plugins import Plugins
from ganserve.serving import jobs
from ganserve.serving.entry import Entry, State
from ganserve.serving.finding import Found, find, key_of
from ganserve.serving.loading import Loader, NoRoom
from ganserve.serving.lost import Lost
from ganserve.serving.model import Model, Settings
from ganserve.serving.policy import Lifecycle
from ganserve.serving.register import Register
from ganserve.serving.residence import Residence
from ganserve.serving.stage import LoadedGraph, Stage

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_HUNG = 3
"""The most calls into one model's engines that may hang at a time; each keeps its thread and its memory."""

UNLOADED = "it was unloaded; Models.Load brings it back"


class Repository(Register):
    """Bundles below some folders: each folder is a bundle, or holds bundles, or holds folders of numbered versions.

    ``forget`` is told of a model that no call uses any more.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        plugins: Plugins,
        settings: Settings,
        metrics: Metrics,
        lifecycle: Lifecycle | None = None,
        forget: Callable[[Model], None] = lambda model: None,
    ) -> None:
        """Look what there is; :class:`BundleError` for a root that is no folder, and for built engines kept below one."""
        if settings.cache_dir is not None and any(
            settings.cache_dir.resolve().is_relative_to(root.resolve()) for root in roots
        ):
            raise BundleError(
                f"{settings.cache_dir} would keep built engines among bundles, and engines are never taken from a bundle; choose another --cache-dir"
            )
        self._found = find(roots, {})
        super().__init__(self._found, metrics)
        self._lifecycle = lifecycle or Lifecycle()
        self._roots = roots
        self._residence = Residence(self._lifecycle.max_model_bytes, metrics, forget)
        self._loader = Loader(plugins, settings, metrics, self._residence)
        self._off: set[str] = set()
        self._looking = asyncio.Lock()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._work: set[asyncio.Task[Any]] = set()
        self._builds: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def use(self, name: str, version: int = 0) -> Model:
        """What :meth:`get` gives, but an idle model is loaded first. Call :meth:`Model.begin` before anything is awaited."""
        while (model := self._serving.get((name, version))) is None:
            entry = self._meant(name, version)
            if entry is None or entry.state != "idle":
                raise self._absence(name, version)
            await self._wake(entry)
        return model

    async def start(self) -> None:
        """Load the bundles that are to serve, unless they are loaded lazily; one that fails is marked with its reason and hinders no other."""
        for name in dict.fromkeys(entry.name for entry in self._entries):
            await self._settled(name)

    async def load(self, name: str) -> None:
        """Have the model ``name`` serve what its folders hold now; what serves already and has not changed is left alone.

        Raises :class:`NotFound`, or :class:`LoadFailed` with what could not be loaded; what served before still does.
        """
        await self._brought(name, force=False)

    async def reload(self, name: str) -> None:
        """As :meth:`load`, but all is loaded anew, changed or not, beside the old, which it then replaces."""
        await self._brought(name, force=True)

    async def unload(self, name: str) -> None:
        """Give the model ``name`` to no more calls, and close it after the last that uses it; :meth:`load` brings it back."""
        self.entries(name)
        self._off.add(name)
        await self._settled(name)

    async def refresh(self) -> None:
        """Look at the folders; load what has come or changed since, and put away what has gone.

        Only what is as it was at the look before counts: a folder that changes may still be written to.
        """
        async with self._looking:
            before, self._found = self._found, await self._look()
            changed = self._take_over(set(before).intersection(self._found), (*before, *self._found), self._entries)
        for name in changed:
            await self._settled(name)

    def replace(self, stage: jobs.Stage, back: asyncio.Future[None]) -> Awaitable[None]:
        """Have other sessions of the graphs of ``stage`` take the place of those that hang; rows of their model that wait go on then.

        Meanwhile the model is given to no call. Where nothing can take their place, it has failed, and rows that wait raise
        :class:`Unavailable`. What hangs counts as memory until ``back`` is done, for it cannot be closed.
        """
        model = self._residence.owner(stage) if isinstance(stage, Stage) else None
        if model is None or not isinstance(stage, Stage):
            # Closed, for its callers have gone: no row waits for it.
            return asyncio.sleep(0)
        hung = list(dict.fromkeys(run.loaded for run in stage.runs))
        self._residence.keep(model, [loaded.session for loaded in hung], back, partial(self._evict, {model}))
        self._set_ready(model, hung, False)
        model.begin()
        return self._replace(model, hung)

    def stop_loading(self) -> None:
        """Begin to load nothing more."""
        self._stopping = True
        self._residence.stop()

    async def close(self) -> None:
        """End what is under way, and give back what the engines hold."""
        self.stop_loading()
        for build in self._builds:
            build.cancel()
        await asyncio.gather(*self._work, *self._builds, return_exceptions=True)
        await self._residence.close()

    async def _look(self) -> list[Found]:
        # One look at a time, and its news noted before the next: what an older look has not seen yet is not gone.
        return await asyncio.to_thread(find, self._roots, {one.folder: one for one in self._found})

    def _take_over(self, found: Collection[Found], seen: Collection[Found], entries: Collection[Entry]) -> list[str]:
        """Note what was ``found``, and that those of ``entries`` not ``seen`` are gone; the names of which something has changed."""
        known = {key_of(entry.found): entry for entry in self._entries}
        there = set(map(key_of, seen))
        gone = [entry for entry in entries if key_of(entry.found) not in there]
        changed = [entry.name for entry in gone]
        for entry in gone:
            entry.gone = True
        for one in found:
            old = known.get(key_of(one))
            if old is None:
                self._entries.append(Entry(one, state="unloaded"))
            elif old.found == one:
                continue
            else:
                old.found = one
            changed.append(one.name)
        return list(dict.fromkeys(changed))

    async def _brought(self, name: str, *, force: bool) -> None:
        async with self._looking:
            found = [one for one in await self._look() if one.name == name]
            self._take_over(found, found, [entry for entry in self if entry.name == name])
        self.entries(name)
        self._off.discard(name)
        if failed := await self._settled(name, wanted=True, force=force):
            reasons = "; ".join(f"version {entry.version or '?'}: {entry.reason}" for entry in failed)
            serving = ", ".join(str(entry.version) for entry in self if entry.name == name and entry.model is not None)
            raise LoadFailed(f"model {name!r}, {reasons}; versions that serve: {serving or 'none'}")

    async def _settled(self, name: str, *, wanted: bool = False, force: bool = False) -> list[Entry]:
        """:meth:`_settle` in its turn; goes on if its caller goes."""

        async def settle() -> list[Entry]:
            async with self._locks[name]:
                return await self._settle(name, wanted=wanted, force=force)

        return await asyncio.shield(self._spawn(settle(), self._work))

    async def _settle(self, name: str, *, wanted: bool = False, force: bool = False) -> list[Entry]:
        """Have those versions of ``name`` serve that ought to, the newest first, and put the others away; those that failed just now.

        What is ``wanted`` is loaded even if it may be idle or has failed as it is; with ``force``, even if it is loaded.
        """
        rule = self._lifecycle.versions_of(name)
        kept: list[Entry] = []
        failed: list[Entry] = []
        entries = [entry for entry in self._entries if entry.name == name]
        for entry in sorted((one for one in entries if not one.gone), key=lambda one: -one.version):
            chosen = entry.found.reason or (rule.allows(entry.version) and len(kept) != rule.latest)
            if name in self._off or self._stopping or not chosen:
                continue
            if entry.hung and entry.model is not None:
                kept.append(entry)
                continue
            if not wanted and self._may_sleep(entry):
                entry.state = "idle"
            elif force or entry.tried != entry.found.stamp or (wanted and entry.failed):
                await self._bring(entry, evict=wanted or self._takes_over(entry))
                failed += [entry] if entry.failed else []
            if entry.able:
                kept.append(entry)
        for entry in [entry for entry in entries if entry not in kept]:
            if entry.gone or name in self._off or (not self._stopping and entry.state != "failed"):
                self._put_away(entry, "unloaded", UNLOADED if name in self._off else f"--versions {rule} leaves it out")
        self._entries = [entry for entry in self._entries if not (entry.gone and entry.name == name)]
        self._publish(name)
        return failed

    def _may_sleep(self, entry: Entry) -> bool:
        """Whether ``entry`` may be idle: it is, or nothing of its model is loaded and models are loaded lazily."""
        if entry.model is not None or entry.found.reason or (entry.failed and entry.tried == entry.found.stamp):
            return False
        return entry.state == "idle" or (self._lifecycle.lazy and not self._is_loaded(entry.name))

    def _takes_over(self, entry: Entry) -> bool:
        """Whether ``entry`` would be what calls get that name no version, in the place of what they get now."""
        now = self._serving.get((entry.name, 0))
        return now is not None and now.manifest.version <= entry.version

    def _is_loaded(self, name: str) -> bool:
        return any(entry.name == name and entry.model is not None for entry in self._entries)

    async def _bring(self, entry: Entry, *, evict: bool) -> None:
        """Load what the folder of ``entry`` holds, beside what serves; unless others may be evicted, only if there is room."""
        if entry.model is None and entry.state != "idle":
            entry.state, entry.reason = "loading", ""
        stamp = entry.tried = entry.found.stamp
        entry.failed = False
        stays = {model for model in (entry.model, self._serving.get((entry.name, 0))) if model is not None}
        kept = sum(model.size for model in stays)
        try:
            self._refuse(entry)
            make_room = partial(self._evict, stays) if evict else None
            model = await self._loader.load(entry.found, kept=kept, evict=make_room)
        except NoRoom:
            if entry.model is None:
                entry.state, entry.tried = "idle", None
            else:
                entry.failed = True
                entry.reason = "there is no room for what its folder holds now; Models.Load makes some"
        except Exception as error:
            self._failed(entry, error)
        else:
            entry.tried = stamp
            self._arrived(entry, model)

    async def _replace(self, model: Model, hung: Collection[LoadedGraph]) -> None:
        try:
            if model.hung > MOST_HUNG:
                raise LoadFailed(f"{model.hung} calls into it hang; restart the server")
            sessions = await self._loader.again(hung)
        except Exception as error:
            await self._lose(model, hung, error)
        else:
            for loaded, session in zip(hung, sessions, strict=True):
                loaded.session = session
            self._set_ready(model, hung, True)
            self._residence.notify()
            log.info("%s %d: the engine that hung has been replaced", model.name, model.manifest.version)
        finally:
            model.end()

    async def _lose(self, model: Model, graphs: Collection[LoadedGraph], error: Exception) -> None:
        """Put ``model`` away: its ``graphs`` hang, and could not be loaded again for ``error``."""
        entry = next((entry for entry in self._entries if entry.model is model), None)
        reason = f"its engine hung and could not be replaced: {error if entry is None else self._reason(entry, error)}"
        for loaded in graphs:
            loaded.session, loaded.ready = Lost(f"model {model.name!r}: {reason}"), True
        if entry is None:
            return
        async with self._locks[entry.name]:
            if entry.model is model:
                self._put_away(entry, "failed", reason)
                entry.failed, entry.hung, entry.tried = True, True, entry.found.stamp
                await self._settle(entry.name)

    def _refuse(self, entry: Entry) -> None:
        """Raise what is wrong with ``entry`` that can be said without reading all of it."""
        if entry.found.reason:
            raise BundleError(entry.found.reason)
        for twin in self._entries:
            if twin is not entry and twin.able and (twin.name, twin.version) == (entry.name, entry.version):
                raise BundleError(
                    f"bundle {entry.folder}: {entry.name} {entry.version} is already served from {twin.folder}; "
                    "remove one, or export it with another version"
                )

    def _arrived(self, entry: Entry, model: Model) -> None:
        """Have ``model`` take over from what ``entry`` had."""
        old, entry.model = entry.model, model
        entry.state, entry.reason, entry.hung = "ready", "", False
        # Whoever waits for room may have this one's now, once the calls that wait for it have begun.
        entry.rouse()
        self._residence.notify()
        if model.awaits:
            entry.reason = f"{', '.join(model.awaits)} is being built; meanwhile other engines answer"
            self._spawn(self._build(entry, model), self._builds)
        self._publish(entry.name)
        if old is not None:
            self._retire(old)

    async def _build(self, entry: Entry, model: Model) -> None:
        """Load again with engines that must be built, and have that take over from ``model`` if it still serves then."""
        try:
            built = await self._loader.load(entry.found, kept=model.size, patient=True)
        except Exception as error:
            reason = "there is no room" if isinstance(error, NoRoom) else self._reason(entry, error)
        else:
            async with self._locks[entry.name]:
                engines = [[loaded.engine for loaded in one.graphs.values()] for one in (model, built)]
                if entry.model is model and engines[0] != engines[1]:
                    self._arrived(entry, built)
                    return
                self._residence.retire(built)
            reason = "it was refused; the log says why"
        if entry.model is model:
            self._metrics.reload_failures.labels(entry.name).inc()
            entry.reason = f"{', '.join(model.awaits)} does not serve it: {reason}"

    def _failed(self, entry: Entry, error: Exception) -> None:
        reason = self._reason(entry, error)
        entry.failed = True
        self._metrics.load_failures.inc()
        if self._is_loaded(entry.name):
            self._metrics.reload_failures.labels(entry.name).inc()
        if entry.model is None:
            entry.state, entry.reason = "failed", reason
        else:
            entry.reason = f"what its folder holds now is not served: {reason}"
        self._publish(entry.name)

    def _reason(self, entry: Entry, error: Exception) -> str:
        """Why ``error`` came, for callers: where the bundles lie is the operator's business, and the log's."""
        if isinstance(error, GanserveError):
            reason = str(error)
        else:
            reason = f"{type(error).__name__}: {error}"
            log.error("loading %s", entry.folder, exc_info=error)
        log.error("%s is not served: %s", entry.folder, reason)
        for folder in sorted((entry.folder for entry in self._entries), key=lambda path: -len(str(path))):
            reason = reason.replace(str(folder), folder.name)
        return reason

    def _put_away(self, entry: Entry, state: State, reason: str) -> None:
        """Have ``entry`` answer no more calls, or none before it is loaded again."""
        model, entry.model = entry.model, None
        entry.state, entry.reason, entry.tried, entry.failed, entry.hung = state, reason, None, False, False
        self._publish(entry.name)
        if model is not None:
            self._retire(model)

    def _retire(self, model: Model) -> None:
        self._metrics.unloads.labels(model.name).inc()
        self._residence.retire(model)

    def _evict(self, stays: Collection[Model]) -> bool:
        """Put away the model that was used longest ago, of those in use by no call if there are any; whether there was one."""
        loaded = [(entry.model, entry) for entry in self._entries if entry.model and not (entry.waiting or entry.hung)]
        able = [(model.calls > 0, model.used, entry) for model, entry in loaded if model not in stays]
        if not able:
            return False
        *_, entry = min(able, key=lambda one: one[:2])
        log.info("%s %d makes room", entry.name, entry.version)
        self._put_away(entry, "idle", "")
        return True

    async def _wake(self, entry: Entry) -> None:
        """Have ``entry`` loaded, for all calls that wait for it at once."""
        entry.waiting += 1
        try:
            if entry.awake is None:
                entry.awake = asyncio.get_running_loop().create_future()
                self._spawn(self._load_idle(entry), self._work).add_done_callback(entry.rouse)
            await asyncio.shield(entry.awake)
        finally:
            entry.waiting -= 1
            self._residence.notify()

    async def _load_idle(self, entry: Entry) -> None:
        async with self._locks[entry.name]:
            if entry.state == "idle":
                await self._bring(entry, evict=True)
                if entry.failed:
                    # An older version may have to stand in.
                    await self._settle(entry.name)

    def _spawn(self, work: Coroutine[Any, Any, T], among: set[asyncio.Task[Any]]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)
        return task

"""A loaded model: a verified bundle, an engine for each graph, and codecs for each task."""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from ganserve import golden
from ganserve.bundle import Bundle, ExportedGraph, read
from ganserve.engines import Options, Precision, Session
from ganserve.errors import BundleError, EngineError, GanserveError, GoldenError, NotFound, PluginError
from ganserve.plugins import Plugins, resolve
from ganserve.serving import jobs
from ganserve.serving.edits import EditSegment
from ganserve.serving.plan import LoopSegment, Plan, Segment, decodable, make_plan
from ganserve.serving.stage import LoadedGraph, Stage
from ganserve.serving.task import LoadedTask, load_task
from ganserve.serving.warming import warm
from ganserve.spec import Task

log = logging.getLogger(__name__)

_MAX_PLANS = 256
"""Plans are kept for their stages, in which rows of different requests meet, but not without end: the callers choose them."""


Refusal: TypeAlias = Literal["unavailable", "failed", "golden"]
"""Why an engine does not serve a graph: it cannot run here, cannot load it, or makes other numbers."""

Refused: TypeAlias = Callable[[str, str, Refusal], None]
"""Told of the model, the engine and why it was refused."""


class EngineChoice(msgspec.Struct, frozen=True):
    """An engine that may serve, with the precision it runs in. Written ``openvino`` or ``openvino:bf16``."""

    name: str
    precision: Precision = "fp32"

    @classmethod
    def parse(cls, text: str) -> "EngineChoice":
        """The choice that ``text`` stands for; msgspec.ValidationError for an unknown precision."""
        name, _, precision = text.partition(":")
        return msgspec.convert({"name": name, "precision": precision or "fp32"}, cls)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How models are loaded. ``engines`` are tried in order for each graph; the first that passes the golden rows serves it."""

    engines: tuple[EngineChoice, ...] = (EngineChoice("onnxruntime"),)
    device: str = "cpu"
    threads: int = 0
    provider: str | None = None
    cache_dir: Path | None = None
    """Where engines that build may keep what they built; None keeps nothing."""
    max_batch: int = 32
    """The most rows of one batch."""
    hang_seconds: float | None = 300.0
    """How long a batch may take before its engine counts as hung, and how long that engine may then take to load; None: any time."""


class Model:
    """A bundle that serves. ``awaits`` names engines that would be preferred to its own, but must be built first."""

    def __init__(
        self,
        bundle: Bundle,
        graphs: Mapping[str, LoadedGraph],
        tasks: Mapping[str, LoadedTask],
        max_batch: int,
        awaits: Sequence[str] = (),
    ) -> None:
        self.manifest = bundle.manifest
        self.graphs = graphs
        self.tasks = tasks
        self.awaits = awaits
        self.size = 0
        """The bytes that its weights take, once that is known."""
        self.calls = 0
        """The calls that use it now; the event loop's."""
        self.hung = 0
        """The calls into its engines that were given up and have not come back."""
        self.used = time.monotonic()
        """When the last call ended, or it was loaded."""
        self._max_batch = max_batch
        self._unused: asyncio.Event | None = None
        self._plans: dict[Hashable, Plan] = {}

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.manifest.name

    def begin(self) -> None:
        """A call uses this model, until :meth:`end`."""
        self.calls += 1

    def end(self) -> None:
        """A call has ended that used this model."""
        self.calls -= 1
        self.used = time.monotonic()
        if self._unused is not None and not self.calls:
            self._unused.set()

    async def unused(self) -> None:
        """Return once no call uses this model."""
        while self.calls:
            self._unused = asyncio.Event()
            await self._unused.wait()

    def owns(self, stage: jobs.Stage) -> bool:
        """Whether ``stage`` runs graphs of this model."""
        return isinstance(stage, Stage) and any(
            run.loaded is loaded for run in stage.runs for loaded in self.graphs.values()
        )

    def task(self, name: str, *kinds: str) -> LoadedTask:
        """The task called ``name``, or the only one of ``kinds`` if ``name`` is empty; :class:`NotFound` names what there is."""
        of_kind = [loaded for loaded in self.tasks.values() if loaded.task.kind in kinds]
        chosen = [loaded for loaded in of_kind if loaded.task.name == name] if name else of_kind
        if len(chosen) != 1:
            names = ", ".join(loaded.task.name for loaded in of_kind) or "none"
            wish = f"task {name!r}" if name else f"single task of kind {' or '.join(map(repr, kinds))}"
            raise NotFound(f"model {self.name!r} has no {wish}; its {' and '.join(kinds)} tasks are: {names}")
        return chosen[0]

    def plan(
        self,
        task: Task,
        given: frozenset[str],
        values: Iterable[str],
        wanted: frozenset[str],
        edited: frozenset[str] = frozenset(),
    ) -> Plan:
        """The plan for requests that give these tensors and values, want these tensors and edit these latents; made once for each kind."""
        loaded = self.tasks[task.name]
        # Other names change no plan: a caller could fill the room of all plans with them.
        reads = loaded.reads.intersection(values)
        key = (task.name, given, reads, wanted, edited)
        if (plan := self._plans.get(key)) is None:
            plan = make_plan(
                task,
                self.graphs,
                model=self.name,
                max_rows=self._max_batch,
                given=given,
                decodable=decodable(task, reads),
                needless=loaded.needless(reads),
                wanted=wanted,
                max_pixels={name: decoder.max_pixels for name, decoder in loaded.pictures.items()},
                edits={name: EditSegment(name, tuple(loaded.moves(name).values())) for name in sorted(edited)},
            )
            plan = msgspec.structs.replace(plan, segments=tuple(map(self._met, plan.segments)))
            while len(self._plans) >= _MAX_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = plan
        return plan

    def _met(self, segment: Segment) -> Segment:
        """``segment`` with the stage of an earlier plan that does its work, if there is one, so that rows meet whatever brought them there."""
        if isinstance(segment, LoopSegment):
            return msgspec.structs.replace(segment, stage=self._earlier(segment.stage))
        return self._earlier(segment) if isinstance(segment, Stage) else segment

    def _earlier(self, stage: Stage) -> Stage:
        segments = (segment for plan in self._plans.values() for segment in plan.segments)
        stages = (one.stage if isinstance(one, LoopSegment) else one for one in segments)
        return next((one for one in stages if isinstance(one, Stage) and one.same(stage)), stage)

    def close(self) -> None:
        """Give back what the engines hold, and the threads in which prompts were decoded."""
        for loaded in self.graphs.values():
            loaded.session.close()
        for task in self.tasks.values():
            if task.lane is not None:
                task.lane.shutdown(wait=False, cancel_futures=True)


def load_model(
    bundle: Bundle,
    plugins: Plugins,
    settings: Settings,
    *,
    patient: bool = True,
    refused: Refused = lambda model, engine, why: None,
) -> Model:
    """Load ``bundle``: every graph on the first engine that reproduces its golden rows, every task with its codecs.

    Who is not ``patient`` tries engines that must be built for long after all others; the model says then which it ``awaits``.
    ``refused`` is told of every engine that was tried and does not serve. Raises :class:`EngineError` when none does, with each one's
    reason, and :class:`BundleError` for a missing codec.
    """
    started = time.monotonic()
    manifest = bundle.manifest
    graphs: dict[str, LoadedGraph] = {}
    awaits: dict[str, None] = {}
    try:
        for graph in manifest.graphs:
            slow = (
                []
                if patient
                else [one for one in settings.engines if _must_build(bundle, graph, one, plugins, settings)]
            )
            used, graphs[graph.name] = _load_graph(bundle, graph, plugins, settings, slow, refused)
            awaits |= {one.name: None for one in slow if settings.engines.index(one) < settings.engines.index(used)}
        tasks = {task.name: load_task(bundle, task, plugins) for task in manifest.tasks}
    except Exception as error:
        for loaded in graphs.values():
            loaded.session.close()
        if isinstance(error, EngineError) or not isinstance(error, GanserveError | msgspec.ValidationError):
            raise
        raise BundleError(f"bundle {manifest.name!r}: {error}") from error
    engines = ", ".join(f"{name} on {loaded.engine}" for name, loaded in graphs.items())
    log.info("loaded %s %d (%s) in %.2f s", manifest.name, manifest.version, engines, time.monotonic() - started)
    return Model(bundle, graphs, tasks, settings.max_batch, tuple(awaits))


def _load_graph(
    bundle: Bundle,
    graph: ExportedGraph,
    plugins: Plugins,
    settings: Settings,
    last: Sequence[EngineChoice],
    refused: Refused,
) -> tuple[EngineChoice, LoadedGraph]:
    """The graph on the first engine that serves it, and which that is; those of ``last`` are tried after the others."""
    refusals = []
    for choice in sorted(settings.engines, key=last.__contains__):
        try:
            session = _load_session(bundle, graph, choice, plugins, settings)
        except (EngineError, PluginError) as error:
            log.warning("%s: engine %s refused: %s", bundle.manifest.name, choice.name, error)
            refused(bundle.manifest.name, choice.name, _refusal(choice, plugins, error))
            refusals.append(f"{choice.name}: {error}")
        else:
            again = partial(_load_again, bundle, graph, choice, plugins, settings)
            return choice, LoadedGraph(graph, choice.name, session, bundle.manifest.version, again)
    raise EngineError(
        f"bundle {bundle.manifest.name!r}: no engine can serve graph {graph.name!r}: {'; '.join(refusals)}"
    )


def _refusal(choice: EngineChoice, plugins: Plugins, error: Exception) -> Refusal:
    if isinstance(error, GoldenError):
        return "golden"
    absent = isinstance(error, PluginError) or resolve(plugins.engine(choice.name).available)()
    return "unavailable" if absent else "failed"


def _must_build(
    bundle: Bundle, graph: ExportedGraph, choice: EngineChoice, plugins: Plugins, settings: Settings
) -> bool:
    """Whether loading ``graph`` on the engine would begin with a long build; False too where it would be refused at once."""
    engine = plugins.engines.get(choice.name)
    if engine is None or engine.must_build is None or resolve(engine.available)():
        return False
    try:
        return bool(resolve(engine.must_build)(bundle.path(graph.file), _options(graph, choice, settings)))
    except EngineError:
        # What is wrong, loading will say.
        return False


def _options(graph: ExportedGraph, choice: EngineChoice, settings: Settings) -> Options:
    return Options(
        graph=graph,
        device=settings.device,
        precision=choice.precision,
        threads=settings.threads,
        provider=settings.provider,
        cache_dir=settings.cache_dir,
        max_rows=settings.max_batch,
    )


def _load_session(
    bundle: Bundle, graph: ExportedGraph, choice: EngineChoice, plugins: Plugins, settings: Settings
) -> Session:
    engine = plugins.engine(choice.name)
    if reason := resolve(engine.available)():
        raise EngineError(reason)
    file, options = bundle.path(graph.file), _options(graph, choice, settings)
    session: Session = resolve(engine.load)(file, options)
    try:
        golden.check(bundle, graph, session, choice.precision)
        if engine.compiles is None or resolve(engine.compiles)(file, options):
            warm(bundle, graph, session, settings.max_batch if graph.batchable else 1)
    except Exception:
        session.close()
        raise
    return session


def _load_again(
    bundle: Bundle, graph: ExportedGraph, choice: EngineChoice, plugins: Plugins, settings: Settings
) -> Session:
    """Another session of ``graph``, if the bundle is what it was when it was loaded."""
    _check_unchanged(bundle)
    session = _load_session(bundle, graph, choice, plugins, settings)
    try:
        # It may have changed while it was read.
        _check_unchanged(bundle)
    except BundleError:
        session.close()
        raise
    return session


def _check_unchanged(bundle: Bundle) -> None:
    if read(bundle.folder).manifest != bundle.manifest:
        raise BundleError(f"bundle {bundle.folder} has changed since it was loaded; load it again")

"""Which model answers to which name: the bundles that were found, and what calls see of them.

Calls see changes in one place, :meth:`Register._publish`, on the event loop and without a pause: each gets the old model or the new one.
"""

from collections.abc import Callable, Collection, Iterable, Iterator

from ganserve.errors import NotFound, Unavailable
from ganserve.metrics import Metrics
from ganserve.serving.entry import Entry
from ganserve.serving.finding import Found
from ganserve.serving.model import Model
from ganserve.serving.stage import LoadedGraph

HUNG = "its engine hung and is being replaced"


class Register:
    """The entries of a repository. Used on one event loop.

    ``on_change``, which the owner may set, is told of each name whose state may have changed.
    """

    def __init__(self, found: Iterable[Found], metrics: Metrics) -> None:
        self._metrics = metrics
        self._entries = [Entry(one) for one in found]
        self._serving: dict[tuple[str, int], Model] = {}
        self._engines: dict[str, set[tuple[str, str, str]]] = {}
        self.on_change: Callable[[str], None] = lambda name: None

    def __iter__(self) -> Iterator[Entry]:
        """Every bundle that was found, by name and version."""
        return iter(sorted(self._entries, key=lambda entry: (entry.name, entry.version)))

    def entries(self, name: str) -> list[Entry]:
        """The versions of the model ``name``; :class:`NotFound` if there are none."""
        if not (entries := [entry for entry in self if entry.name == name]):
            names = ", ".join(sorted({entry.name for entry in self})) or "none"
            raise NotFound(f"there is no model {name!r}; there are {names}")
        return entries

    def entry(self, model: Model) -> Entry:
        """The entry that ``model`` serves for."""
        return next(entry for entry in self._entries if entry.model is model)

    def serves(self, name: str) -> bool:
        """Whether some version of the model ``name`` can answer, maybe after it has been loaded."""
        return any(entry.name == name and entry.able for entry in self._entries)

    @property
    def lost(self) -> bool:
        """Whether nothing answers any more because of an engine that hangs."""
        return any(entry.hung for entry in self._entries) and not any(entry.able for entry in self._entries)

    def get(self, name: str, version: int = 0) -> Model:
        """The model ``name``, its latest version for 0, if it is loaded. :class:`NotFound`, or :class:`Unavailable` with the reason."""
        if (model := self._serving.get((name, version))) is None:
            raise self._absence(name, version)
        return model

    def _meant(self, name: str, version: int) -> Entry | None:
        """The entry that answers to ``name`` and ``version``, or else one that ought to."""
        entries = [entry for entry in self if entry.name == name and version in (0, entry.version)]
        able = [entry for entry in entries if entry.able]
        return next(reversed(able or entries), None)

    def _absence(self, name: str, version: int) -> NotFound | Unavailable:
        entry = self._meant(name, version)
        if entry is not None:
            return Unavailable(f"model {name!r} is {entry.state}{': ' if entry.reason else ''}{entry.reason}")
        if versions := sorted({entry.version for entry in self._entries if entry.name == name}):
            return NotFound(f"model {name!r} has no version {version}; there are {', '.join(map(str, versions))}")
        names = ", ".join(sorted({entry.name for entry in self._entries})) or "none"
        return NotFound(f"there is no model {name!r}; there are {names}")

    def _publish(self, name: str) -> None:
        """Give calls from now on what the entries of ``name`` hold."""
        able = [entry for entry in self if entry.name == name and entry.able]
        models = {(name, entry.version): entry.model for entry in able if entry.model is not None}
        if able and able[-1].model is not None:
            models[name, 0] = able[-1].model
        for key in [key for key in self._serving if key[0] == name and key not in models]:
            del self._serving[key]
        self._serving.update(models)
        self._tell_engines(name, models.values())
        self.on_change(name)

    def _set_ready(self, model: Model, graphs: Collection[LoadedGraph], ready: bool) -> None:
        """Have rows wait for the ``graphs`` of ``model``, and calls turned away from it; or have both go on."""
        for loaded in graphs:
            loaded.ready = ready
        entry = next((entry for entry in self._entries if entry.model is model), None)
        if entry is None:
            return
        entry.hung = not all(loaded.ready for loaded in model.graphs.values())
        entry.state, entry.reason = ("loading", HUNG) if entry.hung else ("ready", "")
        self._publish(entry.name)

    def _tell_engines(self, name: str, models: Iterable[Model]) -> None:
        used = {(name, graph, loaded.engine) for model in models for graph, loaded in model.graphs.items()}
        for labels in self._engines.pop(name, set()) - used:
            self._metrics.engine_in_use.remove(*labels)
        for labels in used:
            self._metrics.engine_in_use.labels(*labels).set(1)
            # There from the start, at 0: to an autoscaler a series that is missing is a server of unknown load, not an idle one.
            self._metrics.engine_time.labels(name, labels[2])
            self._metrics.engine_hangs.labels(name, labels[2])
        self._engines[name] = used

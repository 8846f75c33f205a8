"""The models of a server: which bundles were found, which of them serve, and why the others do not."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ganserve.bundle import MANIFEST, read
from ganserve.errors import BundleError, GanserveError, NotFound, Unavailable
from ganserve.metrics import Metrics
from ganserve.plugins import Plugins
from ganserve.serving.model import Model, Settings, load_model

log = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed"]


class Entry(msgspec.Struct):
    """A bundle that was found. Until its manifest is read, its folder's name stands for its own."""

    folder: Path
    name: str
    version: int = 0
    state: State = "loading"
    reason: str = ""
    model: Model | None = None


class Repository:
    """Bundles below some folders: each folder is a bundle, or holds bundles, or holds folders of numbered versions."""

    def __init__(self, roots: Sequence[Path], plugins: Plugins, settings: Settings, metrics: Metrics) -> None:
        self._plugins, self._settings, self._metrics = plugins, settings, metrics
        self._entries = [Entry(folder, folder.name) for folder in _find(roots)]
        self._ready: dict[str, dict[int, Model]] = {}
        self._stopping = False

    def __iter__(self) -> Iterator[Entry]:
        """Every bundle that was found, by name and version."""
        return iter(sorted(self._entries, key=lambda entry: (entry.name, entry.version)))

    def load(self) -> None:
        """Load every bundle; one that fails is marked with its reason and hinders no other. Blocking: call off the event loop."""
        for entry in self._entries:
            if self._stopping:
                return
            try:
                self._load(entry)
            except GanserveError as error:
                self._failed(entry, str(error))
            except Exception as error:
                log.exception("loading %s", entry.folder)
                self._failed(entry, f"{type(error).__name__}: {error}")

    def stop_loading(self) -> None:
        """Make :meth:`load` return after the bundle that it is loading."""
        self._stopping = True

    def serves(self, name: str) -> bool:
        """Whether some version of the model ``name`` can answer."""
        return name in self._ready

    def get(self, name: str, version: int = 0) -> Model:
        """The model ``name``, its latest version for 0. :class:`NotFound`, or :class:`Unavailable` with the reason it failed for."""
        versions = self._ready.get(name, {})
        if versions and not version:
            return versions[max(versions)]
        if version in versions:
            return versions[version]
        for entry in self._entries:
            if entry.name == name and version in (0, entry.version) and entry.state != "ready":
                raise Unavailable(f"model {name!r} is {entry.state}{': ' if entry.reason else ''}{entry.reason}")
        if versions:
            raise NotFound(
                f"model {name!r} has no version {version}; there are {', '.join(map(str, sorted(versions)))}"
            )
        raise NotFound(f"there is no model {name!r}; there are {', '.join(sorted(self._ready)) or 'none'}")

    def entry(self, model: Model) -> Entry:
        """The entry that ``model`` was loaded from."""
        return next(entry for entry in self._entries if entry.model is model)

    def close(self) -> None:
        """Give back what the engines hold."""
        for versions in self._ready.values():
            for model in versions.values():
                model.close()

    def _load(self, entry: Entry) -> None:
        started = time.monotonic()
        bundle = read(entry.folder)
        entry.name, entry.version = bundle.manifest.name, bundle.manifest.version
        if (twin := self._ready.get(entry.name, {}).get(entry.version)) is not None:
            raise BundleError(
                f"bundle {entry.folder}: {entry.name} {entry.version} is already served from {self.entry(twin).folder}; "
                "remove one, or export it with another version"
            )
        model = load_model(bundle, self._plugins, self._settings)
        self._ready.setdefault(entry.name, {})[entry.version] = model
        entry.model, entry.state = model, "ready"
        self._metrics.load_time.labels(entry.name).observe(time.monotonic() - started)
        for name, loaded in model.graphs.items():
            self._metrics.engine_in_use.labels(entry.name, name, loaded.engine).set(1)

    def _failed(self, entry: Entry, reason: str) -> None:
        entry.state, entry.reason = "failed", self._without_paths(reason)
        self._metrics.load_failures.inc()
        log.error("%s is not served: %s", entry.folder, reason)

    def _without_paths(self, reason: str) -> str:
        """``reason`` as callers may read it: where the bundles lie is the operator's business, and the log's."""
        for folder in sorted((entry.folder for entry in self._entries), key=lambda path: -len(str(path))):
            reason = reason.replace(str(folder), folder.name)
        return reason


def _find(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        if (root / MANIFEST).is_file():
            yield root
            continue
        if not root.is_dir():
            raise BundleError(f"{root} is not a folder; give a bundle, or a folder that holds bundles")
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            versions = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
            yield from versions if versions and not (folder / MANIFEST).is_file() else [folder]

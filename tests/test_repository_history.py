"""Random histories of a repository: bundles come, change, break and go, models are loaded and unloaded, and calls never stop.

Every call gets a version that was good and allowed, and keeps it open to its end; a load that fails takes nothing away; memory stays within
its bound, and is all given back.
"""

import asyncio
import contextlib
import itertools
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganserve import hookimpl
from ganserve.bundle import MANIFEST, read, weight_bytes
from ganserve.engines import Options
from ganserve.engines.onnxruntime import OnnxRuntimeSession
from ganserve.errors import LoadFailed, NotFound, Unavailable
from ganserve.metrics import Metrics
from ganserve.plugins import installed
from ganserve.plugins import load as plugins_with
from ganserve.serving.model import EngineChoice, Model, Settings
from ganserve.serving.policy import Lifecycle, Versions
from ganserve.serving.repository import Repository
from ganserve.spec import Engine
from ganserve.testing.echo import write_bundle

STEPS = 80
swaps: list[Path] = []
"""What takes the folder's place the next times that an engine loads a graph."""
NAMES = ("a", "b")
VERSIONS = (1, 2, 3)
PAUSE = 0.004
"""Seconds that a call lasts on average: some see several changes."""

RULES: dict[str, dict[str, Any]] = {
    "all": {},
    "lazy": {"lazy": True},
    "latest": {"versions": {"": Versions(latest=1)}},
    "two of them": {"versions": {"": Versions(only=frozenset((1, 3)))}},
    "little room": {"room": 2, "lazy": True},
    "room for latest": {"room": 3, "versions": {"": Versions(latest=1)}},
}


class World:
    """The folders, what the repository makes of them, and what is known of both."""

    def __init__(self, root: Path, seed: int, *, room: int | None = None, **lifecycle: Any) -> None:
        self.root, self.dice, self.metrics = root, random.Random(seed), Metrics()
        self.templates = [write_bundle(root / f".{name}", name=name, tasks=("sample",)) for name in NAMES]
        self.size = sum(weight_bytes(read(self.templates[0])).values())
        self.most = None if room is None else room * self.size
        self.rule = lifecycle.get("versions", {}).get("", Versions())
        self.shifts = itertools.count(1)
        self.good: dict[tuple[str, int], set[float]] = {}
        self.held: dict[tuple[str, int], bool] = {}
        """What lies in the folders, and whether it is good."""
        self.calls: set[asyncio.Task[None]] = set()
        self.answered = 0
        self.repository = Repository(
            (root,),
            installed(),
            Settings(threads=1, max_batch=1),
            self.metrics,
            Lifecycle(max_model_bytes=self.most, **lifecycle),
        )

    def write(self) -> None:
        """A bundle comes, or another one takes its place: sometimes a bad one."""
        name, version = self.dice.choice(NAMES), self.dice.choice(VERSIONS)
        shift, good = float(next(self.shifts)), self.dice.random() < 0.7
        made = write_bundle(
            self.root / name / f".{version}", name=name, version=version, shift=shift, tasks=("sample",)
        )
        if not good:
            manifest = json.loads((made / MANIFEST).read_text())
            manifest["golden"]["rows"] += 1
            (made / MANIFEST).write_text(json.dumps(manifest))
        else:
            self.good.setdefault((name, version), set()).add(shift)
        shutil.rmtree(self.root / name / str(version), ignore_errors=True)
        made.rename(self.root / name / str(version))
        self.held[name, version] = good

    def remove(self) -> None:
        """A bundle goes."""
        if self.held:
            name, version = self.dice.choice(list(self.held))
            shutil.rmtree(self.root / name / str(version))
            del self.held[name, version]
            if not any(held == name for held, _ in self.held):
                # An empty folder would be a bundle without a manifest.
                (self.root / name).rmdir()

    async def change(self, what: str) -> None:
        """Load, unload or reload a model; one that fails leaves what served, if its folder is still there."""
        name = self.dice.choice(NAMES)
        before = [entry for entry in self.repository if entry.name == name and entry.model is not None]
        try:
            await getattr(self.repository, what)(name)
        except LoadFailed:
            stays = [entry for entry in before if (name, entry.version) in self.held]
            assert not stays or self.repository.serves(name), "a failed load took away what served"
        except NotFound:
            assert what == "unload" or name not in {held for held, _ in self.held}, "only an unload does not look"

    async def call(self) -> None:
        """A call of some version, which looks at what it got when it begins and when it ends."""
        name, version = self.dice.choice(NAMES), self.dice.choice((0, 0, *VERSIONS))
        try:
            model = await self.repository.use(name, version)
        except (Unavailable, NotFound):
            return
        model.begin()
        try:
            self.check(model, name, version)
            await asyncio.sleep(self.dice.expovariate(1 / PAUSE))
            self.check(model, name, version)
            self.answered += 1
        finally:
            model.end()

    def check(self, model: Model, name: str, version: int) -> None:
        """That ``model`` is open, was good, and may serve."""
        session = model.graphs["mapping"].session
        feeds = {"z": np.zeros((1, 4), np.float32), "label": np.zeros(1, np.int64)}
        made = session.run({port: session.upload(array) for port, array in feeds.items()}, ["w"])
        shift = float(session.download(made["w"])[0, 0])
        number = model.manifest.version
        assert (model.name, number) == (name, version or number)
        assert shift in self.good[name, number]
        assert self.rule.allows(number)

    async def step(self) -> None:
        """Something happens, and calls go on."""
        match self.dice.choice(("write", "write", "remove", "load", "load", "reload", "unload", "look", "look")):
            case "write":
                self.write()
            case "remove":
                self.remove()
            case "look":
                await self.repository.refresh()
            case what:
                await self.change(what)
        for _ in range(3):
            task = asyncio.create_task(self.call())
            self.calls.add(task)
            task.add_done_callback(self.finished)
        await asyncio.sleep(0)
        if self.most is not None:
            assert self.metric("model_bytes") <= self.most

    def finished(self, task: asyncio.Task[None]) -> None:
        """A call has ended; what it found wrong is raised here, at the latest."""
        self.calls.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler({"message": "a call went wrong", "exception": error})
            self.wrong = error

    wrong: BaseException | None = None

    def metric(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"ganserve_{name}") or 0.0


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("seed", range(1, 6))
async def test_whatever_happens_calls_get_what_is_good_and_nothing_is_lost(
    tmp_path: Path, seed: int, rules: str
) -> None:
    world = World(tmp_path, seed, **RULES[rules])
    async with asyncio.timeout(120):
        await world.repository.start()
        for _ in range(STEPS):
            await world.step()
            assert world.wrong is None, world.wrong
        await asyncio.gather(*world.calls)
        assert world.answered > STEPS // 4
        for name in NAMES:
            good = [version for held, version in world.held if held == name and world.held[held, version]]
            allowed = [version for version in good if world.rule.allows(version)]
            whole = all(world.held[key] for key in world.held if key[0] == name)
            try:
                await world.repository.load(name)
            except LoadFailed:
                if whole and world.most is None:
                    raise
            except NotFound:
                continue
            if allowed and world.most is None:
                assert (await world.repository.use(name)).manifest.version == max(allowed), "the best that there is"
            # Where the last of its folders has gone, the load has just put it away.
            with contextlib.suppress(NotFound):
                await world.repository.unload(name)
        await world.repository.close()
    assert (world.metric("model_bytes"), world.metric("models_in_memory")) == (0, 0)


# A folder that changes between its verification and the engine.


@hookimpl
def ganserve_engines() -> list[Engine]:
    return [Engine(name="late", summary="", available=f"{__name__}:available", load=f"{__name__}:load")]


def available() -> None:
    return None


def load(graph_file: Path, options: Options) -> OnnxRuntimeSession:
    if swaps:
        shutil.rmtree(graph_file.parent)
        swaps.pop(0).rename(graph_file.parent)
    return OnnxRuntimeSession(graph_file, options)


@pytest.mark.parametrize("changes", [1, 5])
async def test_what_changes_while_it_is_loaded_is_never_a_mixture(tmp_path: Path, changes: int) -> None:
    folder = write_bundle(tmp_path / "models" / "m", name="m", tasks=("sample",))
    swaps[:] = [
        write_bundle(tmp_path / str(one), name="m", shift=float(one), tasks=("sample",))
        for one in range(1, changes + 1)
    ]
    metrics = Metrics()
    settings = Settings(threads=1, max_batch=1, engines=(EngineChoice("late"),))
    repository = Repository((tmp_path / "models",), plugins_with(extra=[sys.modules[__name__]]), settings, metrics)
    await repository.start()
    (entry,) = repository
    if changes == 1:
        assert repository.get("m").manifest == read(folder).manifest, "what was verified is what was loaded"
    else:
        assert (entry.state, "changes while it is loaded; load it again" in entry.reason) == ("failed", True)
    await repository.close()
    assert metrics.registry.get_sample_value("ganserve_model_bytes") == 0

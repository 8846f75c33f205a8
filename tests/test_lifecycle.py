"""Models that come, change and go while a server runs: no call fails, none sees a mixture, and what fails changes nothing."""

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from grpc_health.v1 import health_pb2

from ganserve import hookimpl
from ganserve.bundle import MANIFEST
from ganserve.cli import cli
from ganserve.client import Client, blocking
from ganserve.engines import Options
from ganserve.engines.onnxruntime import OnnxRuntimeSession
from ganserve.errors import DeadlineExceeded, EngineError, LoadFailed, NotFound, SpecError, Unavailable
from ganserve.metrics import Metrics
from ganserve.plugins import installed
from ganserve.plugins import load as load_plugins
from ganserve.serving import repository as repository_module
from ganserve.serving.finding import Found
from ganserve.serving.model import EngineChoice, Model, Settings
from ganserve.serving.policy import Lifecycle, Versions
from ganserve.serving.repository import Repository
from ganserve.spec import Engine
from ganserve.testing.echo import image_of, write_bundle
from ganserve.testing.server import Serving, serving

from .parsing import parsed
from .test_repository import wrong_golden

ROOT = Path(__file__).parent.parent


def write(
    folder: Path, name: str = "m", version: int = 1, shift: float | None = None, tasks: tuple[str, ...] = ("sample",)
) -> Path:
    """A small bundle, whole when it appears; each version's images are its own."""
    shift = version if shift is None else shift
    hidden = write_bundle(folder.parent / f".{folder.name}", name=name, version=version, shift=shift, tasks=tasks)
    return hidden.rename(folder)


def replace(folder: Path, **how: Any) -> None:
    """Another bundle in the place of that in ``folder``."""
    folder.rename(folder.parent / f".old-{time.monotonic_ns()}")
    write(folder, **how)


def damage(folder: Path) -> None:
    """Have the bundle in ``folder`` promise one golden row more than it has."""
    text = (folder / MANIFEST).read_text()
    facts = json.loads(text)
    facts["golden"]["rows"] += 1
    (folder / MANIFEST).write_text(json.dumps(facts))


def make(root: Path, metrics: Metrics | None = None, **lifecycle: Any) -> Repository:
    return Repository((root,), installed(), Settings(threads=1), metrics or Metrics(), Lifecycle(**lifecycle))


def states(repository: Repository) -> list[tuple[str, int, str]]:
    return [(entry.name, entry.version, entry.state) for entry in repository]


def count(metrics: Metrics, series: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"ganserve_{series}", labels) or 0.0


async def closed(model: weakref.ref[Model]) -> bool:
    """Whether ``model`` is gone soon, without the garbage collector."""
    for _ in range(200):
        if model() is None:
            return True
        await asyncio.sleep(0.01)
    return False


# Which versions serve.


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("all", Versions()),
        ("latest", Versions(latest=1)),
        ("latest:3", Versions(latest=3)),
        ("1,3", Versions(only=frozenset((1, 3)))),
    ],
)
def test_a_rule_is_written_as_it_is_read(text: str, rule: Versions) -> None:
    assert Versions.parse(text) == rule
    assert str(rule) == text


@pytest.mark.parametrize("text", ["", "newest", "latest:0", "latest:-1", "1,", "0", "1;2", "99999999999999999999"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="names no versions; write all, latest, latest:2, or numbers such as 1,3"):
        Versions.parse(text)


@pytest.mark.parametrize(("rule", "serve"), [("all", {1, 2, 3}), ("latest", {3}), ("latest:2", {2, 3}), ("1", {1})])
async def test_the_rule_chooses_the_versions(tmp_path: Path, rule: str, serve: set[int]) -> None:
    for version in (1, 2, 3):
        write(tmp_path / "m" / str(version), version=version)
    repository = make(tmp_path, versions={"": Versions.parse("all"), "m": Versions.parse(rule)})
    await repository.start()
    assert {entry.version for entry in repository if entry.state == "ready"} == serve
    assert repository.get("m").manifest.version == max(serve)
    for entry in repository:
        if entry.version not in serve:
            assert (entry.state, entry.reason) == ("unloaded", f"--versions {rule} leaves it out")
            with pytest.raises(Unavailable, match="leaves it out"):
                repository.get("m", entry.version)
    await repository.close()


async def test_where_the_latest_fails_the_one_before_is_the_latest(tmp_path: Path) -> None:
    write(tmp_path / "m" / "1")
    damage(write(tmp_path / "m" / "2", version=2))
    repository = make(tmp_path, versions={"": Versions(latest=1)})
    await repository.start()
    assert states(repository) == [("m", 1, "ready"), ("m", 2, "failed")]
    await repository.close()


# Load, unload, reload.


async def test_a_new_version_takes_over_and_the_old_one_is_closed_after_its_last_call(tmp_path: Path) -> None:
    metrics = Metrics()
    write(tmp_path / "m" / "1")
    repository = make(tmp_path, metrics, versions={"": Versions(latest=1)})
    await repository.start()
    old = await repository.use("m")
    old.begin()
    write(tmp_path / "m" / "2", version=2)
    await repository.load("m")
    assert (await repository.use("m")).manifest.version == 2
    await asyncio.sleep(0.05)
    assert count(metrics, "models_in_memory") == 2, "a call runs on the old one"
    (graph, *_) = old.graphs.values()
    assert graph.session._session is not None
    old.end()
    gc.disable()
    try:
        seen = weakref.ref(old)
        del old, graph
        assert await closed(seen), "nothing holds it, the collector is not needed"
    finally:
        gc.enable()
    assert count(metrics, "models_in_memory") == 1
    assert count(metrics, "model_bytes") == (await repository.use("m")).size
    assert count(metrics, "model_loads_total", model="m") == 2
    assert count(metrics, "model_unloads_total", model="m") == 1
    await repository.close()


async def test_what_is_loaded_and_has_not_changed_is_left_alone_unless_it_is_reloaded(tmp_path: Path) -> None:
    write(tmp_path / "m")
    repository = make(tmp_path)
    await repository.start()
    first = repository.get("m")
    await repository.load("m")
    assert repository.get("m") is first
    await repository.reload("m")
    second = repository.get("m")
    assert second is not first
    replace(tmp_path / "m", shift=5.0)
    await repository.load("m")
    assert repository.get("m") is not second
    await repository.close()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("another version", "golden"),
        ("in its place", "golden"),
        ("its manifest", "is not a manifest"),
        ("wrong numbers", "output 'w': golden rows differ by "),
    ],
)
async def test_what_fails_leaves_the_old_one_serving_and_says_why(tmp_path: Path, how: str, told: str) -> None:
    metrics = Metrics()
    write(tmp_path / "m" / "1")
    repository = make(tmp_path, metrics, versions={"": Versions(latest=1)})
    await repository.start()
    old = repository.get("m")
    if how == "another version":
        damage(write(tmp_path / "m" / "2", version=2))
    elif how == "in its place":
        damage(tmp_path / "m" / "1")
    elif how == "wrong numbers":
        wrong_golden(write(tmp_path / "m" / "2", version=2))
    else:
        (tmp_path / "m" / "1" / MANIFEST).write_text("{")
    with pytest.raises(LoadFailed, match=r"model 'm', version \d: .*; versions that serve: 1"):
        await repository.load("m")
    assert repository.get("m") is old
    assert repository.serves("m")
    (failed,) = [entry for entry in repository if entry.failed]
    assert told in failed.reason
    refusals = count(metrics, "engine_refusals_total", model="m", engine="onnxruntime", reason="golden")
    assert refusals == (how == "wrong numbers")
    assert str(tmp_path) not in failed.reason
    assert count(metrics, "model_reload_failures_total", model="m") == 1
    assert count(metrics, "model_load_failures_total") == 1
    await repository.close()


async def test_an_unloaded_model_answers_no_more_until_it_is_loaded(tmp_path: Path) -> None:
    write(tmp_path / "m")
    write(tmp_path / "other", name="other")
    repository = make(tmp_path, lazy=False)
    told: list[tuple[str, bool]] = []
    await repository.start()
    repository.on_change = lambda name: told.append((name, repository.serves(name)))
    model = weakref.ref(repository.get("m"))
    await repository.unload("m")
    assert told[-1] == ("m", False)
    with pytest.raises(Unavailable, match=r"model 'm' is unloaded: it was unloaded; Models\.Load brings it back"):
        await repository.use("m")
    assert await closed(model)
    await repository.refresh()
    await repository.refresh()
    assert not repository.serves("m"), "what an operator put away, no watch brings back"
    await repository.load("m")
    assert told[-1] == ("m", True)
    assert repository.get("m")
    with pytest.raises(NotFound, match="there is no model 'nope'; there are m, other"):
        await repository.unload("nope")
    await repository.close()


async def test_a_model_that_was_not_there_is_loaded_by_name_and_one_that_went_is_put_away(tmp_path: Path) -> None:
    write(tmp_path / "m")
    repository = make(tmp_path)
    await repository.start()
    with pytest.raises(NotFound):
        await repository.load("new")
    write(tmp_path / "new", name="new")
    await repository.load("new")
    assert states(repository) == [("m", 1, "ready"), ("new", 1, "ready")]
    (tmp_path / "m").rename(tmp_path / ".m")
    await repository.load("m")
    assert states(repository) == [("new", 1, "ready")]
    await repository.close()


# Watching.


async def test_a_watch_loads_what_came_replaces_what_changed_and_puts_away_what_went(tmp_path: Path) -> None:
    write(tmp_path / "m" / "1")
    repository = make(tmp_path, versions={"": Versions(latest=1)})
    await repository.start()
    write(tmp_path / "m" / "2", version=2)
    await repository.refresh()
    assert repository.get("m").manifest.version == 1, "it may still be written to"
    await repository.refresh()
    assert repository.get("m").manifest.version == 2
    (tmp_path / "m" / "2").rename(tmp_path / "m" / ".2")
    await repository.refresh()
    assert repository.get("m").manifest.version == 2, "it may be in the middle of being replaced"
    await repository.refresh()
    assert repository.get("m").manifest.version == 1
    before = repository.get("m")
    replace(tmp_path / "m" / "1", shift=7.0)
    await repository.refresh()
    await repository.refresh()
    assert repository.get("m") is not before
    await repository.refresh()
    await repository.close()


async def test_what_a_slow_look_of_the_watch_has_not_seen_yet_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "m" / "1")
    repository = make(tmp_path, versions={"": Versions(latest=1)})
    await repository.start()
    for _ in range(2):
        await repository.refresh()
    seen, told = threading.Event(), threading.Event()
    look = repository_module.find

    def slow(*how: Any) -> list[Found]:
        monkeypatch.setattr(repository_module, "find", look)
        found = look(*how)
        seen.set()
        assert told.wait(30)
        return found

    monkeypatch.setattr(repository_module, "find", slow)
    watch = asyncio.create_task(repository.refresh())
    await asyncio.to_thread(seen.wait, 30)
    write(tmp_path / "m" / "2", version=2)
    load = asyncio.create_task(repository.load("m"))
    asyncio.get_running_loop().call_later(0.2, told.set)
    await asyncio.gather(watch, load)
    assert states(repository) == [("m", 1, "unloaded"), ("m", 2, "ready")]
    assert repository.get("m").manifest.version == 2
    await repository.close()


async def test_a_watch_tries_what_failed_again_when_it_has_changed_and_not_before(tmp_path: Path) -> None:
    metrics = Metrics()
    write(tmp_path / "m")
    repository = make(tmp_path, metrics)
    await repository.start()
    golden = write(tmp_path / "n", name="n") / "golden.npz"
    whole = golden.read_bytes()
    golden.write_bytes(whole[:100])
    for _ in range(4):
        await repository.refresh()
    assert not repository.serves("n")
    assert count(metrics, "model_load_failures_total") == 1
    golden.write_bytes(whole)
    for _ in range(2):
        await repository.refresh()
    assert repository.serves("n")
    await repository.close()


# Lazy loading and the budget of memory.


async def test_an_idle_model_is_loaded_once_by_the_calls_that_want_it(tmp_path: Path) -> None:
    metrics = Metrics()
    write(tmp_path / "m")
    write(tmp_path / "n", name="n")
    repository = make(tmp_path, metrics, lazy=True)
    await repository.start()
    assert states(repository) == [("m", 1, "idle"), ("n", 1, "idle")]
    assert repository.serves("m")
    with pytest.raises(Unavailable, match="model 'm' is idle"):
        repository.get("m")
    models = await asyncio.gather(*[repository.use("m", version) for version in (0, 1, 0, 1)])
    assert len(set(map(id, models))) == 1
    assert count(metrics, "model_loads_total", model="m") == 1
    assert states(repository)[1] == ("n", 1, "idle")
    await repository.close()


async def test_a_caller_that_goes_does_not_end_the_load_it_began(tmp_path: Path) -> None:
    write(tmp_path / "m")
    repository = make(tmp_path, lazy=True)
    await repository.start()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(repository.use("m"), 0.001)
    assert await repository.use("m")
    await repository.close()


async def test_an_idle_model_that_fails_says_so_and_an_older_version_stands_in(tmp_path: Path) -> None:
    damage(write(tmp_path / "n", name="n"))
    write(tmp_path / "m" / "1")
    damage(write(tmp_path / "m" / "2", version=2))
    repository = make(tmp_path, lazy=True, versions={"": Versions(latest=1)})
    await repository.start()
    with pytest.raises(Unavailable, match=r"model 'n' is failed: .*golden"):
        await repository.use("n")
    assert (await repository.use("m")).manifest.version == 1
    await repository.close()


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three models of one size."""
    for name in "abc":
        write(tmp_path / name, name=name)
    return tmp_path


@pytest.fixture(scope="module")
def size(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The bytes that one of them takes: its graphs' files, for their weights lie in them."""
    folder = write(tmp_path_factory.mktemp("size") / "a", name="a")
    return sum(path.stat().st_size for path in folder.glob("*.onnx"))


async def test_the_model_not_called_for_longest_makes_room(three: Path, size: int) -> None:
    metrics = Metrics()
    repository = make(three, metrics, max_model_bytes=2 * size + 1)
    await repository.start()
    assert [state for *_, state in states(repository)] == ["ready", "ready", "idle"], "as many as there is room for"
    assert count(metrics, "model_bytes") == 2 * size
    for name in "ba":
        model = await repository.use(name)
        model.begin()
        model.end()
    await repository.use("c")
    assert [state for *_, state in states(repository)] == ["ready", "idle", "ready"]
    assert count(metrics, "model_bytes") == 2 * size
    await repository.use("b")
    assert [state for *_, state in states(repository)] == ["idle", "ready", "ready"]
    await repository.close()
    assert count(metrics, "model_bytes") == 0


async def test_a_start_fills_the_room_and_puts_nothing_away_again(tmp_path: Path, size: int) -> None:
    metrics = Metrics()
    write(tmp_path / "a", name="a")
    for version in (1, 2):
        write(tmp_path / "z" / str(version), name="z", version=version)
    repository = make(tmp_path, metrics, max_model_bytes=2 * size)
    await repository.start()
    assert states(repository) == [("a", 1, "ready"), ("z", 1, "idle"), ("z", 2, "ready")]
    assert repository.get("z").manifest.version == 2
    write(tmp_path / "z" / "3", name="z", version=3)
    await repository.refresh()
    await repository.refresh()
    assert repository.get("z").manifest.version == 3, "what takes over is given room"
    assert count(metrics, "model_bytes") == 2 * size
    assert (await repository.use("z", 1)).manifest.version == 1
    await repository.close()


async def test_an_older_version_that_changes_puts_nobody_away_by_itself(tmp_path: Path, size: int) -> None:
    write(tmp_path / "a", name="a")
    for version in (1, 2):
        write(tmp_path / "z" / str(version), name="z", version=version)
    repository = make(tmp_path, max_model_bytes=3 * size)
    await repository.start()
    before = repository.get("z", 1)
    replace(tmp_path / "z" / "1", name="z", shift=9.0)
    await repository.refresh()
    await repository.refresh()
    (old, _) = repository.entries("z")
    assert (repository.get("z", 1), repository.serves("a")) == (before, True)
    assert old.reason == "there is no room for what its folder holds now; Models.Load makes some"
    await repository.load("z")
    assert repository.get("z", 1) is not before
    assert (states(repository)[0], old.reason) == (("a", 1, "idle"), "")
    await repository.close()


async def test_room_is_made_only_when_the_last_call_has_ended(three: Path, size: int) -> None:
    metrics = Metrics()
    repository = make(three, metrics, max_model_bytes=size, lazy=True)
    await repository.start()
    model = await repository.use("a")
    model.begin()
    waiting = asyncio.create_task(repository.use("b"))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done
    assert count(metrics, "model_bytes") == size
    model.end()
    assert await waiting is repository.get("b")
    assert count(metrics, "model_bytes") == size
    await repository.close()


async def test_many_calls_for_more_models_than_there_is_room_for_all_get_theirs(three: Path, size: int) -> None:
    metrics = Metrics()
    repository = make(three, metrics, max_model_bytes=size, lazy=True)
    await repository.start()
    most = 0.0

    async def call(name: str) -> None:
        nonlocal most
        model = await repository.use(name)
        assert model.name == name
        model.begin()
        most = max(most, count(metrics, "model_bytes"))
        await asyncio.sleep(0.001)
        model.end()

    await asyncio.wait_for(asyncio.gather(*[call(name) for name in "abcabc"]), 60)
    assert most == size
    await repository.close()


async def test_calls_of_a_version_that_another_change_loads_do_not_keep_its_room_from_that(
    tmp_path: Path, size: int
) -> None:
    for version in (1, 2, 3):
        write(tmp_path / "m" / str(version), version=version)
    repository = make(tmp_path, max_model_bytes=2 * size, lazy=True)
    await repository.start()
    loading = asyncio.create_task(repository.load("m"))
    while states(repository)[2] != ("m", 3, "ready"):
        await asyncio.sleep(0)
    assert not loading.done(), "2 is to be loaded, and 1 in its place"
    model, _ = await asyncio.wait_for(asyncio.gather(repository.use("m", 2), loading), 60)
    assert model.manifest.version == 2
    assert states(repository) == [("m", 1, "ready"), ("m", 2, "idle"), ("m", 3, "ready")]
    await repository.close()


async def test_a_load_that_waits_for_room_may_have_that_of_a_model_that_came_meanwhile(three: Path, size: int) -> None:
    repository = make(three, max_model_bytes=size, lazy=True)
    await repository.start()
    await asyncio.wait_for(asyncio.gather(*map(repository.load, "abc")), 60)
    assert [state for *_, state in states(repository)].count("ready") == 1
    await repository.close()


async def test_what_can_never_have_room_is_refused(three: Path, size: int) -> None:
    repository = make(three, max_model_bytes=size - 1, lazy=True)
    await repository.start()
    with pytest.raises(Unavailable, match=f"it takes {size} bytes; all models together may take {size - 1}"):
        await repository.use("a")
    await repository.close()
    repository = make(three, max_model_bytes=size)
    await repository.start()
    with pytest.raises(LoadFailed, match=r"beside the .* of the one that serves"):
        await repository.reload("a")
    assert repository.serves("a")
    await repository.unload("a")
    await repository.load("a")
    await repository.close()


# A server.


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, Path]]:
    """A server of the latest versions of the models m and t, and its folder, which it watches."""
    root = tmp_path_factory.mktemp("changing")
    write(root / "m" / "1")
    write(root / "t" / "1", name="t", tasks=("fixed",))
    with serving(root, lifecycle=Lifecycle(versions={"": Versions(latest=1)}, watch=0.1)) as server:
        yield server, root


def call(client: Client, seed: int) -> int:
    """Sample m; the version that served, once every number of the reply is what that version makes."""
    samples = client.sample("m", n=3, task="sample", seed=seed, labels=0, format="raw", returns=["z", "w"])
    version = samples.served.version
    w = samples.tensor("z") + np.float32(version)
    assert (samples.tensor("w") == w).all()
    assert (samples.arrays() == image_of(w)).all(), "no row is another version's"
    return version


def test_reloads_under_load_fail_no_call_and_mix_nothing(
    changing: tuple[Serving, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A client that tries again would hide what fails.
    once = [*blocking.channel_options(blocking.MAX_REPLY_BYTES), ("grpc.enable_retries", 0)]
    monkeypatch.setattr(blocking, "channel_options", lambda most: once)
    server, root = changing
    versions: list[int] = []
    errors: list[BaseException] = []
    over = threading.Event()

    def load(seed: int) -> None:
        try:
            with Client(server.address) as client:
                while not over.is_set():
                    versions.append(call(client, seed))
        except BaseException as error:
            errors.append(error)

    def met(version: int) -> bool:
        return bool(errors) or version in versions

    threads = [threading.Thread(target=load, args=(seed,)) for seed in range(4)]
    with Client(server.address) as client, Client(server.management) as manager:
        for thread in threads:
            thread.start()
        try:
            for version in range(2, 8):
                write(root / "m" / str(version), version=version)
                manager.load_model("m")
                assert call(client, 99) == version, "from now on nobody gets the old one"
                wait(partial(met, version))
                manager.reload_model("m")
                if version == 4:
                    damage(root / "m" / "4")
                    with pytest.raises(LoadFailed, match="versions that serve: 4"):
                        manager.reload_model("m")
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert not errors
    metrics = server.server.metrics
    assert count(metrics, "requests_total", model="m", task="sample", code="OK") == len(versions) + 6
    codes = {
        sample.labels["code"]
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "ganserve_requests_total" and sample.value and sample.labels["task"] == "sample"
    }
    assert codes == {"OK"}, "the server counts every attempt"
    wait(lambda: count(metrics, "models_in_memory") == 2)


def test_a_stream_ends_on_the_version_that_it_began_on(changing: tuple[Serving, Path]) -> None:
    server, root = changing
    loaded = threading.Event()

    def frames() -> Iterator[np.ndarray]:
        yield np.zeros((16, 16, 3), np.uint8)
        assert loaded.wait(30)
        yield np.zeros((16, 16, 3), np.uint8)

    metrics = server.server.metrics
    before = count(metrics, "models_in_memory")
    old = weakref.ref(server.server.repository.get("t"))
    with Client(server.address) as client, Client(server.management) as manager:
        stream = client.translate_stream("t", frames(), task="fixed")
        assert next(stream).served.version == 1
        write(root / "t" / "2", name="t", version=2, tasks=("fixed",))
        manager.load_model("t")
        assert client.translate("t", np.zeros((16, 16, 3), np.uint8), task="fixed").served.version == 2
        assert count(metrics, "models_in_memory") == before + 1
        loaded.set()
        assert [one.served.version for one in stream] == [1]
    wait(lambda: count(metrics, "models_in_memory") == before)
    wait(lambda: old() is None)


def test_health_and_list_follow_what_is_loaded(changing: tuple[Serving, Path]) -> None:
    server, root = changing
    write(root / "h", name="h")
    with Client(server.address) as client, Client(server.management) as manager:
        client.wait_ready(30, model="h")

        def health() -> int:
            return int(client._stubs.health.Check(health_pb2.HealthCheckRequest(service="h")).status)

        (unloaded,) = manager.unload_model("h")
        assert (unloaded.state, unloaded.weight_bytes) == ("unloaded", 0)
        assert health() == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(Unavailable, match="it was unloaded"):
            client.sample("h", task="sample", timeout=5)
        (loaded,) = manager.load_model("h")
        assert (loaded.state, loaded.reason) == ("ready", "")
        assert loaded.weight_bytes == sum(path.stat().st_size for path in (root / "h").glob("*.onnx"))
        assert health() == health_pb2.HealthCheckResponse.SERVING
        assert client.sample("h", task="sample")
        (root / "h").rename(root / ".h")
        wait(lambda: health() == health_pb2.HealthCheckResponse.NOT_SERVING)
        wait(lambda: "h" not in [one.name for one in client.models()])
        with pytest.raises(NotFound):
            manager.reload_model("h")


def wait(fact: Callable[[], bool]) -> None:
    """Return once ``fact`` holds."""
    end = time.monotonic() + 30
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.02)


async def test_a_lazy_model_is_loaded_within_the_deadline_of_its_first_call(tmp_path: Path) -> None:
    write(tmp_path / "m")
    with serving(tmp_path, lifecycle=Lifecycle(lazy=True)) as server, Client(server.address) as client:
        assert [one.state for one in client.models()] == ["idle"]
        client.wait_ready(5, model="m")
        with pytest.raises(DeadlineExceeded):
            client.sample("m", task="sample", timeout=0.001)
        assert call(client, 1) == 1
        assert [one.state for one in client.models()] == ["ready"]


# Engines that must be built.

released = threading.Event()
"""What the slow engine waits for when it builds."""
built: list[str] = []
"""The graphs that it has built."""


@hookimpl
def ganserve_engines() -> list[Engine]:
    return [
        Engine(
            name=name,
            summary="ONNX Runtime, built while somebody waits",
            available=f"{__name__}:available",
            load=f"{__name__}:{load}",
            must_build=f"{__name__}:must_build",
        )
        for name, load in (("slow", "build"), ("slow-and-wrong", "build_wrong"))
    ]


def available() -> None:
    return None


def must_build(graph_file: Path, options: Options) -> bool:
    return options.graph.name not in built


def build(graph_file: Path, options: Options) -> OnnxRuntimeSession:
    if must_build(graph_file, options):
        assert released.wait(20)
        built.append(options.graph.name)
    return OnnxRuntimeSession(graph_file, options)


def build_wrong(graph_file: Path, options: Options) -> OnnxRuntimeSession:
    assert released.wait(20)
    raise EngineError("it cannot be built after all")


def with_slow(root: Path, metrics: Metrics, *engines: str, **lifecycle: Any) -> Repository:
    released.clear()
    built.clear()
    settings = Settings(threads=1, engines=tuple(map(EngineChoice, engines)))
    return Repository((root,), load_plugins(extra=[sys.modules[__name__]]), settings, metrics, Lifecycle(**lifecycle))


async def until(fact: Callable[[], bool]) -> None:
    for _ in range(3000):
        if fact():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


async def test_another_engine_answers_while_the_preferred_one_is_built(tmp_path: Path) -> None:
    metrics = Metrics()
    write(tmp_path / "m")
    repository = with_slow(tmp_path, metrics, "slow", "onnxruntime")
    await repository.start()
    (entry,) = repository
    first = repository.get("m")
    assert {loaded.engine for loaded in first.graphs.values()} == {"onnxruntime"}
    assert entry.state == "ready"
    assert entry.reason == "slow is being built; meanwhile other engines answer"
    labels = {"model": "m", "graph": "mapping"}
    assert count(metrics, "engine_in_use", **labels, engine="onnxruntime") == 1
    released.set()
    await until(lambda: repository.get("m") is not first)
    assert {loaded.engine for loaded in repository.get("m").graphs.values()} == {"slow"}
    assert (entry.reason, built) == ("", ["mapping", "synthesis"])
    assert count(metrics, "engine_in_use", **labels, engine="slow") == 1
    assert count(metrics, "engine_in_use", **labels, engine="onnxruntime") == 0
    released.clear()
    await repository.reload("m")
    assert {loaded.engine for loaded in repository.get("m").graphs.values()} == {"slow"}, "it need not be built again"
    await repository.close()


async def test_an_engine_that_cannot_be_built_leaves_the_other_one_and_says_so(tmp_path: Path) -> None:
    write(tmp_path / "m")
    repository = with_slow(tmp_path, Metrics(), "slow-and-wrong", "onnxruntime")
    await repository.start()
    (entry,) = repository
    first = repository.get("m")
    released.set()
    await until(lambda: "is being built" not in entry.reason)
    assert entry.reason == "slow-and-wrong does not serve it: it was refused; the log says why"
    assert repository.get("m") is first
    await repository.close()


async def test_an_engine_without_another_one_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "m")
    repository = with_slow(tmp_path, Metrics(), "absent", "slow")
    starting = asyncio.create_task(repository.start())
    done, _ = await asyncio.wait([starting], timeout=0.2)
    assert not done
    released.set()
    await starting
    assert {loaded.engine for loaded in repository.get("m").graphs.values()} == {"slow"}
    await repository.close()


async def test_what_was_built_for_a_model_that_has_gone_is_put_away(tmp_path: Path) -> None:
    metrics = Metrics()
    write(tmp_path / "m")
    repository = with_slow(tmp_path, metrics, "slow", "onnxruntime")
    await repository.start()
    await repository.unload("m")
    released.set()
    await until(lambda: len(built) == 2 and count(metrics, "models_in_memory") == 0)
    assert not repository.serves("m")
    await repository.close()


async def test_a_server_that_ends_does_not_wait_for_a_build(tmp_path: Path) -> None:
    write(tmp_path / "m")
    repository = with_slow(tmp_path, Metrics(), "slow", "onnxruntime")
    await repository.start()
    await asyncio.wait_for(repository.close(), 5)
    released.set()


def test_memory_of_a_model_that_was_unloaded_is_given_back() -> None:
    script = f"""
import asyncio, os
from pathlib import Path
from ganserve.metrics import Metrics
from ganserve.plugins import installed
from ganserve.serving.model import Settings
from ganserve.serving.repository import Repository

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def run():
    metrics = Metrics()
    repository = Repository([Path({str(ROOT / "bundles")!r})], installed(), Settings(threads=1, max_batch=8), metrics)
    async def cycle():
        await repository.load("dcgan-emoji")
        grown = resident()
        await repository.unload("dcgan-emoji")
        while metrics.registry.get_sample_value("ganserve_models_in_memory"):
            await asyncio.sleep(0.01)
        return grown, resident()
    _, before = await cycle()
    for _ in range(3):
        loaded, after = await cycle()
        print(loaded - before, after - before)
        before = after

asyncio.run(run())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    cycles = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert all(loaded > 5e6 for loaded, _ in cycles)
    # What is kept by chance is kept once; a leak shows every time.
    assert min(left / loaded for loaded, left in cycles) < 0.2


# The command line.


def test_models_are_loaded_and_unloaded_from_the_command_line(changing: tuple[Serving, Path]) -> None:
    server, _ = changing

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["models", *arguments, "--server", server.management])

    unloaded = run("unload", "t", "--json")
    assert unloaded.exit_code == 0, unloaded.output
    assert {one["state"] for one in json.loads(unloaded.output)} == {"unloaded"}
    assert "it was unloaded" in run().output
    assert "ready" in run("load", "t").output
    assert "ready" in run("reload", "t").output
    refused = run("load", "nope")
    assert (refused.exit_code, "there is no model 'nope'" in refused.output) == (1, True)
    assert "name the MODEL to load: ganserve models load MODEL" in run("load").output
    assert "list takes no MODEL" in run("list", "t").output


def test_serve_refuses_a_rule_that_is_none() -> None:
    result = CliRunner().invoke(cli, ["serve", "--versions", "m=newest"])
    assert result.exit_code == 2
    assert "'newest' names no versions; write all, latest, latest:2, or numbers such as 1,3" in result.output


def test_serve_watches_no_folder_unless_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GANSERVE_SERVE_WATCH", raising=False)
    assert parsed("serve", [])["watch"] is None
    assert parsed("serve", ["--watch", "5"])["watch"] == 5
    assert Lifecycle().watch is None

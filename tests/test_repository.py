"""The models of a server: found, loaded or refused each on its own, and told apart by name and version."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ganserve.bundle import MANIFEST, digest
from ganserve.errors import BundleError, NotFound, Unavailable
from ganserve.metrics import Metrics
from ganserve.plugins import installed
from ganserve.serving.entry import Entry
from ganserve.serving.model import EngineChoice, Settings
from ganserve.serving.repository import Repository
from ganserve.serving.server import ServerSettings, running
from ganserve.testing.echo import write_bundle
from ganserve.v1 import generation_pb2, generation_pb2_grpc, models_pb2, models_pb2_grpc


def make(*roots: Path, engines: tuple[EngineChoice, ...] = (EngineChoice("onnxruntime"),)) -> Repository:
    return Repository(roots, installed(), Settings(threads=1, engines=engines), Metrics())


async def load(*roots: Path, engines: tuple[EngineChoice, ...] = (EngineChoice("onnxruntime"),)) -> Repository:
    repository = make(*roots, engines=engines)
    await repository.start()
    return repository


def states(repository: Repository) -> list[tuple[str, int, str]]:
    return [(entry.name, entry.version, entry.state) for entry in repository]


def failed(repository: Repository) -> Entry:
    (entry,) = [entry for entry in repository if entry.state == "failed"]
    return entry


def wrong_golden(folder: Path) -> Path:
    """Make the golden rows say something that no engine makes."""
    with np.load(folder / "golden.npz") as found:
        arrays = {name: found[name] for name in found.files}
    arrays["mapping.w"] = arrays["mapping.w"] + np.float32(0.25)
    np.savez(folder / "golden.npz", **arrays)
    manifest = json.loads((folder / MANIFEST).read_text())
    found_file = digest(folder / "golden.npz")
    manifest["files"]["golden.npz"] = {"sha256": found_file.sha256, "size": found_file.size}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def rewrite(folder: Path, old: str, new: str) -> Path:
    text = (folder / MANIFEST).read_text()
    assert old in text
    (folder / MANIFEST).write_text(text.replace(old, new))
    return folder


async def test_a_folder_is_a_bundle_or_holds_bundles_or_folders_of_versions(tmp_path: Path) -> None:
    write_bundle(tmp_path / "many" / "plain", name="plain")
    write_bundle(tmp_path / "many" / "numbered" / "1", name="numbered", version=1)
    write_bundle(tmp_path / "many" / "numbered" / "2", name="numbered", version=2)
    (tmp_path / "many" / ".hidden").mkdir()
    (tmp_path / "many" / "notes.txt").write_text("no bundle")
    write_bundle(tmp_path / "single", name="single")
    repository = await load(tmp_path / "many", tmp_path / "single")
    assert states(repository) == [
        ("numbered", 1, "ready"),
        ("numbered", 2, "ready"),
        ("plain", 1, "ready"),
        ("single", 1, "ready"),
    ]
    assert repository.get("numbered").manifest.version == 2
    assert repository.get("numbered", 1).manifest.version == 1
    with pytest.raises(NotFound, match="model 'numbered' has no version 3; there are 1, 2"):
        repository.get("numbered", 3)
    with pytest.raises(NotFound, match="there is no model 'nope'; there are numbered, plain, single"):
        repository.get("nope")
    await repository.close()


def test_a_root_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a folder; give a bundle, or a folder that holds bundles"):
        make(tmp_path / "absent")


def test_what_still_loads_is_unavailable_and_not_unknown(echo: Path) -> None:
    repository = make(echo)
    assert states(repository) == [("echo", 1, "loading")]
    with pytest.raises(Unavailable, match="model 'echo' is loading"):
        repository.get("echo")


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / MANIFEST).write_text("{"), "manifest.json is not a manifest"),
    (lambda folder: (folder / MANIFEST).unlink(), "there is no manifest.json"),
    (lambda folder: (folder / "walk.onnx").write_bytes(b"x"), "walk.onnx has 1 bytes"),
    (lambda folder: (folder / "golden.npz").unlink(), "golden.npz is missing"),
    (wrong_golden, "output 'w': golden rows differ by 0.0773 of their largest value, at most 0.001 is allowed"),
    (
        lambda folder: rewrite(folder, '"codec": "image"', '"codec": "hologram"'),
        "no plugin provides the codec 'hologram'",
    ),
    (lambda folder: rewrite(folder, '"classes": 3', '"classes": 2'), "3 names, 3 of them different, for 2 classes"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
async def test_a_bundle_that_fails_hinders_no_other_and_says_why(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    write_bundle(tmp_path / "a-whole", name="whole")
    damage(write_bundle(tmp_path / "broken", name="broken"))
    write_bundle(tmp_path / "z-whole", name="last")
    repository = await load(tmp_path)
    entry = failed(repository)
    assert entry.name == "broken"
    assert message in entry.reason
    assert str(tmp_path) not in entry.reason, "callers need not know where bundles lie"
    assert repository.serves("whole")
    assert repository.serves("last")
    assert not repository.serves("broken")
    with pytest.raises(Unavailable, match="model 'broken' is failed: "):
        repository.get("broken")


async def test_two_folders_that_claim_one_name_and_version(tmp_path: Path) -> None:
    write_bundle(tmp_path / "first", name="same")
    write_bundle(tmp_path / "second", name="same")
    repository = await load(tmp_path)
    assert failed(repository).folder.name == "second"
    assert failed(repository).reason == (
        "bundle second: same 1 is already served from first; remove one, or export it with another version"
    )
    assert repository.get("same") is repository.get("same", 1)
    assert repository.serves("same")


async def test_a_failed_version_does_not_hide_one_that_serves(tmp_path: Path) -> None:
    write_bundle(tmp_path / "m" / "1", name="m", version=1)
    wrong_golden(write_bundle(tmp_path / "m" / "2", name="m", version=2))
    repository = await load(tmp_path)
    assert states(repository) == [("m", 1, "ready"), ("m", 2, "failed")]
    assert repository.get("m").manifest.version == 1
    with pytest.raises(Unavailable, match="golden rows differ"):
        repository.get("m", 2)


async def test_the_next_engine_serves_where_the_first_is_refused(echo: Path) -> None:
    choices = (EngineChoice("absent"), EngineChoice("onnxruntime", "bf16"), EngineChoice("onnxruntime"))
    repository = await load(echo, engines=choices)
    assert {loaded.engine for loaded in repository.get("echo").graphs.values()} == {"onnxruntime"}
    alone = await load(echo, engines=choices[:2])
    reason = failed(alone).reason
    assert "no engine can serve graph 'mapping'" in reason
    assert "absent: no plugin provides the engine 'absent'" in reason
    assert "runs fp32, not bf16" in reason


async def test_a_server_that_has_computed_nothing_says_so(echo: Path) -> None:
    metrics = Metrics()
    await Repository((echo,), installed(), Settings(threads=1), metrics).start()
    idle = {"model": "echo", "engine": "onnxruntime"}
    assert metrics.registry.get_sample_value("ganserve_engine_seconds_sum", idle) == 0


async def test_refused_engines_are_counted_by_their_reasons(tmp_path: Path) -> None:
    wrong_golden(write_bundle(tmp_path / "echo"))
    choices = (EngineChoice("absent"), EngineChoice("onnxruntime", "bf16"), EngineChoice("onnxruntime"))
    metrics = Metrics()
    await Repository((tmp_path,), installed(), Settings(threads=1, engines=choices), metrics).start()
    counted = {
        tuple(sample.labels.values()): sample.value
        for family in metrics.engine_refusals.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    assert counted == {
        ("echo", "absent", "unavailable"): 1,
        ("echo", "onnxruntime", "failed"): 1,
        ("echo", "onnxruntime", "golden"): 1,
    }


async def test_loading_ends_early_when_it_is_told_to(tmp_path: Path) -> None:
    for name in "abc":
        write_bundle(tmp_path / name, name=name)
    repository = make(tmp_path)
    repository.stop_loading()
    await repository.start()
    assert {state for _, _, state in states(repository)} == {"loading"}


async def test_the_server_serves_what_it_can_and_lists_why_it_cannot_the_rest(tmp_path: Path, echo: Path) -> None:
    shutil.copytree(echo, tmp_path / "echo")
    wrong_golden(write_bundle(tmp_path / "echo-2", name="echo", version=2))
    (write_bundle(tmp_path / "broken", name="broken") / "walk.onnx").unlink()
    settings = ServerSettings(bundles=(tmp_path,), port=0, metrics_port=None, models=Settings(threads=1))
    async with (
        running(settings, installed()) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        await server.ready.wait()
        listed = (await models_pb2_grpc.ModelsStub(channel).List(models_pb2.ListRequest())).models
        assert [(one.model, one.version, models_pb2.ModelState.Name(one.state)) for one in listed] == [
            ("broken", 1, "MODEL_STATE_FAILED"),
            ("echo", 1, "MODEL_STATE_READY"),
            ("echo", 2, "MODEL_STATE_FAILED"),
        ]
        assert listed[0].reason == "bundle broken: walk.onnx is missing or no plain file; copy the whole folder again"
        assert "golden rows differ" in listed[2].reason
        assert listed[1].engines["walk"] == "onnxruntime"
        check = health_pb2_grpc.HealthStub(channel).Check
        assert (await check(health_pb2.HealthCheckRequest(service="echo"))).status == 1, "version 1 serves"
        assert (await check(health_pb2.HealthCheckRequest(service="broken"))).status == 2
        sample = generation_pb2_grpc.GenerationStub(channel).Sample
        assert (await sample(generation_pb2.SampleRequest(model="echo", task="sample", count=1))).served.version == 1
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await sample(generation_pb2.SampleRequest(model="broken", count=1))
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_built_engines_are_not_kept_among_bundles(tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path / "bundles" / "cache")
    (tmp_path / "bundles").mkdir()
    with pytest.raises(BundleError, match="engines are never taken from a bundle; choose another --cache-dir"):
        Repository((tmp_path / "bundles",), installed(), settings, Metrics())

"""The encoder of inversion: its sizes, what it learns, how it gets into a bundle, and who is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from ganserve import bundle, golden
from ganserve.bundle import Bundle
from ganserve.engines import Options, onnxruntime
from ganserve.engines import torch as torch_engine
from ganserve.errors import ExportError, TrainingError
from ganserve.plugins import Plugins, installed
from ganserve.spec import Spec, Step
from ganserve_trainers.command import train
from ganserve_trainers.encoder import CONFIG, Encoder, Layout, layout_of, load, with_encoder
from ganserve_trainers.encoder_command import train_encoder
from ganserve_trainers.encoder_training import train_encoder as train_encoder_of
from ganserve_trainers.export import Label, export_run

pytestmark = pytest.mark.usefixtures("one_registry")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DCGAN of digits with an encoder."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("runs") / "digits"
    options = ["dcgan", "--preset", "tiny", "--data", "digits:", "--out", str(folder), "--kimg", "6.4"]
    options += ["--snapshot-kimg", "3.2", "--device", "cpu", "--threads", "1"]
    assert CliRunner().invoke(train, options, catch_exceptions=False).exit_code == 0
    made = CliRunner().invoke(train_encoder, [str(folder), "--kimg", "6.4", "--threads", "1"], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    lines = made.output.splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("6.4 kimg: PSNR ")
    assert psnr(lines[-1]) > psnr(lines[0]), "it learns"
    return folder


def psnr(line: str) -> float:
    return float(line.split("PSNR ")[1].split(" dB")[0])


@pytest.fixture(scope="module")
def made(one_registry: None, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_run(run, tmp_path_factory.mktemp("bundles") / "digits", Label(name="digits"))


@pytest.mark.parametrize(
    ("image", "latent", "layers", "convolutions"),
    [
        ((8, 8, 1), (16,), False, 1),
        ((28, 28, 1), (100,), False, 3),
        ((64, 64, 3), (10, 128), True, 4),
        ((64, 128, 3), (4, 2, 2), False, 4),
    ],
)
def test_it_has_the_size_of_its_family(
    image: tuple[int, int, int], latent: tuple[int, ...], layers: bool, convolutions: int
) -> None:
    encoder = Encoder(Layout(image=image, latent=latent, layers=layers)).eval()
    latents = encoder(torch.zeros(2, *image, dtype=torch.uint8))
    assert latents.shape == (2, *latent)
    assert sum(isinstance(module, nn.Conv2d) for module in encoder.modules()) == convolutions
    if layers:
        assert bool((latents == latents[:, :1]).all()), "one row for all layers"


def test_it_starts_at_the_mean_of_the_latents() -> None:
    encoder = Encoder(Layout(image=(8, 8, 1), latent=(2, 3), layers=True))
    latents = 5 + 2 * torch.randn(1000, 1, 3, generator=torch.Generator().manual_seed(0)).expand(-1, 2, -1)
    encoder.centre(latents)
    torch.testing.assert_close(encoder.mean, torch.full((3,), 5.0), rtol=0, atol=0.2)
    torch.testing.assert_close(encoder.deviation, torch.full((3,), 2.0), rtol=0, atol=0.2)


def test_a_bundle_without_one_is_as_it_was() -> None:
    family = installed().family("dcgan")
    spec = family.spec(family.config("tiny"))
    assert with_encoder(spec, family.config("tiny")) is spec


def test_the_bundle_has_a_graph_and_a_start(made: Bundle) -> None:
    manifest = bundle.read(made.folder).manifest
    (task,) = (task for task in manifest.tasks if task.kind == "invert")
    assert task.inversion is not None
    assert task.inversion.starts == {"samples": "z_sample", "encoder": "encoded"}
    assert [step.graph for step in task.steps] == ["encoder", "invert", "generator"]
    assert isinstance(task.steps[0], Step)
    graph = manifest.graph("encoder")
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in (*graph.inputs, *graph.outputs)] == [
        ("target", "uint8", (8, 8, 1)),
        ("encoded", "float32", (16,)),
    ]
    assert graph.parity < 1e-5


@pytest.mark.parametrize("engine", [onnxruntime, torch_engine])
def test_engines_reproduce_it(made: Bundle, engine: object) -> None:
    graph = made.manifest.graph("encoder")
    session = engine.load(made.path(graph.file), Options(graph=graph, threads=1))  # type: ignore[attr-defined]
    assert golden.check(made, graph, session, "fp32") < 0.1


def test_its_guess_is_nearer_than_another_sample(made: Bundle, run: Path) -> None:
    """On pictures that it has not seen: the loss of the step, at the guess and at samples."""
    sessions = {
        graph.name: onnxruntime.load(made.path(graph.file), Options(graph=graph, threads=1))
        for graph in made.manifest.graphs
    }

    def call(name: str, output: str, **feeds: np.ndarray) -> np.ndarray:
        session = sessions[name]
        made = session.run({key: session.upload(array) for key, array in feeds.items()}, [output])
        return session.download(made[output])

    random = np.random.default_rng(7)
    z, other = random.standard_normal((2, 32, 16), np.float32)
    target = call("generator", "image", z=z)

    def loss(x: np.ndarray) -> float:
        state = dict.fromkeys(("x", "first", "second", "best"), x)
        numbers = {"best_loss": np.zeros(32, np.float32), "rate": np.ones(32, np.float32)}
        counts = {"step": np.zeros(32, np.int64), "steps": np.ones(32, np.int64)}
        return float(np.median(call("invert", "loss", target=target, **state, **numbers, **counts)))

    guess = call("encoder", "encoded", target=target)
    assert loss(guess) < 0.5 * loss(other)


def test_equal_arguments_give_equal_encoders(run: Path, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        shutil.copytree(run, tmp_path / name)
        train_encoder_of(tmp_path / name, images=64, batch=16, seed=1, device="cpu", report=lambda line: None, kimg=3.2)
        found.append((tmp_path / name / "encoder" / "encoder.safetensors").read_bytes())
    assert found[0] == found[1]


def test_an_encoder_of_another_checkpoint_is_refused(run: Path) -> None:
    found = load(run, 6400)
    assert found is not None
    assert found[1].images == 6400
    with pytest.raises(ExportError, match=r"checkpoint at 6.4 kimg, and this is the one at 3.2: train it again"):
        export_run(run, run.parent / "none", Label(name="none"), kimg=3.2)
    assert not (run.parent / "none").exists()


@pytest.mark.parametrize("damage", ["record", "weights", "layout"])
def test_a_damaged_encoder_is_refused(run: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(run / "encoder", tmp_path / "encoder")
    record, weights = tmp_path / "encoder" / "encoder.json", tmp_path / "encoder" / "encoder.safetensors"
    if damage == "record":
        record.write_text("{")
    elif damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-40])
    else:
        text = json.loads(record.read_text())
        text["layout"]["latent"] = [17]
        record.write_text(json.dumps(text))
    with pytest.raises(ExportError, match=r"(?s)cannot be read: .*; train it again, or delete the folder"):
        load(tmp_path, 6400)


def test_a_run_without_an_encoder_has_none(tmp_path: Path) -> None:
    assert load(tmp_path, 1) is None


def test_families_that_cannot_be_inverted_are_refused(
    families: Plugins, train_toy: Callable[..., object], tmp_path: Path
) -> None:
    train_toy(tmp_path / "toy", kimg=0.064)
    with pytest.raises(TrainingError, match=r"no task of kind 'invert'.*its tasks are sample"):
        train_encoder_of(
            tmp_path / "toy", images=8, batch=8, seed=0, device="cpu", report=lambda line: None, known=families
        )


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    result = CliRunner().invoke(train_encoder, [str(tmp_path)])
    assert result.exit_code == 1
    assert "holds no run" in result.output


def test_every_family_with_layers_gets_one_row() -> None:
    family = installed().family("stylegan2")
    layout = layout_of(family.spec(family.config("tiny")))
    assert layout.layers
    spec = with_encoder(family.spec(family.config("tiny")), {CONFIG: msgspec.to_builtins(layout)})
    assert isinstance(spec, Spec)
    assert spec.graph("encoder").outputs[0].shape == layout.latent

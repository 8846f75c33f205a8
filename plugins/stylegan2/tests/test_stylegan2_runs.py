"""Runs of StyleGAN2 as a user makes them: with named classes, and grown from a lower resolution."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from ganserve_stylegan2.network import build
from ganserve_trainers import checkpoint
from ganserve_trainers.classes import with_classes
from ganserve_trainers.command import train
from ganserve_trainers.run import load_run

NAMES = ("heart", "flag")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve grey pictures of 16x16, a third of them of class 0."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16), np.uint8)
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{index:02}.png")
    labels = [[f"{index:02}.png", int(index >= 4)] for index in range(12)]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "names": NAMES}))
    return folder


def start(out: Path, images: Path, *more: str | Path, kimg: float = 0.008) -> Result:
    fast = ("--kimg", kimg, "--grid", 4, "--threads", 1, "--device", "cpu", "--set", "classes=2")
    arguments = ("stylegan2", "--preset", "tiny", "--data", images, "--out", out, *fast, *more)
    return CliRunner().invoke(train, [str(argument) for argument in arguments])


def weights(run: Path) -> dict[str, torch.Tensor]:
    saved = checkpoint.latest(run / "checkpoints")
    assert saved is not None
    return {f"{name}.{key}": tensor for name, network in saved.networks.items() for key, tensor in network.items()}


def test_classes_go_into_the_spec_with_their_names_and_counts(images: Path, tmp_path: Path) -> None:
    assert start(tmp_path, images).exit_code == 0
    run = load_run(tmp_path)
    tasks = with_classes(run.family.spec(run.config), run.config).tasks
    sources = [source for task in tasks for source in task.inputs if source.codec == "label"]
    assert len(sources) == 2  # of the tasks sample and invert
    for source in sources:
        assert dict(source.options) == {"classes": 2, "names": NAMES, "counts": (4, 8)}


def test_a_run_grows_from_one_of_a_lower_resolution(images: Path, tmp_path: Path) -> None:
    """What both have is the smaller one's, moved by next to nothing; the rest is drawn."""
    small, large, drawn = tmp_path / "small", tmp_path / "large", tmp_path / "drawn"
    larger = ("--set", "image=[16,16,1]", "--set", "base=64", "--set", "g_lr=1e-9", "--set", "d_lr=1e-9", "--seed", "2")
    # base says how many feature maps a resolution has: as many in both.
    assert start(small, images, "--set", "base=64", "--seed", "1").exit_code == 0
    refused = start(large, images, *larger, "--begin-from", small)
    assert refused.exit_code == 1
    assert "does not fit network 'synthesis'" in refused.output
    for done in (start(large, images, *larger, "--begin-from", small, "--grow"), start(drawn, images, *larger)):
        assert done.exit_code == 0, done.output
    before, after, fresh = weights(small), weights(large), weights(drawn)
    same = [key for key, tensor in after.items() if key in before and before[key].shape == tensor.shape]
    for key in same:
        if not key.startswith(("ada", "mapping.w_avg", "synthesis.path_length")):  # these follow what is seen
            torch.testing.assert_close(after[key], before[key], rtol=0, atol=1e-6)
    new = set(after) - set(same)
    for key in new:
        torch.testing.assert_close(after[key], fresh[key], rtol=0, atol=1e-6)
    parts = ("synthesis.blocks.2.", "discriminator.blocks.16.", "discriminator.picture.")
    assert all(key.startswith(parts) for key in new)
    assert all(any(key.startswith(part) for key in new) for part in parts[:2])


def test_a_run_goes_on_with_more_feature_maps(images: Path, tmp_path: Path) -> None:
    """Wider networks make what the narrower ones made, and judge it alike."""
    narrow, wide = tmp_path / "narrow", tmp_path / "wide"
    still = ("--set", "g_lr=1e-9", "--set", "d_lr=1e-9")
    assert start(narrow, images, "--set", "base=64", "--seed", "1").exit_code == 0
    done = start(wide, images, "--set", "base=128", *still, "--seed", "2", "--begin-from", narrow, "--grow")
    assert done.exit_code == 0, done.output
    z, labels = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])
    made = []
    for run in (narrow, wide):
        saved = checkpoint.latest(run / "checkpoints")
        assert saved is not None
        networks = build(load_run(run).config)
        checkpoint.restore(networks, saved.networks, run)
        w, noise = networks["mapping"](z, labels)[:, None].expand(-1, 4, -1), torch.zeros(4, 16 + 2 * 64)
        image = networks["synthesis"](w, noise)
        made.append((image.detach(), networks["discriminator"](image, labels).detach()))
    assert weights(wide)["synthesis.blocks.1.layers.1.convolution.weight"].shape[0] == 16
    assert weights(narrow)["synthesis.blocks.1.layers.1.convolution.weight"].shape[0] == 8
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)


def test_a_run_goes_on_against_another_discriminator(images: Path, tmp_path: Path) -> None:
    """The generator goes on as it was; the discriminator of another kind is drawn."""
    before, after, drawn = tmp_path / "before", tmp_path / "after", tmp_path / "drawn"
    other = ("--set", "discriminator=sngan", "--set", "r1=0", "--set", "g_lr=1e-9", "--set", "d_lr=1e-9", "--seed", "2")
    assert start(before, images, "--seed", "1").exit_code == 0
    for done in (start(after, images, *other, "--begin-from", before), start(drawn, images, *other)):
        assert done.exit_code == 0, done.output
    then, now, fresh = weights(before), weights(after), weights(drawn)
    assert not any(key.startswith("discriminator.") for key in now)
    follows = ("mapping.w_avg", "synthesis.path_length")  # what is seen
    same = [key for key in now if key.startswith(("mapping.", "synthesis.")) and key not in follows]
    for key in same:
        torch.testing.assert_close(now[key], then[key], rtol=0, atol=1e-6)
    assert any(not torch.equal(then[key], fresh[key]) for key in same)
    for key in (key for key in now if key.startswith("sngan.")):
        torch.testing.assert_close(now[key], fresh[key], rtol=0, atol=1e-2 if key.endswith((".u", ".v")) else 1e-6)


def test_growing_needs_something_to_grow_from(images: Path, tmp_path: Path) -> None:
    done = start(tmp_path / "run", images, "--grow")
    assert done.exit_code == 2
    assert "give --begin-from too" in done.output


@pytest.mark.parametrize(
    ("discriminator", "judge"),
    [("stylegan2", "discriminator.embedding.weight"), ("sngan", "sngan.embedding.parametrizations.weight.original")],
)
def test_classes_are_found_again_by_their_names(discriminator: str, judge: str, images: Path, tmp_path: Path) -> None:
    """Begun from a run with other classes: what a name meant, it means; a name that is new is drawn."""
    other = tmp_path / "other"
    shutil.copytree(images, other)
    content = json.loads((images / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**content, "names": ["flag", "star"]}))
    before, after, drawn = tmp_path / "before", tmp_path / "after", tmp_path / "drawn"
    kind = ("--set", f"discriminator={discriminator}", "--set", "r1=0")
    still = (*kind, "--set", "g_lr=1e-9", "--set", "d_lr=1e-9", "--seed", "2")
    assert start(before, images, *kind, "--seed", "1").exit_code == 0
    for done in (start(after, other, *still, "--begin-from", before), start(drawn, other, *still)):
        assert done.exit_code == 0, done.output
    then, now, fresh = weights(before), weights(after), weights(drawn)
    for key in ("mapping.embedding.weight", judge):
        flag, star = 0, 1
        torch.testing.assert_close(now[key][:, flag], then[key][:, NAMES.index("flag")], rtol=0, atol=1e-6)
        torch.testing.assert_close(now[key][:, star], fresh[key][:, star], rtol=0, atol=1e-6)
        assert not torch.equal(then[key], fresh[key])


def test_fewer_classes_make_the_images_that_they_made(images: Path, tmp_path: Path) -> None:
    """An equalized learning rate makes little of each of many inputs: what a class has grows by as much as the others are fewer."""
    only = tmp_path / "only"
    only.mkdir()
    for picture in images.glob("*.png"):
        shutil.copy(picture, only)
    (only / "dataset.json").write_text(
        json.dumps({"labels": [[f"{n:02}.png", 0] for n in range(12)], "names": ["flag"]})
    )
    before, after = tmp_path / "before", tmp_path / "after"
    still = ("--set", "g_lr=1e-9", "--set", "d_lr=1e-9", "--set", "classes=1")
    assert start(before, images, "--seed", "1").exit_code == 0
    done = start(after, only, *still, "--seed", "2", "--begin-from", before)
    assert done.exit_code == 0, done.output
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    made = []
    for run, label in ((before, NAMES.index("flag")), (after, 0)):
        saved = checkpoint.latest(run / "checkpoints")
        assert saved is not None
        networks = build(load_run(run).config)
        checkpoint.restore(networks, saved.networks, run)
        made.append(networks["mapping"](z, torch.full((4,), label)).detach())
    torch.testing.assert_close(made[1], made[0], rtol=1e-4, atol=1e-4)

"""bench/classes.py: what it says of classes that vary, of one that does not, and of a discriminator that knows its images by heart."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ganserve_trainers.command import train


@pytest.fixture(scope="module")
def classes() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "bench")
        yield importlib.import_module("classes")


def test_a_class_that_is_one_image_over_and_over_shows(classes: ModuleType) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    real = classes.Labelled(rng.integers(0, 256, (60, 4, 4, 3)).astype(np.uint8), labels)
    made = rng.integers(0, 256, (60, 4, 4, 3)).astype(np.float32)
    made[labels == 1] = made[1]
    made[labels == 2] = 128 + (made[labels == 2] - 128) / 2
    found = classes.spread(made[:40], labels[:40], real)
    assert found[0] == pytest.approx(1, abs=0.1)
    assert found[1] < 1e-6
    assert found[2] == pytest.approx(0.5, abs=0.05)
    assert classes.spread(made[:20], labels[:20], real) == {}  # too few of each


def test_images_count_as_real_above_a_logit_of_0(classes: ModuleType) -> None:
    images, labels = torch.zeros(64, 1, 2, 2), torch.arange(64) % 4
    assert classes.believed(lambda _, label: label - 0.5, images, labels) == 0.75


def test_a_run_is_looked_at(classes: ModuleType, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for index, picture in enumerate(pixels):
            Image.fromarray(picture).save(tmp_path / split / f"{index:02}.png")
        labels = [[f"{index:02}.png", index % 2] for index in range(40)]
        (tmp_path / split / "dataset.json").write_text(json.dumps({"labels": labels, "names": ["heart", "flag"]}))
    run = (
        "stylegan2",
        "--preset",
        "tiny",
        "--data",
        tmp_path / "train",
        "--out",
        tmp_path / "run",
        "--set",
        "classes=2",
    )
    done = CliRunner().invoke(
        train, [*map(str, run), "--kimg", "0.008", "--grid", "4", "--threads", "1", "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    arguments = (tmp_path / "run", "--data", tmp_path / "train", "--held-out", tmp_path / "test", "--count", "32")
    found = CliRunner().invoke(classes.main, list(map(str, arguments)))
    assert found.exit_code == 0, found.output
    training, held_out, made, heart, flag = found.output.splitlines()
    assert training.startswith("training images taken for real: ")
    assert held_out.removeprefix("held-out") == training.removeprefix("training")  # they are the same images
    assert made.startswith("made images taken for real: ")
    assert float(heart.removeprefix("heart: ")) > 0
    assert float(flag.removeprefix("flag: ")) > 0

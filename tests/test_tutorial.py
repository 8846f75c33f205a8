"""docs/tutorial-family.md, done as it says."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from ganserve.plugins import load

from .tutorial import BLOCK, Tutorial

PAGE = Path(__file__).parents[1] / "docs" / "tutorial-family.md"

pytestmark = pytest.mark.timeout(900)  # seconds where nothing else runs, but many trainings may share the machine


class Followed(NamedTuple):
    """The page, done: what its commands printed, what the server said to a wrong one, and how it ended."""

    folder: Path
    told: str
    refusal: str
    exit_code: int | None


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    reader = Tutorial(tmp_path_factory.mktemp("tutorial") / "scribble")
    try:
        told = reader.follow(PAGE.read_text())
        wrong = subprocess.run(
            ["ganserve", "sample", "scribble", "--label", "12"],
            cwd=reader.folder,
            env=reader.environment,
            capture_output=True,
            text=True,
        )
        assert wrong.returncode == 1
        yield Followed(reader.folder, told, wrong.stderr, reader.stop())
    finally:
        if reader.server:
            reader.server.kill()


def test_the_page_has_the_files_that_it_announces() -> None:
    files = [block["path"] for block in BLOCK.finditer(PAGE.read_text()) if block["path"]]
    (announced,) = (block["text"] for block in BLOCK.finditer(PAGE.read_text()) if block["language"] == "text")
    assert files == [line.split()[0] for line in announced.splitlines()]
    assert len(files) == 5


def test_the_plugin_is_listed_and_conforms(followed: Followed) -> None:
    rows = [line.split() for line in followed.told.splitlines()]
    (row,) = (row for row in rows if row[:1] == ["scribble"] and "ganserve-scribble" in row)
    assert row[:3] == ["scribble", "0.1.0", "active"]
    summary = re.search(r"^(\d+) passed", followed.told, re.MULTILINE)
    assert summary, followed.told
    assert int(summary[1]) >= 10
    assert "failed" not in followed.told


def test_the_installation_stayed_in_its_own_environment(followed: Followed) -> None:
    assert "scribble" not in load().families


def test_the_files_are_there_that_the_page_names(followed: Followed) -> None:
    for name in ("run/samples/fakes-000050.png", "run/samples/reals.png"):
        assert f"`{Path(name).name}`" in PAGE.read_text() or f"`{name}`" in PAGE.read_text()
        assert (followed.folder / name).is_file()
    bundle = sorted(path.name for path in (followed.folder / "bundles" / "scribble").iterdir())
    assert bundle == ["generator.onnx", "golden.npz", "manifest.json", "weights.bin"]


def test_the_server_makes_the_digits_that_were_asked_for(followed: Followed) -> None:
    digits = load_digits()
    judge = KNeighborsClassifier(3).fit(digits.data, digits.target)
    labels = np.arange(100) % 10
    assert (judge.predict(tiles(followed.folder / "digits.png", 10)) == labels).mean() > 0.7
    threes = tiles(followed.folder / "threes.png", 4)
    assert (judge.predict(threes) == 3).mean() > 0.7
    # Sixteen threes, not one three sixteen times: real ones differ by 2.6 of 16 levels.
    assert threes.std(axis=0).mean() > 0.8


def test_a_wrong_label_is_refused_as_the_page_says(followed: Followed) -> None:
    (message,) = re.findall(r"`(labels\[0\]: [^`]+)`", PAGE.read_text())
    assert message in followed.refusal


def test_the_server_ended_well(followed: Followed) -> None:
    assert followed.exit_code == 0, (followed.folder / "server.log").read_text()


def tiles(path: Path, columns: int) -> np.ndarray:
    """The images of a grid, with scikit-learn's range of 0 to 16: [n, 64]."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode == "L"
        assert image.size == (columns * 10 - 2,) * 2
        pixels = np.asarray(image)
    cells = [pixels[y : y + 8, x : x + 8] for y in range(0, len(pixels), 10) for x in range(0, len(pixels), 10)]
    return np.stack(cells).reshape(-1, 64) / 255 * 16

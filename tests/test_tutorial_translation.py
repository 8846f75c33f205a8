"""docs/tutorial-translation.md, done as it says."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from ganserve.plugins import load

from .tutorial import Tutorial

PAGE = Path(__file__).parents[1] / "docs" / "tutorial-translation.md"

pytestmark = pytest.mark.timeout(900)  # seconds where nothing else runs, but many trainings may share the machine


class Followed(NamedTuple):
    """The page, done: what its commands printed, and how the server ended."""

    folder: Path
    told: str
    exit_code: int | None


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    reader = Tutorial(tmp_path_factory.mktemp("tutorial") / "mend")
    try:
        told = reader.follow(PAGE.read_text())
        yield Followed(reader.folder, told, reader.stop())
    finally:
        if reader.server:
            reader.server.kill()


def test_the_plugin_conforms_and_stays_in_its_environment(followed: Followed) -> None:
    summary = re.search(r"^(\d+) passed", followed.told, re.MULTILINE)
    assert summary, followed.told
    assert int(summary[1]) >= 10
    assert "mend" not in load().families


def test_every_held_out_picture_is_translated(followed: Followed) -> None:
    names = {path.name for path in (followed.folder / "data" / "testA").iterdir()}
    assert {path.name for path in (followed.folder / "mended").iterdir()} == names
    errors = {side: [] for side in ("damaged", "mended")}
    for name in names:
        whole, damaged, mended = (
            np.asarray(Image.open(followed.folder / folder / name), float)
            for folder in ("data/testB", "data/testA", "mended")
        )
        errors["damaged"].append(np.abs(damaged - whole).mean())
        errors["mended"].append(np.abs(mended - whole).mean())
    assert np.mean(errors["mended"]) < np.mean(errors["damaged"]) * 2 / 3


def test_python_says_the_same_and_takes_another_size(followed: Followed) -> None:
    error = re.search(r"error ([\d.]+) -> ([\d.]+) of 255", followed.told)
    assert error, followed.told
    assert float(error[2]) < float(error[1]) * 2 / 3
    assert "(333, 77)" in followed.told


def test_the_server_ended_well(followed: Followed) -> None:
    assert followed.exit_code == 0, (followed.folder / "server.log").read_text()

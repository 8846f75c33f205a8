"""The starter bundles as they are committed: small, sound, served together by a server that stays small, and shown by the demo."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ganserve import Client, bench
from ganserve.bundle import read
from ganserve.cli import cli
from ganserve.testing.server import serving

STARTERS = Path(__file__).parents[1] / "bundles"
BUNDLES = sorted(path.parent for path in STARTERS.glob("*/manifest.json"))
MEGABYTE = 1_000_000
MOST_RESIDENT_MIB = 250

starter = pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)


def test_there_are_some() -> None:
    assert {folder.name for folder in BUNDLES} >= {"dcgan-fashion", "dcgan-emoji", "stylegan2-emoji", "pix2pix-edges"}


@starter
def test_a_bundle_is_small_sound_and_says_where_it_comes_from(folder: Path) -> None:
    manifest = read(folder).manifest
    assert manifest.name == folder.name
    assert manifest.licence
    assert manifest.attribution
    most = 8 if manifest.family == "stylegan2" else 6
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= most * MEGABYTE
    page = (folder / "README.md").read_text()
    assert f"ganserve train {manifest.family} " in page
    assert "--seed " in page
    assert manifest.files["weights.bin"].sha256 in page, "its figures are of these weights"


def test_a_direction_changes_a_picture_the_more_the_further_it_is_followed() -> None:
    """Both ways, from 16 samples: the picture's distance from where it began (root mean square, grey levels) only grows."""
    folder, steps = STARTERS / "stylegan2-emoji", (0, 1, 2, 4, 8)
    with serving(folder) as server, Client(server.address) as client:
        found = read(folder).manifest.directions
        assert len(found) == 10
        for name, sign in itertools.product(found, (-1, 1)):
            ways = client.sample(
                folder.name,
                seeds=[seed for seed in range(16) for _ in steps],
                directions={name: [sign * step for _ in range(16) for step in steps]},
                format="raw",
            )
            pictures = np.stack([way.array() for way in ways]).astype(float).reshape(16, len(steps), -1)
            apart = np.sqrt(np.square(pictures - pictures[:, :1]).mean((0, 2)))
            assert (np.diff(apart) > 0).all(), (name, sign, apart)


def test_one_server_has_them_all_without_torch_and_stays_small() -> None:
    found = bench.start(STARTERS)
    assert not found.imports_torch
    assert found.resident_mib < MOST_RESIDENT_MIB


def test_the_demo_shows_each_of_them(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["demo", "--bundles", str(STARTERS), "--out", str(tmp_path), "--n", "4"])
    assert result.exit_code == 0, result.output
    assert "is not served" not in result.output
    pictures = [path.name for path in tmp_path.glob("*.png")]
    for folder in BUNDLES:
        (picture,) = [name for name in pictures if name.startswith(folder.name)]
        with Image.open(tmp_path / picture) as grid:
            assert len(grid.convert("RGB").getcolors(1 << 24) or ()) > 100, "no picture is as flat as that"

"""Runs of DCGAN as a user makes them: begun from another, with wider networks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor

from ganserve_dcgan.network import build
from ganserve_trainers import checkpoint
from ganserve_trainers.command import train
from ganserve_trainers.run import load_run

NARROW = (
    "--set",
    "generator=[[16,4,1,0],[8,4,2,1],[1,3,1,1]]",
    "--set",
    "discriminator=[[16,4,2,1],[24,3,1,1],[1,4,1,0]]",
)
WIDE = (
    "--set",
    "generator=[[24,4,1,0],[12,4,2,1],[1,3,1,1]]",
    "--set",
    "discriminator=[[20,4,2,1],[40,3,1,1],[1,4,1,0]]",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve grey pictures of 8x8."""
    folder = tmp_path_factory.mktemp("images")
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


def start(out: Path, images: Path, *more: str | Path) -> Result:
    fast = ("--kimg", "0.04", "--grid", "4", "--threads", "1", "--device", "cpu", "--set", "d_norm=batch")
    arguments = ("dcgan", "--preset", "tiny", "--data", images, "--out", out, *fast, *more)
    return CliRunner().invoke(train, [str(argument) for argument in arguments])


def answers(run: Path) -> tuple[Tensor, Tensor]:
    """What the networks of ``run`` make of some latents, and of those pictures."""
    saved = checkpoint.latest(run / "checkpoints")
    assert saved is not None
    networks = build(load_run(run).config)
    checkpoint.restore(networks, saved.networks, run)
    z = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    # By the statistics of these pictures: those that batch normalization has gathered go on while nothing else does.
    with torch.no_grad():
        made = networks["generator"].train()(z)
        return made, networks["discriminator"].train()(made)


def test_a_run_goes_on_with_more_feature_maps(images: Path, tmp_path: Path) -> None:
    """Wider networks make what the narrower ones made, and judge it alike."""
    narrow, wide, drawn = tmp_path / "narrow", tmp_path / "wide", tmp_path / "drawn"
    still = (*WIDE, "--set", "g_lr=1e-9", "--set", "d_lr=1e-9", "--seed", "2")
    assert start(narrow, images, *NARROW, "--seed", "1").exit_code == 0
    refused = start(wide, images, *still, "--begin-from", narrow)
    assert refused.exit_code == 1
    assert "does not fit network" in refused.output
    for done in (start(wide, images, *still, "--begin-from", narrow, "--grow"), start(drawn, images, *still)):
        assert done.exit_code == 0, done.output
    for before, after, fresh in zip(answers(narrow), answers(wide), answers(drawn), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
        assert torch.dist(fresh, before) > 0.5 * before.norm()

"""Training noise has the distribution that its spec declares."""

import pytest
import torch

from ganserve.errors import TrainingError
from ganserve.spec import Noise
from ganserve_trainers.latents import draw
from ganserve_trainers.recipe import Source


def source() -> Source:
    return Source(torch.Generator().manual_seed(0), 20_000)


def test_normal() -> None:
    z = draw(Noise(distribution="normal"), source(), 8)
    assert z.shape == (20_000, 8)
    assert z.mean().item() == pytest.approx(0, abs=0.01)
    assert z.std().item() == pytest.approx(1, abs=0.01)


def test_uniform_between_its_bounds() -> None:
    z = draw(Noise(distribution="uniform", low=-3.0, high=1.0), source(), 8)
    assert -3.0 <= z.min().item() < -2.99
    assert 0.99 < z.max().item() < 1.0
    assert z.mean().item() == pytest.approx(-1, abs=0.02)


def test_a_distribution_that_training_cannot_draw_is_named() -> None:
    with pytest.raises(TrainingError, match="there is no noise 'sphere': choose one of normal, uniform"):
        draw(Noise(distribution="sphere"), source(), 8)

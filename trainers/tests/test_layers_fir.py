"""The filter [1, 3, 3, 1] against an explicit one: zeros put in, padded, every tap added, pixels left out."""

import numpy as np
import pytest
import torch
from torch import nn

from ganserve_trainers.layers.fir import Double, Halve, Smooth

TAPS = np.array([1.0, 3.0, 3.0, 1.0]) / 8


def resampled(images: np.ndarray, up: int, down: int, before: int, after: int) -> np.ndarray:
    """``images`` [n, C, H, W] with up - 1 zeros behind each pixel, padded, filtered along both axes, every ``down``-th pixel."""
    rows, channels, height, width = images.shape
    spread = np.zeros((rows, channels, height * up, width * up))
    spread[:, :, ::up, ::up] = images
    padded = np.pad(spread, ((0, 0), (0, 0), (before, after), (before, after)))
    high, wide = padded.shape[2] - len(TAPS) + 1, padded.shape[3] - len(TAPS) + 1
    result = np.zeros((rows, channels, high, wide))
    for y, vertical in enumerate(TAPS):
        for x, horizontal in enumerate(TAPS):
            # A convolution turns its filter around; this one is the same either way.
            result += vertical * horizontal * padded[:, :, y : y + high, x : x + wide]
    return result[:, :, ::down, ::down]


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 8, 12))


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_smooth(images: np.ndarray, padding: int) -> None:
    made = Smooth(3, padding, gain=4.0).double()(torch.from_numpy(images))
    np.testing.assert_allclose(made.numpy(), 4 * resampled(images, 1, 1, padding, padding), atol=1e-12)


def test_halve(images: np.ndarray) -> None:
    made = Halve(3).double()(torch.from_numpy(images))
    assert made.shape == (2, 3, 4, 6)
    np.testing.assert_allclose(made.numpy(), resampled(images, 1, 2, 1, 1), atol=1e-12)


def test_double(images: np.ndarray) -> None:
    made = Double(3).double()(torch.from_numpy(images))
    assert made.shape == (2, 3, 16, 24)
    np.testing.assert_allclose(made.numpy(), 4 * resampled(images, 2, 1, 2, 1), atol=1e-12)


def test_what_varies_slowly_keeps_its_values_inside() -> None:
    ramp = torch.linspace(-1, 1, 16).expand(1, 1, 16, 16)
    doubled, halved = Double(1)(ramp), Halve(1)(ramp)
    assert (doubled[..., 2:-2, 2:-2].diff(dim=-1) - 2 / 30).abs().max() < 1e-6
    assert (halved[..., 1:-1, 1:-1].diff(dim=-1) - 4 / 15).abs().max() < 1e-6
    torch.testing.assert_close(doubled[..., 2:-2, 2:-2].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_the_finest_checkerboard_is_filtered_out() -> None:
    checkers = torch.ones(1, 1, 16, 16)
    checkers[..., ::2, 1::2] = checkers[..., 1::2, ::2] = -1
    assert Halve(1)(checkers)[..., 1:-1, 1:-1].abs().max() == 0


@pytest.mark.parametrize("layer", [Smooth(2, 1), Smooth(2, 2, gain=4.0), Halve(2), Double(2)])
def test_gradients_of_any_order(layer: nn.Module) -> None:
    images = torch.randn(2, 2, 6, 8, dtype=torch.float64, requires_grad=True)
    layer = layer.double()
    assert torch.autograd.gradcheck(layer, images)
    # Squared, so that the second derivative is not zero.
    assert torch.autograd.gradgradcheck(lambda features: layer(features).square(), images)


def test_the_filter_is_no_weight() -> None:
    layer = Smooth(2, 1)
    assert not list(layer.parameters())
    assert not layer.state_dict(), "nothing that a checkpoint would have to hold"
    assert layer(torch.zeros(1, 2, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16

"""Equalized learning rate: what comes out has the scale of what goes in, and Adam moves every layer equally fast."""

import pytest
import torch
from torch import Tensor, nn

from ganserve_trainers.layers.equalized import EqualizedConv2d, EqualizedLinear, plain


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("rate", [1.0, 0.01])
@pytest.mark.parametrize("inputs", [64, 1024])
def test_variance_is_kept_whatever_the_size_and_the_rate(inputs: int, rate: float) -> None:
    layer = EqualizedLinear(inputs, 512, rate=rate)
    assert layer(torch.randn(256, inputs)).std().item() == pytest.approx(1, rel=0.02)
    assert layer.weight.std().item() == pytest.approx(1 / rate, rel=0.02)


def test_variance_is_kept_by_convolutions() -> None:
    layer = EqualizedConv2d(64, 64, 3)
    assert layer(torch.randn(16, 64, 12, 12)).std().item() == pytest.approx(1, rel=0.02)


def test_scale_multiplies_weight_and_bias() -> None:
    layer, features = EqualizedLinear(8, 4, scale=3.0, start=2.0), torch.randn(5, 8)
    expected = 3 * (features @ layer.weight.T / 8**0.5 + 2)
    torch.testing.assert_close(layer(features), expected)
    convolution = EqualizedConv2d(2, 3, 3, stride=2, padding=1, scale=0.5)
    nn.init.ones_(convolution.bias)
    images = torch.randn(2, 2, 8, 8)
    expected = nn.functional.conv2d(images, convolution.weight / 18**0.5, torch.ones(3), 2, 1) / 2
    torch.testing.assert_close(convolution(images), expected)


def test_what_a_bias_starts_from_does_not_depend_on_the_rate() -> None:
    for rate in (1.0, 0.01):
        layer = EqualizedLinear(4, 4, rate=rate, start=1.0)
        torch.testing.assert_close(layer(torch.zeros(1, 4)), torch.ones(1, 4))


def test_layers_without_bias_have_none() -> None:
    assert EqualizedLinear(4, 4, bias=False).bias is None
    assert EqualizedConv2d(4, 4, 1, bias=False)(torch.zeros(1, 4, 2, 2)).abs().max() == 0


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_one_step_of_adam_moves_the_weight_by_the_learning_rate_times_gain_and_rate(rate: float) -> None:
    layer = EqualizedLinear(100, 10, rate=rate)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    before = effective(layer)
    layer(torch.randn(4, 100)).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(
        (effective(layer) - before).abs().mean(), torch.tensor(1e-3 * rate / 10), rtol=1e-2, atol=0
    )


def effective(layer: EqualizedLinear) -> Tensor:
    with torch.no_grad():
        return layer.weight * layer.gain


def test_plain_layers_do_the_same_with_constant_weights() -> None:
    network = nn.Sequential(
        EqualizedConv2d(3, 8, 3, stride=2, padding=1, scale=2**0.5),
        nn.LeakyReLU(0.2),
        EqualizedConv2d(8, 4, 1, bias=False),
        nn.Flatten(),
        EqualizedLinear(64, 5, rate=0.01, scale=2.0, start=1.0),
    )
    nn.init.normal_(network[0].bias)
    copied = plain(network)
    assert [type(layer) for layer in copied] == [nn.Conv2d, nn.LeakyReLU, nn.Conv2d, nn.Flatten, nn.Linear]
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(copied(images), network(images))
    assert isinstance(network[0], EqualizedConv2d), "the network itself stays as it was"
    assert not plain(network.requires_grad_(False))[0].weight.requires_grad

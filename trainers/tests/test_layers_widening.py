"""A wider layer computes what the narrower one did, and the rest of it is drawn."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ganserve_trainers.layers.equalized import EqualizedConv2d, EqualizedLinear
from ganserve_trainers.layers.widening import Widens, is_narrower


def conv(inputs: int, outputs: int) -> nn.Module:
    return EqualizedConv2d(inputs, outputs, 3, padding=1, scale=2**0.5)


def linear(inputs: int, outputs: int) -> nn.Module:
    return EqualizedLinear(inputs, outputs, rate=0.01)


@pytest.mark.parametrize(("make", "shape"), [(conv, (2, 3, 4, 4)), (linear, (2, 3))])
def test_what_a_layer_made_it_still_makes(make: Callable[[int, int], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    narrow, wide, drawn = make(3, 5), make(7, 11), torch.Generator().manual_seed(1)
    nn.init.normal_(narrow.bias)
    assert isinstance(wide, Widens)
    before = {name: parameter.clone() for name, parameter in wide.named_parameters()}
    wide.load_state_dict({name: wide.widened(name, parameter) for name, parameter in narrow.named_parameters()})
    features = torch.randn(shape, generator=drawn)
    more = torch.cat([features, torch.randn((2, 4, *shape[2:]), generator=drawn)], 1)
    made: Tensor = wide(more)
    torch.testing.assert_close(made[:, :5], narrow(features))
    assert torch.equal(wide.weight[5:], before["weight"][5:]), "new outputs are drawn, of all inputs"
    assert torch.equal(wide.bias[5:], before["bias"][5:])
    made[:, :5].square().sum().backward()
    assert wide.weight.grad[:5, 3:].abs().min() > 0, "and the old ones learn of the new inputs at once"


def test_fewer_features_are_narrower_and_other_kernels_are_not() -> None:
    wide = torch.zeros(8, 6, 3, 3)
    assert is_narrower(torch.zeros(8, 4, 3, 3), wide)
    assert not is_narrower(torch.zeros(9, 4, 3, 3), wide)
    assert not is_narrower(torch.zeros(8, 6, 1, 1), wide)
    assert not is_narrower(torch.zeros(8, 6), wide)

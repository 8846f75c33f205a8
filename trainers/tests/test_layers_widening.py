"""A wider layer computes what the narrower one did, and the rest of it is drawn."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ganserve_trainers.layers.equalized import EqualizedConv2d, EqualizedLinear
from ganserve_trainers.layers.normalization import NORMALIZATIONS
from ganserve_trainers.layers.widening import Widens, fitted, is_narrower


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


def plain(widths: tuple[int, int], normalization: str, kind: Callable[..., nn.Module] = nn.Conv2d) -> nn.Sequential:
    first, second = widths
    around = NORMALIZATIONS[normalization].around
    layers = [*around(kind(3, first, 4, 2, 1), first, {}), nn.ReLU(), *around(kind(first, second, 4, 2, 1), second, {})]
    return nn.Sequential(*layers, nn.Conv2d(second, 1, 1))


def widen(wide: nn.Module, narrow: nn.Module) -> nn.Module:
    own = wide.state_dict()
    made = {key: fitted(wide, key, own[key], saved) for key, saved in narrow.state_dict().items()}
    assert None not in made.values(), [key for key, value in made.items() if value is None]
    wide.load_state_dict(made)
    return wide


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_networks_of_pytorchs_layers_compute_what_they_did(kind: Callable[..., nn.Module], normalization: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 8)
    narrow, wide = plain((4, 6), normalization, kind), plain((7, 9), normalization, kind)
    for _ in range(3):
        narrow(images)
    widen(wide, narrow)
    torch.testing.assert_close(wide.eval()(images), narrow.eval()(images))
    torch.testing.assert_close(wide.train()(images), narrow.train()(images))


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("normalization", ["spectral", "stable_rank"])
def test_a_normalized_weight_keeps_its_direction_and_its_norm_is_known(
    kind: Callable[..., nn.Module], normalization: str
) -> None:
    torch.manual_seed(0)
    narrow, wide = plain((4, 6), normalization, kind), plain((7, 9), normalization, kind)
    widen(wide, narrow)
    before, after = narrow[2].weight.detach(), wide[2].weight.detach()
    old = after[tuple(slice(size) for size in before.shape)]
    assert nn.functional.cosine_similarity(old.flatten(), before.flatten(), 0) > 0.99
    for _ in range(20):
        wide(torch.randn(2, 3, 8, 8))
    norm = wide[2].parametrizations.weight[0]
    assert float(torch.linalg.matrix_norm(norm.as_matrix(wide[2].weight.detach()), 2)) == pytest.approx(1, abs=0.05)


def test_what_does_not_fit_is_told_apart() -> None:
    wide = plain((7, 9), "batch")
    weight = wide.state_dict()["0.weight"]
    assert fitted(wide, "0.weight", weight, torch.zeros(4, 3, 3, 3)) is None, "another kernel"
    assert fitted(wide, "0.weight", weight, torch.zeros(8, 3, 4, 4)) is None, "fewer feature maps than there were"
    assert fitted(nn.PReLU(4), "weight", torch.ones(4), torch.ones(2)) is None, "a layer nobody knows how to widen"

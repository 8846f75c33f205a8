"""Normalizations against the singular values that torch.linalg finds, folding, weights at the start, the way to bytes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from ganserve.errors import TrainingError
from ganserve_trainers.layers.denormalize import Denormalize, to_bytes
from ganserve_trainers.layers.initialization import normal_weights
from ganserve_trainers.layers.normalization import NORMALIZATIONS
from ganserve_trainers.layers.spectral import SpectralNorm, fold, spectral_norm, stable_rank_norm

LAYERS = {
    "linear": lambda: nn.Linear(24, 16),
    "convolution": lambda: nn.Conv2d(6, 10, 4, 2, 1),
    "transposed": lambda: nn.ConvTranspose2d(10, 6, 4, 2, 1),
}


def matrix(layer: nn.Module) -> Tensor:
    """The layer's weight as [outputs, everything else]."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return (weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight).flatten(1).detach()


def stable_rank(weight: Tensor) -> float:
    return (weight.norm() / torch.linalg.matrix_norm(weight, ord=2)).square().item()


def converge(layer: nn.Module) -> nn.Module:
    """Power iteration until u and v stand still."""
    layer.train()
    with torch.no_grad():
        for _ in range(1000):
            _ = layer.weight
    return layer.eval()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


@pytest.mark.parametrize("kind", LAYERS)
def test_spectral_norm_divides_by_the_largest_singular_value(kind: str) -> None:
    plain = LAYERS[kind]()
    layer = converge(spectral_norm(copy.deepcopy(plain)))
    torch.testing.assert_close(matrix(layer), matrix(plain) / torch.linalg.matrix_norm(matrix(plain), ord=2))
    assert torch.linalg.matrix_norm(matrix(layer), ord=2).item() == pytest.approx(1, abs=1e-5)


def test_spectral_norm_starts_close_to_one() -> None:
    """The first updates must not meet weights that are far too large."""
    layer = spectral_norm(nn.Linear(256, 128)).eval()
    assert torch.linalg.matrix_norm(matrix(layer), ord=2).item() == pytest.approx(1, abs=0.1)


def test_spectral_norm_takes_one_step_of_power_iteration_a_call_in_training_mode_only() -> None:
    layer = spectral_norm(nn.Linear(5, 4))
    norm = layer.parametrizations.weight[0]
    weight = layer.parametrizations.weight.original.detach()
    u = norm.u.clone()
    v = nn.functional.normalize(weight.T @ u, dim=0)
    expected = nn.functional.normalize(weight @ v, dim=0)
    layer(torch.zeros(1, 5))
    torch.testing.assert_close(norm.v, v)
    torch.testing.assert_close(norm.u, expected)
    layer.eval()
    layer(torch.zeros(1, 5))
    torch.testing.assert_close(norm.u, expected, rtol=0, atol=0)


def test_spectral_norm_has_the_gradient_of_the_paper() -> None:
    """Miyato et al., 2018, eq. 12: for a loss with gradient G in W / sigma it is (G - <G, W / sigma> u v^T) / sigma in W."""
    layer = converge(spectral_norm(nn.Linear(6, 4)))
    norm, original = layer.parametrizations.weight[0], layer.parametrizations.weight.original
    gradient = torch.randn(4, 6)
    (layer.weight * gradient).sum().backward()
    weight = original.detach()
    sigma = torch.linalg.matrix_norm(weight, ord=2)
    expected = (gradient - (gradient * weight / sigma).sum() * torch.outer(norm.u, norm.v)) / sigma
    torch.testing.assert_close(original.grad, expected, rtol=1e-4, atol=1e-5)


def test_two_calls_before_the_backward_pass_are_allowed() -> None:
    """A discriminator sees real and generated images before its one backward pass."""
    layer = spectral_norm(nn.Linear(3, 2))
    (layer(torch.ones(1, 3)).sum() - layer(torch.zeros(1, 3)).sum()).backward()
    assert torch.isfinite(layer.parametrizations.weight.original.grad).all()


def test_spectral_norm_keeps_full_precision_under_autocast() -> None:
    layer = spectral_norm(nn.Linear(64, 32))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for _ in range(1000):
            weight = layer.weight
    assert weight.dtype == torch.float32
    assert torch.linalg.matrix_norm(weight, ord=2).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("c", [0.2, 0.3])
def test_stable_rank_norm_reaches_its_bound(kind: str, c: float) -> None:
    """These weights have a stable rank above the bound, so it becomes exactly the bound, at spectral norm 1."""
    plain = LAYERS[kind]()
    bound = c * min(matrix(plain).shape)
    assert stable_rank(matrix(plain)) > bound
    layer = converge(stable_rank_norm(plain, c))
    assert torch.linalg.matrix_norm(matrix(layer), ord=2).item() == pytest.approx(1, abs=1e-4)
    assert stable_rank(matrix(layer)) == pytest.approx(bound, rel=1e-3)


def test_stable_rank_norm_keeps_the_leading_singular_vectors_and_scales_the_rest_alike() -> None:
    """Sanyal et al., 2020, theorem 1: only the singular values below the first change, all by one factor."""
    weight = torch.diag(torch.tensor([4.0, 2.0, 2.0, 1.0]))
    layer = nn.Linear(4, 4)
    layer.weight.data.copy_(weight)
    # Squares of the rest after division by 4: 1/4 + 1/4 + 1/16 = 9/16, so ||S|| = 3/4; sqrt(r - 1) for r = 5/4 is 1/2.
    layer = converge(stable_rank_norm(layer, c=5 / 16))
    expected = torch.diag(torch.tensor([1.0, 1 / 3, 1 / 3, 1 / 6]))
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-5, atol=1e-5)


def test_stable_rank_norm_leaves_a_low_stable_rank_as_spectral_norm_does() -> None:
    weight = torch.diag(torch.tensor([4.0, 1.0, 0.0]))
    layer = nn.Linear(3, 3)
    layer.weight.data.copy_(weight)
    layer = converge(stable_rank_norm(layer, c=1.0))
    torch.testing.assert_close(layer.weight.detach(), weight / 4)


def test_stable_rank_norm_of_a_single_output_is_its_direction() -> None:
    """One output has rank 1: the bound c * 1 is below any stable rank, and 1 takes its place."""
    plain = nn.Conv2d(8, 1, 4)
    layer = converge(stable_rank_norm(copy.deepcopy(plain), c=0.7))
    torch.testing.assert_close(matrix(layer), nn.functional.normalize(matrix(plain)))
    layer(torch.randn(2, 8, 4, 4)).sum().backward()
    assert torch.isfinite(layer.parametrizations.weight.original.grad).all()


@pytest.mark.parametrize("normalize", [spectral_norm, stable_rank_norm])
def test_folding_gives_plain_layers_with_the_same_outputs(normalize) -> None:
    network = nn.Sequential(
        normalize(nn.Conv2d(3, 8, 4, 2, 1)),
        nn.ReLU(),
        normalize(nn.ConvTranspose2d(8, 3, 4, 2, 1)),
        nn.Flatten(),
        normalize(nn.Linear(3 * 64, 5)),
    ).eval()
    images = torch.randn(2, 3, 8, 8)
    folded = fold(network)
    torch.testing.assert_close(folded(images), network(images), rtol=0, atol=0)
    assert [type(layer) for layer in folded] == [nn.Conv2d, nn.ReLU, nn.ConvTranspose2d, nn.Flatten, nn.Linear]
    assert sorted(folded.state_dict()) == ["0.bias", "0.weight", "2.bias", "2.weight", "4.bias", "4.weight"]
    assert isinstance(network[0].parametrizations.weight[0], SpectralNorm)  # the original is still normalized


def test_folding_leaves_training_mode_of_the_original() -> None:
    network = nn.Sequential(spectral_norm(nn.Linear(2, 2)), nn.BatchNorm1d(2)).train()
    assert not fold(network).training
    assert network.training


def test_every_normalization_goes_around_a_layer() -> None:
    images = torch.randn(4, 3, 8, 8)
    for name, options, modules in (
        ("none", {}, 1),
        ("batch", {}, 2),
        ("spectral", {}, 1),
        ("stable_rank", {"c": 0.5}, 1),
    ):
        around = NORMALIZATIONS[name].around(nn.Conv2d(3, 5, 4, 2, 1), 5, options)
        assert len(around) == modules
        assert nn.Sequential(*around)(images).shape == (4, 5, 4, 4)
        assert NORMALIZATIONS[name].centres == (name == "batch")
    assert set(NORMALIZATIONS) == {"none", "batch", "spectral", "stable_rank"}
    with pytest.raises(TrainingError, match="there is no normalization 'layer': choose one of batch, none"):
        NORMALIZATIONS["layer"]


def test_normal_weights_have_the_papers_spread() -> None:
    layer = normal_weights(nn.Conv2d(64, 128, 4))
    assert layer.weight.mean().item() == pytest.approx(0, abs=2e-4)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert layer.bias is not None
    assert layer.bias.abs().max().item() == 0


def test_bytes_are_rounded_and_clipped_and_channels_come_last() -> None:
    values = torch.tensor([-1.5, -1.0, 0.0, 1 / 255, 1.0, 1.5])  # 0.0 is 127.5, a tie: the even 128
    images = values.view(1, 2, 1, 3)  # one image, two channels, one row, three columns
    levels = to_bytes(images)
    assert levels.dtype == torch.uint8
    assert levels.shape == (1, 1, 3, 2)
    assert levels[0, 0].T.flatten().tolist() == [0, 0, 128, 128, 255, 255]


def test_every_level_survives_the_way_to_floats_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    images = levels.permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.equal(to_bytes(images), levels)


def test_denormalize_wraps_a_generator() -> None:
    graph = Denormalize(nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Tanh()))
    assert graph(torch.tensor([[-9.0, 9.0, 9.0, -9.0]]))[0, :, :, 0].tolist() == [[0, 255], [255, 0]]

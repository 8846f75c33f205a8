"""Batch norm fused into the layer before it."""

import pytest
import torch
from torch import nn

from ganserve_trainers.fuse import fuse_batch_norm

LAYERS = [
    (nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), (2, 3, 8, 8)),
    (nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6, affine=False), (2, 4, 8, 8)),
    (nn.ConvTranspose2d(3, 5, 4, 2, 1), nn.BatchNorm2d(5), (2, 3, 8, 8)),
    (nn.ConvTranspose1d(3, 5, 4, 2, 1, bias=False), nn.BatchNorm1d(5), (2, 3, 8)),
    (nn.Linear(3, 5), nn.BatchNorm1d(5), (2, 3)),
]


def moved(norm: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, values in norm.state_dict().items():
        if values.dtype == torch.float32:
            low, high = (0.5, 1.5) if name in ("running_var", "weight") else (-1.0, 1.0)
            values.uniform_(low, high, generator=generator)
    return norm


@pytest.mark.parametrize(("layer", "norm", "shape"), LAYERS)
def test_it_is_fused_into_the_layer_before_it(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    network = nn.Sequential(layer, moved(norm), nn.ReLU()).eval()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    fused = fuse_batch_norm(network)
    assert [type(module) for module in fused] == [type(layer), nn.Identity, nn.ReLU]
    with torch.no_grad():
        torch.testing.assert_close(fused(x), network(x), rtol=1e-5, atol=1e-5)


def test_sequences_inside_modules_are_found_and_the_original_is_left_alone() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 3, 1), moved(nn.BatchNorm2d(3)))
    outer = nn.ModuleDict({"block": inner}).train()
    before = inner[0].weight.detach().clone()  # type: ignore[union-attr]
    fused = fuse_batch_norm(outer)
    assert isinstance(fused["block"][1], nn.Identity)  # type: ignore[index]
    assert isinstance(inner[1], nn.BatchNorm2d)
    assert inner.training
    torch.testing.assert_close(inner[0].weight, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)),
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.InstanceNorm2d(3)),
    ],
)
def test_what_cannot_be_fused_stays(network: nn.Sequential) -> None:
    assert [type(module) for module in fuse_batch_norm(network)] == [type(module) for module in network]

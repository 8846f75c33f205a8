"""Batch normalization after a linear layer is one linear layer in eval mode: fewer nodes, and weights that can be rounded."""

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

Network = TypeVar("Network", bound=nn.Module)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fuse_batch_norm(network: Network) -> Network:
    """A copy of ``network`` in eval mode, each batch norm fused into the layer right before it in an ``nn.Sequential``.

    The batch norm's place is taken by an identity, so every other layer keeps its name. A batch norm that uses batch
    statistics in eval mode is left alone.
    """
    fused = copy.deepcopy(network).eval()
    for sequence in [module for module in fused.modules() if isinstance(module, nn.Sequential)]:
        for index in range(len(sequence) - 1):
            layer, norm = sequence[index], sequence[index + 1]
            if isinstance(norm, _NORMS) and norm.track_running_stats and _before(layer, norm):
                sequence[index] = _fused(layer, norm)
                sequence[index + 1] = nn.Identity()
    return fused


def _before(layer: nn.Module, norm: nn.Module) -> bool:
    # Behind a linear layer whose output has more than two axes, batch norm counts another axis as channels: too rare to fuse.
    if isinstance(layer, nn.Linear):
        return isinstance(norm, nn.BatchNorm1d) and norm.num_features == layer.out_features
    return isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED))


def _fused(layer: nn.Module, norm: nn.Module) -> nn.Module:
    assert isinstance(norm, _NORMS)
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm)
    assert isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED))
    return fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, _TRANSPOSED))

"""Wider layers that begin as the narrower ones they come from (Net2Net: Chen et al., 2016; here without copies of feature maps).

What the layer had stays, what is new is drawn, and the outputs that were there take nothing of the new inputs yet. So a network whose
layers are all widened computes what it did, and learns to use the new feature maps from its first step on.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

INPUTS: Mapping[type[nn.Module], int] = {nn.Linear: 1, nn.Conv2d: 1, nn.ConvTranspose2d: 0}
"""PyTorch's own layers that can be widened, with the axis along which their weight counts its inputs."""

NORMALIZED = ".parametrizations.weight.original"
"""How the name of a weight ends that is normalized when it is used (:mod:`ganserve_trainers.layers.spectral`)."""


@runtime_checkable
class Widens(Protocol):
    """A layer that may have had fewer feature maps."""

    def widened(self, name: str, narrow: Tensor) -> Tensor:
        """What its parameter ``name`` begins with, where a narrower layer's was ``narrow``."""


def fitted(network: nn.Module, key: str, drawn: Tensor, saved: Tensor) -> Tensor | None:
    """``saved`` in the shape of ``drawn``, tensor ``key`` of ``network``'s state; None where it does not fit.

    Batch normalization keeps the statistics of the feature maps that were there. Under spectral normalization all of a wider weight is
    divided by its own norm, which the new feature maps may raise: what the layer computed, it then computes more softly.
    """
    if drawn.shape == saved.shape:
        return saved
    if not is_narrower(saved, drawn):
        return None
    name, _, parameter = key.replace(NORMALIZED, ".weight").rpartition(".")
    layer = network.get_submodule(name)
    if isinstance(layer, Widens):
        return layer.widened(parameter, saved)
    if isinstance(layer, nn.BatchNorm2d):
        return widened(drawn, saved)
    axes = [axis for kind, axis in INPUTS.items() if isinstance(layer, kind)]
    return widened(drawn, saved, axes[0] if parameter == "weight" else None) if axes else None


@torch.no_grad()
def widened(drawn: Tensor, narrow: Tensor, inputs: int | None = None, scale: float = 1.0) -> Tensor:
    """``drawn`` with ``narrow`` times ``scale``, as large or smaller on each axis, in its first corner.

    ``inputs`` is the axis of a weight's inputs: the outputs that were there take nothing of new ones yet. A kernel's sides cannot change.
    """
    made = drawn.clone()
    if inputs is not None:
        outputs = 1 - inputs
        made.narrow(outputs, 0, narrow.shape[outputs]).zero_()
    made[tuple(slice(size) for size in narrow.shape)] = narrow * scale
    return made


def is_narrower(one: Tensor, other: Tensor) -> bool:
    """Whether ``one`` has fewer features than ``other``, and is alike in everything else."""
    return (
        one.ndim == other.ndim
        and one.shape[2:] == other.shape[2:]
        and all(few <= many for few, many in zip(one.shape, other.shape, strict=True))
    )

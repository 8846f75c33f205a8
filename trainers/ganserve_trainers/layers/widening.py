"""Wider layers that begin as the narrower ones they come from (Net2Net: Chen et al., 2016; here without copies of feature maps).

What the layer had stays, what is new is drawn, and the outputs that were there take nothing of the new inputs yet. So a network whose
layers are all widened computes what it did, and learns to use the new feature maps from its first step on.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Widens(Protocol):
    """A layer that may have had fewer feature maps."""

    def widened(self, name: str, narrow: Tensor) -> Tensor:
        """What its parameter ``name`` begins with, where a narrower layer's was ``narrow``."""


@torch.no_grad()
def widened(drawn: Tensor, narrow: Tensor, inputs: int | None = None) -> Tensor:
    """``drawn`` with ``narrow``, as large or smaller on each axis, in its first corner; ``inputs`` is the axis of a weight's inputs.

    A weight is taken for one of an equalized learning rate (:mod:`ganserve_trainers.layers.equalized`), which is used the smaller the more
    inputs there are: what it had grows by as much. A kernel's sides cannot change.
    """
    made = drawn.clone()
    if inputs is not None:
        outputs = 1 - inputs
        made.narrow(outputs, 0, narrow.shape[outputs]).zero_()
        narrow = narrow * math.sqrt(drawn.shape[inputs] / narrow.shape[inputs])
    made[tuple(slice(size) for size in narrow.shape)] = narrow
    return made


def is_narrower(one: Tensor, other: Tensor) -> bool:
    """Whether ``one`` has fewer features than ``other``, and is alike in everything else."""
    return (
        one.ndim == other.ndim
        and one.shape[2:] == other.shape[2:]
        and all(few <= many for few, many in zip(one.shape, other.shape, strict=True))
    )

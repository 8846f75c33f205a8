"""A run that begins from another one whose classes have other numbers: what a label means is kept by the class's name."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec
from torch import Tensor, nn

from ganserve_trainers.checkpoint import Checkpoint
from ganserve_trainers.data.labels import Classes


@runtime_checkable
class Relabels(Protocol):
    """A layer that knows something of each class."""

    def relabelled(self, name: str, saved: Tensor, before: Sequence[int | None]) -> Tensor:
        """What its tensor ``name`` begins with, where it was ``saved`` and the classes were numbers ``before``; None is a new one."""


def relabelled(
    networks: Mapping[str, nn.Module], checkpoint: Checkpoint, then: Classes | None, now: Classes | None
) -> Checkpoint:
    """``checkpoint``, of a run with the classes ``then``, for ``networks`` with the classes ``now``; itself where one has no names."""
    if then is None or now is None or not then.names or not now.names or then.names == now.names:
        return checkpoint
    before = [then.names.index(name) if name in then.names else None for name in now.names]
    saved = {name: dict(tensors) for name, tensors in checkpoint.networks.items()}
    for name, network in networks.items():
        for path, layer in network.named_modules():
            if isinstance(layer, Relabels) and name in saved:
                for key in [key for key in saved[name] if key.startswith(f"{path}.")]:
                    saved[name][key] = layer.relabelled(key.removeprefix(f"{path}."), saved[name][key], before)
    return msgspec.structs.replace(checkpoint, networks=saved)

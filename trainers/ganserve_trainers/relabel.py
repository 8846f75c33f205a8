"""A run that begins from another one whose classes have other numbers: what a label means is kept by the class's name."""

from collections.abc import Mapping

import msgspec
from torch import nn

from ganserve_trainers.checkpoint import Checkpoint
from ganserve_trainers.data.labels import Classes
from ganserve_trainers.layers.equalized import Embedding


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
            key = f"{path}.weight"
            if isinstance(layer, Embedding) and key in saved.get(name, {}):
                saved[name][key] = layer.relabelled(saved[name][key], before)
    return msgspec.structs.replace(checkpoint, networks=saved)

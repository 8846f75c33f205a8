"""The translator's networks and recipe: a distance to the target, and to what the history remembers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ganserve_trainers.recipe import Batch, Logs, Phase, Recipe


class Translator(nn.Module):
    def __init__(self, constant: bool) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 3, 3, padding=1)
        self.constant = constant

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(self.body(torch.zeros_like(images) if self.constant else images))


class History(nn.Module):
    """The last pictures that were made: buffers, and no parameters."""

    pictures: Tensor
    count: Tensor

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.register_buffer("pictures", torch.zeros(size, 3, 8, 8))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def add(self, images: Tensor) -> None:
        for image in images.detach():
            self.pictures[int(self.count) % len(self.pictures)] = image
            self.count += 1


def build(config: Mapping[str, Any]) -> Mapping[str, nn.Module]:
    return {"translator": Translator(config["constant"]), "history": History()}


def train(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> Recipe:
    translator, history = networks["translator"], networks["history"]
    assert isinstance(history, History)

    def loss(batch: Batch) -> tuple[Tensor, Logs]:
        made = translator(batch.tensors["a"])
        remembered = history.pictures.mean().clone()
        history.add(made)
        distance = (made - batch.tensors["b"]).abs().mean()
        return distance + 0.1 * (made.mean() - remembered).square(), {"distance": distance.detach()}

    return Recipe(
        phases=(
            Phase(
                name="translator",
                networks=("translator",),
                optimizer=torch.optim.Adam(translator.parameters(), lr=config["lr"]),
                loss=loss,
                rate=(lambda progress: 1 - progress) if config["decay"] else None,
            ),
        ),
        averaged={"translator": 0.05},
        preview=lambda networks, batch: networks["translator"](batch.tensors["a"]),
        compares=config["compares"],
        shows=lambda networks, batch, previews: (batch.tensors["a"], previews, batch.tensors["b"]),
    )

"""Algorithm 1 of Goodfellow et al., 2014: the discriminator's phase, then the generator's."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ganserve_trainers.losses import LOSSES
from ganserve_trainers.recipe import Batch, Logs, Phase, Recipe
from ganserve_trainers.tables import Table

OPTIMIZERS: Table[Callable[..., torch.optim.Optimizer]] = Table(
    "optimizer", {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
)
"""Name → optimizer, as presets name them."""


def train(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> Recipe:
    """The recipe of ``config`` for ``networks``, a generator and a discriminator."""
    generator, discriminator = networks["generator"], networks["discriminator"]
    loss, options = LOSSES[config["loss"]], config["options"]
    optimizer = OPTIMIZERS[config["optimizer"]]

    def sample(networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        images: Tensor = networks["generator"](batch.source.normal(config["z"]))
        return images

    def discriminator_loss(batch: Batch) -> tuple[Tensor, Logs]:
        with torch.no_grad():
            generated = sample(networks, batch)
        real, fake = discriminator(batch.images), discriminator(generated)
        return loss.discriminator(real, fake), {"real": real.detach().mean(), "fake": fake.detach().mean()}

    def generator_loss(batch: Batch) -> tuple[Tensor, Logs]:
        return loss.generator(discriminator(sample(networks, batch))), {}

    return Recipe(
        phases=(
            Phase(
                name="discriminator",
                networks=("discriminator",),
                optimizer=optimizer(discriminator.parameters(), lr=config["rate"], **options),
                loss=discriminator_loss,
                repeats=config["d_steps"],
            ),
            Phase(
                name="generator",
                networks=("generator",),
                optimizer=optimizer(generator.parameters(), lr=config["rate"], **options),
                loss=generator_loss,
            ),
        ),
        averaged={"generator": config["ema"]},
        preview=sample,
    )

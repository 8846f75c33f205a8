"""The toy's networks and recipe: the non-saturating loss, with switches that sabotage it for tests of the loop."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve_trainers.recipe import Batch, Logs, Phase, Recipe


class Generator(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        height, width, channels = config["image"]
        self.body = nn.Sequential(
            nn.Linear(config["z"], config["hidden"]),
            nn.LeakyReLU(0.2),
            nn.Linear(config["hidden"], height * width * channels),
            nn.Tanh(),
            nn.Unflatten(1, (channels, height, width)),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.body(z)


class Discriminator(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        height, width, channels = config["image"]
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(height * width * channels, config["hidden"]),
            nn.LeakyReLU(0.2),
            nn.Dropout(config["dropout"]),
            nn.Linear(config["hidden"], 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


def build(config: Mapping[str, Any]) -> Mapping[str, nn.Module]:
    return {"generator": Generator(config), "discriminator": Discriminator(config)}


def train(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> Recipe:
    generator, discriminator = networks["generator"], networks["discriminator"]
    sabotage = config["sabotage"]
    steps = 0

    def sample(batch: Batch) -> Tensor:
        return generator(batch.source.normal(config["z"]))

    def d_loss(batch: Batch) -> tuple[Tensor, Logs]:
        nonlocal steps
        steps += 1
        real, fake = discriminator(batch.images), discriminator(sample(batch))
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        if sabotage == "nan" and steps > 30:
            loss = loss * torch.nan
        return loss, {"real": real.mean(), "fake": fake.mean()}

    def g_loss(batch: Batch) -> tuple[Tensor, Logs]:
        fake = sample(batch)
        if sabotage == "collapse":
            return fake.square().mean() * 100, {}
        return F.softplus(-discriminator(fake)).mean(), {}

    def preview(shown: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        return shown["generator"](batch.source.normal(config["z"]))

    def adam(network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=config["lr"], betas=(0.5, 0.99))

    return Recipe(
        phases=(
            Phase(
                name="discriminator",
                networks=("discriminator",),
                optimizer=adam(discriminator),
                loss=d_loss,
                repeats=config["d_steps"],
                clip=config["clip"],
            ),
            Phase(name="generator", networks=("generator",), optimizer=adam(generator), loss=g_loss),
        ),
        averaged={"generator": config["ema"]},
        preview=preview,
    )

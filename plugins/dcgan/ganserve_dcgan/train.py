"""How a DCGAN is trained: the discriminator's and the generator's phase, put together from a preset."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ganserve.spec import Noise
from ganserve_trainers.augment import augment
from ganserve_trainers.latents import draw
from ganserve_trainers.losses import LOSSES
from ganserve_trainers.recipe import Batch, Logs, Phase, Recipe
from ganserve_trainers.regularizers import Critic, clip_weights, gradient_penalty, r1
from ganserve_trainers.tables import Table

OPTIMIZERS: Table[Callable[..., torch.optim.Optimizer]] = Table(
    "optimizer", {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}
)
"""Name → optimizer, as presets name them."""

R1_EVERY = 16
"""R1 is added in every 16th step only, 16 times as strong (lazy regularization: Karras et al., 2020, section 3.1)."""


def train(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> Recipe:
    """The recipe of ``config`` for ``networks``, a generator and a discriminator (or critic)."""
    generator, discriminator = networks["generator"], networks["discriminator"]
    loss, policy, noise = LOSSES[config["loss"]], config["augment"], Noise(distribution=config["noise"])

    def sample(batch: Batch) -> Tensor:
        images: Tensor = generator(draw(noise, batch.source, config["z"]))
        return images

    def critic(batch: Batch) -> Critic:
        return lambda images: discriminator(augment(images, batch.source, policy))

    def discriminator_loss(batch: Batch) -> tuple[Tensor, Logs]:
        with torch.no_grad():
            generated = sample(batch)
        real, fake = critic(batch)(batch.images), critic(batch)(generated)
        total = loss.discriminator(real, fake)
        logs = {"real": real.detach().mean(), "fake": fake.detach().mean()}
        if config["penalty"]:
            penalty = gradient_penalty(critic(batch), batch.images, generated, batch.source, config["penalty"])
            total, logs["penalty"] = total + penalty, penalty.detach()
        return total, logs

    def r1_loss(batch: Batch) -> tuple[Tensor, Logs]:
        penalty = r1(critic(batch), batch.images, config["r1"])
        return penalty * R1_EVERY, {"r1": penalty.detach()}

    def generator_loss(batch: Batch) -> tuple[Tensor, Logs]:
        return loss.generator(critic(batch)(sample(batch))), {}

    def clip() -> None:
        clip_weights(discriminator.parameters(), config["clip"])

    d_optimizer = optimizer(config, discriminator.parameters(), config["d_lr"])
    g_optimizer = optimizer(config, generator.parameters(), config["g_lr"])
    phases = (
        Phase(
            name="discriminator",
            networks=("discriminator",),
            optimizer=d_optimizer,
            loss=discriminator_loss,
            repeats=config["d_steps"],
            after=clip if config["clip"] else None,
        ),
        Phase(name="r1", networks=("discriminator",), optimizer=d_optimizer, loss=r1_loss, every=R1_EVERY),
        Phase(name="generator", networks=("generator",), optimizer=g_optimizer, loss=generator_loss),
    )
    return Recipe(
        phases=tuple(phase for phase in phases if phase.name != "r1" or config["r1"]),
        averaged={"generator": config["ema"]},
        preview=lambda networks, batch: networks["generator"](draw(noise, batch.source, config["z"])),
    )


def optimizer(config: Mapping[str, Any], parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """The optimizer that ``config`` names, moving ``parameters`` at learning rate ``rate``."""
    options = {"betas": config["betas"]} if config["betas"] else {}
    return OPTIMIZERS[config["optimizer"]](parameters, lr=rate, **options)

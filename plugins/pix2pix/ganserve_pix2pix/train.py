"""How pix2pix is trained: the discriminator's and the generator's phase on jittered pairs, put together from a preset."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve_pix2pix import NOISE, noise_size
from ganserve_trainers.latents import draw
from ganserve_trainers.losses import LOSSES
from ganserve_trainers.recipe import Batch, Logs, Phase, Recipe, Source


def train(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> Recipe:
    """The recipe of ``config`` for ``networks``, a generator and a discriminator of pairs."""
    generator, discriminator = networks["generator"], networks["discriminator"]
    loss, numbers = LOSSES[config["loss"]], noise_size(config)

    def pair(batch: Batch) -> tuple[Tensor, Tensor]:
        return jitter(batch.tensors["a"], batch.tensors["b"], config["jitter"], batch.source)

    def translate(generator: nn.Module, inputs: Tensor, source: Source) -> Tensor:
        results: Tensor = generator(inputs, draw(NOISE, source, numbers))
        return results

    def discriminator_loss(batch: Batch) -> tuple[Tensor, Logs]:
        inputs, targets = pair(batch)
        with torch.no_grad():
            results = translate(generator, inputs, batch.source)
        real, fake = discriminator(inputs, targets), discriminator(inputs, results)
        # Section 3.3: the objective is divided by 2 while D is optimized, which slows D down relative to G.
        total = loss.discriminator(real, fake) / 2
        return total, {"real": real.detach().mean(), "fake": fake.detach().mean()}

    def generator_loss(batch: Batch) -> tuple[Tensor, Logs]:
        inputs, targets = pair(batch)
        results = translate(generator, inputs, batch.source)
        adversarial = loss.generator(discriminator(inputs, results))
        distance = l1(results, targets)
        # Eq. 4: the conditional GAN's objective plus lambda times L1.
        return adversarial + config["l1"] * distance, {"adversarial": adversarial.detach(), "l1": distance.detach()}

    def preview(networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        return translate(networks["generator"], batch.tensors["a"], batch.source)

    return Recipe(
        phases=(
            Phase(
                name="discriminator",
                networks=("discriminator",),
                optimizer=optimizer(config, discriminator.parameters()),
                loss=discriminator_loss,
            ),
            Phase(
                name="generator",
                networks=("generator",),
                optimizer=optimizer(config, generator.parameters()),
                loss=generator_loss,
            ),
        ),
        averaged={"generator": config["ema"]} if config["ema"] else {},
        preview=preview,
        compares="b",
        shows=lambda networks, batch, previews: (batch.tensors["a"], previews, batch.tensors["b"]),
    )


def l1(results: Tensor, targets: Tensor) -> Tensor:
    """The mean absolute difference of images in [-1, 1] (eq. 3; there a sum, which would make lambda depend on the size)."""
    return (results.float() - targets).abs().mean()


def jitter(inputs: Tensor, targets: Tensor, more: int, source: Source) -> tuple[Tensor, Tensor]:
    """Both images of every pair enlarged by ``more`` pixels a side, then cut to their size at one random place (section 6.2).

    ``inputs`` and ``targets`` are ``[n, C, H, W]``; 0 leaves them as they are.
    """
    if not more:
        return inputs, targets
    height, width = inputs.shape[2:]
    pairs = torch.cat((inputs, targets), 1)
    enlarged = F.interpolate(pairs, (height + more, width + more), mode="bilinear", align_corners=False)
    rows, columns = (_window(source, size, more, inputs.device) for size in (height, width))
    each, channels = (torch.arange(count, device=inputs.device) for count in pairs.shape[:2])
    cut = enlarged[
        each[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]
    return cut[:, : inputs.shape[1]], cut[:, inputs.shape[1] :]


def optimizer(config: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with the learning rate and betas of ``config`` (section 3.3)."""
    return torch.optim.Adam(parameters, lr=config["lr"], betas=config["betas"])


def _window(source: Source, size: int, more: int, device: torch.device) -> Tensor:
    """``size`` neighbouring positions out of ``size + more``, at a place of its own for each row: int64 [n, size]."""
    first = source.uniform(high=more + 1).floor().long().clamp(max=more)
    return first[:, None] + torch.arange(size, device=device)

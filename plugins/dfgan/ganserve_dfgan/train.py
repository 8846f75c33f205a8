"""How a DF-GAN is trained: the discriminator's and the generator's phase, put together from a preset."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ganserve.spec import Noise
from ganserve_dfgan.network import Discriminator
from ganserve_trainers.augment import augment
from ganserve_trainers.latents import draw
from ganserve_trainers.losses import LOSSES
from ganserve_trainers.recipe import Batch, Logs, Phase, Recipe
from ganserve_trainers.regularizers import TINY


def train(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> Recipe:
    """The recipe of ``config`` for ``networks``, a generator and a discriminator of images and sentences."""
    generator, discriminator = networks["generator"], cast(Discriminator, networks["discriminator"])
    loss = LOSSES["hinge"]
    # Lazy regularization (Karras et al., 2020, StyleGAN2, section 3.1): in every n-th step only, n times as strong.
    lazy = config["every"] > 1

    def generate(batch: Batch, text: Tensor) -> Tensor:
        images: Tensor = generator(draw(Noise(), batch.source, config["z"]), text)
        return images

    def look(batch: Batch, images: Tensor) -> Tensor:
        return discriminator.features(augment(images, batch.source, config["augment"]))

    def discriminator_loss(batch: Batch) -> tuple[Tensor, Logs]:
        images, text = (
            batch.images.detach().requires_grad_(not lazy),
            captions(batch, config["gain"]).requires_grad_(not lazy),
        )
        with torch.no_grad():
            generated = generate(batch, text)
        shown = look(batch, images)
        real = discriminator.match(shown, text)
        # Eq. 1: a real image beside another one's sentence is as wrong as a generated image.
        mismatched = discriminator.match(shown, text.roll(1, 0))
        fake = discriminator.match(look(batch, generated), text)
        total = (loss.discriminator(real, fake) + loss.discriminator(real, mismatched)) / 2
        logs = {"real": real, "fake": fake, "mismatched": mismatched}
        if not lazy:
            logs["penalty"] = matching_penalty(real, (images, text), config["k"], config["p"])
            total = total + logs["penalty"]
        return total, {name: value.detach().mean() for name, value in logs.items()}

    def penalty_loss(batch: Batch) -> tuple[Tensor, Logs]:
        images, text = batch.images.detach().requires_grad_(), captions(batch, config["gain"]).requires_grad_()
        penalty = matching_penalty(
            discriminator.match(look(batch, images), text), (images, text), config["k"], config["p"]
        )
        return penalty * config["every"], {"penalty": penalty.detach()}

    def generator_loss(batch: Batch) -> tuple[Tensor, Logs]:
        text = captions(batch, config["gain"])
        return loss.generator(discriminator.match(look(batch, generate(batch, text)), text)), {}

    def preview(networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        z = draw(Noise(), batch.source, config["z"])
        images: Tensor = networks["generator"](z, batch.tensors["text"][:, 0] * config["gain"])
        return images

    d_optimizer = optimizer(discriminator.parameters(), config["d_lr"], config["betas"])
    g_optimizer = optimizer(generator.parameters(), config["g_lr"], config["betas"])
    d_networks, every = ("discriminator",), config["every"]
    phases = [Phase(name="discriminator", networks=d_networks, optimizer=d_optimizer, loss=discriminator_loss)]
    if lazy:
        phases.append(
            Phase(name="matching", networks=d_networks, optimizer=d_optimizer, loss=penalty_loss, every=every)
        )
    phases.append(Phase(name="generator", networks=("generator",), optimizer=g_optimizer, loss=generator_loss))
    return Recipe(
        phases=tuple(phases),
        averaged={"generator": config["ema"]},
        preview=preview,
        shows=lambda networks, batch, previews: (batch.images, previews),
    )


def captions(batch: Batch, gain: float) -> Tensor:
    """The vector ``[n, text]`` of one caption of each image, chosen at random among those that it has, times ``gain``."""
    vectors, counts = batch.tensors["text"], batch.tensors["texts"]
    chosen = (batch.source.uniform() * counts).long()
    return vectors[torch.arange(len(vectors), device=vectors.device), chosen] * gain


def matching_penalty(logits: Tensor, pairs: tuple[Tensor, Tensor], k: float, p: float) -> Tensor:
    """The matching-aware gradient penalty k * E[(||grad_x D(x, e)|| + ||grad_e D(x, e)||)^p] (eq. 2), on real images x and their sentences e.

    ``logits`` ``[n]`` are D(x, e), made of ``pairs``, x ``[n, C, H, W]`` and e ``[n, text]``, both of which require gradients.
    """
    gradients = torch.autograd.grad(logits.float().sum(), pairs, create_graph=True)
    norms = [(gradient.float().flatten(1).square().sum(1) + TINY).sqrt() for gradient in gradients]
    return k * (norms[0] + norms[1]).pow(p).mean()


def optimizer(parameters: Iterable[nn.Parameter], rate: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """Adam, as in section 4."""
    return torch.optim.Adam(parameters, lr=rate, betas=betas)

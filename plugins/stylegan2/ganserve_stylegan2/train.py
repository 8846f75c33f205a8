"""How a StyleGAN2 is trained: two networks with lazy regularization of both, put together from a preset."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ganserve_stylegan2 import layers, pixels
from ganserve_stylegan2.mapping import MappingNetwork, mixed
from ganserve_stylegan2.synthesis import Synthesis
from ganserve_trainers.ada import AdaptiveAugmentation
from ganserve_trainers.losses import LOSSES
from ganserve_trainers.recipe import Batch, Logs, Phase, Recipe
from ganserve_trainers.regularizers import path_length_penalty, path_lengths, r1

R1_EVERY = 16
"""R1 is added in every 16th step only, 16 times as strong (lazy regularization: Karras et al., 2020, section 3.1)."""

PATH_EVERY = 8
"""Path length regularization comes in every 8th step (Karras et al., 2020, appendix B)."""

PATH_SHRINK = 2
"""Path length regularization looks at one in so many rows of a batch: it differentiates twice, and lengths vary little."""

BETAS = (0.0, 0.99)
"""Adam's (Karras et al., 2020, appendix B)."""


def train(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> Recipe:
    """The recipe of ``config`` for ``networks``, as :func:`ganserve_stylegan2.network.build` names them."""
    mapping, synthesis = cast(MappingNetwork, networks["mapping"]), cast(Synthesis, networks["synthesis"])
    discriminator, ada = networks["discriminator"], cast(AdaptiveAugmentation | None, networks.get("ada"))
    loss, rows = LOSSES["non_saturating"], layers(config)

    def labels(batch: Batch, count: int) -> tuple[Tensor, ...]:
        """The first ``count`` labels, as a last argument; none where the preset has no classes."""
        return () if batch.labels is None or not config["classes"] else (batch.labels[:count],)

    def styles(batch: Batch, count: int) -> Tensor:
        """w ``[count, layers, w]`` of fresh latents; the share ``mixing`` of them change to another one at a random layer."""
        w: Tensor = mapping(batch.source.normal(config["z"])[:count], *labels(batch, count))
        mapping.follow(w)
        if not config["mixing"]:
            return w[:, None].expand(-1, rows, -1)
        other = mapping(batch.source.normal(config["z"])[:count], *labels(batch, count))
        # Karras et al., 2019, section 3.1: the crossover point is random too.
        mixes = batch.source.uniform() < config["mixing"]
        crossover = 1 + (batch.source.uniform() * (rows - 1)).long()
        return mixed(w, other, torch.where(mixes, crossover, rows)[:count], rows)

    def generate(batch: Batch, w: Tensor) -> Tensor:
        images: Tensor = synthesis(w, batch.source.normal(pixels(config))[: len(w)])
        return images

    def judge(batch: Batch, images: Tensor) -> Tensor:
        seen = images if ada is None else ada(images, batch.source)
        logits: Tensor = discriminator(seen, *labels(batch, len(images)))
        return logits

    def generator_loss(batch: Batch) -> tuple[Tensor, Logs]:
        return loss.generator(judge(batch, generate(batch, styles(batch, batch.rows)))), {}

    def path_loss(batch: Batch) -> tuple[Tensor, Logs]:
        w = styles(batch, max(1, batch.rows // PATH_SHRINK))
        lengths = path_lengths(generate(batch, w), w, batch.source)
        penalty = path_length_penalty(lengths, synthesis.path_length)
        logs = {"penalty": penalty.detach(), "length": lengths.detach().mean()}
        return penalty * config["path"] * PATH_EVERY, logs

    def discriminator_loss(batch: Batch) -> tuple[Tensor, Logs]:
        with torch.no_grad():
            generated = generate(batch, styles(batch, batch.rows))
        # Apart: the minibatch's deviation must not compare real images with generated ones.
        real, fake = judge(batch, batch.images), judge(batch, generated)
        logs = {"real": real.detach().mean(), "fake": fake.detach().mean()}
        if ada is not None:
            ada.adapt(real)
            logs |= {"signs": real.detach().sign().mean(), "p": ada.p.clone()}
        return loss.discriminator(real, fake), logs

    def r1_loss(batch: Batch) -> tuple[Tensor, Logs]:
        penalty = r1(lambda images: judge(batch, images), batch.images, config["r1"])
        return penalty * R1_EVERY, {"penalty": penalty.detach()}

    g_optimizer = optimizer((mapping, synthesis), config["g_lr"], PATH_EVERY if config["path"] else 0)
    d_optimizer = optimizer((discriminator,), config["d_lr"], R1_EVERY if config["r1"] else 0)
    g_networks, d_networks = ("mapping", "synthesis"), ("discriminator",)
    phases = [Phase(name="generator", networks=g_networks, optimizer=g_optimizer, loss=generator_loss)]
    if config["path"]:
        phases.append(Phase(name="path", networks=g_networks, optimizer=g_optimizer, loss=path_loss, every=PATH_EVERY))
    phases.append(Phase(name="discriminator", networks=d_networks, optimizer=d_optimizer, loss=discriminator_loss))
    if config["r1"]:
        phases.append(Phase(name="r1", networks=d_networks, optimizer=d_optimizer, loss=r1_loss, every=R1_EVERY))

    def preview(networks: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        w = networks["mapping"](batch.source.normal(config["z"]), *labels(batch, batch.rows))
        images: Tensor = networks["synthesis"](w[:, None].expand(-1, rows, -1), batch.source.normal(pixels(config)))
        return images

    return Recipe(
        phases=tuple(phases),
        averaged={"mapping": config["ema"], "synthesis": config["ema"]},
        preview=preview,
    )


def optimizer(networks: Iterable[nn.Module], rate: float, every: int) -> torch.optim.Optimizer:
    """Adam for ``networks``, which a regularizer moves besides the loss, in every ``every``-th step (0: none does).

    With every = k, k losses and one regularizer take the place of k losses: rate and betas are those of c = k / (k + 1) steps
    (Karras et al., 2020, appendix B).
    """
    share = every / (every + 1) if every else 1.0
    parameters = [parameter for network in networks for parameter in network.parameters()]
    first, second = (beta**share for beta in BETAS)
    return torch.optim.Adam(parameters, lr=rate * share, betas=(first, second), eps=1e-8)

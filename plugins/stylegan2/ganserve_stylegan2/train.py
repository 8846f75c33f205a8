"""How a StyleGAN2 is trained: two networks with lazy regularization of both, put together from a preset."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ganserve.errors import TrainingError
from ganserve_stylegan2 import kind, layers, opponent, pixels
from ganserve_stylegan2.mapping import MappingNetwork, mixed, normalized
from ganserve_stylegan2.synthesis import Synthesis
from ganserve_trainers.ada import AdaptiveAugmentation
from ganserve_trainers.losses import LOSSES
from ganserve_trainers.recipe import Batch, Logs, Phase, Recipe
from ganserve_trainers.regularizers import diversity, path_length_penalty, path_lengths, r1
from ganserve_trainers.tables import Table

R1_EVERY = 16
"""R1 is added in every 16th step only, 16 times as strong (lazy regularization: Karras et al., 2020, section 3.1)."""

PATH_EVERY = 8
"""Path length regularization comes in every 8th step (Karras et al., 2020, appendix B)."""

PATH_SHRINK = 2
"""Path length regularization looks at one in so many rows of a batch: it differentiates twice, and lengths vary little."""

Labels = tuple[Tensor, ...]
"""A class for each row, int64 ``[n]``; empty where the preset has no classes."""

BETAS = (0.0, 0.99)
"""Adam's (Karras et al., 2020, appendix B)."""


class Manner(NamedTuple):
    """What a discriminator is trained with: the loss that :data:`LOSSES` has by that name, and Adam's betas."""

    loss: str
    betas: tuple[float, float]


MANNERS: Table[Manner] = Table(
    "discriminator",
    {
        "stylegan2": Manner("non_saturating", BETAS),
        "sngan": Manner("hinge", (0.5, 0.999)),  # Miyato et al., 2018, eq. 16 and 17; Radford et al., 2016, section 4
    },
)
"""Discriminator, as presets name it → how it is trained."""


def train(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> Recipe:
    """The recipe of ``config`` for ``networks``, as :func:`ganserve_stylegan2.network.build` names them."""
    mapping, synthesis = cast(MappingNetwork, networks["mapping"]), cast(Synthesis, networks["synthesis"])
    discriminator, ada = networks[opponent(config)], cast(AdaptiveAugmentation | None, networks.get("ada"))
    manner, rows = MANNERS[kind(config)], layers(config)
    loss = LOSSES[manner.loss]
    weight = config.get("diversity", 0.0)  # older runs do not say

    def labels(batch: Batch, count: int) -> Labels:
        """The first ``count`` labels, as a last argument; none where the preset has no classes."""
        return () if batch.labels is None or not config["classes"] else (batch.labels[:count],)

    def styles(batch: Batch, z: Tensor, given: Labels) -> Tensor:
        """w ``[n, layers, w]`` of ``z`` ``[n, z]``; the share ``mixing`` of them change to that of a fresh latent at a random layer."""
        w: Tensor = mapping(z, *given)
        mapping.follow(w)
        if not config["mixing"]:
            return w[:, None].expand(-1, rows, -1)
        count = len(z)
        other = mapping(batch.source.normal(config["z"])[:count], *given)
        # Karras et al., 2019, section 3.1: the crossover point is random too.
        mixes = batch.source.uniform() < config["mixing"]
        crossover = 1 + (batch.source.uniform() * (rows - 1)).long()
        return mixed(w, other, torch.where(mixes, crossover, rows)[:count], rows)

    def generate(batch: Batch, w: Tensor) -> Tensor:
        images: Tensor = synthesis(w, batch.source.normal(pixels(config))[: len(w)])
        return images

    def judge(batch: Batch, images: Tensor, given: Labels) -> Tensor:
        seen = images if ada is None else ada(images, batch.source)
        logits: Tensor = discriminator(seen, *given)
        return logits

    def generator_loss(batch: Batch) -> tuple[Tensor, Logs]:
        z, given = batch.source.normal(config["z"]), labels(batch, batch.rows)
        if not weight:
            return loss.generator(judge(batch, generate(batch, styles(batch, z, given)), given)), {}
        # Two images of each label of half the batch.
        half = batch.rows // 2
        if batch.rows % 2:
            raise TrainingError(f"diversity compares images two by two: --batch must be even, not {batch.rows}")
        given = tuple(torch.cat([label[:half], label[:half]]) for label in given)
        images = generate(batch, styles(batch, z, given))
        ratio = diversity(images[:half], images[half:], normalized(z[:half]), normalized(z[half:]))
        adversarial = loss.generator(judge(batch, images, given))
        logs = {"adversarial": adversarial.detach(), "diversity": ratio.detach()}
        return adversarial - weight * ratio, logs

    def path_loss(batch: Batch) -> tuple[Tensor, Logs]:
        count = max(1, batch.rows // PATH_SHRINK)
        w = styles(batch, batch.source.normal(config["z"])[:count], labels(batch, count))
        lengths = path_lengths(generate(batch, w), w, batch.source)
        penalty = path_length_penalty(lengths, synthesis.path_length)
        logs = {"penalty": penalty.detach(), "length": lengths.detach().mean()}
        return penalty * config["path"] * PATH_EVERY, logs

    def discriminator_loss(batch: Batch) -> tuple[Tensor, Logs]:
        given = labels(batch, batch.rows)
        with torch.no_grad():
            generated = generate(batch, styles(batch, batch.source.normal(config["z"]), given))
        # Apart: the minibatch's deviation must not compare real images with generated ones.
        real, fake = judge(batch, batch.images, given), judge(batch, generated, given)
        logs = {"real": real.detach().mean(), "fake": fake.detach().mean()}
        if ada is not None:
            ada.adapt(real)
            logs |= {"signs": real.detach().sign().mean(), "p": ada.p.clone()}
        return loss.discriminator(real, fake), logs

    def r1_loss(batch: Batch) -> tuple[Tensor, Logs]:
        given = labels(batch, batch.rows)
        penalty = r1(lambda images: judge(batch, images, given), batch.images, config["r1"])
        return penalty * R1_EVERY, {"penalty": penalty.detach()}

    g_optimizer = optimizer((mapping, synthesis), config["g_lr"], PATH_EVERY if config["path"] else 0, BETAS)
    d_optimizer = optimizer((discriminator,), config["d_lr"], R1_EVERY if config["r1"] else 0, manner.betas)
    g_networks, d_networks = ("mapping", "synthesis"), (opponent(config),)
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


def optimizer(
    networks: Iterable[nn.Module], rate: float, every: int, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """Adam for ``networks``, which a regularizer moves besides the loss, in every ``every``-th step (0: none does).

    With every = k, k losses and one regularizer take the place of k losses: rate and betas are those of c = k / (k + 1) steps
    (Karras et al., 2020, appendix B).
    """
    share = every / (every + 1) if every else 1.0
    parameters = [parameter for network in networks for parameter in network.parameters()]
    first, second = (beta**share for beta in betas)
    return torch.optim.Adam(parameters, lr=rate * share, betas=(first, second), eps=1e-8)

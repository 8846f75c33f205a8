"""How a CycleGAN is trained: both generators in one phase, both discriminators in another, put together from a preset."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ganserve_trainers.losses import least_squares_discriminator
from ganserve_trainers.recipe import Batch, Logs, Phase, Recipe

OTHER = {"a": "b", "b": "a"}
"""Domain → the other one, from which its images are translated."""


def train(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> Recipe:
    """The recipe of ``config`` for ``networks``, as :func:`ganserve_cyclegan.network.build` names them."""
    to = translators(networks)
    discriminators = {domain: networks[f"discriminator_{domain}"] for domain in OTHER}
    histories = {domain: networks[f"history_{domain}"] for domain in OTHER}
    generated: dict[str, Tensor] = {}

    def generators_loss(batch: Batch) -> tuple[Tensor, Logs]:
        real = batch.tensors
        fake = {domain: to[domain](real[other]) for domain, other in OTHER.items()}
        generated.update({domain: images.detach() for domain, images in fake.items()})
        # Zhu et al., 2017, eq. 3: L_GAN(G, D_Y) + L_GAN(F, D_X) + lambda * L_cyc(G, F)
        losses = {
            "adversarial": both(fools(discriminators[domain](fake[domain])) for domain in OTHER),
            "cycle": both(distance(to[domain](fake[other]), real[domain]) for domain, other in OTHER.items()),
        }
        total = losses["adversarial"] + config["cycle"] * losses["cycle"]
        if config["identity"]:
            losses["identity"] = both(distance(to[domain](real[domain]), real[domain]) for domain in OTHER)
            total = total + config["identity"] * config["cycle"] * losses["identity"]
        return total, {name: loss.detach() for name, loss in losses.items()}

    def discriminators_loss(batch: Batch) -> tuple[Tensor, Logs]:
        losses: list[Tensor] = []
        logs: dict[str, Tensor] = {}
        for domain, discriminator in discriminators.items():
            # The images that the generators have just moved for, or older ones.
            seen = histories[domain](generated.pop(domain), batch.source)
            real, fake = discriminator(torch.cat([batch.tensors[domain], seen])).split(batch.rows)
            losses.append(least_squares_discriminator(real, fake))  # with the paper's division by 2
            logs |= {f"real_{domain}": real.detach().mean(), f"fake_{domain}": fake.detach().mean()}
        return both(losses), logs

    def optimizer(parts: Iterable[nn.Module], rate: float) -> torch.optim.Optimizer:
        parameters = [parameter for part in parts for parameter in part.parameters()]
        return torch.optim.Adam(parameters, lr=rate, betas=config["betas"])

    return Recipe(
        phases=(
            Phase(
                name="generators",
                networks=("a2b", "b2a"),
                optimizer=optimizer(to.values(), config["g_lr"]),
                loss=generators_loss,
                rate=decay,
            ),
            Phase(
                name="discriminators",
                networks=tuple(f"discriminator_{domain}" for domain in OTHER),
                optimizer=optimizer(discriminators.values(), config["d_lr"]),
                loss=discriminators_loss,
                rate=decay,
            ),
        ),
        averaged={name: config["ema"] for name in ("a2b", "b2a") if config["ema"]},
        preview=lambda networks, batch: networks["a2b"](batch.tensors["a"]),
        compares="b",
        shows=shows,
    )


def translators(networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Domain → the generator of ``networks`` that makes its images from the other's."""
    return {"a": networks["b2a"], "b": networks["a2b"]}


def both(losses: Iterable[Tensor]) -> Tensor:
    """The sum of the losses of the two domains."""
    return torch.stack(list(losses)).sum()


def fools(logits: Tensor) -> Tensor:
    """The generator's side of the least-squares objective, E[(D(G(x)) - 1)^2] (Zhu et al., 2017, section 4)."""
    return (logits.float() - 1).square().mean()


def distance(one: Tensor, two: Tensor) -> Tensor:
    """The mean absolute difference: the norm of the cycle consistency loss (Zhu et al., 2017, eq. 2) and of the identity loss."""
    return (one.float() - two.float()).abs().mean()


def decay(progress: float) -> float:
    """1 in the first half of a run, then linear to 0 at its end (Zhu et al., 2017, section 4)."""
    return min(1.0, 2 * (1 - progress))


def shows(networks: Mapping[str, nn.Module], batch: Batch, previews: Tensor) -> list[Tensor]:
    """For each domain an image, its translation, and that translated back."""
    a, b = batch.tensors["a"], batch.tensors["b"]
    back = networks["b2a"](b)
    return [a, previews, networks["b2a"](previews), b, back, networks["a2b"](back)]

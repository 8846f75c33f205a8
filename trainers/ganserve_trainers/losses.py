"""The adversarial losses, by name. A preset chooses one from :data:`LOSSES`; a network or a loop never asks for its name.

Every loss takes what the discriminator (the critic, for Wasserstein) says before any sigmoid: logits of any shape. It is
minimised, a mean over all logits, and computed in float32 whatever the logits' precision.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ganserve_trainers.tables import Table


@dataclass(frozen=True)
class Loss:
    """Both sides of one objective: ``discriminator(real, fake)`` and ``generator(fake)``, each a scalar to minimise."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


# Goodfellow et al., 2014, eq. 1: min_G max_D E[log D(x)] + E[log(1 - D(G(z)))] with D = sigmoid(logit), where
# -log sigmoid(l) = softplus(-l) and -log(1 - sigmoid(l)) = softplus(l), neither of which overflows.


def cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    """The negated value function of Goodfellow et al., 2014, eq. 1: -E[log D(x)] - E[log(1 - D(G(z)))]."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def saturating(fake: Tensor) -> Tensor:
    """The generator's side of Goodfellow et al., 2014, eq. 1: E[log(1 - D(G(z)))]."""
    return -F.softplus(fake.float()).mean()


def non_saturating(fake: Tensor) -> Tensor:
    """The generator maximises log D(G(z)) instead (Goodfellow et al., 2014, section 3): -E[log D(G(z))]."""
    return F.softplus(-fake.float()).mean()


def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Mao et al., 2017 (LSGAN), eq. 9 (the 0-1 coding): 1/2 E[(D(x) - 1)^2] + 1/2 E[D(G(z))^2]."""
    return 0.5 * (real.float() - 1).square().mean() + 0.5 * fake.float().square().mean()


def least_squares_generator(fake: Tensor) -> Tensor:
    """Mao et al., 2017 (LSGAN), eq. 9: 1/2 E[(D(G(z)) - 1)^2]."""
    return 0.5 * (fake.float() - 1).square().mean()


def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """Arjovsky et al., 2017 (WGAN), algorithm 1, line 5, negated: E[f(G(z))] - E[f(x)]."""
    return fake.float().mean() - real.float().mean()


def wasserstein_generator(fake: Tensor) -> Tensor:
    """Arjovsky et al., 2017 (WGAN), algorithm 1, line 10: -E[f(G(z))]."""
    return -fake.float().mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Miyato et al., 2018, eq. 16, negated: E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]."""
    return F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """Miyato et al., 2018, eq. 17: -E[D(G(z))]."""
    return -fake.float().mean()


LOSSES: Table[Loss] = Table(
    "loss",
    {
        "minimax": Loss(cross_entropy, saturating),
        "non_saturating": Loss(cross_entropy, non_saturating),
        "least_squares": Loss(least_squares_discriminator, least_squares_generator),
        "wasserstein": Loss(wasserstein_critic, wasserstein_generator),
        "hinge": Loss(hinge_discriminator, hinge_generator),
    },
)
"""Name → loss, as presets name them."""

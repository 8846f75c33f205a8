"""Losses against values worked out by hand from the papers' equations."""

import math

import pytest
import torch

from ganserve.errors import TrainingError
from ganserve_trainers.losses import LOSSES

LN2, LN3 = math.log(2), math.log(3)

# Logits ln 3 and 0 are D = 3/4 and 1/2 after a sigmoid; -ln 3 is D = 1/4.
REAL = torch.tensor([LN3, 0.0])
FAKE = torch.tensor([-LN3, 0.0])


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        # E[log D(x)] = (log 3/4 + log 1/2) / 2, and E[log(1 - D(G(z)))] is the same number.
        ("minimax", -(math.log(3 / 4) + math.log(1 / 2)), (math.log(3 / 4) + math.log(1 / 2)) / 2),
        ("non_saturating", -(math.log(3 / 4) + math.log(1 / 2)), -(math.log(1 / 4) + math.log(1 / 2)) / 2),
        (
            "least_squares",
            ((LN3 - 1) ** 2 + 1) / 4 + LN3**2 / 4,
            ((LN3 + 1) ** 2 + 1) / 4,
        ),
        ("wasserstein", -LN3 / 2 - LN3 / 2, LN3 / 2),
        # max(0, 1 - ln 3) = 0 as ln 3 > 1; max(0, 1 - 0) = 1; the same for the fakes.
        ("hinge", 1 / 2 + 1 / 2, LN3 / 2),
    ],
)
def test_losses_equal_the_hand_computed_values(name: str, discriminator: float, generator: float) -> None:
    assert LOSSES[name].discriminator(REAL, FAKE).item() == pytest.approx(discriminator, rel=1e-6)
    assert LOSSES[name].generator(FAKE).item() == pytest.approx(generator, rel=1e-6)


def test_the_table_names_every_objective() -> None:
    assert set(LOSSES) == {"minimax", "non_saturating", "least_squares", "wasserstein", "hinge"}


def test_an_undecided_discriminator_gives_log_four() -> None:
    """Goodfellow et al., 2014, theorem 1: the value function is -log 4 where D = 1/2 everywhere."""
    undecided = torch.zeros(5)
    assert LOSSES["minimax"].discriminator(undecided, undecided).item() == pytest.approx(math.log(4))


def test_minimax_sides_oppose_each_other() -> None:
    """The generator descends what the discriminator ascends: their gradients at the fakes are opposite."""
    fake = FAKE.clone().requires_grad_()
    (d_side,) = torch.autograd.grad(LOSSES["minimax"].discriminator(REAL, fake), fake)
    (g_side,) = torch.autograd.grad(LOSSES["minimax"].generator(fake), fake)
    torch.testing.assert_close(d_side, -g_side)


@pytest.mark.parametrize("name", ["minimax", "non_saturating"])
def test_the_logarithms_neither_overflow_nor_vanish(name: str) -> None:
    """At logits of 10,000 a sigmoid is exactly 0 or 1 and its logarithm infinite; the loss is 10,000."""
    real, fake = torch.tensor([-1e4], requires_grad=True), torch.tensor([1e4], requires_grad=True)
    loss = LOSSES[name].discriminator(real, fake)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert real.grad is not None
    assert fake.grad is not None
    assert (real.grad.item(), fake.grad.item()) == (-1.0, 1.0)


def test_the_generator_learns_from_a_confident_discriminator_only_without_saturation() -> None:
    """Goodfellow et al., 2014, section 3: the reason why the generator maximises log D(G(z))."""
    slopes = {}
    for name in ("minimax", "non_saturating"):
        fake = torch.tensor([-20.0], requires_grad=True)
        (slope,) = torch.autograd.grad(LOSSES[name].generator(fake), fake)
        slopes[name] = abs(slope.item())
    assert slopes["minimax"] < 1e-8
    assert slopes["non_saturating"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_half_precision_logits_are_averaged_in_full_precision(name: str) -> None:
    """Eight bits of mantissa cannot hold the mean of 1,000 different logits."""
    real, fake = torch.linspace(-1, 1, 1000).bfloat16(), torch.linspace(-2, 1, 1000).bfloat16()
    assert LOSSES[name].discriminator(real, fake).dtype == torch.float32
    assert LOSSES[name].generator(fake).item() == LOSSES[name].generator(fake.float()).item()


def test_an_unknown_loss_names_the_known_ones() -> None:
    with pytest.raises(TrainingError, match=r"there is no loss 'wasserstien': choose one of hinge, .*wasserstein"):
        LOSSES["wasserstien"]

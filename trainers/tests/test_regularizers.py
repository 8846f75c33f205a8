"""Regularizers on critics whose gradient is known in closed form."""

import pytest
import torch
from torch import Tensor, nn

from ganserve_trainers.recipe import Source
from ganserve_trainers.regularizers import clip_weights, diversity, gradient_penalty, r1


def source(rows: int, rank: int = 0, world: int = 1) -> Source:
    return Source(torch.Generator().manual_seed(5), rows, rank, world)


def half_square(images: Tensor) -> Tensor:
    """A critic whose gradient at x is x."""
    return images.flatten(1).square().sum(1) / 2


def test_gradient_penalty_of_a_linear_critic() -> None:
    """f(x) = 3 x1 + 4 x2 has slope 5 everywhere: 10 * (5 - 1)^2 = 160, with gradient 20 * 4 * (3, 4) / 5 in the weights."""
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    real, fake = torch.randn(8, 2), torch.randn(8, 2)
    penalty = gradient_penalty(lambda x: x @ weight, real, fake, source(8))
    penalty.backward()
    assert penalty.item() == pytest.approx(160.0, rel=1e-5)
    torch.testing.assert_close(weight.grad, torch.tensor([48.0, 64.0]))


def test_gradient_penalty_looks_between_real_and_fake_at_a_place_of_its_own_for_each_row() -> None:
    """With real 0 and fake e1 the half square's slope is 1 - fraction, so the penalty is the mean of 10 * fraction^2."""
    real, fake = torch.zeros(6, 1, 2, 2), torch.zeros(6, 1, 2, 2)
    fake[:, 0, 0, 0] = 1
    fraction = source(6).uniform()
    assert fraction.unique().numel() == 6
    penalty = gradient_penalty(half_square, real, fake, source(6))
    assert penalty.item() == pytest.approx(10 * fraction.square().mean().item(), rel=1e-4)


def test_gradient_penalty_of_two_processes_is_that_of_one_with_twice_the_batch() -> None:
    real, fake = torch.randn(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = gradient_penalty(half_square, real, fake, source(8))
    halves = [
        gradient_penalty(half_square, real[part], fake[part], source(4, rank, 2))
        for rank, part in enumerate((slice(4), slice(4, 8)))
    ]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole)


def test_gradient_penalty_of_a_flat_critic_is_finite() -> None:
    """A dead critic has slope 0: the penalty is 10 * (0 - 1)^2 and its gradient is no NaN."""
    weight = torch.zeros(2, requires_grad=True)
    penalty = gradient_penalty(lambda x: x @ weight, torch.ones(4, 2), torch.zeros(4, 2), source(4))
    penalty.backward()
    assert penalty.item() == pytest.approx(10.0, rel=1e-4)
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()


def test_gradient_penalty_leaves_the_generator_alone() -> None:
    fake = torch.ones(4, 2, requires_grad=True)
    weight = torch.ones(2, requires_grad=True)
    gradient_penalty(lambda x: x @ weight, torch.zeros(4, 2), fake, source(4)).backward()
    assert fake.grad is None


def test_r1_of_a_quadratic_critic() -> None:
    """The half square's squared slopes at (3, 4) and (0, 1) are 25 and 1: gamma / 2 * 13."""
    real = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert r1(half_square, real, gamma=2.0).item() == pytest.approx(13.0)
    assert r1(half_square, real, gamma=0.5).item() == pytest.approx(3.25)


def test_r1_moves_the_weights() -> None:
    """For f(x) = w x the penalty is gamma / 2 * |w|^2, with gradient gamma * w."""
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    r1(lambda x: x @ weight, torch.randn(3, 2), gamma=10.0).backward()
    torch.testing.assert_close(weight.grad, torch.tensor([10.0, -20.0]))


def test_clipping_bounds_every_weight_and_touches_no_other() -> None:
    layer = nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0, 0.005, 0.02]]))
        layer.bias.fill_(0.5)
    clip_weights(layer.parameters(), 0.01)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[-0.01, 0.005, 0.01]]))
    assert layer.bias.item() == pytest.approx(0.01)
    assert layer.weight.requires_grad


def test_diversity_is_how_far_images_lie_apart_for_their_latents_but_no_more_than_enough() -> None:
    """Rows whose images differ by 0.1 and 0.8 and whose latents by 2 and 1: 0.05, and 0.8 cut to 0.2."""
    one, z_one = torch.zeros(2, 3, 4, 4), torch.zeros(2, 8)
    two = one + torch.tensor([0.1, 0.8]).view(2, 1, 1, 1)
    two.requires_grad_()
    found = diversity(one, two, z_one, z_one + torch.tensor([[2.0], [-1.0]]))
    assert found.item() == pytest.approx((0.05 + 0.2) / 2)
    found.backward()
    assert two.grad is not None
    torch.testing.assert_close(two.grad[0], torch.full((3, 4, 4), 1 / 48 / 2 / 2))
    assert not two.grad[1].any()  # those are different enough
    assert diversity(one, one, z_one, z_one).item() == 0


def test_diversity_pulls_images_apart_that_are_nearly_the_same() -> None:
    """Its slope does not vanish where a class has collapsed: that of a difference of 1e-6 is that of one of 0.1."""
    apart = torch.full((1, 1), 1e-6, requires_grad=True)
    diversity(torch.zeros(1, 1), apart, torch.zeros(1, 1), torch.ones(1, 1)).backward()
    assert apart.grad is not None
    assert apart.grad.item() == pytest.approx(1.0)

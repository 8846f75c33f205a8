"""Path length regularization: lengths known by hand, and its gradient against finite differences."""

import pytest
import torch
from torch import Tensor

from ganserve_trainers.recipe import Source
from ganserve_trainers.regularizers import path_length_penalty, path_lengths


def source(rows: int) -> Source:
    return Source(torch.Generator().manual_seed(5), rows)


def test_lengths_of_a_linear_generator() -> None:
    """Of images = A w the Jacobian is A: the length is |A^T y| / sqrt(pixels * layers), as in appendix B of the paper."""
    torch.manual_seed(0)
    rows, layers, size, pixels = 3, 2, 5, 4 * 8
    matrix = torch.randn(3 * pixels, layers * size)
    w = torch.randn(rows, layers, size, requires_grad=True)
    images = (w.flatten(1) @ matrix.T).view(rows, 3, 4, 8)
    y = source(rows).normal(3, 4, 8).flatten(1)
    expected = (y @ matrix).norm(dim=1) / (pixels * layers) ** 0.5
    torch.testing.assert_close(path_lengths(images, w, source(rows)), expected)


def test_the_mean_square_is_that_of_the_jacobian() -> None:
    """E_y |J^T y|^2 = |J|_F^2, here 9 for each of the four numbers of w, divided by the four pixels."""
    rows, size = 4096, 4
    w = torch.zeros(rows, 1, size, requires_grad=True)
    images = (3 * w).view(rows, 1, 2, 2)
    lengths = path_lengths(images, w, source(rows))
    assert lengths.square().mean().item() == pytest.approx(9 * size / 4, rel=0.05)


def generator(w: Tensor, weights: Tensor) -> Tensor:
    return torch.tanh(w.flatten(1) @ weights).view(-1, 2, 4, 4)


def lengths_by_jacobian(w: Tensor, weights: Tensor) -> Tensor:
    """The lengths from the whole Jacobian, in float64, for the pixels y that ``source`` gives."""
    y = source(len(w)).normal(2, 4, 4).double()
    jacobian = torch.autograd.functional.jacobian(lambda w: generator(w, weights.double()).sum(0), w.double())
    projected = torch.einsum("chwnlk,nchw->nlk", jacobian, y)
    return projected.flatten(1).norm(dim=1) / (4 * 4 * w.shape[1]) ** 0.5


def test_the_penaltys_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    weights, direction, w = 0.5 * torch.randn(6, 32), torch.randn(6, 32), torch.randn(4, 2, 3)
    variable, latents, average = weights.clone().requires_grad_(), w.clone().requires_grad_(), torch.tensor(0.3)
    lengths = path_lengths(generator(latents, variable), latents, source(4))
    torch.testing.assert_close(lengths.double(), lengths_by_jacobian(w, weights), rtol=1e-5, atol=0)
    penalty = path_length_penalty(lengths, average)
    penalty.backward()

    def at(place: float) -> float:
        """Eq. 4 with the average where it is now: it is a constant to the gradient."""
        return (lengths_by_jacobian(w, weights.double() + place * direction) - average).square().mean().item()

    assert penalty.item() == pytest.approx(at(0), rel=1e-5)
    step = 1e-4
    assert variable.grad is not None
    assert (variable.grad * direction).sum().item() == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-4)


def test_the_average_follows_the_lengths() -> None:
    average = torch.tensor(1.0)
    for _ in range(3):
        path_length_penalty(torch.tensor([3.0, 5.0]), average, decay=0.5)
    assert average.item() == pytest.approx(4 - 3 * 0.5**3)
    # (3 - a)^2 and (5 - a)^2 with a = 4, where it stays.
    assert path_length_penalty(torch.tensor([3.0, 5.0]), torch.tensor(4.0)).item() == pytest.approx(1)


def test_a_generator_that_ignores_w_has_a_gradient_all_the_same() -> None:
    scale = torch.zeros((), requires_grad=True)
    w = torch.randn(2, 1, 4, requires_grad=True)
    lengths = path_lengths((w * scale).view(2, 1, 2, 2), w, source(2))
    path_length_penalty(lengths, torch.tensor(1.0)).backward()
    assert scale.grad is not None
    assert scale.grad.isfinite()

"""Inversion: the step of Adam that moves a latent towards the one whose picture is the target. ``ganserve.inversion`` declares its graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve_trainers.layers.denormalize import ToBytes
from ganserve_trainers.layers.normalize import from_bytes
from ganserve_trainers.onnx_gradient import TakesGradient

BETAS = (0.9, 0.999)
EPSILON = 1e-8
"""The settings of Adam, as in its paper (Kingma & Ba, 2015, algorithm 1)."""

RAMP_UP, RAMP_DOWN = 0.05, 0.25
"""The parts of a search over which the learning rate rises, and falls to nothing (Karras et al., 2020, appendix D)."""

SMALLEST_SIDE = 4
"""Pictures are compared at half the size again and again down to this many pixels a side."""


Distance = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""The features of two pictures, each ``[n, ...]`` → how far apart they are ``[n]``."""


class InversionStep(TakesGradient):
    """The module of :func:`ganserve.inversion.invert_graph`: one step for every row, none of which sees another."""

    def __init__(self, generator: nn.Module, *, tied: bool = False) -> None:
        """``generator``: latents and extras → images ``[n, C, H, W]`` in [-1, 1]. ``tied`` as in the graph."""
        super().__init__()
        self.generator = generator
        self.to_bytes = ToBytes()
        self.tied = tied
        self.features: nn.Module | None = None
        self.distance: Distance | None = None
        self.weight = 0.0

    def see_with(self, features: nn.Module, distance: Distance, weight: float) -> None:
        """Add ``weight`` times the ``distance`` of the ``features`` of two images to the loss, and the distance to the outputs."""
        self.features, self.distance, self.weight = features, distance, weight

    def forward(
        self,
        target: Tensor,
        x: Tensor,
        first: Tensor,
        second: Tensor,
        best: Tensor,
        best_loss: Tensor,
        step: Tensor,
        steps: Tensor,
        rate: Tensor,
        *others: Tensor,
    ) -> tuple[Tensor, ...]:
        """The graph's outputs, in its order, of its inputs, in theirs."""
        extras = others[1:] if self.tied else others
        gradient, loss, images, told = self._gradient(x, target, extras)
        if self.tied:
            # One by one: ONNX Runtime's mean over an axis in the middle adds up otherwise for one row than for several.
            layers = gradient.unbind(1)
            mean = sum(layers[1:], layers[0]) / len(layers)
            gradient = torch.where(_wide(others[0], x) > 0, mean[:, None], gradient)
        begins = step == 0
        fresh = _wide(begins, x)
        first, second = (torch.where(fresh, torch.zeros_like(moment), moment) for moment in (first, second))
        update, first, second = adam(gradient, first, second, step)
        better = begins | (loss < best_loss)
        return (
            x - _wide(scheduled(rate, step, steps), x) * update,
            first,
            second,
            torch.where(_wide(better, x), x, best),
            torch.where(better, loss, best_loss),
            loss,
            self.to_bytes(images),
            *told,
        )

    def _gradient(
        self, x: Tensor, target: Tensor, extras: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """The gradient of the loss with respect to ``x``, the loss ``[n]``, the images, and the perceptual distance ``[n]`` if there is one."""
        wanted = from_bytes(target)
        told: tuple[Tensor, ...] = ()
        # Nothing can be differentiated in inference mode, in which whoever serves this may be; weights need no gradient.
        with torch.inference_mode(False), torch.no_grad():
            images, through_generator = torch.func.vjp(lambda latents: self.generator(latents, *extras), x)[:2]
            loss, gradient = multiscale(images - wanted)
            if self.features is not None and self.distance is not None:
                distance, seen, sought = self.distance, self.features, self.features(wanted)
                apart, through_features = torch.func.vjp(lambda made: distance(seen(made), sought), images)[:2]
                told, loss = (apart,), loss + self.weight * apart
                gradient = gradient + through_features(torch.full_like(apart, self.weight))[0]
            (gradient,) = through_generator(gradient)
        return gradient, loss, images, told


def multiscale(difference: Tensor) -> tuple[Tensor, Tensor]:
    """The squared error ``[n]`` of rows of a ``difference`` of images ``[n, C, H, W]``, and its gradient with respect to that difference.

    It is the sum of the squares of all values, of the means of 2x2 pixels, of 4x4 pixels and so on, divided by the number of values:
    a scale counts by how many values it has. Measured on pictures that DCGANs made, scales of equal weight led to errors 1.5 times as
    large after 300 steps.
    """
    height, width = difference.shape[2:]
    values = difference.shape[1] * height * width
    error = (difference * difference).sum((1, 2, 3)) / values
    gradient = difference * (2 / values)
    if height % 2 == width % 2 == 0 and min(height, width) >= 2 * SMALLEST_SIDE:
        coarser, its_gradient = multiscale(F.avg_pool2d(difference, 2))
        error = error + coarser / 4
        # F.interpolate would fix the number of rows when it is traced.
        gradient = gradient + torch.ops.aten.upsample_nearest2d(its_gradient, [height, width]) / 16
    return error, gradient


def adam(gradient: Tensor, first: Tensor, second: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Algorithm 1 of Kingma & Ba, 2015, without the learning rate: the direction to go against, and the two moments.

    ``step`` int64 ``[n]`` counts from 0.
    """
    first = BETAS[0] * first + (1 - BETAS[0]) * gradient
    second = BETAS[1] * second + (1 - BETAS[1]) * gradient.square()
    count = (step + 1).float()
    unbiased = first / _wide(1 - BETAS[0] ** count, first)
    spread = (second / _wide(1 - BETAS[1] ** count, second)).sqrt()
    # unbiased / (spread + EPSILON), in units of EPSILON: the exporter takes a sum with so small a number for one with zero.
    return (unbiased / EPSILON) / (spread / EPSILON + 1), first, second


def scheduled(rate: Tensor, step: Tensor, steps: Tensor) -> Tensor:
    """The learning rate ``[n]`` at ``step`` (from 0) of ``steps``: linear up, ``rate``, then half a cosine down (Karras et al., 2020, appendix D)."""
    total = steps.float()
    up = ((step + 1) / (RAMP_UP * total)).clamp(max=1)
    down = ((total - step) / (RAMP_DOWN * total)).clamp(0, 1)
    return rate * up * half_cosine(down)


def half_cosine(part: Tensor) -> Tensor:
    """(1 - cos(pi part)) / 2 for ``part`` in [0, 1], as the square of the Taylor series of sin(pi part / 2), to 3e-7.

    Products and sums alone, since ONNX Runtime's Cos rounds a row otherwise in a batch of another size.
    """
    angle = part * (torch.pi / 2)
    square = angle * angle
    series = torch.ones_like(angle)
    for order in (12, 10, 8, 6, 4, 2):
        series = 1 - square / (order * (order + 1)) * series
    return (angle * series).square()


def _wide(numbers: Tensor, like: Tensor) -> Tensor:
    """``numbers`` ``[n]`` with as many axes as ``like`` ``[n, ...]``."""
    return numbers.reshape(-1, *(1 for _ in like.shape[1:]))

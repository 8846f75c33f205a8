"""What keeps a discriminator or critic smooth (gradient penalty, R1, weight clipping), and a generator (path length, diversity)."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ganserve_trainers.distributed import mean_over_processes
from ganserve_trainers.recipe import Source

Critic = Callable[[Tensor], Tensor]
"""Images ``[n, ...]`` → logits ``[n, ...]``, each depending on its own image only (no batch normalization)."""


def squared_gradient_norms(critic: Critic, images: Tensor) -> Tensor:
    """|| d critic(x) / dx ||^2 of every image ``[n]``, differentiable in the critic's weights."""
    images = images.detach().requires_grad_()
    # Rows do not meet in the critic, so the gradient of the sum holds every row's own gradient.
    (gradients,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    return gradients.float().flatten(1).square().sum(1)


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, source: Source, weight: float = 10.0) -> Tensor:
    """Gulrajani et al., 2017 (WGAN-GP), eq. 3: weight * E[(||grad f(x^)||_2 - 1)^2], weight being the paper's lambda.

    x^ lies between a real and a fake image, at a fraction drawn uniformly for each row. ``real`` and ``fake`` have one shape.
    """
    fraction = source.uniform().view(-1, *[1] * (real.dim() - 1))
    between = fraction * real.detach() + (1 - fraction) * fake.detach()
    norms = (squared_gradient_norms(critic, between) + TINY).sqrt()
    return weight * (norms - 1).square().mean()


def r1(critic: Critic, real: Tensor, gamma: float) -> Tensor:
    """Mescheder et al., 2018, eq. 9: gamma / 2 * E[||grad D(x)||^2] on real images."""
    return gamma / 2 * squared_gradient_norms(critic, real).mean()


def path_lengths(images: Tensor, w: Tensor, source: Source) -> Tensor:
    """||J_w^T y||_2 of every image ``[n]``, J_w the Jacobian of its pixels in its ``w`` ``[n, layers, k]``, y random pixels from N(0, 1).

    Scaled by 1 / sqrt(pixels * layers), so that the weight of the paper, ln 2 / (r^2 (ln r - ln 2)) for images of r x r pixels, becomes 2
    at every resolution (Karras et al., 2020, appendix B). Differentiable in the generator's weights; ``images`` must come from ``w``.
    """
    shape, rows = images.shape[1:], len(images)
    projected = (images * source.normal(*shape)[:rows]).sum() / (shape[1] * shape[2]) ** 0.5
    (gradients,) = torch.autograd.grad(projected, w, create_graph=True)
    return (gradients.float().square().sum(2).mean(1) + TINY).sqrt()


def path_length_penalty(lengths: Tensor, average: Tensor, decay: float = 0.01) -> Tensor:
    """Karras et al., 2020 (StyleGAN2), eq. 4: E[(||J_w^T y||_2 - a)^2], a the moving average of the lengths.

    ``average`` is a, a buffer of one number: it first moves towards the mean of ``lengths`` by ``decay`` (appendix B), in place.
    """
    with torch.no_grad():
        average.lerp_(mean_over_processes(lengths.detach().mean()), decay)
    return (lengths - average.clone()).square().mean()


def diversity(one: Tensor, two: Tensor, z_one: Tensor, z_two: Tensor, enough: float = 0.2) -> Tensor:
    """Yang et al., 2019 ("Diversity-Sensitive Conditional Generative Adversarial Networks"), their L_z(G): E[min(|G(c, z1) - G(c, z2)| / |z1 - z2|, tau)].

    A generator adds it, with a negative weight, where its images of a class c come out all the same. ``one`` and ``two`` are images
    of the latents ``z_one`` and ``z_two``, row by row of one class; distances are means of absolute differences, and ``enough`` is
    tau, from which on images count as different.
    """
    images = (one - two).abs().flatten(1).mean(1)
    latents = (z_one - z_two).abs().flatten(1).mean(1)
    return (images / latents.clamp_min(TINY)).clamp_max(enough).mean()


def clip_weights(parameters: Iterable[nn.Parameter], bound: float) -> None:
    """Clamp every weight to [-bound, bound], in place (Arjovsky et al., 2017, algorithm 1, line 7)."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.clamp_(-bound, bound)


TINY = 1e-12
"""Added below a square root, whose slope at 0 is infinite: a critic with zero gradient must not give NaN."""

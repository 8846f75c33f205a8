"""ADA: adaptive discriminator augmentation (Karras et al., 2020, "Training Generative Adversarial Networks with Limited Data").

All that the discriminator sees, real and generated, goes through one pipeline of differentiable transformations, each of
which is applied to an image with probability p. p rises while the discriminator overfits and falls while it does not.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganserve.errors import TrainingError
from ganserve_trainers.ada_color import COLOR, recolor
from ganserve_trainers.ada_draws import Draws
from ganserve_trainers.ada_geometry import BLIT, GEOMETRY, SHIFT, STRETCH, Transformation
from ganserve_trainers.ada_resample import transform
from ganserve_trainers.distributed import mean_over_processes
from ganserve_trainers.recipe import Source
from ganserve_trainers.tables import Table

CLASSES: Table[tuple[Transformation, ...]] = Table(
    "class of augmentations", {"blit": BLIT, "shift": SHIFT, "geometry": GEOMETRY, "stretch": STRETCH, "color": COLOR}
)
"""Name → transformations: those of the paper's six classes that it ends up with (filter, noise and cutout are the others), and the parts
of ``blit`` and of ``geometry`` that turn nothing, ``shift`` and ``stretch``."""


class AdaptiveAugmentation(nn.Module):
    """The pipeline and its probability p, which follows how much the discriminator overfits (section 3).

    It has no parameters. All that it remembers is in buffers: ``p`` (float32, in [0, 1]), and since p last moved the number of
    ``updates`` and ``images`` (int64) and the sum of the ``signs`` (float32). They are the same in every process.
    """

    p: Tensor
    updates: Tensor
    images: Tensor
    signs: Tensor

    def __init__(
        self,
        classes: Sequence[str] = ("blit", "geometry", "color"),
        target: float = 0.6,
        kimg: float = 500.0,
        every: int = 4,
        initial: float = 0.0,
    ) -> None:
        """``classes`` names what is applied, always in the paper's order; ``initial`` is the first p.

        p moves at every ``every``-th update, so fast that it can rise from 0 to 1 in ``kimg`` thousand real images; infinity
        keeps it where it is. ``target`` is the r_t that it is steered to. Raises :class:`TrainingError` where a class is
        unknown or a number is out of its range.
        """
        super().__init__()
        chosen = {name: CLASSES[name] for name in classes}
        self.geometry = tuple(one for name in ("blit", "shift", "geometry", "stretch") for one in chosen.get(name, ()))
        self.color = chosen.get("color", ())
        for name, value, low, high in (
            ("target", target, -1, 1),
            ("kimg", kimg, 1e-3, math.inf),
            ("every", every, 1, math.inf),
            ("initial", initial, 0, 1),
        ):
            if not low <= value <= high:
                raise TrainingError(f"ADA's {name} is {value}: choose a number from {low} to {high}")
        self.target, self.kimg, self.every = target, kimg, every
        self.register_buffer("p", torch.tensor(float(initial)))
        self.register_buffer("updates", torch.tensor(0))
        self.register_buffer("images", torch.tensor(0))
        self.register_buffer("signs", torch.tensor(0.0))

    def forward(self, images: Tensor, source: Source) -> Tensor:
        """``images`` [n, C, H, W] in [-1, 1], C = 3 or 1 for grey, augmented: same shape and dtype, values may leave [-1, 1].

        Every random number comes from ``source``, whose rows are the images. Computed in float32 at least, also under autocast.
        Raises :class:`TrainingError` for images that are no pictures or of which the source has no row.
        """
        channels, height, width = images.shape[1:]
        if channels not in (1, 3) or min(height, width) < 2:
            raise TrainingError(
                f"cannot augment images of {channels} channels and {height}×{width} pixels: "
                "ADA takes 1 or 3 channels and at least 2×2 pixels"
            )
        if len(images) != source.rows:
            raise TrainingError(
                f"cannot augment {len(images)} images with the random numbers of {source.rows}: "
                "augment real and generated images one after the other, each a batch of the source's rows"
            )
        p = self.p.item()
        if p == 0:
            return images
        draws = Draws(replace(source, device=torch.device("cpu")), p)
        with torch.autocast(images.device.type, enabled=False):
            augmented = images if images.dtype == torch.float64 else images.float()
            augmented = transform(augmented, _product(self.geometry, draws, (height, width), 3))
            augmented = recolor(augmented, _product(self.color, draws, (height, width), 4))
        return augmented.to(images.dtype)

    @torch.no_grad()
    def adapt(self, real_logits: Tensor) -> None:
        """Take note of what the discriminator says of a batch of real images, logits [n, …], and move p if it is time.

        To be called once at every discriminator update, in every process.
        """
        each = real_logits.float().sign().reshape(len(real_logits), -1).mean(1)
        noted = torch.stack((each.sum(), each.new_tensor(len(each))))
        signs, images = mean_over_processes(noted) * (dist.get_world_size() if dist.is_initialized() else 1)
        self.signs += signs
        self.images += images.round().long()
        self.updates += 1
        if self.updates < self.every:
            return
        # Section 3: r_t = E[sign(D_train)] over four minibatches; p moves by a fixed amount.
        towards = (self.signs / self.images - self.target).sign()
        self.p.add_(towards * self.images / (self.kimg * 1000)).clamp_(0, 1)
        for since in (self.signs, self.images, self.updates):
            since.zero_()


def _product(transformations: Sequence[Transformation], draws: Draws, size: tuple[int, int], order: int) -> Tensor:
    """The matrix [n, order, order] of all ``transformations``, the first applied first."""
    product = torch.eye(order, dtype=torch.float64).expand(draws.source.rows, -1, -1)
    for transformation in transformations:
        product = transformation(draws, size) @ product
    return product

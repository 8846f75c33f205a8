"""pix2pix (Isola et al., 2017), a conditional GAN that translates images and learns it from pairs: the spec and the presets."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from ganserve import hookimpl
from ganserve.errors import TrainingError
from ganserve.spec import Family, Graph, Input, Noise, Output, Spec, Step, Task, Tensor

# fmt: off
UNETS: Mapping[str, Mapping[str, Any]] = {
    # "image" is (height, width, channels). Every layer of "encoder" halves it, every layer of "decoder" doubles it, and one more,
    # outside the table, makes the image. An encoder's layer is its channels; a decoder's is (channels, rate of dropout).
    # "paper": section 6.1.1; "C" there is (channels, 0.0), "CD" is (channels, 0.5).
    "paper": {
        "image": (256, 256, 3),
        "encoder": (64, 128, 256, 512, 512, 512, 512, 512),
        "decoder": ((512, 0.5), (512, 0.5), (512, 0.5), (512, 0.0), (256, 0.0), (128, 0.0), (64, 0.0)),
    },
    "unet-128": {
        "image": (128, 128, 3),
        "encoder": (64, 128, 256, 512, 512, 512, 512),
        "decoder": ((512, 0.5), (512, 0.5), (512, 0.5), (256, 0.0), (128, 0.0), (64, 0.0)),
    },
    "small-64": {
        "image": (64, 64, 3),
        "encoder": (32, 64, 128, 128, 128, 128),
        "decoder": ((128, 0.5), (128, 0.5), (128, 0.5), (64, 0.0), (32, 0.0)),
    },
    "tiny": {
        "image": (16, 16, 3),
        "encoder": (16, 32, 32, 32),
        "decoder": ((32, 0.5), (32, 0.0), (16, 0.0)),
    },
}
"""The generators: U-Nets by name."""

DISCRIMINATORS: Mapping[str, tuple[tuple[int, int, int, int], ...]] = {
    # A layer is (channels, kernel, stride, padding). The number in a name is the side of the patch that one logit sees.
    # Section 6.1.2: the 70x70 PatchGAN and, for the ablation, PixelGAN, a 16x16 PatchGAN and ImageGAN.
    "pixel":     ((64, 1, 1, 0), (128, 1, 1, 0), (1, 1, 1, 0)),
    "patch-16":  ((64, 4, 2, 1), (128, 4, 1, 1), (1, 4, 1, 1)),
    "patch-70":  ((64, 4, 2, 1), (128, 4, 2, 1), (256, 4, 2, 1), (512, 4, 1, 1), (1, 4, 1, 1)),
    "image-286": ((64, 4, 2, 1), (128, 4, 2, 1), (256, 4, 2, 1), (512, 4, 2, 1), (512, 4, 2, 1), (512, 4, 1, 1), (1, 4, 1, 1)),
    # Between the paper's 16 and 70, for 64x64 images, and half as wide.
    "patch-34":  ((32, 4, 2, 1), (64, 4, 2, 1), (128, 4, 1, 1), (1, 4, 1, 1)),
    "tiny":      ((16, 4, 2, 1), (32, 4, 1, 1), (1, 4, 1, 1)),
}
"""The discriminators, as presets name them."""

COLUMNS = (
                  "unet",     "discriminator", "loss",           "l1",  "jitter", "lr", "betas",      "ema", "batch", "kimg",
)
ROWS: Mapping[str, tuple[Any, ...]] = {
    "paper-256": ("paper",    "patch-70",      "non_saturating", 100.0, 30,       2e-4, (0.5, 0.999), 0.0,   1,         80.0),
    "unet-128":  ("unet-128", "patch-70",      "non_saturating", 100.0, 14,       2e-4, (0.5, 0.999), 0.0,   1,         80.0),
    "emoji-64":  ("small-64", "patch-34",      "non_saturating", 100.0, 8,        4e-4, (0.5, 0.999), 5.0,   16,       120.0),
    "edges-64":  ("small-64", "patch-34",      "non_saturating", 100.0, 8,        4e-4, (0.5, 0.999), 5.0,   16,       120.0),
    "tiny":      ("tiny",     "tiny",          "non_saturating", 100.0, 2,        2e-3, (0.5, 0.999), 0.0,   8,          4.0),
}
# fmt: on

PRESETS: Mapping[str, Mapping[str, Any]] = {
    name: {"data": "pairs", "direction": "a2b", **dict(zip(COLUMNS, row, strict=True)), **UNETS[row[0]]}
    for name, row in ROWS.items()
}

NOISE = Noise(distribution="uniform", low=0.0, high=1.0)
"""What decides on dropout: an activation falls away where its number is below the layer's rate."""


def dropped(config: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """The shape [C, H, W] of every decoder layer of ``config`` that has dropout, in order: one number of noise for each activation.

    Raises :class:`TrainingError` for a table that is no U-Net, has no dropout, or cannot halve the image so often.
    """
    (height, width, _), levels = config["image"], len(config["encoder"])
    if len(config["decoder"]) != levels - 1 or not any(rate for _, rate in config["decoder"]):
        raise TrainingError(
            f"decoder is {config['decoder']}: expected {levels - 1} layers (channels, rate of dropout), one fewer than the encoder "
            "has, and dropout in at least one of them, since it is the generator's noise"
        )
    if height % 2**levels or width % 2**levels:
        raise TrainingError(
            f"images of {height}x{width} cannot be halved {levels} times, once in every layer of the encoder: "
            f"let both sides be multiples of {2**levels}"
        )
    sizes = [(height >> level, width >> level) for level in reversed(range(1, levels))]
    return [(channels, *size) for (channels, rate), size in zip(config["decoder"], sizes, strict=True) if rate]


def noise_size(config: Mapping[str, Any]) -> int:
    """How many numbers of noise a row takes."""
    return sum(prod(shape) for shape in dropped(config))


def spec(config: Mapping[str, Any]) -> Spec:
    """One graph, image uint8 [H, W, C] and noise [K] → result uint8 [H, W, C], and one task, ``a2b``: from an image and a seed."""
    size = tuple(config["image"])
    image = Tensor(name="image", dtype="uint8", shape=size)
    noise = Tensor(name="noise", dtype="float32", shape=(noise_size(config),))
    result = Tensor(name="result", dtype="uint8", shape=size)
    drawn = {"distribution": NOISE.distribution, "low": NOISE.low, "high": NOISE.high, "stream": NOISE.stream}
    return Spec(
        graphs=(Graph(name="generator", inputs=(image, noise), outputs=(result,)),),
        tasks=(
            Task(
                name="a2b",
                kind="translate",
                inputs=(
                    Input(tensor="image", codec="image", reads=("image",)),
                    Input(tensor="noise", codec="noise", reads=("seed",), options=drawn),
                ),
                steps=(Step(graph="generator"),),
                output=Output(tensor="result", codec="image"),
            ),
        ),
    )


@hookimpl
def ganserve_families() -> Iterable[Family]:
    """The pix2pix family."""
    return [
        Family(
            name="pix2pix",
            summary="Image-to-image translation learned from pairs: U-Net, PatchGAN, cGAN + L1",
            paper="Isola, Zhu, Zhou, Efros: Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017",
            presets=PRESETS,
            spec=spec,
            build="ganserve_pix2pix.network:build",
            train="ganserve_pix2pix.train:train",
            export="ganserve_pix2pix.network:export",
        )
    ]

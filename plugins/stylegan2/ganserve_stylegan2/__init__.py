"""StyleGAN2 (Karras et al., 2020) with adaptive discriminator augmentation: the spec and the presets."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ganserve import hookimpl
from ganserve.errors import TrainingError
from ganserve.inversion import inversion, invert_graph, invert_inputs, invert_loop
from ganserve.spec import Family, Graph, Input, Latent, Output, Spec, Step, Task, Tensor

# fmt: off
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    # A resolution r has min(base / r, most) channels. "f": config F (Karras et al., 2020, table 1); "half": with half the
    # channels where they are not at most (ADA, appendix D).
    "f-1024":   {"image": (1024, 1024, 3), "z": 512, "w": 512, "mapping": 8, "base": 32768, "most": 512, "classes": 0, "residual": True},
    "f-256":    {"image": (256, 256, 3),   "z": 512, "w": 512, "mapping": 8, "base": 32768, "most": 512, "classes": 0, "residual": True},
    "half-256": {"image": (256, 256, 3),   "z": 512, "w": 512, "mapping": 8, "base": 16384, "most": 512, "classes": 0, "residual": True},
    "cifar10":  {"image": (32, 32, 3),     "z": 512, "w": 512, "mapping": 2, "base": 32768, "most": 512, "classes": 0, "residual": False},
    "emoji":    {"image": (64, 64, 3),     "z": 128, "w": 128, "mapping": 4, "base": 1024,  "most": 192, "classes": 0, "residual": True},
    "tiny":     {"image": (8, 8, 1),       "z": 16,  "w": 16,  "mapping": 2, "base": 128,   "most": 16,  "classes": 0, "residual": True},
}
"""The sizes of the networks."""

EVERYTHING = ("blit", "geometry", "color")
"""ADA's classes of augmentations that help at any size of data (Karras et al., 2020, figure 4)."""

COLUMNS = (
                    "networks", "discriminator", "d_base", "group", "alike", "noise", "rgb", "r1",  "path", "mixing", "diversity", "g_lr", "d_lr", "ema", "augment",  "p_kimg", "batch", "kimg",
)
ROWS: Mapping[str, tuple[Any, ...]] = {
    "paper-1024":  ("f-1024",   "stylegan2",     16384,    4,       False,   1.0,     1.0,   10.0,  2.0,    0.9,      0.0,         2e-3,   2e-3,   10.0,  (),         500.0,    32,      25000.0),
    "paper-256":   ("f-256",    "stylegan2",     16384,    4,       False,   1.0,     1.0,   100.0, 2.0,    0.9,      0.0,         2e-3,   2e-3,   10.0,  (),         500.0,    32,      48000.0),
    "ada-256":     ("half-256", "stylegan2",     8192,     8,       False,   1.0,     1.0,   1.0,   2.0,    0.9,      0.0,         2.5e-3, 2.5e-3, 20.0,  EVERYTHING, 500.0,    64,      25000.0),
    "ada-cifar10": ("cifar10",  "stylegan2",     2048,     32,      False,   1.0,     1.0,   0.01,  0.0,    0.0,      0.0,         2.5e-3, 2.5e-3, 500.0, EVERYTHING, 500.0,    64,      100000.0),
    "emoji-64":    ("emoji",    "stylegan2",     1536,     4,       True,    0.0,     0.1,   0.1,   0.0,    0.0,      0.0,         2e-3,   2e-3,   20.0,  (),         500.0,    32,      1000.0),
    "tiny":        ("tiny",     "stylegan2",     128,      4,       False,   1.0,     1.0,   1.0,   2.0,    0.9,      0.0,         5e-3,   5e-3,   1.0,   EVERYTHING, 1.0,      8,       2.0),
}
# fmt: on

PRESETS: Mapping[str, Mapping[str, Any]] = {
    name: {**dict(zip(COLUMNS, row, strict=True)), **NETWORKS[row[0]]} for name, row in ROWS.items()
}

SMALLEST = 4
"""The resolution that the synthesis network starts from."""


PSI = (-2.0, 2.0, 1.0)
"""Truncation: the lowest psi, the highest, and the default; a negative one mirrors w at w_avg (Karras et al., 2019, figure 8)."""

NOISE_GAIN = (0.0, 2.0, 1.0)
"""What the noise of all layers is multiplied by: 0 leaves it out."""

INVERSION_RATE = 0.1
"""The learning rate of inversion (Karras et al., 2020, appendix D), unless the caller says another."""


def resolutions(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The sides of the images inside the networks: 4, 8, … up to the preset's image."""
    side = config["image"][0]
    return tuple(2**power for power in range(int(math.log2(SMALLEST)), int(math.log2(side)) + 1))


def channels(config: Mapping[str, Any], resolution: int) -> int:
    """The number of feature maps at ``resolution``."""
    return width("base", config["base"], config["most"], resolution)


def width(name: str, base: int, most: int, resolution: int) -> int:
    """min(``base`` / r, ``most``) feature maps at ``resolution`` r; :class:`TrainingError` where that is none. ``name`` is what ``base`` is called."""
    found = int(min(base // resolution, most))
    if found < 1:
        instead = "most of 1" if most < 1 else f"{name} of {resolution}"
        raise TrainingError(
            f"{name} is {base}, with {most} feature maps at most: that leaves none at {resolution}x{resolution}; "
            f"give a {instead} or more"
        )
    return found


def kind(config: Mapping[str, Any]) -> str:
    """Which discriminator ``config`` asks for: ``stylegan2`` or ``sngan``."""
    return str(config.get("discriminator", "stylegan2"))  # older runs and bundles do not say


def opponent(config: Mapping[str, Any]) -> str:
    """The discriminator's name among the networks: its own for each kind, so that a run which begins from one with another draws it."""
    return "discriminator" if kind(config) == "stylegan2" else kind(config)


def layers(config: Mapping[str, Any]) -> int:
    """The number of rows of w: one for each convolution, and one more for the last toRGB (18 for 1024x1024)."""
    return 2 * len(resolutions(config))


def maps(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The side of each noise map, in the order of the convolutions: one at 4x4, two at every other resolution."""
    first, *others = resolutions(config)
    return (first, *(side for side in others for _ in range(2)))


def pixels(config: Mapping[str, Any]) -> int:
    """The number of values of all noise maps together."""
    return sum(side * side for side in maps(config))


def spec(config: Mapping[str, Any]) -> Spec:
    """The mapping z → w, the synthesis w → picture and the step of its inversion; a task that samples and one that finds a picture's w."""
    rows, classes = layers(config), config["classes"]
    z, w, average = (
        Tensor(name=name, dtype="float32", shape=shape)
        for name, shape in (("z", (config["z"],)), ("w", (rows, config["w"])), ("w_avg", (rows, config["w"])))
    )
    label = (Tensor(name="label", dtype="int64"),) if classes else ()
    truncation = (Tensor(name="psi", dtype="float32"), Tensor(name="cutoff", dtype="int64"))
    noise = (
        Tensor(name="noise", dtype="float32", shape=(pixels(config),)),
        Tensor(name="noise_gain", dtype="float32", shape=(rows,)),
    )
    image = Tensor(name="image", dtype="uint8", shape=tuple(config["image"]))
    inputs = (
        Input(tensor="z", codec="noise", reads=("seed",), options={"distribution": "normal", "stream": 0}),
        *(
            Input(tensor=tensor.name, codec="label", reads=("label", "seed"), options={"classes": classes})
            for tensor in label
        ),
        number("psi", *PSI),
        number("cutoff", 0, rows, rows),
        Input(
            tensor="noise",
            codec="fixed-noise",
            reads=("noise_seed",),
            optional=True,
            options={"distribution": "normal", "stream": 1},
        ),
        number("noise_gain", *NOISE_GAIN),
    )
    latents = (Latent(tensor="z", walk="slerp"), Latent(tensor="w", walk="lerp", layers=True))
    return Spec(
        graphs=(
            Graph(name="mapping", inputs=(z, *label, *truncation), outputs=(w, average)),
            Graph(name="synthesis", inputs=(w, *noise), outputs=(image,)),
            invert_graph(w, image, noise, tied=True),
        ),
        tasks=(
            Task(
                name="sample",
                kind="sample",
                inputs=inputs,
                steps=(Step(graph="mapping"), Step(graph="synthesis")),
                output=Output(tensor="image", codec="image"),
                latents=latents,
            ),
            Task(
                name="invert",
                kind="invert",
                inputs=(*inputs, *invert_inputs(INVERSION_RATE, tied=False)),
                steps=(Step(graph="mapping", outputs={"w": "w_sample"}), invert_loop("w"), Step(graph="synthesis")),
                output=Output(tensor="image", codec="image"),
                latents=latents,
                inversion=inversion("w", {"average": "w_avg", "samples": "w_sample"}),
            ),
        ),
    )


def number(tensor: str, low: float, high: float, default: float) -> Input:
    """An input that a number of its own name fills, or ``default``."""
    options = {"low": low, "high": high, "default": default}
    return Input(tensor=tensor, codec="number", reads=(tensor,), optional=True, options=options)


@hookimpl
def ganserve_families() -> Iterable[Family]:
    """The StyleGAN2 family."""
    return [
        Family(
            name="stylegan2",
            summary="Style-based generator with truncation, mixing and named latents: StyleGAN2, with ADA for small data",
            paper="Karras, Laine, Aittala, Hellsten, Lehtinen, Aila: Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020",
            presets=PRESETS,
            spec=spec,
            build="ganserve_stylegan2.network:build",
            train="ganserve_stylegan2.train:train",
            export="ganserve_stylegan2.network:export",
            directions="ganserve_stylegan2.network:directions",
        )
    ]

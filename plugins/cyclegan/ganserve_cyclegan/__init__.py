"""CycleGAN (Zhu et al., 2017), translation between two kinds of images without pairs: the spec and the presets."""

from collections.abc import Iterable, Mapping
from typing import Any

from ganserve import hookimpl
from ganserve.spec import Family, Graph, Input, Output, Spec, Step, Task, Tensor

# fmt: off
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    # The paper's own notation (appendix 7.2). Generator: c7s1-k, dk, Rk, uk as (kind, k). Discriminator: Ck as (k, stride); one
    # more convolution of stride 1 gives the logits.
    # "resnet9": for images of 256x256 and more; "resnet6": for 128x128. The discriminator sees 70x70 pixels.
    "resnet9": {
        "image": (256, 256, 3),
        "generator": (("c7s1", 64), ("d", 128), ("d", 256), *(("R", 256),) * 9, ("u", 128), ("u", 64), ("c7s1", 3)),
        "discriminator": ((64, 2), (128, 2), (256, 2), (512, 1)),
    },
    "resnet6": {
        "image": (128, 128, 3),
        "generator": (("c7s1", 64), ("d", 128), ("d", 256), *(("R", 256),) * 6, ("u", 128), ("u", 64), ("c7s1", 3)),
        "discriminator": ((64, 2), (128, 2), (256, 2), (512, 1)),
    },
    # One stage fewer, so that a logit sees 34x34 of 64x64 pixels.
    "emoji": {
        "image": (64, 64, 3),
        "generator": (("c7s1", 16), ("d", 32), ("d", 64), *(("R", 64),) * 4, ("u", 32), ("u", 16), ("c7s1", 3)),
        "discriminator": ((32, 2), (64, 2), (128, 1)),
    },
    "tiny": {
        "image": (16, 16, 3),
        "generator": (("c7s1", 16), ("d", 32), ("R", 32), ("u", 16), ("c7s1", 3)),
        "discriminator": ((16, 2), (32, 1)),
    },
}
"""The layer tables."""

COLUMNS = (
                    "networks", "cycle", "identity", "history", "g_lr", "d_lr", "betas",      "ema", "max_pixels", "batch", "kimg",
)
# A pixel takes 1.6 kB in paper-256 and 0.4 kB in emoji-64 (ONNX Runtime, float32): max_pixels keeps an image within 4 GB.
ROWS: Mapping[str, tuple[Any, ...]] = {
    "paper-256":   ("resnet9",  10.0,    0.5,        50,        2e-4,   2e-4,   (0.5, 0.999), 0.0,   1 << 21,      1,       240.0),
    "resnet6-128": ("resnet6",  10.0,    0.5,        50,        2e-4,   2e-4,   (0.5, 0.999), 0.0,   1 << 21,      1,       240.0),
    "emoji-64":    ("emoji",    10.0,    0.0,        50,        4e-4,   4e-4,   (0.5, 0.999), 2.0,   1 << 23,      8,       100.0),
    "tiny":        ("tiny",     10.0,    0.5,        10,        2e-3,   2e-3,   (0.5, 0.999), 0.0,   1 << 22,      8,         2.0),
}
# fmt: on

PRESETS: Mapping[str, Mapping[str, Any]] = {
    name: {"data": "domains", **dict(zip(COLUMNS, row, strict=True)), **NETWORKS[row[0]]} for name, row in ROWS.items()
}

DIRECTIONS = {"a2b": ("a", "b"), "b2a": ("b", "a")}
"""Task, graph and generator → the domain that it translates from and the one that it translates to."""


def multiple(generator: Iterable[tuple[str, int]]) -> int:
    """What both sides of an image must be a multiple of.

    Every d layer of ``generator`` halves them, and two pixels must be left: there is no reflection of a single one.
    """
    return int(2 ** (1 + sum(kind == "d" for kind, _ in generator)))


def spec(config: Mapping[str, Any]) -> Spec:
    """For each direction one graph, image [height, width, C] → translation of the same size, and one task that runs it.

    The generators are convolutional, so any size is taken; instance normalization looks at all of it, so there is no radius.
    """
    height, width, channels = config["image"]
    shape, step = ("height", "width", channels), multiple(config["generator"])
    image, result = (Tensor(name=name, dtype="uint8", shape=shape, multiple=step) for name in ("image", "result"))
    options = {"max_pixels": config["max_pixels"], "example": [height, width]}
    return Spec(
        graphs=tuple(Graph(name=name, inputs=(image,), outputs=(result,)) for name in DIRECTIONS),
        tasks=tuple(
            Task(
                name=name,
                kind="translate",
                inputs=(Input(tensor="image", codec="image", reads=("image",), options=options),),
                steps=(Step(graph=name),),
                output=Output(tensor="result", codec="image"),
            )
            for name in DIRECTIONS
        ),
    )


@hookimpl
def ganserve_families() -> Iterable[Family]:
    """The CycleGAN family."""
    return [
        Family(
            name="cyclegan",
            summary="Translation between two kinds of images without pairs: CycleGAN",
            paper="Zhu, Park, Isola, Efros: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017",
            presets=PRESETS,
            spec=spec,
            build="ganserve_cyclegan.network:build",
            train="ganserve_cyclegan.train:train",
            export="ganserve_cyclegan.network:export",
        )
    ]

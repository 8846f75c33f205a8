"""The GAN of 2014 (Goodfellow et al.): two multilayer perceptrons. The spec and the presets."""

from collections.abc import Iterable, Mapping
from typing import Any

from ganserve import hookimpl
from ganserve.inversion import inversion, invert_graph, invert_inputs, invert_loop
from ganserve.spec import Family, Graph, Input, Latent, Output, Spec, Step, Task, Tensor

# Section 5 of the paper: rectifiers and a sigmoid in the generator, maxout and dropout in the discriminator, momentum.
# The maxout layers are (units, pieces); dropout is (of the pixels, of each hidden layer).
# fmt: off
COLUMNS = (
                   "image",     "z", "generator",  "discriminator",      "dropout",   "loss",           "d_steps", "optimizer", "rate", "options",              "ema", "batch", "kimg",
)
ROWS: Mapping[str, tuple[Any, ...]] = {
    "mnist-28":   ((28, 28, 1), 100, (1200, 1200), ((240, 5), (240, 5)), (0.2, 0.5), "non_saturating", 1,         "sgd",       0.1,   {"momentum": 0.5},        10.0,  100,    6000.0),
    "fashion-28": ((28, 28, 1), 100, (1200, 1200), ((240, 5), (240, 5)), (0.2, 0.5), "non_saturating", 1,         "adam",      2e-4,  {"betas": (0.5, 0.999)},  10.0,  100,    3000.0),
    "tiny":       ((8, 8, 1),    16, (32,),        ((16, 2),),           (0.0, 0.0), "non_saturating", 1,         "adam",      1e-3,  {"betas": (0.5, 0.999)},   1.0,    8,       2.0),
}
# fmt: on

PRESETS: Mapping[str, Mapping[str, Any]] = {name: dict(zip(COLUMNS, row, strict=True)) for name, row in ROWS.items()}


INVERSION_RATE = 0.2
"""The learning rate of inversion, whose latent has numbers about 1 large, unless the caller says another."""


def spec(config: Mapping[str, Any]) -> Spec:
    """The generator, z [z] → uint8 [H, W, C], and the step of its inversion; a task that samples and one that finds the z of an image."""
    z = Tensor(name="z", dtype="float32", shape=(config["z"],))
    image = Tensor(name="image", dtype="uint8", shape=tuple(config["image"]))
    noise = {"distribution": "normal", "stream": 0}
    latents = (Latent(tensor="z", walk="slerp"),)
    return Spec(
        graphs=(Graph(name="generator", inputs=(z,), outputs=(image,)), invert_graph(z, image)),
        tasks=(
            Task(
                name="sample",
                kind="sample",
                inputs=(Input(tensor="z", codec="noise", reads=("seed", "truncation"), options=noise),),
                steps=(Step(graph="generator"),),
                output=Output(tensor="image", codec="image"),
                latents=latents,
            ),
            Task(
                name="invert",
                kind="invert",
                inputs=(
                    Input(tensor="z_sample", codec="noise", reads=("seed",), options=noise),
                    *invert_inputs(INVERSION_RATE),
                ),
                steps=(invert_loop("z"), Step(graph="generator")),
                output=Output(tensor="image", codec="image"),
                latents=latents,
                inversion=inversion("z", {"samples": "z_sample"}),
            ),
        ),
    )


@hookimpl
def ganserve_families() -> Iterable[Family]:
    """The GAN family."""
    return [
        Family(
            name="gan",
            summary="Multilayer perceptrons, without labels: the first GAN",
            paper="Goodfellow et al.: Generative Adversarial Nets, NeurIPS 2014",
            presets=PRESETS,
            spec=spec,
            build="ganserve_gan.network:build",
            train="ganserve_gan.train:train",
            export="ganserve_gan.network:export",
        )
    ]

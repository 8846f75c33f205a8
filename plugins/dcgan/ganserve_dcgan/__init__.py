"""DCGAN (Radford et al., 2016) and the objectives and normalizations that grew around it: the spec and the presets."""

from collections.abc import Iterable, Mapping
from typing import Any

from ganserve import hookimpl
from ganserve.inversion import inversion, invert_graph, invert_inputs, invert_loop
from ganserve.spec import Family, Graph, Input, Latent, Output, Spec, Step, Task, Tensor, Walk

# fmt: off
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    # A layer is (channels, kernel, stride, padding). The generator transposes; its first layer projects z to 4x4.
    # "paper": Radford et al., 2016, figure 1; the discriminator mirrors it.
    "paper": {
        "image": (64, 64, 3), "z": 100, "slope": 0.2,
        "generator":     ((1024, 4, 1, 0), (512, 5, 2, 2), (256, 5, 2, 2), (128, 5, 2, 2), (3, 5, 2, 2)),
        "discriminator": ((128, 5, 2, 2), (256, 5, 2, 2), (512, 5, 2, 2), (1024, 5, 2, 2), (1, 4, 1, 0)),
    },
    "cifar10": {
        "image": (32, 32, 3), "z": 100, "slope": 0.2,
        "generator":     ((512, 4, 1, 0), (256, 4, 2, 1), (128, 4, 2, 1), (3, 4, 2, 1)),
        "discriminator": ((64, 4, 2, 1), (128, 4, 2, 1), (256, 4, 2, 1), (1, 4, 1, 0)),
    },
    # "sngan": Miyato et al., 2018, table 3 with M = 32. Its dense layers are the 4x4 ones here, without padding.
    "sngan": {
        "image": (32, 32, 3), "z": 128, "slope": 0.1,
        "generator":     ((512, 4, 1, 0), (256, 4, 2, 1), (128, 4, 2, 1), (64, 4, 2, 1), (3, 3, 1, 1)),
        "discriminator": ((64, 3, 1, 1), (128, 4, 2, 1), (128, 3, 1, 1), (256, 4, 2, 1), (256, 3, 1, 1), (512, 4, 2, 1), (512, 3, 1, 1), (1, 4, 1, 0)),
    },
    "fashion": {
        "image": (32, 32, 1), "z": 100, "slope": 0.2,
        "generator":     ((256, 4, 1, 0), (128, 4, 2, 1), (64, 4, 2, 1), (1, 4, 2, 1)),
        "discriminator": ((64, 4, 2, 1), (128, 4, 2, 1), (256, 4, 2, 1), (1, 4, 1, 0)),
    },
    "emoji": {
        "image": (64, 64, 3), "z": 100, "slope": 0.2,
        "generator":     ((384, 4, 1, 0), (192, 4, 2, 1), (96, 4, 2, 1), (48, 4, 2, 1), (3, 4, 2, 1)),
        "discriminator": ((48, 4, 2, 1), (96, 4, 2, 1), (192, 4, 2, 1), (384, 4, 2, 1), (1, 4, 1, 0)),
    },
    "tiny": {
        "image": (8, 8, 1), "z": 16, "slope": 0.2,
        "generator":     ((16, 4, 1, 0), (1, 4, 2, 1)),
        "discriminator": ((16, 4, 2, 1), (1, 4, 1, 0)),
    },
}
"""The layer tables."""

COLUMNS = (
                   "networks", "noise",   "d_norm",      "d_options", "loss",           "penalty", "r1", "clip", "optimizer", "g_lr", "d_lr", "betas",      "d_steps", "augment", "ema", "batch", "kimg",
)
ROWS: Mapping[str, tuple[Any, ...]] = {
    "paper-64":   ("paper",    "uniform", "batch",       {},          "non_saturating",  0.0,       0.0,  0.0,   "adam",       2e-4,   2e-4,  (0.5, 0.999), 1,         (),        10.0,  128,   15000.0),
    "cifar10-32": ("cifar10",  "uniform", "batch",       {},          "non_saturating",  0.0,       0.0,  0.0,   "adam",       2e-4,   2e-4,  (0.5, 0.999), 1,         (),        10.0,  128,    5000.0),
    "lsgan":      ("cifar10",  "uniform", "batch",       {},          "least_squares",   0.0,       0.0,  0.0,   "adam",       2e-4,   2e-4,  (0.5, 0.999), 1,         (),        10.0,   64,    5000.0),
    "wgan":       ("cifar10",  "normal",  "batch",       {},          "wasserstein",     0.0,       0.0,  0.01,  "rmsprop",    5e-5,   5e-5,  (),           5,         (),        10.0,   64,   25000.0),
    "wgan-gp":    ("cifar10",  "normal",  "none",        {},          "wasserstein",    10.0,       0.0,  0.0,   "adam",       1e-4,   1e-4,  (0.0, 0.9),   5,         (),        10.0,   64,   25000.0),
    "sn-dcgan":   ("sngan",    "normal",  "spectral",    {},          "hinge",           0.0,       0.0,  0.0,   "adam",       2e-4,   2e-4,  (0.5, 0.999), 1,         (),        10.0,   64,    6400.0),
    "srn-dcgan":  ("sngan",    "normal",  "stable_rank", {"c": 0.7},  "hinge",           0.0,       0.0,  0.0,   "adam",       2e-4,   2e-4,  (0.5, 0.999), 1,         (),        10.0,   64,    6400.0),
    "fashion-32": ("fashion",  "normal",  "spectral",    {},          "hinge",           0.0,       0.0,  0.0,   "adam",       2e-4,   2e-4,  (0.5, 0.999), 1,         (),        10.0,   64,    1200.0),
    "emoji-64":   ("emoji",    "normal",  "spectral",    {},          "hinge",           0.0,       0.0,  0.0,   "adam",       2e-4,   4e-4,  (0.5, 0.999), 1, ("translation",),  20.0,   32,     400.0),
    "tiny":       ("tiny",     "normal",  "spectral",    {},          "hinge",           0.0,       0.0,  0.0,   "adam",       2e-3,   2e-3,  (0.5, 0.999), 1,         (),         1.0,    8,       2.0),
}
# fmt: on

PRESETS: Mapping[str, Mapping[str, Any]] = {
    name: {**dict(zip(COLUMNS, row, strict=True)), **NETWORKS[row[0]]} for name, row in ROWS.items()
}

READS = {"normal": ("seed", "truncation"), "uniform": ("seed",)}
"""The request values that z is drawn from: truncation is defined for a normal z only."""

WALKS: Mapping[str, Walk] = {"normal": "slerp", "uniform": "lerp"}
"""How one goes from z to z: a normal one lies near a sphere, a uniform one in a cube."""

INVERSION_RATE = 0.2
"""The learning rate of inversion, whose latent has numbers about 1 large, unless the caller says another."""


def spec(config: Mapping[str, Any]) -> Spec:
    """The generator, z [z] → uint8 [H, W, C], and the step of its inversion; a task that samples and one that finds the z of an image."""
    noise = {"distribution": config["noise"], "low": -1.0, "high": 1.0, "stream": 0}
    z = Tensor(name="z", dtype="float32", shape=(config["z"],))
    image = Tensor(name="image", dtype="uint8", shape=tuple(config["image"]))
    latents = (Latent(tensor="z", walk=WALKS[config["noise"]]),)
    return Spec(
        graphs=(Graph(name="generator", inputs=(z,), outputs=(image,)), invert_graph(z, image)),
        tasks=(
            Task(
                name="sample",
                kind="sample",
                inputs=(Input(tensor="z", codec="noise", reads=READS[config["noise"]], options=noise),),
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
    """The DCGAN family."""
    return [
        Family(
            name="dcgan",
            summary="Convolutional GAN without labels: DCGAN, LSGAN, WGAN, WGAN-GP, SN-DCGAN, SRN-DCGAN",
            paper="Radford, Metz, Chintala: Unsupervised Representation Learning with Deep Convolutional GANs, ICLR 2016",
            presets=PRESETS,
            spec=spec,
            build="ganserve_dcgan.network:build",
            train="ganserve_dcgan.train:train",
            export="ganserve_dcgan.network:export",
        )
    ]

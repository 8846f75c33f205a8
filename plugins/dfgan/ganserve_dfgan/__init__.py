"""DF-GAN (Tao et al., 2022), text-to-image in one stage: the spec and the presets."""

from collections.abc import Iterable, Mapping
from typing import Any

from ganserve import hookimpl
from ganserve.spec import Family, Graph, Input, Latent, Output, Spec, Step, Task, Tensor

# fmt: off
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    # "generator" has the channels of its feature maps from 4x4 up to the image, "discriminator" those from the image down to 4x4.
    "256": {
        "image": (256, 256, 3), "z": 100,
        "generator":     (256, 256, 256, 256, 128, 64, 32),
        "discriminator": (32, 64, 128, 256, 512, 512, 512),
    },
    "64": {
        "image": (64, 64, 3), "z": 100,
        "generator":     (256, 128, 64, 32, 16),
        "discriminator": (16, 32, 64, 128, 192),
    },
    "tiny": {
        "image": (8, 8, 3), "z": 8,
        "generator":     (8, 8),
        "discriminator": (8, 8),
    },
}
"""The sizes of the networks."""

COLUMNS = (
                   "networks", "text", "tokens", "gain", "k", "p", "every", "g_lr", "d_lr", "betas",    "augment",        "ema", "batch", "kimg",
)
ROWS: Mapping[str, tuple[Any, ...]] = {
    "paper-256":  ("256",      256,    32,       1.0,    2.0, 6.0, 1,       1e-4,   4e-4,   (0.0, 0.9), (),               10.0,  24,      5000.0),
    # A sentence's vector of length 1 has 384 numbers of about 1 / 20: the gain makes them as large as those of z.
    "minilm-256": ("256",      384,    64,       20.0,   2.0, 6.0, 1,       1e-4,   4e-4,   (0.0, 0.9), (),               10.0,  24,      5000.0),
    "emoji-64":   ("64",       384,    32,       20.0,   2.0, 6.0, 4,       2e-4,   4e-4,   (0.0, 0.9), ("translation",), 20.0,  32,       400.0),
    "tiny":       ("tiny",     16,     16,       4.0,    2.0, 6.0, 2,       2e-3,   2e-3,   (0.0, 0.9), ("translation",), 1.0,   8,          2.0),
}
# fmt: on

PRESETS: Mapping[str, Mapping[str, Any]] = {
    name: {"data": "captions", **dict(zip(COLUMNS, row, strict=True)), **NETWORKS[row[0]]} for name, row in ROWS.items()
}

PADDING = 8
"""Prompts are padded to a multiple of so many tokens, so that those of like length meet in a batch."""

TOKENIZER = "tokenizer.json"


def spec(config: Mapping[str, Any]) -> Spec:
    """Two graphs, ``text``: token ids and mask → vector, and ``generator``: z and vector → image; one task, from a prompt and a seed."""
    ids, mask = (Tensor(name=name, dtype="int64", shape=("length",), multiple=PADDING) for name in ("ids", "mask"))
    text = Tensor(name="text", dtype="float32", shape=(config["text"],))
    z = Tensor(name="z", dtype="float32", shape=(config["z"],))
    image = Tensor(name="image", dtype="uint8", shape=tuple(config["image"]))
    options = {"tokens": config["tokens"]}
    return Spec(
        graphs=(
            Graph(name="text", inputs=(ids, mask), outputs=(text,)),
            Graph(name="generator", inputs=(z, text), outputs=(image,)),
        ),
        tasks=(
            Task(
                name="imagine",
                kind="text_to_image",
                inputs=(
                    *(
                        Input(
                            tensor=name,
                            codec="tokens",
                            reads=("prompt",),
                            options={**options, "gives": name},
                            files=(TOKENIZER,),
                        )
                        for name in ("ids", "mask")
                    ),
                    Input(tensor="z", codec="noise", reads=("seed", "truncation"), options={"stream": 0}),
                ),
                # A prompt is encoded once, however many pictures are made of it.
                steps=(Step(graph="text", shared=True), Step(graph="generator")),
                output=Output(tensor="image", codec="image"),
                latents=(Latent(tensor="text", walk="slerp"), Latent(tensor="z", walk="slerp")),
            ),
        ),
    )


@hookimpl
def ganserve_families() -> Iterable[Family]:
    """The DF-GAN family."""
    return [
        Family(
            name="dfgan",
            summary="Text-to-image in one stage: text-image fusion blocks, matching-aware gradient penalty, any sentence encoder",
            paper="Tao, Tang, Wu, Jing, Bao, Xu: DF-GAN: A Simple and Effective Baseline for Text-to-Image Synthesis, CVPR 2022",
            presets=PRESETS,
            spec=spec,
            build="ganserve_dfgan.network:build",
            train="ganserve_dfgan.train:train",
            export="ganserve_dfgan.network:export",
        )
    ]

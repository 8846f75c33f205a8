"""The echo bundle that reads prompts: ``text`` (token ids → a vector), then ``generator`` (z + vector → image), as plain arithmetic.

Its one task ``imagine`` encodes equal prompts once. Everything that it makes can be said by hand (:func:`text_of`, and the image of
:func:`ganserve.testing.echo.image_of`). The tokenizer knows letters and a few words (:mod:`ganserve.testing.captions`).
"""

import json
from pathlib import Path

import numpy as np
from onnx import helper, numpy_helper

from ganserve.codecs.seeds import draw
from ganserve.spec import Graph, Input, Latent, Noise, Output, Step, Task, Tensor
from ganserve.testing.captions import TOKENIZER, tokenizer
from ganserve.testing.echo import GOLDEN_ROWS, SIZE, image_of, write_by_hand
from ganserve.testing.echo_pictures import Body

MOST_TOKENS, MULTIPLE = 32, 8
"""The most tokens of a prompt, and what it is padded to a multiple of."""

WEIGHTS = np.array([0.02, -0.02, 0.01, -0.01], np.float32)
"""What a vector is of the sum of a text's ids."""

Z_NOISE = Noise(distribution="normal", stream=0)

_IDS, _MASK = (Tensor(name=name, dtype="int64", shape=("length",), multiple=MULTIPLE) for name in ("ids", "mask"))
_TEXT, _Z = (Tensor(name=name, dtype="float32", shape=(SIZE,)) for name in ("text", "z"))
_IMAGE = Tensor(name="image", dtype="uint8", shape=(SIZE, SIZE, 3))


def text_of(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The vectors float32 [n, 4] of texts: the sum of the ids that are not masked, times :data:`WEIGHTS`."""
    vectors: np.ndarray = (ids * mask).sum(1, keepdims=True).astype(np.float32) * WEIGHTS
    return vectors


def write_text_bundle(folder: Path, *, name: str = "echo-text", version: int = 1, words: str | None = None) -> Path:
    """Write the bundle into ``folder`` (made if missing) and return it; ``words`` in the place of its ``tokenizer.json``."""
    z = draw(Z_NOISE, np.array([(0, row) for row in range(GOLDEN_ROWS)], np.uint64), (SIZE,))
    ids = np.arange(2, 2 + GOLDEN_ROWS * MULTIPLE).reshape(GOLDEN_ROWS, MULTIPLE)
    mask = (np.arange(MULTIPLE) < np.arange(3, 3 + GOLDEN_ROWS)[:, None]).astype(np.int64)
    text = text_of(ids, mask)
    golden = {"text.ids": ids, "text.mask": mask, "text.text": text}
    golden |= {"generator.z": z, "generator.text": text, "generator.image": image_of(z + text)}
    return write_by_hand(
        folder,
        name=name,
        version=version,
        graphs=(
            Graph(name="text", inputs=(_IDS, _MASK), outputs=(_TEXT,)),
            Graph(name="generator", inputs=(_Z, _TEXT), outputs=(_IMAGE,)),
        ),
        bodies={"text": _text(), "generator": _generator()},
        tasks=(_task(),),
        golden=golden,
        texts={TOKENIZER: json.dumps(tokenizer()) if words is None else words},
    )


def _task() -> Task:
    prompts = tuple(
        Input(
            tensor=name,
            codec="tokens",
            reads=("prompt",),
            options={"gives": name, "tokens": MOST_TOKENS, "characters": 200},
            files=(TOKENIZER,),
        )
        for name in ("ids", "mask")
    )
    return Task(
        name="imagine",
        kind="text_to_image",
        inputs=(*prompts, Input(tensor="z", codec="noise", reads=("seed", "truncation"), options={"stream": 0})),
        steps=(Step(graph="text", shared=True), Step(graph="generator")),
        output=Output(tensor="image", codec="image"),
        latents=(Latent(tensor="text"), Latent(tensor="z", walk="slerp")),
    )


def _text() -> Body:
    nodes = [
        helper.make_node("Mul", ["ids", "mask"], ["read"]),
        helper.make_node("ReduceSum", ["read", "axis"], ["sum"], keepdims=1),
        helper.make_node("Cast", ["sum"], ["number"], to=1),
        helper.make_node("Mul", ["number", "weights"], ["text"]),
    ]
    return nodes, [
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(WEIGHTS, "weights"),
    ]


def _generator() -> Body:
    nodes = [
        helper.make_node("Add", ["z", "text"], ["w"]),
        helper.make_node("Mul", ["w", "contrast"], ["scaled"]),
        helper.make_node("Add", ["scaled", "grey"], ["paint"]),
        helper.make_node("Clip", ["paint", "black", "white"], ["levels"]),
        helper.make_node("Unsqueeze", ["levels", "axes"], ["pixels"]),
        helper.make_node("Tile", ["pixels", "repeats"], ["all"]),
        helper.make_node("Cast", ["all"], ["image"], to=2),
    ]
    numbers = {"contrast": 20, "grey": 128, "black": 0, "white": 255}
    weights = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in numbers.items()]
    weights += [
        numpy_helper.from_array(np.array([1, 3], np.int64), "axes"),
        numpy_helper.from_array(np.array([1, SIZE, 1, 3], np.int64), "repeats"),
    ]
    return nodes, weights

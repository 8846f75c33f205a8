"""A style generator of arithmetic: a real bundle with latents, layers, noise and directions, so that all work on latents can be tested.

Its task ``sample``: seed, truncation, label, psi → ``mapping`` (z → w, the same for all layers) → ``synthesis`` (w, noise → image). Layer l
of w paints channel l of the image: pixel (i, j) of it is 128 + 20·w[l, j] + 4·noise[i] (:func:`picture_of`). Both z (slerp) and w (lerp, with
layers) are latents. Task ``refine`` has a loop on the way from z to image, whose fresh noise needs a seed. Directions:

- ``brighter``: every number of w goes up by 1.
- ``warmer``: the first layer (red) goes up by 1, the last (blue) down.
- ``first``: the first number of z goes up by 1.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ganserve.bundle import read
from ganserve.codecs.seeds import draw
from ganserve.directions import add_direction
from ganserve.spec import Graph, Input, Latent, Loop, Noise, Output, Step, Task, Tensor
from ganserve.testing.echo import GOLDEN_ROWS, LABELS, SIZE, Z_NOISE, write_by_hand
from ganserve.testing.echo_pictures import Body

LAYERS = 3
"""The layers of w, and the channels of the image."""

PIXEL_NOISE = Noise(distribution="normal", stream=1)
REFINE_NOISE = Noise(distribution="normal", stream=5)

_UP, _DOWN, _STILL = (np.full((1, SIZE), step, np.float32) for step in (1, -1, 0))
DIRECTIONS = {
    "brighter": ("w", np.concatenate([_UP, _UP, _UP])),
    "warmer": ("w", np.concatenate([_UP, _STILL, _DOWN])),
    "first": ("z", np.eye(SIZE, dtype=np.float32)[0]),
}
"""Name → the latent that it moves, and the vector."""

_Z = Tensor(name="z", dtype="float32", shape=(SIZE,))
_LABEL = Tensor(name="label", dtype="int64")
_PSI = Tensor(name="psi", dtype="float32")
_W = Tensor(name="w", dtype="float32", shape=(LAYERS, SIZE))
_NOISE = Tensor(name="noise", dtype="float32", shape=(SIZE,))
_IMAGE = Tensor(name="image", dtype="uint8", shape=(SIZE, SIZE, LAYERS))
_X = Tensor(name="x", dtype="float32", shape=(SIZE,))
_FRESH = Tensor(name="fresh", dtype="float32", shape=(SIZE,))
_NEXT = Tensor(name="next", dtype="float32", shape=(SIZE,))


def w_of(z: np.ndarray, label: int = 0, psi: float = 1.0) -> np.ndarray:
    """What ``mapping`` makes of ``z`` [n, 4]: psi·(z + label), float32 [n, layers, 4]."""
    w: np.ndarray = np.repeat(((z + np.float32(label)) * np.float32(psi))[:, None], LAYERS, axis=1)
    return w


def noise_of(seed: int = 0) -> np.ndarray:
    """The noise of the images for a ``noise_seed``: float32 [4]."""
    noise: np.ndarray = draw(PIXEL_NOISE, np.array([(seed, 0)], np.uint64), (SIZE,))[0]
    return noise


def picture_of(w: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
    """What ``synthesis`` makes of ``w`` [n, layers, 4] and ``noise`` [4], by default the constant one: uint8 [n, 4, 4, layers]."""
    noise = noise_of() if noise is None else noise
    paint = w * np.float32(20) + np.float32(128)
    levels = paint.transpose(0, 2, 1)[:, None, :, :] + (noise * np.float32(4))[None, :, None, None]
    picture: np.ndarray = np.clip(levels, 0, 255).astype(np.uint8)
    return picture


def write_style_bundle(folder: Path, *, name: str = "echo-style", version: int = 1) -> Path:
    """Write the bundle into ``folder`` (made if missing) and return it."""
    write_by_hand(
        folder,
        name=name,
        version=version,
        graphs=(
            Graph(name="mapping", inputs=(_Z, _LABEL, _PSI), outputs=(_W,)),
            Graph(name="synthesis", inputs=(_W, _NOISE), outputs=(_IMAGE,)),
            Graph(name="refine", inputs=(_X, _FRESH), outputs=(_NEXT,)),
        ),
        bodies={"mapping": _mapping(), "synthesis": _synthesis(), "refine": _refine()},
        tasks=_tasks(),
        golden=_golden_arrays(GOLDEN_ROWS),
    )
    found = read(folder)
    for direction, (tensor, vector) in DIRECTIONS.items():
        found = add_direction(found, direction, tensor, vector, "written by hand")
    return folder


def _tasks() -> tuple[Task, ...]:
    z = Input(tensor="z", codec="noise", reads=("seed", "truncation"), options={"stream": Z_NOISE.stream})
    label = Input(tensor="label", codec="label", reads=("label",), options={"classes": len(LABELS), "names": LABELS})
    drawn = Input(tensor="label", codec="label", reads=("label", "seed"), options={"classes": len(LABELS)})
    psi = Input(
        tensor="psi", codec="number", reads=("psi",), optional=True, options={"low": -2, "high": 2, "default": 1}
    )
    noise = Input(
        tensor="noise",
        codec="fixed-noise",
        reads=("noise_seed",),
        optional=True,
        options={"stream": PIXEL_NOISE.stream},
    )
    image = Output(tensor="image", codec="image")
    latents = (Latent(tensor="z", walk="slerp"), Latent(tensor="w", walk="lerp", layers=True))
    steps = (Step(graph="mapping"), Step(graph="synthesis"))
    refine = Loop(
        graph="refine",
        inputs={"x": "z"},
        outputs={"next": "y"},
        state={"next": "x"},
        steps=2,
        noise={"fresh": REFINE_NOISE},
    )
    refined = (refine, Step(graph="mapping", inputs={"z": "y"}), Step(graph="synthesis"))
    return (
        Task(name="sample", kind="sample", inputs=(z, label, psi, noise), steps=steps, output=image, latents=latents),
        Task(name="drawn", kind="sample", inputs=(z, drawn, psi, noise), steps=steps, output=image, latents=latents),
        Task(name="refine", kind="sample", inputs=(z, label, psi, noise), steps=refined, output=image, latents=latents),
        Task(name="plain", kind="sample", inputs=(z, label, psi, noise), steps=steps, output=image),
    )


def _golden_arrays(rows: int) -> dict[str, np.ndarray]:
    seeds = np.array([(0, row) for row in range(rows)], np.uint64)
    z = draw(Z_NOISE, seeds, (SIZE,))
    w = w_of(z)
    noise = np.repeat(noise_of()[None], rows, axis=0)
    arrays = {"mapping.z": z, "mapping.label": np.zeros(rows, np.int64), "mapping.psi": np.ones(rows, np.float32)}
    arrays |= {"mapping.w": w, "synthesis.w": w, "synthesis.noise": noise, "synthesis.image": picture_of(w)}
    return arrays | {"refine.x": z, "refine.fresh": z, "refine.next": z * np.float32(0.5) + z}


def _mapping() -> Body:
    nodes = [
        helper.make_node("Cast", ["label"], ["number"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["number", "last"], ["label_column"]),
        helper.make_node("Add", ["z", "label_column"], ["moved"]),
        helper.make_node("Unsqueeze", ["psi", "last"], ["psi_column"]),
        helper.make_node("Mul", ["moved", "psi_column"], ["style"]),
        helper.make_node("Unsqueeze", ["style", "last"], ["one_layer"]),
        helper.make_node("Tile", ["one_layer", "layers"], ["w"]),
    ]
    return nodes, _weights(last=np.array([1], np.int64), layers=np.array([1, LAYERS, 1], np.int64))


def _synthesis() -> Body:
    nodes = [
        helper.make_node("Mul", ["w", "contrast"], ["scaled"]),
        helper.make_node("Add", ["scaled", "grey"], ["paint"]),
        helper.make_node("Transpose", ["paint"], ["channels"], perm=[0, 2, 1]),
        helper.make_node("Unsqueeze", ["channels", "first"], ["rows"]),
        helper.make_node("Mul", ["noise", "grain"], ["faint"]),
        helper.make_node("Unsqueeze", ["faint", "others"], ["lines"]),
        helper.make_node("Add", ["rows", "lines"], ["levels"]),
        helper.make_node("Clip", ["levels", "black", "white"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["image"], to=onnx.TensorProto.UINT8),
    ]
    numbers = {"contrast": 20, "grey": 128, "grain": 4, "black": 0, "white": 255}
    axes = {"first": np.array([1], np.int64), "others": np.array([2, 3], np.int64)}
    return nodes, _weights(**{name: np.array(number, np.float32) for name, number in numbers.items()}, **axes)


def _refine() -> Body:
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["halved"]),
        helper.make_node("Add", ["halved", "fresh"], ["next"]),
    ]
    return nodes, _weights(half=np.array(0.5, np.float32))


def _weights(**arrays: np.ndarray) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]

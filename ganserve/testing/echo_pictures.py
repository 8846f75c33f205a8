"""The translate tasks of the echo bundle: graphs that turn pictures into pictures, and what each makes, said in numpy.

All arithmetic is exact in float32 (eighths and halves of whole numbers), so the answers are equal on every engine.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ganserve.codecs.picture import ImageDecoder
from ganserve.codecs.seeds import draw
from ganserve.spec import Graph, Input, Noise, Output, Step, Task, Tensor

Body = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]

MULTIPLE = 4
"""What the sides of free pictures are multiples of."""

MAX_PIXELS = 1 << 20
"""The most pixels that the free graphs take at once: little, so that tests of larger pictures are cheap."""

FIXED = 16
"""The sides of the pictures of ``fixed``."""

TINT_NOISE = Noise(distribution="uniform", stream=3, low=-64.0, high=64.0)

_BLUR = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], np.float32) / 8
_EXAMPLE = (8, 12)

_FREE = ("height", "width", 3)


def negative_of(images: np.ndarray) -> np.ndarray:
    """What ``negative`` makes of ``images`` uint8 [n, H, W, 3]: 255 less the blur with zeros around the picture, cut to whole numbers."""
    padded = np.pad(images.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = images.shape[1:3]
    blurred = np.zeros(images.shape, np.float32)
    for (down, across), weight in np.ndenumerate(_BLUR):
        blurred += weight * padded[:, down : down + height, across : across + width]
    negative: np.ndarray = (255 - blurred).astype(np.uint8)
    return negative


def global_of(images: np.ndarray) -> np.ndarray:
    """What ``global`` makes of ``images``: each less its mean, rounded down, plus 128, saturated."""
    means = np.floor(images.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float64))
    apart: np.ndarray = np.clip(images - means + 128, 0, 255).astype(np.uint8)
    return apart


def blend_of(images: np.ndarray, references: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What ``blend`` makes: ``images`` x (1 - weight) + ``references`` x weight, cut to whole numbers."""
    share = weight.astype(np.float32)[:, None, None, None]
    return (images * (1 - share) + references * share).astype(np.uint8)


def noisy_of(images: np.ndarray, tint: np.ndarray) -> np.ndarray:
    """What ``noisy`` makes of ``images`` with ``tint`` [n, 3] from the seeds: their sum, saturated and cut to whole numbers."""
    shifted: np.ndarray = np.clip(images + tint[:, None, None, :], 0, 255).astype(np.uint8)
    return shifted


def double_of(images: np.ndarray) -> np.ndarray:
    """What ``double`` makes of ``images``: [n, 2H, 2W, 3]."""
    return images.repeat(2, 1).repeat(2, 2)


def measure_of(images: np.ndarray) -> np.ndarray:
    """What ``measure`` makes of ``images``: their mean colours float32 [n, 3]."""
    means: np.ndarray = images.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
    return means


def picture_golden(seeds: np.ndarray) -> dict[str, np.ndarray]:
    """The golden rows of the graphs for ``seeds`` [n, 2]: example pictures and what is made of them."""
    images, references = (_decoder(name, _FREE).example(seeds) for name in ("image", "reference"))
    small = _decoder("image", (FIXED, FIXED, 3)).example(seeds)
    weight = np.full(len(seeds), 0.5, np.float32)
    tint = draw(TINT_NOISE, seeds, (3,))
    arrays = {f"{graph}.image": images for graph in ("negative", "negative-alone", "global", "blend", "noisy")}
    arrays |= {"double.image": images, "measure.image": images, "fixed.image": small}
    arrays |= {"negative.result": negative_of(images), "negative-alone.result": negative_of(images)}
    arrays |= {"fixed.result": negative_of(small), "global.result": global_of(images)}
    arrays |= {"blend.reference": references, "blend.weight": weight}
    arrays |= {"blend.result": blend_of(images, references, weight)}
    arrays |= {"noisy.tint": tint, "noisy.result": noisy_of(images, tint)}
    return arrays | {"double.result": double_of(images), "measure.colour": measure_of(images)}


def _picture(name: str, shape: tuple[int | str, ...] = _FREE) -> Tensor:
    return Tensor(name=name, dtype="uint8", shape=shape, multiple=MULTIPLE if shape == _FREE else 1)


def _input(name: str, shape: tuple[int | str, ...] = _FREE) -> Input:
    options = {"max_pixels": MAX_PIXELS, "example": _EXAMPLE} if shape == _FREE else {}
    return Input(tensor=name, codec="image", reads=(name,), options=options)


def _decoder(name: str, shape: tuple[int | str, ...]) -> ImageDecoder:
    return ImageDecoder(_input(name, shape), _picture(name, shape), Path())


_IMAGE, _RESULT = _picture("image"), _picture("result")
_SMALL = (FIXED, FIXED, 3)
_TINT = Tensor(name="tint", dtype="float32", shape=(3,))
_WEIGHT = Tensor(name="weight", dtype="float32")
_COLOUR = Tensor(name="colour", dtype="float32", shape=(3,))
_TWICE = _picture("result", ("twice_height", "twice_width", 3))

PICTURE_GRAPHS = (
    Graph(name="negative", inputs=(_IMAGE,), outputs=(_RESULT,), radius=1),
    Graph(name="negative-alone", inputs=(_IMAGE,), outputs=(_RESULT,), radius=1, batchable=False),
    Graph(name="global", inputs=(_IMAGE,), outputs=(_RESULT,)),
    Graph(name="blend", inputs=(_IMAGE, _picture("reference"), _WEIGHT), outputs=(_RESULT,), radius=0),
    Graph(name="noisy", inputs=(_IMAGE, _TINT), outputs=(_RESULT,), radius=0),
    Graph(name="double", inputs=(_IMAGE,), outputs=(_TWICE,), radius=0),
    Graph(name="fixed", inputs=(_picture("image", _SMALL),), outputs=(_picture("result", _SMALL),), radius=1),
    Graph(name="measure", inputs=(_IMAGE,), outputs=(_COLOUR,)),
)


def _task(name: str, *more: Input, output: str = "result", image: Input | None = None) -> Task:
    codec = "image" if output == "result" else "array"
    inputs = (image or _input("image"), *more)
    steps = (Step(graph=name),)
    return Task(name=name, kind="translate", inputs=inputs, steps=steps, output=Output(tensor=output, codec=codec))


_NUMBER = {"low": 0.0, "high": 1.0, "default": 0.5}
_UNIFORM = {"distribution": "uniform", "stream": TINT_NOISE.stream, "low": TINT_NOISE.low, "high": TINT_NOISE.high}

PICTURE_TASKS = (
    _task("negative"),
    _task("negative-alone"),
    _task("global"),
    _task(
        "blend",
        _input("reference"),
        Input(tensor="weight", codec="number", reads=("weight",), options=_NUMBER, optional=True),
    ),
    _task("noisy", Input(tensor="tint", codec="noise", reads=("seed",), options=_UNIFORM)),
    _task("double"),
    _task("fixed", image=_input("image", _SMALL)),
    _task("measure", output="colour"),
)


def _weights(**arrays: np.ndarray | float) -> list[onnx.TensorProto]:
    return [
        numpy_helper.from_array(array if isinstance(array, np.ndarray) else np.array(array, np.float32), name)
        for name, array in arrays.items()
    ]


def _float(name: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [f"{name}_float"], to=onnx.TensorProto.FLOAT)


def _whole(name: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], ["result"], to=onnx.TensorProto.UINT8)


def _negative() -> Body:
    nodes = [
        _float("image"),
        helper.make_node("Transpose", ["image_float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "blur"], ["blurred"], pads=[1, 1, 1, 1], group=3),
        helper.make_node("Transpose", ["blurred"], ["pixels"], perm=[0, 2, 3, 1]),
        helper.make_node("Sub", ["white", "pixels"], ["negative"]),
        _whole("negative"),
    ]
    return nodes, _weights(white=255.0, blur=np.broadcast_to(_BLUR, (3, 1, 3, 3)).copy())


def _global() -> Body:
    nodes = [
        _float("image"),
        helper.make_node("ReduceMean", ["image_float", "all"], ["mean"], keepdims=1),
        helper.make_node("Floor", ["mean"], ["level"]),
        helper.make_node("Sub", ["image_float", "level"], ["apart"]),
        helper.make_node("Add", ["apart", "grey"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "black", "white"], ["clipped"]),
        _whole("clipped"),
    ]
    return nodes, _weights(grey=128.0, black=0.0, white=255.0, all=np.array([1, 2, 3], np.int64))


def _blend() -> Body:
    nodes = [
        _float("image"),
        _float("reference"),
        helper.make_node("Unsqueeze", ["weight", "axes"], ["share"]),
        helper.make_node("Sub", ["one", "share"], ["rest"]),
        helper.make_node("Mul", ["image_float", "rest"], ["first"]),
        helper.make_node("Mul", ["reference_float", "share"], ["second"]),
        helper.make_node("Add", ["first", "second"], ["mixed"]),
        _whole("mixed"),
    ]
    return nodes, _weights(one=1.0, axes=np.array([1, 2, 3], np.int64))


def _noisy() -> Body:
    nodes = [
        _float("image"),
        helper.make_node("Unsqueeze", ["tint", "axes"], ["shift"]),
        helper.make_node("Add", ["image_float", "shift"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "black", "white"], ["clipped"]),
        _whole("clipped"),
    ]
    return nodes, _weights(black=0.0, white=255.0, axes=np.array([1, 2], np.int64))


def _double() -> Body:
    nodes = [
        _float("image"),
        helper.make_node("Transpose", ["image_float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "Resize",
            ["planes", "", "scales"],
            ["larger"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("Transpose", ["larger"], ["pixels"], perm=[0, 2, 3, 1]),
        _whole("pixels"),
    ]
    return nodes, _weights(scales=np.array([1, 1, 2, 2], np.float32))


def _measure() -> Body:
    nodes = [_float("image"), helper.make_node("ReduceMean", ["image_float", "sides"], ["colour"], keepdims=0)]
    return nodes, _weights(sides=np.array([1, 2], np.int64))


PICTURE_BODIES: Mapping[str, Callable[[], Body]] = {
    "negative": _negative,
    "negative-alone": _negative,
    "global": _global,
    "blend": _blend,
    "noisy": _noisy,
    "double": _double,
    "fixed": _negative,
    "measure": _measure,
}

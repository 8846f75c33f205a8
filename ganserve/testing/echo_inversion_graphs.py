"""The graphs of the echo of an inversion, written by hand: a linear generator, its least-squares inverse, and a step of the search."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ganserve.testing.echo_pictures import Body

SIZE = 4
"""The length of the latent."""

SIDE = 16
SHAPE = (SIDE, SIDE, 3)
"""Height, width and channels of the pictures."""

PIXELS = math.prod(SHAPE)

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants (Kingma & Ba 2015, algorithm 1)."""

WARM, COOL = 0.05, 0.25
"""The parts of a search over which the learning rate rises, and falls to 0 (StyleGAN2, appendix D)."""

Constant: TypeAlias = float | Sequence[int] | np.ndarray


def _waves() -> np.ndarray:
    down, across = np.mgrid[0:SIDE, 0:SIDE] * (math.pi / SIDE)
    colours = np.array([(1, 1, 1), (1, 0, -1), (0.5, -1, 0.5), (-1, 1, 1)])
    planes = [np.cos(down), np.cos(across), np.cos(down + across), np.sin(2 * down) * np.sin(across)]
    waves: np.ndarray = 22 * np.stack(planes, axis=2)[:, :, None, :] * colours.T
    return waves.astype(np.float32).reshape(PIXELS, SIZE)


WAVES = _waves()
"""W, float32 [pixels, SIZE]: for each number of the latent a slow wave of its own colour."""

INVERSE = np.linalg.pinv(WAVES.astype(np.float64)).astype(np.float32)
"""The least-squares inverse of W, float32 [SIZE, pixels]."""


def _constants(**arrays: Constant) -> list[onnx.TensorProto]:
    kinds = {list: np.int64, float: np.float32, int: np.float32}
    return [numpy_helper.from_array(np.asarray(value, kinds.get(type(value))), name) for name, value in arrays.items()]


def _chain(*lines: str, **attributes: Mapping[str, Any]) -> list[onnx.NodeProto]:
    """Nodes, one a line: ``out = Operator in in``; ``attributes`` by the name of a node's output."""
    nodes = []
    for line in lines:
        made, call = line.split(" = ")
        operator, *reads = call.split()
        nodes.append(helper.make_node(operator, reads, [made], **attributes.get(made, {})))
    return nodes


_PAINT = (
    "row = Unsqueeze {x} one_axis",
    "products = Mul row waves",
    "sums = ReduceSum products two_axis",
    "levels = Add sums grey",
    "rounded = Round levels",
    "clipped = Clip rounded black white",
    "grid = Reshape clipped picture",
    "{image} = Cast grid",
)
_PAINT_CONSTANTS: dict[str, Constant] = {
    "waves": WAVES,
    "grey": 127.5,
    "black": 0.0,
    "white": 255.0,
    "picture": [-1, *SHAPE],
    "one_axis": [1],
    "two_axis": [2],
}
_SINE = (110, 72, 42, 20, 6)
"""sin x = x (1 - x²/6 (1 - x²/20 (1 - x²/42 ...))), from within; up to π/2 it is right to 6e-8."""

_FLAT = {"keepdims": 0}
_FLOAT, _BYTES = {"to": onnx.TensorProto.FLOAT}, {"to": onnx.TensorProto.UINT8}


def _paint(x: str, image: str) -> list[str]:
    return [line.format(x=x, image=image) for line in _PAINT]


def _sine(part: str) -> list[str]:
    """sin(π/2 · part) by its series, since 0.5 - 0.5·cos(π·part) is its square.

    ONNX Runtime's own Cos rounds the last values of an array otherwise than those before them, so that a row's would depend on
    how many rows are with it.
    """
    lines = [f"angle = Mul {part} quarter", "square_of_angle = Mul angle angle"]
    rest = "all"
    for number in _SINE:
        lines += [
            f"scaled{number} = Mul square_of_angle {rest}",
            f"term{number} = Div scaled{number} divisor{number}",
            f"rest{number} = Sub all term{number}",
        ]
        rest = f"rest{number}"
    return [*lines, f"sine = Mul angle {rest}"]


def start_body() -> Body:
    """noise, psi → sample, average: psi·noise, and zeros."""
    nodes = _chain("column = Unsqueeze psi one_axis", "sample = Mul noise column", "average = Mul noise none")
    return nodes, _constants(one_axis=[1], none=0.0)


def paint_body() -> Body:
    """z → image: 127.5 + W·z, rounded and saturated."""
    return _chain(*_paint("z", "image"), sums=_FLAT, image=_BYTES), _constants(**_PAINT_CONSTANTS)


def encode_body() -> Body:
    """target → encoded: the latent whose picture is nearest."""
    nodes = _chain(
        "bytes = Reshape target flat",
        "seen = Cast bytes",
        "apart = Sub seen grey",
        "products = Mul apart inverse",
        "encoded = ReduceSum products two_axis",
        seen=_FLOAT,
        encoded=_FLAT,
    )
    return nodes, _constants(flat=[-1, 1, PIXELS], grey=127.5, inverse=INVERSE, two_axis=[2])


def invert_body() -> Body:
    """One step of the search, as :func:`ganserve.inversion.invert_graph` declares it, and ``perceptual``, here the mean error."""
    nodes = _chain(
        *_paint("x", "preview"),
        # The loss, and its gradient with respect to x.
        "flat = Reshape target line",
        "seen = Cast flat",
        "difference = Sub levels seen",
        "apart = Div difference half",
        "squares = Mul apart apart",
        "loss = ReduceMean squares one_axis",
        "sizes = Abs apart",
        "perceptual = ReduceMean sizes one_axis",
        # Summed along the last axis: along another, ONNX Runtime sums a single row in another order than rows of a batch.
        "pull = Unsqueeze apart one_axis",
        "pulls = Mul pull waves_across",
        "pulled = ReduceMean pulls two_axis",
        "gradient = Mul pulled scale",
        # What is found at step 0 is ignored: the loop has nothing to bind it to.
        "fresh = Equal step zero",
        "column = Unsqueeze fresh one_axis",
        "first_was = Where column nothing first",
        "second_was = Where column nothing second",
        "less = Less loss best_loss",
        "keep = Or fresh less",
        "keep_column = Unsqueeze keep one_axis",
        "best_next = Where keep_column x best",
        "best_loss_next = Where keep loss best_loss",
        # Adam.
        "first_old = Mul first_was beta1",
        "first_new = Mul gradient rest1",
        "first_next = Add first_old first_new",
        "square = Mul gradient gradient",
        "second_old = Mul second_was beta2",
        "second_new = Mul square rest2",
        "second_next = Add second_old second_new",
        "done = Cast step",
        "count = Add done all",
        "power1 = Pow beta1 count",
        "power2 = Pow beta2 count",
        "bias1 = Sub all power1",
        "bias2 = Sub all power2",
        "bias1_column = Unsqueeze bias1 one_axis",
        "bias2_column = Unsqueeze bias2 one_axis",
        "mean = Div first_next bias1_column",
        "variance = Div second_next bias2_column",
        "deviation = Sqrt variance",
        "divisor = Add deviation epsilon",
        "move = Div mean divisor",
        # The schedule.
        "limit = Cast steps",
        "part = Div done limit",
        "after = Div count limit",
        "warm = Div after warm_part",
        "up = Min warm all",
        "left = Sub all part",
        "cool = Div left cool_part",
        "cooled = Min cool all",
        *_sine("cooled"),
        "down = Mul sine sine",
        "slowed = Mul rate up",
        "speed = Mul slowed down",
        "speed_column = Unsqueeze speed one_axis",
        "way = Mul speed_column move",
        "x_next = Sub x way",
        preview=_BYTES,
        **dict.fromkeys(("seen", "done", "limit"), _FLOAT),
        **dict.fromkeys(("sums", "loss", "perceptual", "pulled"), _FLAT),
    )
    constants = _constants(
        **_PAINT_CONSTANTS,
        line=[-1, PIXELS],
        waves_across=WAVES.T.copy(),
        half=127.5,
        scale=2 / 127.5,
        zero=np.array(0, np.int64),
        nothing=0.0,
        beta1=BETA1,
        rest1=1 - BETA1,
        beta2=BETA2,
        rest2=1 - BETA2,
        all=1.0,
        epsilon=EPSILON,
        warm_part=WARM,
        cool_part=COOL,
        quarter=math.pi / 2,
        **{f"divisor{number}": float(number) for number in _SINE},
    )
    return nodes, constants

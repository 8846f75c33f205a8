"""Tiny ONNX graphs, written by hand with onnx.helper, on which an engine shows that it keeps its contract."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data
from onnx.reference import ReferenceEvaluator

from ganserve.spec import DType, Graph, Tensor

OPSET = 20
ROWS = "rows"

GraphName: TypeAlias = Literal["types", "mapping", "synthesis", "translation"]
"""The tiny graphs, each made by the function of its name."""

_TYPES: Mapping[DType, int] = {
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}

TYPES = Graph(
    name="types",
    inputs=(
        Tensor(name="x", dtype="float32", shape=(3,)),
        Tensor(name="label", dtype="int64"),
        Tensor(name="flag", dtype="bool"),
        Tensor(name="pixels", dtype="uint8", shape=(2, 2)),
    ),
    outputs=(
        Tensor(name="twice", dtype="float32", shape=(3,)),
        Tensor(name="sign", dtype="float32", shape=(3,)),
        Tensor(name="negative", dtype="uint8", shape=(2, 2)),
        Tensor(name="next", dtype="int64"),
        Tensor(name="opposite", dtype="bool"),
    ),
)

MAPPING = Graph(
    name="mapping",
    inputs=(Tensor(name="z", dtype="float32", shape=(16,)),),
    outputs=(Tensor(name="w", dtype="float32", shape=(16,)),),
)

SYNTHESIS = Graph(
    name="synthesis",
    inputs=(Tensor(name="w", dtype="float32", shape=(16,)),),
    outputs=(
        Tensor(name="features", dtype="float32", shape=(3, 16, 16)),
        Tensor(name="image", dtype="uint8", shape=(16, 16, 3)),
    ),
)

TRANSLATION = Graph(
    name="translation",
    inputs=(Tensor(name="picture", dtype="uint8", shape=("height", "width", 3), multiple=2),),
    outputs=(
        Tensor(name="features", dtype="float32", shape=(3, "height", "width")),
        Tensor(name="image", dtype="uint8", shape=("height", "width", 3)),
    ),
)


class TinyGraph(NamedTuple):
    """A graph, its file, example rows for its inputs, and the file of its weights if they lie in one of their own."""

    graph: Graph
    file: Path
    inputs: Mapping[str, np.ndarray]
    weights: Path | None = None

    def rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Some of the example rows."""
        return {name: array[start:stop] for name, array in self.inputs.items()}

    def expected(self) -> dict[str, np.ndarray]:
        """What ONNX's own reference implementation, in numpy, makes of the example rows."""
        names = [tensor.name for tensor in self.graph.outputs]
        return dict(zip(names, ReferenceEvaluator(str(self.file)).run(names, dict(self.inputs)), strict=True))


def types(folder: Path, rows: int = 8) -> TinyGraph:
    """Every dtype in and out: twice = 2·x + label, sign = flag ? x : -x, negative = 255 - pixels, next = label + 1, opposite = not flag."""
    nodes = [
        helper.make_node("Unsqueeze", ["label", "last"], ["label_column"]),
        helper.make_node("Cast", ["label_column"], ["label_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "two"], ["doubled"]),
        helper.make_node("Add", ["doubled", "label_float"], ["twice"]),
        helper.make_node("Unsqueeze", ["flag", "last"], ["flag_column"]),
        helper.make_node("Neg", ["x"], ["minus_x"]),
        helper.make_node("Where", ["flag_column", "x", "minus_x"], ["sign"]),
        helper.make_node("Cast", ["pixels"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["white", "levels"], ["negative_levels"]),
        helper.make_node("Cast", ["negative_levels"], ["negative"], to=TensorProto.UINT8),
        helper.make_node("Add", ["label", "one"], ["next"]),
        helper.make_node("Not", ["flag"], ["opposite"]),
    ]
    constants: dict[str, np.ndarray] = {
        "last": np.array([1], np.int64),
        "two": np.array(2, np.float32),
        "white": np.array(255, np.float32),
        "one": np.array(1, np.int64),
    }
    random = np.random.default_rng(1)
    inputs = {
        "x": random.standard_normal((rows, 3), np.float32),
        "label": np.arange(rows, dtype=np.int64) - 3,
        "flag": np.arange(rows) % 3 == 0,
        "pixels": random.integers(0, 256, (rows, 2, 2), np.uint8),
    }
    return TinyGraph(TYPES, _save(TYPES, nodes, constants, folder), inputs)


def mapping(folder: Path, rows: int = 8) -> TinyGraph:
    """z [16] → w [16]: tanh of a matrix product."""
    random = np.random.default_rng(2)
    nodes = [
        helper.make_node("MatMul", ["z", "matrix"], ["projected"]),
        helper.make_node("Tanh", ["projected"], ["w"]),
    ]
    constants = {"matrix": random.standard_normal((16, 16), np.float32) / 4}
    inputs = {"z": random.standard_normal((rows, 16), np.float32)}
    return TinyGraph(MAPPING, _save(MAPPING, nodes, constants, folder), inputs)


def synthesis(folder: Path, rows: int = 8) -> TinyGraph:
    """w [16] → features [3, 16, 16] in (-1, 1) and image uint8 [16, 16, 3], as a small generator does; weights lie in a file of their own."""
    random = np.random.default_rng(3)
    nodes = [
        helper.make_node("Gemm", ["w", "first", "first_bias"], ["flat"]),
        helper.make_node("Reshape", ["flat", "grid"], ["coarse"]),
        helper.make_node("Relu", ["coarse"], ["active"]),
        helper.make_node("ConvTranspose", ["active", "second"], ["fine"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["fine"], ["features"]),
        helper.make_node("Add", ["features", "one"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "scale"], ["levels"]),
        helper.make_node("Round", ["levels"], ["steps"]),
        helper.make_node("Transpose", ["steps"], ["channels_last"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["channels_last"], ["image"], to=TensorProto.UINT8),
    ]
    constants: dict[str, np.ndarray] = {
        "first": random.standard_normal((16, 16 * 8 * 8), np.float32) / 4,
        "first_bias": random.standard_normal(16 * 8 * 8, np.float32) / 4,
        "grid": np.array([-1, 16, 8, 8], np.int64),
        "second": random.standard_normal((16, 3, 4, 4), np.float32) / 8,
        "one": np.array(1, np.float32),
        "scale": np.array(127.5, np.float32),
    }
    inputs = {"w": random.standard_normal((rows, 16), np.float32)}
    weights = folder / "synthesis.bin"
    return TinyGraph(SYNTHESIS, _save(SYNTHESIS, nodes, constants, folder, weights.name), inputs, weights)


def translation(folder: Path, rows: int = 8, height: int = 8, width: int = 12) -> TinyGraph:
    """picture uint8 [height, width, 3] → image of the same size, sides even: a convolution that halves it, and a resize back."""
    random = np.random.default_rng(4)
    nodes = [
        helper.make_node("Cast", ["picture"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "one"], ["normal"]),
        helper.make_node("Conv", ["normal", "kernel"], ["small"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node(
            "Resize",
            ["small", "", "twice"],
            ["large"],
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        ),
        helper.make_node("Tanh", ["large"], ["features"]),
        helper.make_node("Add", ["features", "one"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "scale"], ["grey"]),
        helper.make_node("Round", ["grey"], ["steps"]),
        helper.make_node("Transpose", ["steps"], ["channels_last"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["channels_last"], ["image"], to=TensorProto.UINT8),
    ]
    constants: dict[str, np.ndarray] = {
        "kernel": random.standard_normal((3, 3, 3, 3), np.float32) / 4,
        "twice": np.array([1, 1, 2, 2], np.float32),
        "one": np.array(1, np.float32),
        "scale": np.array(127.5, np.float32),
    }
    inputs = {"picture": random.integers(0, 256, (rows, height, width, 3), np.uint8)}
    return TinyGraph(TRANSLATION, _save(TRANSLATION, nodes, constants, folder), inputs)


def make(name: GraphName, folder: Path, *sizes: int) -> TinyGraph:
    """The graph called ``name``, with example rows of other ``sizes`` than its own (``rows``; for ``translation`` also height and width)."""
    made: TinyGraph = {"types": types, "mapping": mapping, "synthesis": synthesis, "translation": translation}[name](
        folder, *sizes
    )
    return made


def _save(
    graph: Graph,
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    folder: Path,
    weights: str | None = None,
) -> Path:
    made = helper.make_graph(
        list(nodes),
        graph.name,
        [_value(tensor) for tensor in graph.inputs],
        [_value(tensor) for tensor in graph.outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    if weights:
        (folder / weights).unlink(missing_ok=True)  # onnx would append to it
        convert_model_to_external_data(model, location=weights, size_threshold=1024)
    file = folder / f"{graph.name}.onnx"
    onnx.save(model, file)
    return file


def _value(tensor: Tensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, _TYPES[tensor.dtype], [ROWS, *tensor.shape])

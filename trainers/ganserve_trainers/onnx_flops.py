"""Floating-point operations of one row, counted from a graph: two for every multiply-add of a convolution or matrix product."""

from collections.abc import Callable, Mapping
from math import prod

import onnx

Shape = tuple[int, ...]


def counted_tensors(model: onnx.ModelProto) -> list[str]:
    """The names of the tensors whose shapes :func:`flops` needs: what the counted nodes read and make."""
    names = [name for node in _counted(model) for name in (*node.input[:2], node.output[0])]
    return list(dict.fromkeys(names))


def flops(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> int:
    """Operations of all counted nodes, given the ``shapes`` that tensors have with a single row."""
    return sum(_COUNTS[node.op_type](node, shapes) for node in _counted(model))


def _counted(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in _COUNTS]


def _conv(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    # Every output value sums over one kernel [inputs / groups, k, k]; the kernel's first axis counts the outputs.
    return 2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])


def _conv_transpose(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    # Every input value is spread over one kernel [outputs / groups, k, k]; the kernel's first axis counts the inputs.
    return 2 * prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _matmul(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    return 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]


_COUNTS: Mapping[str, Callable[[onnx.NodeProto, Mapping[str, Shape]], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "Gemm": _gemm,
}

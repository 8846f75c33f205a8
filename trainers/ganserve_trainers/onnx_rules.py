"""The rules that a graph must keep to be served by every engine, with any number of rows, and to give the same rows each time."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx

from ganserve import golden
from ganserve.bundle import MAX_OPSET
from ganserve.errors import ExportError
from ganserve.spec import Graph
from ganserve_trainers.onnx_sizes import sizes_of

BATCHES = (1, 2, 3, 8)
"""The numbers of rows that are tried."""

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]

_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
_PASSED_THROUGH = ("Cast", "Identity")


def check_nodes(model: onnx.ModelProto, graph: Graph) -> None:
    """Raise :class:`ExportError` for the first node that breaks a rule: opset, randomness, training mode, computed kernels, bytes."""
    where = f"graph {graph.name!r}"
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx") or opset.version > MAX_OPSET:
            raise ExportError(
                f"{where} uses the operators {opset.domain or 'ai.onnx'} {opset.version}: expected ai.onnx up to {MAX_OPSET} "
                "and no other domain; write the layer with standard operations"
            )
    if model.functions:
        raise ExportError(f"{where} defines functions of its own ({model.functions[0].name}): inline them")
    constants = {tensor.name for tensor in model.graph.initializer}
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    pixels = {tensor.name for tensor in graph.inputs if tensor.dtype == "uint8"}
    for node in _nodes(model.graph):
        _check_random(where, node)
        _check_training(where, node, values)
        _check_kernel(where, node, constants)
        _check_bytes(where, node, pixels)
        if node.op_type == "Constant" or (node.op_type in _PASSED_THROUGH and node.input[0] in constants):
            constants.update(node.output)


def check_axes(model: onnx.ModelProto, graph: Graph) -> None:
    """Raise :class:`ExportError` where the first axis of an input or output is a number, or an axis that should be free is."""
    for side, tensors, values in (
        ("input", graph.inputs, model.graph.input),
        ("output", graph.outputs, model.graph.output),
    ):
        found = {value.name: value.type.tensor_type.shape.dim for value in values}
        for tensor in tensors:
            for axis, (want, dim) in enumerate(zip(("rows", *tensor.shape), found[tensor.name], strict=True)):
                if isinstance(want, str) and dim.HasField("dim_value"):
                    raise ExportError(
                        f"graph {graph.name!r}: axis {axis} ({want}) of {side} {tensor.name!r} was frozen at {dim.dim_value}, the example's "
                        "size: take sizes from the input as they are (`x.shape[0]`), never through int() or a constant"
                    )


def check_rows(graph: Graph, run: Run, feeds: Mapping[str, np.ndarray], tolerance: float = 1e-4) -> None:
    """Run 1, 2, 3 and 8 rows of ``feeds``, as far as it has them, and compare each with its single; :class:`ExportError` where they differ.

    ``tolerance`` is relative to the largest value of an output; integers may differ by one step. A graph that is not
    ``batchable`` only has to give as many rows as it gets.
    """
    count = min(len(array) for array in feeds.values())
    singles = [run(_rows(feeds, row, row + 1)) for row in range(min(count, max(BATCHES)))]
    for rows in (rows for rows in BATCHES if rows <= count):
        try:
            together = run(_rows(feeds, 0, rows))
        except Exception as error:
            raise ExportError(
                f"graph {graph.name!r} runs with one row but not with {rows}: {error}\nThe number of rows was frozen when it "
                "was traced: use `x.shape[0]` where the batch size is needed"
            ) from error
        for tensor in graph.outputs:
            array = together[tensor.name]
            if len(array) != rows:
                raise ExportError(
                    f"graph {graph.name!r}: {rows} rows in give {len(array)} rows of {tensor.name!r}; every output needs one row for each row in"
                )
            if not graph.batchable:
                continue
            alone = np.concatenate([single[tensor.name] for single in singles[:rows]])
            allowed = tolerance * golden.size(alone) if array.dtype.kind == "f" else 1
            if (worst := largest_difference(array, alone)) > allowed:
                raise ExportError(
                    f"graph {graph.name!r}: rows of {tensor.name!r} change by up to {worst:.3g} when {rows} of them run together; at most "
                    f"{allowed:.3g} is allowed. Something mixes rows (batch statistics, a minibatch layer): use stored statistics, or "
                    "declare the graph batchable=False"
                )


def check_arrays(graph: Graph, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise :class:`ExportError` where an input or output among ``arrays`` is not what ``graph`` declares."""
    for side, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        for tensor in tensors:
            array = arrays[tensor.name]
            if array.dtype != tensor.dtype or not tensor.accepts(array.shape[1:]):
                raise ExportError(
                    f"graph {graph.name!r}: {side} {tensor.name!r} really is {array.dtype}{list(array.shape[1:])} a row, the spec says "
                    f"{tensor.dtype}{list(tensor.shape)}; correct the family's spec or its module"
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ExportError(
                    f"graph {graph.name!r}: {side} {tensor.name!r} holds NaN or infinity; the network's weights are damaged"
                )
    sizes_of(graph, arrays)


def largest_difference(one: np.ndarray, two: np.ndarray) -> float:
    """The largest absolute difference of two arrays of one shape; infinite where the shapes differ or a value is NaN."""
    if one.shape != two.shape:
        return float("inf")
    difference = np.abs(one.astype(np.float64) - two.astype(np.float64))
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0))


def _check_random(where: str, node: onnx.NodeProto) -> None:
    if node.op_type in _RANDOM:
        raise ExportError(
            f"{where} draws its own random numbers ({node.op_type} {node.name!r}): engines draw differently and ignore its seed; "
            "make the noise an input of the graph"
        )


def _check_training(where: str, node: onnx.NodeProto, values: Mapping[str, onnx.TensorProto]) -> None:
    training = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        switch = values.get(node.input[2])
        training = switch is None or bool(onnx.numpy_helper.to_array(switch).any())
    if training:
        raise ExportError(
            f"{where} has a {node.op_type} ({node.name!r}) in training mode: call eval() on the network, or give dropout's noise as an input"
        )


def _check_kernel(where: str, node: onnx.NodeProto, constants: set[str]) -> None:
    if node.op_type in ("Conv", "ConvTranspose") and node.input[1] not in constants:
        raise ExportError(
            f"{where} computes the kernel of a {node.op_type} ({node.name!r}, {node.input[1]!r}): engines want it constant; scale the "
            "convolution's input and output instead of its weight, and fold weight normalizations before export"
        )


def _check_bytes(where: str, node: onnx.NodeProto, pixels: set[str]) -> None:
    if node.op_type != "Cast" and (found := pixels.intersection(node.input)):
        raise ExportError(
            f"{where} gives the bytes of input {min(found)!r} to a {node.op_type} ({node.name!r}): TensorRT only casts bytes; make them floats "
            "or integers first, and move axes afterwards (`pixels.float().permute(0, 3, 1, 2)`)"
        )


def _rows(feeds: Mapping[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {name: array[start:stop] for name, array in feeds.items()}


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _nodes(inner)

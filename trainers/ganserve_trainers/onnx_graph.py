"""One graph of a bundle: traced, checked by every rule, compared with torch, its operations counted, written."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from ganserve import golden
from ganserve.bundle import ExportedGraph
from ganserve.engines import Options
from ganserve.engines import onnxruntime as engine
from ganserve.errors import EngineError, ExportError
from ganserve.spec import Graph
from ganserve_trainers.examples import Examples, run_module
from ganserve_trainers.onnx_flops import counted_tensors, flops
from ganserve_trainers.onnx_radius import check_radius
from ganserve_trainers.onnx_rules import Run, check_arrays, check_axes, check_nodes, check_rows, largest_difference
from ganserve_trainers.onnx_sizes import Sizes, at_sizes, described, other_sizes, sizes_of
from ganserve_trainers.onnx_trace import PROBE, Traced, trace
from ganserve_trainers.onnx_weights import SharedWeights, store_as_half

PARITY = 1e-3
"""The largest error against torch that is let through, relative to the largest value of an output; of images, on [-1, 1]."""

LEVEL = 1 / 127.5
"""One grey level, in units of images on [-1, 1]."""

TRACED_ROWS = 3
"""Rows that the graph is traced with, and tried with at other sizes than the example's."""


def export_graph(
    graph: Graph, module: Traced, examples: Examples, folder: Path, weights: SharedWeights, *, half: bool = False
) -> ExportedGraph:
    """Write ``graph`` into ``folder`` and its weights into ``weights``; :class:`ExportError` for the first rule it breaks.

    Where sizes are free, all is proven at the sizes of ``examples`` and at others; operations are counted at those of ``examples``.
    """
    check_arrays(graph, {**examples.inputs, **examples.outputs})
    if not all(np.isfinite(probe).all() for probe in examples.probes):
        raise ExportError(f"graph {graph.name!r} makes NaN or infinity before bytes: the network's weights are damaged")
    others = [_run_torch(graph, module, examples, sizes) for sizes in other_sizes(graph)]
    check_radius(graph, module, examples.inputs)
    # In the last sizes no two sides are equal by chance.
    traced = (others or [examples])[-1].inputs
    model = trace(module, graph, [torch.from_numpy(traced[tensor.name][:TRACED_ROWS]) for tensor in graph.inputs])
    check_axes(model, graph)
    check_nodes(model, graph)
    if half:
        store_as_half(model)
    weights.move(model)
    path = folder / f"{graph.name}.onnx"
    _write(path, model, [tensor.name for tensor in graph.outputs])
    tried = [examples, *others[1:]]
    parity = _check_runs(graph, path, tried, others[:1])
    if examples.probes:
        parity = max(parity, *(_check_probes(graph, model, folder, each) for each in tried))
    return ExportedGraph(
        **{name: getattr(graph, name) for name in graph.__struct_fields__},
        file=path.name,
        opset=next(opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")),
        flops=flops(model, _shapes(model, folder, examples)),
        parity=parity,
    )


def _run_torch(graph: Graph, module: Traced, examples: Examples, sizes: Sizes) -> Examples:
    """What torch makes of a few of the rows at other ``sizes``."""
    rows = {name: array[:TRACED_ROWS] for name, array in examples.inputs.items()}
    try:
        made = run_module(module, graph, at_sizes(graph, rows, sizes))
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"graph {graph.name!r} runs at {described(sizes_of(graph, examples.inputs))}, but not at {described(sizes)}, which its spec "
            f"allows: {error}\nTake sizes from the input, never from a constant; where sides this small cannot work, declare a larger "
            "`multiple`, which is the least side too"
        ) from error
    check_arrays(graph, {**made.inputs, **made.outputs})
    return made


def _check_runs(graph: Graph, path: Path, tried: Sequence[Examples], only_run: Sequence[Examples]) -> float:
    """Check the written graph's rows and their error against torch, at every size tried; the largest error is returned.

    At the sizes of ``only_run``, the smallest, it must give what is declared and no more: a norm over four values of a smooth
    picture divides by almost nothing, and turns rounding into anything.
    """
    session = engine.load(path, Options(graph=graph, threads=1))

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = session.run({name: session.upload(array) for name, array in feeds.items()}, outputs)
        return {name: session.download(value) for name, value in values.items()}

    outputs = [tensor.name for tensor in graph.outputs]
    try:
        for examples in only_run:
            check_arrays(graph, {**examples.inputs, **run(examples.inputs)})
        return max(_check_run(graph, run, examples) for examples in tried)
    except EngineError as error:
        raise ExportError(f"graph {graph.name!r} does not run: {error}") from error
    finally:
        session.close()


def _check_run(graph: Graph, run: Run, examples: Examples) -> float:
    where = _where(graph, examples)
    check_rows(graph, run, examples.inputs)
    found = run(examples.inputs)
    check_arrays(graph, {**examples.inputs, **found})
    errors = {name: _error(where, name, found[name], want) for name, want in examples.outputs.items()}
    # Where there are probes, the error of bytes is that of the floats before them.
    counted = [error for name, error in errors.items() if not (examples.probes and found[name].dtype == np.uint8)]
    return max(counted, default=0.0)


def _check_probes(graph: Graph, model: onnx.ModelProto, folder: Path, examples: Examples) -> float:
    """The largest error of the float images before bytes."""
    names = [f"{PROBE}{index}" for index in range(len(examples.probes))]
    found = _evaluate(model, folder, names, examples.inputs)
    where = _where(graph, examples)
    # Images on [-1, 1], however faint these are.
    return max(
        _float_error(where, name, found[name], want, 1.0) for name, want in zip(names, examples.probes, strict=True)
    )


def _where(graph: Graph, examples: Examples) -> str:
    sizes = sizes_of(graph, examples.inputs)
    return f"graph {graph.name!r}" + (f" at {described(sizes)}" if sizes else "")


def _error(where: str, name: str, found: np.ndarray, want: np.ndarray) -> float:
    if found.dtype.kind == "f":
        return _float_error(where, name, found, want, golden.size(want))
    worst = largest_difference(found, want)
    if found.dtype == np.uint8:
        mean = float(np.abs(found.astype(np.int16) - want.astype(np.int16)).mean())
        if worst > 1 or mean > PARITY / LEVEL:
            raise ExportError(
                f"{where}: {name!r} differs from torch by up to {worst:.0f} grey levels, {mean:.3g} on average; at most 1 and "
                f"{PARITY / LEVEL:.2g} are allowed. {_ADVICE}"
            )
        return worst * LEVEL
    if worst:
        raise ExportError(
            f"{where}: {name!r} differs from torch by up to {worst:.0f}; integers must be equal. {_ADVICE}"
        )
    return 0.0


def _float_error(where: str, name: str, found: np.ndarray, want: np.ndarray, size: float) -> float:
    error = largest_difference(found, want) / size
    if error > PARITY:
        raise ExportError(
            f"{where}: {name!r} differs from torch by {error:.3g} of its range; at most {PARITY:g} is allowed. {_ADVICE}"
        )
    return error


_ADVICE = (
    "A layer that behaves differently in training (batch statistics, dropout, a running average) is the usual cause; at one size alone, "
    "a branch or a constant that depends on the size"
)


def _shapes(model: onnx.ModelProto, folder: Path, examples: Examples) -> dict[str, tuple[int, ...]]:
    """The shapes, with one row, of the tensors that counting operations needs; an engine knows them for certain."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {name: array[:1].shape for name, array in examples.inputs.items()}
    names = [name for name in counted_tensors(model) if name not in shapes]
    if names:
        row = {name: array[:1] for name, array in examples.inputs.items()}
        shapes |= {name: array.shape for name, array in _evaluate(model, folder, names, row).items()}
    return shapes


def _evaluate(
    model: onnx.ModelProto, folder: Path, names: Sequence[str], feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The tensors ``names`` of ``model``, whether they are outputs or lie inside."""
    path = folder / ".evaluated.onnx"
    _write(path, model, names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(list(names), dict(feeds)), strict=True))
    finally:
        path.unlink()


def _write(path: Path, model: onnx.ModelProto, outputs: Sequence[str]) -> None:
    """Write ``model`` to ``path`` with ``outputs`` alone as its outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name: value for value in model.graph.output}
    del copy.graph.output[:]
    copy.graph.output.extend(known.get(name) or onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    path.write_bytes(copy.SerializeToString(deterministic=True))

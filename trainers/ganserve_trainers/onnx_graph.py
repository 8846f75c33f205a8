"""One graph of a bundle: traced, checked by every rule, compared with torch, its operations counted, written."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from ganserve.bundle import ExportedGraph
from ganserve.engines import Options
from ganserve.engines import onnxruntime as engine
from ganserve.errors import EngineError, ExportError
from ganserve.spec import Graph
from ganserve_trainers.examples import Examples
from ganserve_trainers.onnx_flops import counted_tensors, flops
from ganserve_trainers.onnx_rules import check_arrays, check_axes, check_nodes, check_rows, largest_difference
from ganserve_trainers.onnx_trace import PROBE, Traced, trace
from ganserve_trainers.onnx_weights import SharedWeights, store_as_half

PARITY = 1e-3
"""The largest error against torch that is let through: absolute on [-1, 1], relative to the largest value beyond."""

LEVEL = 1 / 127.5
"""One grey level, in units of images on [-1, 1]."""


def export_graph(
    graph: Graph, module: Traced, examples: Examples, folder: Path, weights: SharedWeights, *, half: bool = False
) -> ExportedGraph:
    """Write ``graph`` into ``folder`` and its weights into ``weights``; :class:`ExportError` for the first rule it breaks."""
    check_arrays(graph, {**examples.inputs, **examples.outputs})
    if not all(np.isfinite(probe).all() for probe in examples.probes):
        raise ExportError(f"graph {graph.name!r} makes NaN or infinity before bytes: the network's weights are damaged")
    model = trace(module, graph, [torch.from_numpy(examples.inputs[tensor.name][:3]) for tensor in graph.inputs])
    check_axes(model, graph)
    check_nodes(model, graph)
    if half:
        store_as_half(model)
    weights.move(model)
    path = folder / f"{graph.name}.onnx"
    _write(path, model, [tensor.name for tensor in graph.outputs])
    parity = _check_runs(graph, path, examples)
    if examples.probes:
        probes = [f"{PROBE}{index}" for index in range(len(examples.probes))]
        found = _evaluate(model, folder, probes, examples.inputs)
        parity = max(
            _float_error(graph, name, found[name], want) for name, want in zip(probes, examples.probes, strict=True)
        )
    return ExportedGraph(
        **{name: getattr(graph, name) for name in graph.__struct_fields__},
        file=path.name,
        opset=next(opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")),
        flops=flops(model, _shapes(model, folder, examples)),
        parity=parity,
    )


def _check_runs(graph: Graph, path: Path, examples: Examples) -> float:
    """Check the written graph's rows and their error against torch, which is returned."""
    session = engine.load(path, Options(graph=graph, threads=1))

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = session.run({name: session.upload(array) for name, array in feeds.items()}, list(examples.outputs))
        return {name: session.download(value) for name, value in values.items()}

    try:
        check_rows(graph, run, examples.inputs)
        found = run(examples.inputs)
    except EngineError as error:
        raise ExportError(f"graph {graph.name!r} does not run: {error}") from error
    finally:
        session.close()
    check_arrays(graph, {**examples.inputs, **found})
    return max(_error(graph, name, found[name], want) for name, want in examples.outputs.items())


def _error(graph: Graph, name: str, found: np.ndarray, want: np.ndarray) -> float:
    if found.dtype.kind == "f":
        return _float_error(graph, name, found, want)
    worst = largest_difference(found, want)
    if found.dtype == np.uint8:
        mean = float(np.abs(found.astype(np.int16) - want.astype(np.int16)).mean())
        if worst > 1 or mean > PARITY / LEVEL:
            raise ExportError(
                f"graph {graph.name!r}: {name!r} differs from torch by up to {worst:.0f} grey levels, {mean:.3g} on average; at most 1 and "
                f"{PARITY / LEVEL:.2g} are allowed. {_ADVICE}"
            )
        return worst * LEVEL
    if worst:
        raise ExportError(
            f"graph {graph.name!r}: {name!r} differs from torch by up to {worst:.0f}; integers must be equal. {_ADVICE}"
        )
    return 0.0


def _float_error(graph: Graph, name: str, found: np.ndarray, want: np.ndarray) -> float:
    scale = max(1.0, float(np.abs(want).max(initial=0.0)))
    error = largest_difference(found, want) / scale
    if error > PARITY:
        raise ExportError(
            f"graph {graph.name!r}: {name!r} differs from torch by {error:.3g} of its range; at most {PARITY:g} is allowed. {_ADVICE}"
        )
    return error


_ADVICE = (
    "A layer that behaves differently in training (batch statistics, dropout, a running average) is the usual cause"
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

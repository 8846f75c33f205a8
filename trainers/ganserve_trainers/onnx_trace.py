"""From a torch module to an ONNX model whose inputs and outputs are those of a spec's graph, free sizes and all."""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from ganserve.bundle import MAX_OPSET
from ganserve.errors import ExportError
from ganserve.spec import Graph
from ganserve_trainers.layers.denormalize import ToBytes
from ganserve_trainers.onnx_given import GivenGraph
from ganserve_trainers.onnx_gradient import takes_gradient, write_out_gradient
from ganserve_trainers.onnx_sizes import free, multiples

PREFIX = "network."
"""What stands before a module's own names for its weights, as its ONNX initializers are called."""

PROBE = "float_images."
"""Name, with a number behind, of a graph output that is traced but not shipped: images before they become bytes."""


class Traced(nn.Module):
    """A graph's module as it is traced and compared: outputs as a tuple, then the float images before every :class:`ToBytes`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.probes = [module for module in network.modules() if isinstance(module, ToBytes)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the module, then its probes."""
        seen: list[Tensor] = []
        hooks = [module.register_forward_pre_hook(lambda _, images: seen.extend(images)) for module in self.probes]
        try:
            outputs = self.network(*inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return (*(outputs if isinstance(outputs, tuple) else (outputs,)), *seen)


def trace(module: Traced, graph: Graph, example: Sequence[Tensor]) -> onnx.ModelProto:
    """The ONNX model of ``module``: its inputs and outputs are called as in ``graph``, then come the probes.

    ``example`` holds one tensor for each input, with two or more rows and sides of two or more multiples, for the exporter takes a
    size of one as fixed. A graph that was given as ONNX is the model itself. Raises :class:`ExportError` where the exporter gives up or finds that a free axis is not free.
    """
    if isinstance(module.network, GivenGraph):
        model = copy.deepcopy(module.network.model)
        _forget_where_it_came_from(model)
        return model
    outputs = [tensor.name for tensor in graph.outputs] + [f"{PROBE}{i}" for i in range(len(module.probes))]
    free_axes = _free_axes(graph)
    module.eval()
    try:
        with _quiet(), torch.no_grad():
            written_out = takes_gradient(module)
            program = torch.onnx.export(
                write_out_gradient(module, example) if written_out else module,
                tuple(example),
                dynamo=True,
                opset_version=MAX_OPSET,
                input_names=[tensor.name for tensor in graph.inputs],
                output_names=outputs,
                # A module takes its inputs as one `*inputs`, operations take them one by one.
                dynamic_shapes=free_axes if written_out else (free_axes,),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # torch.export raises a dozen types of its own
        raise ExportError(f"graph {graph.name!r} cannot be exported: {error}\n{_advice(graph)}") from error
    assert program is not None
    model = program.model_proto
    found = [value.name for value in model.graph.output]
    if found != outputs:
        raise ExportError(
            f"graph {graph.name!r}: its module gives {len(found)} outputs {found}, the spec says {outputs}"
        )
    _forget_where_it_came_from(model)
    return model


def _free_axes(graph: Graph) -> tuple[dict[int, Any], ...]:
    rows = torch.export.Dim("rows")
    # One size for each name: what networks need to add one path to another.
    sizes = {name: multiple * torch.export.Dim(name) for name, multiple in multiples(graph).items()}
    return tuple({0: rows} | {axis: sizes[name] for axis, name in free(tensor)} for tensor in graph.inputs)


def _advice(graph: Graph) -> str:
    advice = "Every operation must accept any number of rows: take sizes from the input (`x.shape[0]`, `x.flatten(1)`), never from the example"
    steps = ", ".join(f"{name} {multiple}" for name, multiple in multiples(graph).items())
    return (
        f"{advice}; and so must it any sides that are multiples of what the spec declares ({steps})"
        if steps
        else advice
    )


@contextmanager
def _quiet() -> Iterator[None]:
    # The exporter warns about its own internals and about packages that no graph here needs.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _forget_where_it_came_from(model: onnx.ModelProto) -> None:
    # Stack traces name files of the machine that exported.
    graph = model.graph
    items: tuple[Any, ...] = (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    )
    for item in items:
        del item.metadata_props[:]
        item.doc_string = ""

"""Weights of a bundle: one file that its graphs share, each tensor once, in half precision where that loses nothing."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

SMALLEST = 1024
"""Tensors of fewer bytes stay inside the graph's own file."""

ALIGNMENT = 64
"""Bytes; a cache line, so that an engine may read a mapped tensor in place."""


@torch.no_grad()
def round_to_half(network: nn.Module) -> None:
    """Round the float32 weights of ``network`` that fit to the nearest half, in place."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dtype == torch.float32 and tensor.nbytes >= SMALLEST:
            half = tensor.half()
            if bool(half.isfinite().all()):
                tensor.copy_(half.float())


def store_as_half(model: onnx.ModelProto) -> None:
    """Store every float32 initializer that half represents exactly as float16, with a Cast back to float32 behind it."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.nbytes < SMALLEST or not np.array_equal(half.astype(np.float32), values):
            continue
        widened = f"{tensor.name}.float32"
        _replace_uses(model.graph, tensor.name, widened)
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
        casts.append(helper.make_node("Cast", [tensor.name], [widened], name=f"{widened}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


class SharedWeights:
    """The weights file being written: tensors of equal bytes are stored once. Without any large tensor there is no file."""

    def __init__(self, path: Path) -> None:
        """Write to ``path``, which must not exist yet."""
        self.path = path
        self._offsets: dict[bytes, int] = {}

    def move(self, model: onnx.ModelProto) -> None:
        """Move the large initializers of ``model`` into the file; the model then refers to it by name."""
        for tensor in model.graph.initializer:
            data = numpy_helper.to_array(tensor).tobytes()
            if len(data) >= SMALLEST:
                _refer(tensor, self.path.name, self._offset(data), len(data))

    def _offset(self, data: bytes) -> int:
        key = hashlib.sha256(data).digest()
        if key not in self._offsets:
            with self.path.open("ab") as file:
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                self._offsets[key] = file.tell()
                file.write(data)
        return self._offsets[key]


def _refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    kept = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    kept.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        kept.external_data.add(key=key, value=value)
    tensor.CopyFrom(kept)


def _replace_uses(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                _replace_uses(inner, old, new)
    for output in graph.output:
        if output.name == old:
            raise AssertionError(f"output {old!r} is a weight itself")

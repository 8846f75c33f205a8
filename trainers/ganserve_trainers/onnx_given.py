"""A graph that comes as ONNX instead of as a torch module, and goes into the bundle as it came."""

from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, nn


class GivenGraph(nn.Module):
    """An ONNX ``model`` in the place of a graph's module: ONNX Runtime computes it, and export writes it as it is.

    Its inputs and outputs have the names and the order of the graph's. It has no parameters: nothing trains or rounds it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.model = model
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __deepcopy__(self, _: dict[int, Any]) -> "GivenGraph":
        # Nothing in it changes, and sessions cannot be copied.
        return self

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the model makes of ``inputs``; a tuple where that is several tensors."""
        names = [value.name for value in self.model.graph.input]
        feeds = {name: tensor.numpy(force=True) for name, tensor in zip(names, inputs, strict=True)}
        made = tuple(torch.from_numpy(array) for array in self._session.run(None, feeds))
        return made if len(made) > 1 else made[0]

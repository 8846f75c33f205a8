"""Sentence encoders as ONNX: ``model.onnx``, token ids and their mask → one vector a text, beside a ``tokenizer.json``."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper

from ganserve.codecs.tokens import Tokenizer
from ganserve.errors import TrainingError
from ganserve.spec import Graph, Tensor
from ganserve_trainers.onnx_given import GivenGraph
from ganserve_trainers.onnx_rules import check_nodes
from ganserve_trainers.text.bert import GRAPH

MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
NEEDED = (MODEL, TOKENIZER)

IDS, MASK, KINDS = ("ids", "input_ids"), ("mask", "attention_mask"), ("kinds", "token_type_ids")
"""What inputs may be called. Of kinds of text only the first is used: that input is 0 for every token."""

TRIED = ("a red heart", "the flag of a country, waving in the wind")
"""Texts of different length, the shorter one of which is padded where both are encoded at once."""

TOLERANCE = 1e-4
"""By how much, as a share of a vector's largest number, its text's padding and neighbours may change it."""

PREFIX = "given."
"""What stands before the names that are used inside."""

_CONTRACT = "expected the inputs ids and mask, int64 [n, length], and one output float32 [n, size]"


def read_given(folder: Path) -> tuple[GivenGraph, int]:
    """The encoder in ``folder`` and the length of its vectors; :class:`TrainingError` says which part of the contract it breaks."""
    path = folder / MODEL
    if not (folder / TOKENIZER).is_file():
        raise TrainingError(f"{folder} is no sentence encoder: {TOKENIZER} is missing beside {MODEL}")
    try:
        model = onnx.load(path, load_external_data=False)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
            raise TrainingError(f"{path} keeps weights in other files: save it as one (onnx.save_model does)")
        network = GivenGraph(_named(path, model))
        return network, _check(path, network, Tokenizer(folder / TOKENIZER, 64))
    except TrainingError:
        raise
    except Exception as error:  # protobuf and ONNX Runtime raise a dozen types
        raise TrainingError(f"{path} cannot be used as a sentence encoder: {error}") from error


def _named(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with the inputs and the output of the graph ``text``, by its names and in its order."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    ids, mask, kinds = (next((name for name in names if name in inputs), "") for names in (IDS, MASK, KINDS))
    outputs = {value.name: _shape(value) for value in model.graph.output}
    vectors = [name for name, shape in outputs.items() if len(shape) == 2]
    if not (ids and mask) or set(inputs) - {ids, mask, kinds} or len(vectors) != 1:
        raise TrainingError(
            f"{path} has the inputs {', '.join(inputs)} and the outputs {outputs}: {_CONTRACT} (inputs may also be called "
            f"{IDS[1]} and {MASK[1]}, with {KINDS[1]} beside them); pool the features of tokens inside the graph"
        )
    # With a prefix, none of the names that are used inside is one of ours.
    named = onnx.compose.add_prefix(model, PREFIX)
    graph = named.graph
    lead = [
        helper.make_node("Identity", [ours], [PREFIX + theirs]) for ours, theirs in ((IDS[0], ids), (MASK[0], mask))
    ]
    if kinds:
        lead.append(helper.make_node("Sub", [IDS[0], IDS[0]], [PREFIX + kinds]))
    nodes = [*lead, *graph.node, helper.make_node("Identity", [PREFIX + vectors[0]], [GRAPH])]
    kept = [value for value in graph.input if value.name.removeprefix(PREFIX) in weights]
    for field in (graph.node, graph.input, graph.output):
        del field[:]
    graph.node.extend(nodes)
    rows = ["rows", "length"]
    graph.input.extend(helper.make_tensor_value_info(name, onnx.TensorProto.INT64, rows) for name in (IDS[0], MASK[0]))
    graph.input.extend(kept)
    graph.output.append(helper.make_tensor_value_info(GRAPH, onnx.TensorProto.FLOAT, ["rows", outputs[vectors[0]][1]]))
    return named


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _check(path: Path, network: GivenGraph, tokenizer: Tokenizer) -> int:
    """The length of the vectors that ``network`` makes; :class:`TrainingError` where a text's depends on what is beside it."""
    alone = [network(*map(torch.from_numpy, tokenizer([text])[:2])).numpy() for text in TRIED]
    size = int(alone[0].shape[1])
    ids, mask = (Tensor(name=name, dtype="int64", shape=("length",)) for name in (IDS[0], MASK[0]))
    vectors = Tensor(name=GRAPH, dtype="float32", shape=(size,))
    check_nodes(network.model, Graph(name=GRAPH, inputs=(ids, mask), outputs=(vectors,)))
    together = network(*map(torch.from_numpy, tokenizer(TRIED)[:2])).numpy()
    apart = np.abs(together - np.concatenate(alone)).max() / np.abs(together).max()
    if not apart <= TOLERANCE:
        raise TrainingError(
            f"{path}: a text's vector changes by {apart:.2g} of its largest number beside a longer text, at most {TOLERANCE:g} is "
            "allowed; leave tokens with mask 0 out of attention and mean, and normalize or quantize no batch as a whole"
        )
    return size

"""Sentence encoders given as ONNX: any that keep the contract are taken, and what breaks it is refused before training begins."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from ganserve.codecs.tokens import Tokenizer
from ganserve.errors import TrainingError
from ganserve.spec import Graph, Tensor
from ganserve.testing.captions import SIZE, TOKENIZER, write_onnx_encoder, write_text_encoder
from ganserve_trainers.onnx_trace import Traced, trace
from ganserve_trainers.text.encoder import open_encoder


def test_an_encoder_can_be_given_as_onnx(tmp_path: Path) -> None:
    folder = write_onnx_encoder(tmp_path)
    found = open_encoder(folder)
    assert (found.size, found.credits.name, found.credits.licence) == (SIZE, folder.name, "unknown")
    (table,) = (tensor for tensor in onnx.load(folder / "model.onnx").graph.initializer if tensor.name == "table")
    texts = ["the left half red", "x"]
    ids = [Tokenizer(folder / TOKENIZER, 16)([text]).ids[0] for text in texts]
    wanted = [onnx.numpy_helper.to_array(table)[row].mean(0) for row in ids]
    np.testing.assert_allclose(found.vectors(texts, 16).numpy(), wanted, atol=1e-6)


def test_a_copy_of_what_was_given_is_the_same_encoder(tmp_path: Path) -> None:
    found = open_encoder(write_onnx_encoder(tmp_path / "given"))
    found.copy(tmp_path / "kept")
    assert open_encoder(tmp_path / "kept").credits.sha256 == found.credits.sha256


def test_an_encoder_that_was_traced_makes_the_vectors_of_its_module(tmp_path: Path) -> None:
    encoder = write_text_encoder(tmp_path / "published")
    published = open_encoder(encoder)
    ids, mask = (Tensor(name=name, dtype="int64", shape=("length",), multiple=8) for name in ("ids", "mask"))
    graph = Graph(name="text", inputs=(ids, mask), outputs=(Tensor(name="text", dtype="float32", shape=(SIZE,)),))
    example = [torch.ones(3, 16, dtype=torch.int64) for _ in range(2)]  # one tensor twice would be one input
    onnx.save_model(trace(Traced(published.network), graph, example), tmp_path / "model.onnx")
    shutil.copy(encoder / TOKENIZER, tmp_path)
    texts = ["a b c d e f g h i j k l m n o p q", "x", "red"]
    torch.testing.assert_close(open_encoder(tmp_path).vectors(texts, 16), published.vectors(texts, 16))


def two_vectors(model: onnx.ModelProto) -> None:
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("total", onnx.TensorProto.FLOAT, ["batch", SIZE]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.graph.output.pop(), "outputs {'tokens': .* pool the features of tokens inside the graph"),
        (two_vectors, "outputs .*total.*expected the inputs ids and mask"),
        (lambda model: setattr(model.graph.input[1], "name", "other"), "inputs input_ids, other, token_type_ids"),
        (
            lambda model: setattr(model.graph.node[0], "op_type", "Collect"),
            "cannot be used as a sentence encoder: .*Collect",
        ),
        (lambda model: setattr(model.opset_import[0], "version", 25), "cannot be used as a sentence encoder"),
    ],
    ids=["no-vector", "two-vectors", "unknown-input", "unknown-operator", "newer-operators"],
)
def test_a_graph_that_is_no_encoder_is_named(
    tmp_path: Path, change: Callable[[onnx.ModelProto], object], message: str
) -> None:
    model = onnx.load(write_onnx_encoder(tmp_path) / "model.onnx")
    change(model)
    onnx.save_model(model, tmp_path / "model.onnx")
    with pytest.raises(TrainingError, match=message):
        open_encoder(tmp_path)


def test_a_graph_whose_vectors_depend_on_padding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"a text's vector changes by .* leave tokens with mask 0 out"):
        open_encoder(write_onnx_encoder(tmp_path, heeds_mask=False))


def test_a_file_that_is_no_onnx_and_a_missing_tokenizer_are_named(tmp_path: Path) -> None:
    (write_onnx_encoder(tmp_path) / "model.onnx").write_bytes(b"none")
    with pytest.raises(TrainingError, match="cannot be used as a sentence encoder"):
        open_encoder(tmp_path)
    (tmp_path / TOKENIZER).unlink()
    with pytest.raises(TrainingError, match=r"tokenizer\.json is missing beside model\.onnx"):
        open_encoder(tmp_path)

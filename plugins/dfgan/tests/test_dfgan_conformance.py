"""dfgan holds what every family must hold, and its text graph does not see padding."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from ganserve import Client
from ganserve.bundle import Bundle, read
from ganserve.cli import cli
from ganserve.codecs.tokens import Tokenizer
from ganserve.engines import Options, Session
from ganserve.errors import EngineError
from ganserve.plugins import installed, resolve
from ganserve.testing import FamilyConformance
from ganserve.testing.captions import write_captions, write_onnx_encoder
from ganserve.testing.server import serving
from ganserve_dfgan import PADDING

pytest.importorskip("tokenizers")


class TestDfgan(FamilyConformance):
    family = "dfgan"

    def test_padding_changes_no_bit(self, bundle: Bundle) -> None:
        """Of any length, alone and in a batch, on the engine that promises it; another text gives another vector."""
        graph = bundle.manifest.graph("text")
        load = resolve(installed().engine("onnxruntime").load)
        session: Session = load(bundle.path(graph.file), Options(graph=graph, threads=1))

        def vector(ids: np.ndarray, length: int) -> bytes:
            row = np.zeros((2, 1, length), np.int64)
            row[0, 0, : len(ids)], row[1, 0, : len(ids)] = ids, 1
            feeds = {"ids": session.upload(row[0]), "mask": session.upload(row[1])}
            return session.download(session.run(feeds, ["text"])["text"]).tobytes()

        dice = np.random.default_rng(0)
        found = set()
        for length in (1, 2, 7, 8, 9, 15, 16):
            ids = dice.integers(4, 40, length)
            least = -(-length // PADDING) * PADDING
            vectors = {vector(ids, least + more) for more in (0, PADDING, 3 * PADDING)}
            assert len(vectors) == 1, f"{length} tokens depend on their padding"
            found |= vectors
        assert len(found) == 7


def test_an_encoder_given_as_onnx_is_served(tmp_path: Path) -> None:
    data, encoder = write_captions(tmp_path / "data"), write_onnx_encoder(tmp_path / "encoder")
    run, bundle = tmp_path / "run", tmp_path / "bundles" / "given"
    start = ["train", "dfgan", "--preset", "tiny", "--data", data, "--text-encoder", encoder, "--out", run]
    ganserve(*start, "--kimg", "0.016", "--device", "cpu", "--threads", "1")
    shutil.rmtree(encoder)  # the run has what it needs
    ganserve("export", run, "--out", bundle, "--name", "given", "--half")
    with serving(bundle) as server, Client(server.address) as client:
        prompts = ["the left half red", "blue"]
        made = client.imagine("given", prompts, seed=1, returns=["text"])
        assert made[0].data != made[1].data
        tokenizer = Tokenizer(bundle / "tokenizer.json", 16)
        (table,) = (
            onnx.numpy_helper.to_array(tensor, str(bundle))
            for tensor in onnx.load(bundle / "text.onnx", load_external_data=False).graph.initializer
            if tensor.name.endswith("table")
        )
        for prompt, one in zip(prompts, made, strict=True):
            wanted = table[tokenizer([prompt]).ids[0]].mean(0)
            np.testing.assert_allclose(one.tensors["text"], wanted, atol=1e-5)
    assert "torch cannot rebuild" in refused(bundle)


def refused(bundle: Path) -> str:
    """What the torch engine, which has no module for such a graph, says."""
    graph = read(bundle).manifest.graph("text")
    with pytest.raises(EngineError) as error:
        resolve(installed().engine("torch").load)(bundle / graph.file, Options(graph=graph, threads=1))
    return str(error.value)


def ganserve(*arguments: object) -> None:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="ganserve")
    assert result.exit_code == 0, result.output

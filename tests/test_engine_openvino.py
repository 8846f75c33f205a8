"""The engine openvino."""

from pathlib import Path

import numpy as np
import pytest

from ganserve.engines import Options, openvino
from ganserve.errors import EngineError
from ganserve.testing import graphs
from ganserve.testing.engines import EngineConformance


class TestOpenVino(EngineConformance):
    engine = "openvino"


def test_a_batch_runs_at_the_next_power_of_two_and_its_filling_never_comes_back(tmp_path: Path) -> None:
    tiny = graphs.synthesis(tmp_path)
    session = openvino.load(tiny.file, Options(graph=tiny.graph, threads=1))
    value = session.upload(tiny.inputs["w"][:5])
    assert value.tensor.shape[0] == 8
    image = session.download(session.run({"w": value}, ["image"])["image"])
    assert image.shape == (5, 16, 16, 3)


def test_a_graph_is_compiled_once_for_each_size(tmp_path: Path) -> None:
    tiny = graphs.mapping(tmp_path, rows=16)
    session = openvino.load(tiny.file, Options(graph=tiny.graph, threads=1))
    for rows in range(1, 17):
        session.run({"z": session.upload(tiny.inputs["z"][:rows])}, ["w"])
    assert session._compiled is not None
    assert sorted(session._compiled) == [1, 2, 4, 8, 16]


def test_a_graph_of_free_sizes_is_compiled_once_and_its_batches_are_not_filled_up(tmp_path: Path) -> None:
    tiny = graphs.translation(tmp_path)
    session = openvino.load(tiny.file, Options(graph=tiny.graph, threads=1))
    for rows in (1, 3, 5):
        for sides in ((4, 6), (6, 4)):
            value = session.upload(np.zeros((rows, *sides, 3), np.uint8))
            assert value.tensor.shape[0] == rows
            assert session.download(session.run({"picture": value}, ["image"])["image"]).shape == (rows, *sides, 3)
    assert session._compiled is not None
    assert len(session._compiled) == 1


def test_bf16_is_really_used_or_refused(tmp_path: Path) -> None:
    tiny = graphs.synthesis(tmp_path)
    from openvino import Core

    options = Options(graph=tiny.graph, precision="bf16", threads=1)
    if "BF16" not in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(EngineError, match="cannot run bf16"):
            openvino.load(tiny.file, options)
        return
    session = openvino.load(tiny.file, options)
    found = session.download(session.run({"w": session.upload(tiny.inputs["w"])}, ["features"])["features"])
    error = np.abs(found - tiny.expected()["features"])
    assert 1e-4 < error.max() < 0.1


def test_fp16_is_refused(tmp_path: Path) -> None:
    tiny = graphs.mapping(tmp_path)
    with pytest.raises(EngineError, match="runs fp32 or bf16, not fp16"):
        openvino.load(tiny.file, Options(graph=tiny.graph, precision="fp16"))


def test_a_device_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    tiny = graphs.mapping(tmp_path)
    with pytest.raises(EngineError, match=r"no device 'npu7' here: it has .*cpu"):
        openvino.load(tiny.file, Options(graph=tiny.graph, device="npu7"))


def test_inputs_of_different_lengths_are_refused(tmp_path: Path) -> None:
    tiny = graphs.types(tmp_path)
    session = openvino.load(tiny.file, Options(graph=tiny.graph, threads=1))
    feeds = {name: session.upload(array) for name, array in tiny.inputs.items()}
    feeds["x"] = session.upload(tiny.inputs["x"][:2])
    with pytest.raises(EngineError, match=r"inputs of \[2, 8\] rows"):
        session.run(feeds, ["twice"])

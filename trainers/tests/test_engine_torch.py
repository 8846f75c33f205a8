"""The engine torch keeps the contract of engines, on a bundle of the tiny graphs: it rebuilds what a family exported, and reads no other."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ganserve import plugins
from ganserve.bundle import Bundle
from ganserve.errors import EngineError
from ganserve.plugins import Plugins, resolve
from ganserve.testing import graphs
from ganserve.testing.engines import EngineConformance, Load, Make
from ganserve.testing.graphs import GraphName, TinyGraph
from ganserve_trainers.export import WEIGHTS_FILE, Label, export_bundle


@pytest.fixture(scope="module")
def exported(one_registry: None, families: Plugins, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    family = families.family("tiny-graphs")
    networks = resolve(family.build)({})
    out = tmp_path_factory.mktemp("bundles") / "tiny-graphs"
    return export_bundle(family, "tiny", {}, networks, out, Label(name="tiny-graphs"), known=families)


class TestTorch(EngineConformance):
    engine = "torch"

    @pytest.fixture
    def make(self, exported: Bundle, families: Plugins, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
        monkeypatch.setattr(plugins, "load", lambda: families)  # as if the family were installed
        folder = shutil.copytree(exported.folder, tmp_path / "bundle")

        def make(name: GraphName, *sizes: int) -> TinyGraph:
            graph = exported.manifest.graph(name)
            rows = graphs.make(name, tmp_path, *sizes).inputs
            return TinyGraph(graph, folder / graph.file, rows, folder / WEIGHTS_FILE)

        return make

    def test_an_input_of_another_type_is_refused(self, load: Load, make: Make) -> None:
        tiny = make("types")
        session = load(tiny)
        feeds = {**tiny.inputs, "x": tiny.inputs["x"].astype(np.float64)}
        with pytest.raises(EngineError, match=r"'types' was fed rows of float64\[3\] as 'x': expected float32\[3\]"):
            session.run({name: session.upload(array) for name, array in feeds.items()}, ["twice"])

    def test_inputs_of_different_lengths_are_refused(self, load: Load, make: Make) -> None:
        tiny = make("types")
        session = load(tiny)
        feeds = {**tiny.inputs, "x": tiny.inputs["x"][:1]}
        with pytest.raises(EngineError, match=r"inputs of \[1, 8\] rows"):
            session.run({name: session.upload(array) for name, array in feeds.items()}, ["twice"])


class TestTorchInHalfThePrecision(TestTorch):
    precision = "bf16"
    tolerance = 0.05

    def test_it_is_really_used(self, load: Load, make: Make) -> None:
        tiny = make("synthesis")
        session = load(tiny)
        found = session.download(session.run({"w": session.upload(tiny.inputs["w"])}, ["features"])["features"])
        assert np.abs(found - tiny.expected()["features"]).max() > 1e-4

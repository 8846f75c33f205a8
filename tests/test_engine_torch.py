"""The engine torch, as far as it can be tried without a family; the trainers' tests run what every engine promises, and real bundles."""

import subprocess
import sys
from pathlib import Path

import pytest

from ganserve import golden
from ganserve.bundle import read
from ganserve.engines import Options, torch
from ganserve.errors import EngineError
from ganserve.testing import graphs

pytest.importorskip("torch")
pytest.importorskip("ganserve_trainers")

BUNDLES = Path(__file__).parents[1] / "bundles"
STARTERS = sorted(path.parent for path in BUNDLES.glob("*/manifest.json"))


def test_a_graph_outside_a_bundle_cannot_be_rebuilt(tmp_path: Path) -> None:
    tiny = graphs.mapping(tmp_path)
    with pytest.raises(EngineError, match=r"torch cannot rebuild graph 'mapping' of .*there is no manifest\.json"):
        torch.load(tiny.file, Options(graph=tiny.graph))


def test_fp16_on_a_cpu_is_refused(tmp_path: Path) -> None:
    tiny = graphs.mapping(tmp_path)
    with pytest.raises(EngineError, match="runs fp32 or bf16, not fp16"):
        torch.load(tiny.file, Options(graph=tiny.graph, precision="fp16"))


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    tiny = graphs.mapping(tmp_path)
    with pytest.raises(EngineError, match="torch has no device 'npu7' here"):
        torch.load(tiny.file, Options(graph=tiny.graph, device="npu7"))


@pytest.mark.parametrize("folder", STARTERS, ids=lambda folder: folder.name)
def test_a_starter_bundle_is_rebuilt_by_its_family(folder: Path) -> None:
    """So the family still reads a configuration that it wrote before; the golden rows say whether it makes the same of it."""
    found, refused = read(folder), []
    for graph in found.manifest.graphs:
        try:
            session = torch.load(found.path(graph.file), Options(graph=graph, threads=1))
        except EngineError as error:
            refused.append(str(error))
            continue
        golden.check(found, graph, session, "fp32")
        session.close()
    assert len(refused) < len(found.manifest.graphs)
    assert all("export merged" in said for said in refused), (
        "export may have lost what torch needs; nothing else may be wrong"
    )


def test_a_family_that_cannot_build_a_bundle_any_more_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network = pytest.importorskip("ganserve_dcgan.network")
    monkeypatch.setattr(network, "build", lambda config: config["of another version"])
    found = read(BUNDLES / "dcgan-fashion")
    graph = found.manifest.graph("generator")
    with pytest.raises(
        EngineError, match=r"family dcgan raised KeyError\('of another version'\); use the engine onnxruntime"
    ):
        torch.load(found.path(graph.file), Options(graph=graph))


def test_listing_the_engines_imports_no_vendor_runtime() -> None:
    script = """
import sys
from ganserve import plugins
engines = plugins.load().engines
assert {"onnxruntime", "openvino", "tensorrt", "torch"} <= set(engines), engines
plugins.resolve(engines["torch"].available)()
loaded = {"torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx_bindings"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", script], check=True)

"""The engine torch, as far as it can be tried without a family; the trainers' tests run what every engine promises, and real bundles."""

import subprocess
import sys
from pathlib import Path

import pytest

from ganserve.engines import Options, torch
from ganserve.errors import EngineError
from ganserve.testing import graphs

pytest.importorskip("torch")
pytest.importorskip("ganserve_trainers")


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

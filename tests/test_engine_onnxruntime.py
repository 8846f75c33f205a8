"""The engine onnxruntime."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ganserve.engines import Options, onnxruntime
from ganserve.errors import EngineError
from ganserve.testing import graphs
from ganserve.testing.engines import EngineConformance


class TestOnnxRuntime(EngineConformance):
    engine = "onnxruntime"


PROVIDERS = pytest.importorskip("onnxruntime").get_available_providers()

if "CUDAExecutionProvider" in PROVIDERS:

    class TestOnnxRuntimeCuda(EngineConformance):
        engine = "onnxruntime"
        device = "cuda:0"
        tolerance = 1e-3


if "TensorrtExecutionProvider" in PROVIDERS:

    class TestOnnxRuntimeTensorRt(EngineConformance):
        engine = "onnxruntime"
        device = "cuda:0"
        provider = "TensorrtExecutionProvider"
        tolerance = 1e-3


def test_it_is_available_and_batch_invariant_on_a_cpu(tmp_path: Path) -> None:
    tiny = graphs.mapping(tmp_path)
    assert onnxruntime.available() is None
    assert onnxruntime.load(tiny.file, Options(graph=tiny.graph)).batch_invariant


def test_a_provider_that_is_not_built_in_is_named_with_those_that_are(tmp_path: Path) -> None:
    tiny = graphs.mapping(tmp_path)
    with pytest.raises(EngineError, match=r"no CUDAExecutionProvider here, only .*CPUExecutionProvider"):
        onnxruntime.load(tiny.file, Options(graph=tiny.graph, device="cuda:0"))


def test_a_precision_that_would_be_ignored_is_refused(tmp_path: Path) -> None:
    tiny = graphs.mapping(tmp_path)
    with pytest.raises(EngineError, match="runs fp32, not bf16"):
        onnxruntime.load(tiny.file, Options(graph=tiny.graph, precision="bf16"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no processor affinity")
@pytest.mark.parametrize("threads", [0, 1, 2])
def test_its_threads_stay_on_the_processors_that_the_process_was_given(tmp_path: Path, threads: int) -> None:
    tiny = graphs.mapping(tmp_path)
    script = f"""
import os
only = {{min(os.sched_getaffinity(0))}}
os.sched_setaffinity(0, only)  # before any import: numpy starts threads of its own
from pathlib import Path
from ganserve.engines import Options, onnxruntime
from ganserve.testing import graphs
tiny = graphs.mapping(Path({str(tmp_path)!r}))
session = onnxruntime.load(tiny.file, Options(graph=tiny.graph, threads={threads}))
session.run({{"z": session.upload(tiny.inputs["z"])}}, ["w"])
found = {{processor for task in os.listdir("/proc/self/task") for processor in os.sched_getaffinity(int(task))}}
assert found == only, found
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert tiny.file.is_file()

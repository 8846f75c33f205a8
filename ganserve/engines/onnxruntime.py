"""ONNX Runtime: the default engine. On a CPU in fp32 a row's bits never depend on the rows beside it."""

import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganserve import hookimpl
from ganserve.engines import Options, Value, cache, check_run
from ganserve.errors import EngineError
from ganserve.spec import Engine, Graph

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

_ERRORS_ONLY = 3


@hookimpl
def ganserve_engines() -> Iterable[Engine]:
    """The engine ``onnxruntime``."""
    return [
        Engine(
            name="onnxruntime",
            summary="ONNX Runtime on a CPU, or on a GPU through its CUDA and TensorRT providers",
            available="ganserve.engines.onnxruntime:available",
            load="ganserve.engines.onnxruntime:load",
            compiles="ganserve.engines.onnxruntime:compiles",
        )
    ]


def available() -> str | None:
    """Why ONNX Runtime cannot run here, or None."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "the package onnxruntime is not installed: pip install 'ganserve[cpu]' or 'ganserve[gpu]'"
    return None


def load(graph_file: Path, options: Options) -> "OnnxRuntimeSession":
    """The session of ``graph_file``; :class:`EngineError` if the file, the provider or the precision will not do."""
    if reason := available():
        raise EngineError(reason)
    return OnnxRuntimeSession(graph_file, options)


def compiles(_: Path, options: Options) -> bool:
    """A GPU's providers do, for each number of rows; the CPU's does not."""
    return _provider(options) != CPU


def _provider(options: Options) -> str:
    return options.provider or (CPU if options.device.partition(":")[0] == "cpu" else CUDA)


class OnnxRuntimeSession:
    """One graph in ONNX Runtime; its values are OrtValues on the session's device."""

    def __init__(self, graph_file: Path, options: Options) -> None:
        """Load ``graph_file``."""
        import onnxruntime

        self._graph: Graph = options.graph
        self._device, _, number = options.device.partition(":")
        self._device_id = int(number or 0)
        provider = _provider(options)
        _check(onnxruntime, options, provider)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                graph_file, _session_options(onnxruntime, options), _providers(options, provider, self._device_id)
            )
        except Exception as error:  # ONNX Runtime's exception types have no common base of their own
            raise EngineError(f"onnxruntime cannot load {graph_file}: {error}") from error
        if (used := self._session.get_providers()[0]) != provider:
            raise EngineError(f"onnxruntime fell back from {provider} to {used}: check the driver and its libraries")
        self.batch_invariant = provider == CPU

    def upload(self, array: np.ndarray) -> Value:
        """An OrtValue of ``array``; on a CPU it shares the array's memory."""
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._device, self._device_id)

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Mapping[str, Value]:
        """The named outputs as OrtValues on the session's device; safe from several threads."""
        if self._session is None:
            raise EngineError(f"graph {self._graph.name!r}: the session was closed")
        check_run(self._graph, feeds, outputs)
        try:
            binding = self._session.io_binding()
            for name, value in feeds.items():
                binding.bind_ortvalue_input(name, value)
            for name in outputs:
                binding.bind_output(name, self._device, self._device_id)
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise EngineError(f"onnxruntime failed in graph {self._graph.name!r}: {error}") from error
        return dict(zip(outputs, binding.get_outputs(), strict=True))

    def download(self, value: Value) -> np.ndarray:
        """A copy of ``value`` on the host."""
        # An OrtValue's array shares its memory.
        array: np.ndarray = value.numpy().copy()
        return array

    def close(self) -> None:
        """Drop the session and its memory."""
        self._session = None


def _check(onnxruntime: Any, options: Options, provider: str) -> None:
    if provider not in (installed := onnxruntime.get_available_providers()):
        raise EngineError(
            f"onnxruntime has no {provider} here, only {', '.join(installed)}; pip install 'ganserve[gpu]' brings the GPU's"
        )
    precisions = ("fp32", "fp16") if provider == TENSORRT else ("fp32",)
    if options.precision not in precisions:
        raise EngineError(
            f"onnxruntime with {provider} runs {' or '.join(precisions)}, not {options.precision}; choose that or another engine"
        )


def _session_options(onnxruntime: Any, options: Options) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    # Zero threads would make ONNX Runtime set its workers' affinity itself, past the one this process was given.
    settings.intra_op_num_threads = options.threads or _cores()
    settings.inter_op_num_threads = 1
    # Measured with a DCGAN on two threads: the same latency, and 10 to 15 % less CPU time for whoever shares the machine.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena never gives memory back after a large batch, and was no faster.
    settings.enable_cpu_mem_arena = False
    return settings


def _providers(options: Options, provider: str, device_id: int) -> list[Any]:
    if provider == CPU:
        return [CPU]
    settings: dict[str, Any] = {"device_id": device_id}
    if provider == TENSORRT:
        settings["trt_fp16_enable"] = options.precision == "fp16"
        if options.cache_dir is not None:
            folder = cache.private_folder(options.cache_dir / "onnxruntime")
            settings |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(folder)}
    return [(provider, settings), CPU]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

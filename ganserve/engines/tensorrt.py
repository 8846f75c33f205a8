"""TensorRT: one path for ``tensorrt`` and ``tensorrt_rtx``, whose builders, parsers and runtimes share their interface.

TensorRT RTX builds an engine on a machine without a GPU; TensorRT tunes on the GPU it builds on. Built engines are kept by
what they were made from and never taken from anyone else: they are code.
"""

import importlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cache as once
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ganserve import hookimpl
from ganserve.engines import Options, Value, cache, check_run, cuda
from ganserve.errors import EngineError
from ganserve.spec import Engine, Tensor

PACKAGES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
"""The modules that may hold TensorRT, the first that is installed wins."""

TYPICAL_ROWS = 8
"""The batch that an engine is tuned for, among those it accepts."""


@hookimpl
def ganserve_engines() -> Iterable[Engine]:
    """The engine ``tensorrt``."""
    return [
        Engine(
            name="tensorrt",
            summary="TensorRT or TensorRT RTX on an NVIDIA GPU; built on first use and kept",
            available="ganserve.engines.tensorrt:available",
            load="ganserve.engines.tensorrt:load",
            must_build="ganserve.engines.tensorrt:must_build",
        )
    ]


def available() -> str | None:
    """Why no TensorRT engine can run here, or None."""
    try:
        trt = _tensorrt()
    except EngineError as error:
        return str(error)
    try:
        cuda.device(0)
    except EngineError as error:
        return (
            f"{trt.__name__} {trt.__version__} is installed, but running an engine needs an NVIDIA GPU of compute capability 8.0 or later "
            f"with its driver: {error}. TensorRT RTX can still build here (`ganserve compile`); run on a machine with such a GPU, "
            "or choose the engine onnxruntime or openvino"
        )
    return None


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """A built engine: where it lies, its size in bytes, which package built it, and whether it was there already."""

    path: Path
    size: int
    builder: str
    cached: bool


def compile(graph_file: Path, folder: Path, options: Options) -> Built:  # noqa: A001 - the word for it
    """Build the engine of ``graph_file`` for 1 to ``options.max_rows`` rows into ``folder``, unless a current one is there.

    Free axes take sizes up to ``options.max_side``. Needs no GPU with TensorRT RTX. The file is the owner's alone and named after
    all that the engine depends on. Raises :class:`EngineError` with TensorRT's own messages.
    """
    path, builder = _place(graph_file, folder, options)
    plan, cached = _found(path, graph_file, options)
    if not cached:
        cache.write(path, plan)
    return Built(path=path, size=path.stat().st_size, builder=builder, cached=cached)


def must_build(graph_file: Path, options: Options) -> bool:
    """Whether :func:`load` would build, which takes minutes for a large graph, rather than find what was built."""
    return options.cache_dir is None or cache.read(_place(graph_file, options.cache_dir, options)[0]) is None


def load(graph_file: Path, options: Options) -> "TensorRtSession":
    """The session of ``graph_file`` on a GPU; :class:`EngineError` without one."""
    if reason := available():
        raise EngineError(reason)
    return TensorRtSession(graph_file, options)


class TensorRtSession:
    """One graph in TensorRT; its values are :class:`ganserve.engines.cuda.Array`."""

    batch_invariant = False

    def __init__(self, graph_file: Path, options: Options) -> None:
        """Take the engine from ``options.cache_dir``, or build it, and load it onto the GPU."""
        trt = _tensorrt()
        self._graph = options.graph
        self._device = _device(options)
        self._device.enter()
        if options.cache_dir is None:
            plan = _build(trt, graph_file, options)
        else:
            path, _ = _place(graph_file, options.cache_dir, options)
            plan, kept = _found(path, graph_file, options)
            if not kept:
                cache.keep(path, plan)
        log = _log(trt)
        # The engine needs its runtime, and the context its engine, for as long as they live.
        self._runtime: Any = trt.Runtime(log)
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        self._context: Any = self._engine and self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{trt.__name__} cannot load the engine of {graph_file}: {log.take()}")
        self._log = log
        self._running = threading.Lock()

    def upload(self, array: np.ndarray) -> Value:
        """A copy of ``array`` on the GPU."""
        self._device.enter()
        return self._device.upload(np.ascontiguousarray(array))

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Mapping[str, Value]:
        """The named outputs on the GPU, in stream order; threads take turns."""
        check_run(self._graph, feeds, outputs)
        self._device.enter()
        with self._running:
            if self._context is None:
                raise EngineError(f"graph {self._graph.name!r}: the session was closed")
            for name, value in feeds.items():
                if not self._context.set_input_shape(name, value.shape):
                    raise EngineError(
                        f"graph {self._graph.name!r}: the engine was not built for {name!r} of shape {list(value.shape)}; "
                        f"send less, or raise max_rows or max_side: {self._log.take()}"
                    )
                self._context.set_tensor_address(name, value.address)
            made = {}
            for tensor in self._graph.outputs:
                shape = tuple(self._context.get_tensor_shape(tensor.name))
                made[tensor.name] = self._device.empty(shape, np.dtype(tensor.dtype))
                self._context.set_tensor_address(tensor.name, made[tensor.name].address)
            if not self._context.execute_async_v3(self._device.stream):
                raise EngineError(f"TensorRT failed in graph {self._graph.name!r}: {self._log.take()}")
        return {name: made[name] for name in outputs}

    def download(self, value: Value) -> np.ndarray:
        """A copy of ``value`` on the host."""
        self._device.enter()
        return self._device.download(value)

    def close(self) -> None:
        """Free the engine and its memory once its work is done."""
        self._device.enter()
        with self._running:
            self._device.synchronize()
            self._context = self._engine = self._runtime = None


def _found(path: Path, graph_file: Path, options: Options) -> tuple[bytes, bool]:
    """The engine that is kept at ``path``, or else a new one; and whether it was there."""
    if (kept := cache.read(path)) is not None:
        return kept, True
    return _build(_tensorrt(), graph_file, options), False


def _place(graph_file: Path, folder: Path, options: Options) -> tuple[Path, str]:
    """Where in ``folder`` the engine of ``graph_file`` is kept, and which package builds it."""
    trt = _tensorrt()
    builder = f"{trt.__name__} {trt.__version__}"
    return folder / f"{_key(graph_file, options, builder)}.engine", builder


def _device(options: Options) -> cuda.Device:
    return cuda.device(int(options.device.partition(":")[2] or 0))


@once
def _tensorrt() -> Any:
    for package in PACKAGES:
        try:
            return importlib.import_module(package)
        except ImportError:
            continue
    raise EngineError(
        "TensorRT is not installed: pip install 'ganserve[gpu]' (TensorRT) or 'ganserve[rtx]' (TensorRT RTX, which builds without a GPU)"
    )


@once
def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps TensorRT's errors for the exception that follows them."""

        def __init__(self) -> None:
            super().__init__()
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self._errors.append(message)

        def take(self) -> str:
            errors, self._errors = self._errors, []
            return "; ".join(errors) or "no reason given"

    return Log()


def _build(trt: Any, graph_file: Path, options: Options) -> bytes:
    log = _log(trt)
    log.take()
    builder = trt.Builder(log)
    config = builder.create_builder_config()
    network = builder.create_network(_set_precision(trt, config, options))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph_file)):
        errors = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise EngineError(f"{trt.__name__} cannot read {graph_file}: {errors or log.take()}")
    profile = builder.create_optimization_profile()
    for tensor in options.graph.inputs:
        profile.set_shape(tensor.name, *_shapes(tensor, options))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{trt.__name__} cannot build {graph_file}: {log.take()}")
    return bytes(plan)


def _shapes(tensor: Tensor, options: Options) -> list[tuple[int, ...]]:
    """The smallest, the typical and the largest batch of ``tensor``."""
    most = max(options.max_side // tensor.multiple, 1)
    typical = min(max(options.typical_side // tensor.multiple, 1), most)
    batches = (1, 1), (min(TYPICAL_ROWS, options.max_rows), typical), (options.max_rows, most)
    return [
        (rows, *(side * tensor.multiple if isinstance(size, str) else size for size in tensor.shape))
        for rows, side in batches
    ]


def _set_precision(trt: Any, config: Any, options: Options) -> int:
    """Set up ``config`` for the precision; the flags that the network must be created with."""
    flag = {"fp16": "FP16", "bf16": "BF16"}.get(options.precision)
    if flag is None:
        # TF32 rounds products to ten bits: that would not be fp32.
        config.clear_flag(trt.BuilderFlag.TF32)
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    if not hasattr(trt.BuilderFlag, flag):
        raise EngineError(
            f"{trt.__name__} {trt.__version__} computes in the types that a graph is written in: it runs this one in fp32, not {options.precision}"
        )
    config.set_flag(getattr(trt.BuilderFlag, flag))
    return 0


def _key(graph_file: Path, options: Options, builder: str) -> str:
    # TensorRT RTX finishes an engine on the GPU that runs it; TensorRT's fits the kind of GPU that built it.
    target = "any GPU" if "rtx" in builder else _device(options).capability
    sizes = (options.max_rows, options.typical_side, options.max_side)
    return cache.key(graph_file, builder, options.precision, sizes, target)

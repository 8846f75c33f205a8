"""OpenVINO: the fastest engine on many x86 CPUs, most of all in bf16. A graph is compiled once for every size of batch.

With a free batch axis OpenVINO loses most of its speed on some graphs (StyleGAN2: half), so sizes are powers of two, compiled when
first met; a batch in between is filled up with copies of its last row, which are dropped again on download. Rows may differ
in their last bits from size to size.

A graph of free sizes is compiled once, with all of them free. Measured on CycleGAN's ResNet-9, a compiled graph for a size costs 0.5 s
and 100 MB, and saves 2 to 4 % of a run in fp32 and nothing in bf16: callers choose the sizes, so there may be many of them.
"""

import importlib.util
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ganserve import hookimpl
from ganserve.engines import Options, Value, cache, check_run
from ganserve.errors import EngineError
from ganserve.spec import Engine

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}

_ANY = -1
"""A size that is known only at run time, as OpenVINO writes it."""

_RUNTIME_CACHE = 512
"""Layers prepared for one size that are kept for the next run at it: a few sizes of a deep network. By default 5000 are, which grew
by 0.4 GB over 600 sizes; with fewer no slower."""


_WEIGHTED = {
    "Convolution",
    "ConvolutionBackpropData",
    "GroupConvolution",
    "GroupConvolutionBackpropData",
    "MatMul",
}
"""The operations whose weights OpenVINO prepares for how they are used."""


@hookimpl
def ganserve_engines() -> Iterable[Engine]:
    """The engine ``openvino``."""
    return [
        Engine(
            name="openvino",
            summary="OpenVINO on a CPU, in fp32 or bf16; a compiled graph for each size of batch",
            available="ganserve.engines.openvino:available",
            load="ganserve.engines.openvino:load",
        )
    ]


def available() -> str | None:
    """Why OpenVINO cannot run here, or None."""
    if importlib.util.find_spec("openvino") is None:
        return "the package openvino is not installed: pip install 'ganserve[openvino]'"
    return None


def load(graph_file: Path, options: Options) -> "OpenVinoSession":
    """The session of ``graph_file``; :class:`EngineError` if the file, the device or the precision will not do."""
    if reason := available():
        raise EngineError(reason)
    return OpenVinoSession(graph_file, options)


class Rows(NamedTuple):
    """An OpenVINO tensor of which the first ``rows`` matter; the others fill it up to a compiled size."""

    tensor: Any
    rows: int


class OpenVinoSession:
    """One graph in OpenVINO; its values are :class:`Rows`."""

    batch_invariant = False

    def __init__(self, graph_file: Path, options: Options) -> None:
        """Read ``graph_file`` and compile it, for a single row where sizes are fixed, so that what cannot work is found now."""
        import openvino
        import openvino.frontend

        self._openvino = openvino
        self._graph = options.graph
        self._device = options.device.upper()
        self._core = openvino.Core()
        if self._device not in (devices := self._core.available_devices):
            raise EngineError(f"openvino has no device {options.device!r} here: it has {', '.join(devices).lower()}")
        if options.precision not in _PRECISIONS:
            raise EngineError(f"openvino runs {' or '.join(_PRECISIONS)}, not {options.precision}; choose one of them")
        self._settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[options.precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self._device == "CPU":
            # Threads that stay where the process may run: the server's other threads share these cores.
            self._settings |= {"INFERENCE_NUM_THREADS": options.threads, "ENABLE_CPU_PINNING": False}
        self._free = any(isinstance(size, str) for tensor in self._graph.inputs for size in tensor.shape)
        if self._free and self._device == "CPU":
            self._settings["CPU_RUNTIME_CACHE_CAPACITY"] = _RUNTIME_CACHE
        self._file = graph_file
        self._kept = None if options.cache_dir is None else self._place(options.cache_dir)
        self._compiling = threading.Lock()
        self._compiled: dict[int, _Compiled] | None = {}
        compiled = self._at(self._size(1))
        if (used := compiled.precision()) != self._settings["INFERENCE_PRECISION_HINT"]:
            raise EngineError(f"openvino cannot run {options.precision} on this {self._device}: it would use {used}")

    def upload(self, array: np.ndarray) -> Value:
        """A tensor filled up to a compiled size with copies of the last row; shares ``array``'s memory if none are needed and it allows."""
        rows = len(array)
        missing = max(0, self._size(rows) - rows)
        whole = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
        # OpenVINO shares no memory that it may not write to, though it only reads.
        return Rows(self._openvino.Tensor(np.require(whole, requirements=("C", "W")), shared_memory=True), rows)

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Mapping[str, Value]:
        """The named outputs; safe from several threads, each of which has a request of its own."""
        check_run(self._graph, feeds, outputs)
        rows = {value.rows for value in feeds.values()}
        if len(rows) != 1:
            raise EngineError(
                f"graph {self._graph.name!r} was fed inputs of {sorted(rows)} rows; all need the same number"
            )
        (count,) = rows
        try:
            made = self._at(self._size(count)).run(feeds, outputs)
        except Exception as error:  # OpenVINO has exception types without a common base
            raise EngineError(f"openvino failed in graph {self._graph.name!r}: {error}") from error
        return {name: Rows(tensor, count) for name, tensor in made.items()}

    def download(self, value: Value) -> np.ndarray:
        """A copy of the rows that matter."""
        array: np.ndarray = value.tensor.data[: value.rows].copy()
        return array

    def close(self) -> None:
        """Drop the compiled graphs."""
        self._compiled = None

    def _size(self, rows: int) -> int:
        """The rows that the graph is compiled for to run ``rows``: the next power of two, or any."""
        return _ANY if self._free else 1 << (rows - 1).bit_length()

    def _at(self, size: int) -> "_Compiled":
        with self._compiling:
            if self._compiled is None:
                raise EngineError(f"graph {self._graph.name!r}: the session was closed")
            if size not in self._compiled:
                self._compiled[size] = self._compile(size)
            return self._compiled[size]

    def _place(self, folder: Path) -> Path:
        """Where in ``folder`` the compiled graphs are kept, but for their sizes: named after all that they depend on."""
        machine = [
            self._core.get_property(self._device, name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
        ]
        return folder / cache.key(
            self._file, "openvino", self._openvino.__version__, machine, sorted(self._settings.items())
        )

    def _compile(self, size: int) -> "_Compiled":
        kept = None if self._kept is None else self._kept.with_name(f"{self._kept.name}-{size}.openvino")
        try:
            if kept is not None and (blob := cache.read(kept)) is not None:
                return _Compiled(self._openvino, self._core.import_model(blob, self._device, self._settings))
            compiled = self._core.compile_model(self._read(size), self._device, self._settings)
            if kept is not None:
                cache.keep(kept, compiled.export_model().getvalue())
            return _Compiled(self._openvino, compiled)
        except Exception as error:  # OpenVINO has exception types without a common base
            rows = "any number of" if size == _ANY else size
            raise EngineError(f"openvino cannot load {self._file} for {rows} rows: {error}") from error

    def _read(self, size: int) -> Any:
        """The graph, of ``size`` rows."""
        # The ONNX reader by name: OpenVINO would else try each of its formats on a file it cannot read.
        reader = self._openvino.frontend.FrontEndManager().load_by_framework("onnx")
        model = reader.convert(reader.load(str(self._file)))
        _part_weights(self._openvino, model)
        shapes = {
            tensor.name: (_ANY if isinstance(axis, str) else axis for axis in tensor.shape)
            for tensor in self._graph.inputs
        }
        model.reshape({name: [size, *axes] for name, axes in shapes.items()})
        return model


def _part_weights(openvino: Any, model: Any) -> None:
    """Give each layer of ``model`` that reads a weight after another one a copy of its own.

    OpenVINO keeps one prepared form of a constant. Where layers use it differently, as a convolution and its gradient do, all but one
    of them get it wrong: measured in 2026.4, the gradients of small DCGANs and StyleGAN2s were off by 20 to 50 % of their size.
    """
    from openvino import opset13 as operations

    taken: set[str] = set()
    for operation in model.get_ordered_ops():
        if operation.get_type_name() not in _WEIGHTED:
            continue
        for port in operation.inputs():
            source = port.get_source_output().get_node()
            stored = source.input_value(0).get_node() if source.get_type_name() == "Convert" else source
            if stored.get_type_name() != "Constant":
                continue
            if (name := stored.get_friendly_name()) in taken:
                own = operations.constant(stored.data.copy())
                if stored is not source:
                    own = operations.convert(own, source.get_element_type().get_type_name())
                port.replace_source_output(own.output(0))
            taken.add(name)


class _Compiled:
    """The graph at one size of batch, and its idle requests: a request serves one thread at a time."""

    def __init__(self, openvino: Any, model: Any) -> None:
        self._openvino = openvino
        self._model = model
        self._idle: list[Any] = []
        self._fixed = all(port.partial_shape.is_static for port in model.outputs)

    def precision(self) -> str:
        used: str = self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return used

    def run(self, feeds: Mapping[str, Rows], outputs: Sequence[str]) -> dict[str, Any]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._model.create_infer_request()
        for name, value in feeds.items():
            request.set_tensor(name, value.tensor)
        if self._fixed:
            for name in outputs:
                # A fresh tensor, since a request writes over its own at the next run.
                port = self._model.output(name)
                request.set_tensor(name, self._openvino.Tensor(port.element_type, port.shape))
        request.infer()
        made = {name: request.get_tensor(name) for name in outputs}
        if self._fixed:
            self._idle.append(request)
        return made

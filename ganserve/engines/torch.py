"""PyTorch: the reference, for development. It runs the family's own modules with the weights that a bundle carries.

So it needs what serving otherwise does without: torch, ganserve-trainers and the family's plugin.
"""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ganserve import bundle, hookimpl, plugins
from ganserve.engines import Options, Value, check_run
from ganserve.errors import BundleError, EngineError, PluginError
from ganserve.spec import Engine

MODULES = "ganserve_trainers.export:torch_graphs"
"""``(family, config, networks) ->`` the modules that export traces, by graph. A reference, for the core imports no trainers."""


@hookimpl
def ganserve_engines() -> Iterable[Engine]:
    """The engine ``torch``."""
    return [
        Engine(
            name="torch",
            summary="PyTorch, the reference: runs the family's own code, so it needs the plugin",
            available="ganserve.engines.torch:available",
            load="ganserve.engines.torch:load",
        )
    ]


def available() -> str | None:
    """Why PyTorch cannot run here, or None."""
    missing = [package for package in ("torch", "ganserve_trainers") if importlib.util.find_spec(package) is None]
    if missing:
        return f"{' and '.join(missing)} cannot be imported: pip install 'ganserve[train]'"
    return None


def load(graph_file: Path, options: Options) -> "TorchSession":
    """The session of a bundle's ``graph_file``; :class:`EngineError` without the plugin, or if the weights do not fit it."""
    if reason := available():
        raise EngineError(reason)
    return TorchSession(graph_file, options)


class TorchSession:
    """One graph in PyTorch; its values are tensors on the device."""

    batch_invariant = False

    def __init__(self, graph_file: Path, options: Options) -> None:
        """Build the family's networks as the bundle's manifest says, and load the weights that lie in its graphs."""
        import torch

        self._graph = options.graph
        self._device = _device(options.device)
        if options.precision == "fp16" and self._device.type == "cpu":
            raise EngineError("torch on a CPU runs fp32 or bf16, not fp16; choose one of them")
        self._precision = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[options.precision]
        if options.threads:
            torch.set_num_threads(options.threads)
        self._module: Any = _module(graph_file, options).to(self._device)

    def upload(self, array: np.ndarray) -> Value:
        """A tensor of ``array`` on the device."""
        import torch

        return torch.tensor(np.ascontiguousarray(array), device=self._device)

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Mapping[str, Value]:
        """The named outputs as tensors on the device; safe from several threads."""
        import torch

        check_run(self._graph, feeds, outputs)
        self._check(feeds)
        module, precision = self._module, self._precision
        if module is None:
            raise EngineError(f"graph {self._graph.name!r}: the session was closed")
        autocast = torch.autocast(self._device.type, precision) if precision else nullcontext()
        try:
            with torch.inference_mode(), autocast:
                made = module(*(feeds[tensor.name] for tensor in self._graph.inputs))
        except RuntimeError as error:
            raise EngineError(f"torch failed in graph {self._graph.name!r}: {error}") from error
        # Under autocast a module may give another type than it declares, one that the host has no arrays of.
        return {
            tensor.name: value.to(getattr(torch, tensor.dtype))
            for tensor, value in zip(self._graph.outputs, made, strict=False)
            if tensor.name in outputs
        }

    def download(self, value: Value) -> np.ndarray:
        """A copy of ``value`` on the host."""
        array: np.ndarray = value.cpu().numpy().copy()
        return array

    def close(self) -> None:
        """Drop the networks."""
        self._module = None

    def _check(self, feeds: Mapping[str, Value]) -> None:
        """Raise :class:`EngineError` for what torch would stretch or convert until it fits."""
        for tensor in self._graph.inputs:
            value = feeds[tensor.name]
            dtype = str(value.dtype).removeprefix("torch.")
            if dtype != tensor.dtype or not tensor.accepts(tuple(value.shape[1:])):
                raise EngineError(
                    f"graph {self._graph.name!r} was fed rows of {dtype}{list(value.shape[1:])} as {tensor.name!r}: "
                    f"expected {tensor.dtype}{list(tensor.shape)}"
                )
        if len(counts := {len(value) for value in feeds.values()}) > 1:
            raise EngineError(
                f"graph {self._graph.name!r} was fed inputs of {sorted(counts)} rows; all need the same number"
            )


def _device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # the former where torch was built without CUDA
        raise EngineError(f"torch has no device {name!r} here: {error}") from error
    return device


def _module(graph_file: Path, options: Options) -> Any:
    import torch

    name = options.graph.name
    try:
        manifest = bundle.read(graph_file.parent).manifest
        family = plugins.load().family(manifest.family)
        build, export = plugins.resolve(family.build), plugins.resolve(MODULES)
    except (BundleError, PluginError) as error:
        raise EngineError(f"torch cannot rebuild graph {name!r} of {graph_file}: {error}") from error
    try:
        modules = export(family, manifest.config, build(manifest.config))
    # A plugin's code may fail in any way, most of all at a bundle of another of its versions.
    except Exception as error:
        raise EngineError(
            f"torch cannot rebuild graph {name!r} of {graph_file}: family {family.name} raised {error!r}; use the engine onnxruntime"
        ) from error
    if name not in modules:
        raise EngineError(
            f"torch cannot rebuild graph {name!r} of {graph_file}: it was given as ONNX; use the engine onnxruntime"
        )
    module = modules[name]
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(graph_file).graph.initializer}
    wanted = module.state_dict()
    # The exporter drops biases that are zero; whatever else is gone was merged with other weights.
    if missing := sorted(key for key in wanted.keys() - stored.keys() if not key.endswith(".bias")):
        raise EngineError(
            f"torch cannot rebuild graph {name!r} of {graph_file}: export merged {', '.join(missing[:3])} with other weights; "
            "use the engine onnxruntime"
        )
    for key, old in wanted.items():
        old.copy_(torch.from_numpy(stored[key].copy()) if key in stored else torch.zeros_like(old))
    return module

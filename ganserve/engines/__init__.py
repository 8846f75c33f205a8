"""Engines: one module a vendor runtime, each a plugin. What they share is this contract.

A *session* is one graph on one device. Its values stay where the engine has them: a stage of several graphs uploads once,
runs session after session on the engine's own values, and downloads what leaves the stage.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import msgspec
import numpy as np

from ganserve.errors import EngineError
from ganserve.spec import Graph

Value: TypeAlias = Any
"""A tensor as the engine holds it; only the session that made it, or one of the same engine and device, may read it."""

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine loads one graph."""

    graph: Graph
    """The declaration of the graph, as in the manifest."""
    device: str = "cpu"
    """``cpu``, or an accelerator as the engine names it (``cuda:0``)."""
    precision: Precision = "fp32"
    threads: int = 0
    """Threads of one run on a CPU; 0 leaves the choice to the engine."""
    provider: str | None = None
    """ONNX Runtime's execution provider, such as ``TensorrtExecutionProvider``; other engines ignore it."""
    cache_dir: Path | None = None
    """Where built engines may be kept; None keeps none."""
    max_rows: int = 64
    """The largest batch that will be run; only engines that are built for a range of sizes refuse a larger one."""
    typical_side: int = 256
    """The size that free axes will mostly have; only engines that are tuned for one size use it."""
    max_side: int = 1024
    """The largest size of a free axis; only engines that are built for a range of sizes refuse a larger one."""


class Session(Protocol):
    """One graph, loaded and ready to run."""

    batch_invariant: bool
    """Whether a row's bits never depend on the rows beside it."""

    def upload(self, array: np.ndarray) -> Value:
        """The engine's value for ``array`` (C order, rows first). The array must not change while the value is in use."""

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Mapping[str, Value]:
        """Run the graph on ``feeds`` (every graph input by name); the named outputs, still on the device.

        Threads may run one session at the same time. Raises :class:`EngineError`.
        """

    def download(self, value: Value) -> np.ndarray:
        """``value`` as an array of the host's that nothing else writes to."""

    def close(self) -> None:
        """Give back what the session holds."""


def check_run(graph: Graph, feeds: Collection[str], outputs: Collection[str]) -> None:
    """Raise :class:`EngineError` unless ``feeds`` are the inputs of ``graph`` and ``outputs`` some of its outputs."""
    inputs = {tensor.name for tensor in graph.inputs}
    if inputs != set(feeds):
        raise EngineError(f"graph {graph.name!r} was fed {sorted(feeds)}: expected exactly {sorted(inputs)}")
    known = {tensor.name for tensor in graph.outputs}
    if not outputs or not known.issuperset(outputs):
        raise EngineError(f"graph {graph.name!r} was asked for {sorted(outputs)}: its outputs are {sorted(known)}")

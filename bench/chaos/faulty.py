"""An engine that fails on purpose: ONNX Runtime, but rows that hold a certain number make it raise, hang, or make NaN.

A plugin like any other. A run hangs until :data:`released` is set, as a call into a driver that never comes back would.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ganserve import hookimpl
from ganserve.engines import Options, Value
from ganserve.engines.onnxruntime import OnnxRuntimeSession
from ganserve.errors import EngineError
from ganserve.spec import Engine

RAISES, HANGS, NAN = 666.0, 667.0, 668.0
"""What the first number of a row's first input has to be."""

released = threading.Event()
"""Ends every hang."""

longest: float | None = None
"""Seconds after which a hang ends by itself, as a driver's own time limit may end it; None: never."""

broken = threading.Event()
"""While it is set, no graph can be loaded."""


@hookimpl
def ganserve_engines() -> Iterable[Engine]:
    """The engine ``faulty``."""
    return [
        Engine(
            name="faulty",
            summary="ONNX Runtime that fails on purpose",
            available=f"{__name__}:available",
            load=f"{__name__}:load",
        )
    ]


def available() -> str | None:
    """None: it can always fail."""
    return None


def load(graph_file: Path, options: Options) -> "FaultySession":
    """The session of ``graph_file``."""
    if broken.is_set():
        raise EngineError("the device does not answer")
    return FaultySession(graph_file, options)


class FaultySession(OnnxRuntimeSession):
    """A session that looks at its rows before it runs them. Once a run hangs, every later one does."""

    def __init__(self, graph_file: Path, options: Options) -> None:
        super().__init__(graph_file, options)
        self._hangs = False

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Mapping[str, Value]:
        """The outputs, unless some row is a bad one."""
        marks = _marks(feeds)
        if (marks == RAISES).any():
            raise EngineError("it was told to raise")
        self._hangs = self._hangs or bool((marks == HANGS).any())
        if self._hangs:
            released.wait(longest)
        made = dict(super().run(feeds, outputs))
        if (marks == NAN).any():
            for name in outputs:
                made[name] = self._with_nan(made[name], marks == NAN)
        return made

    def _with_nan(self, value: Value, rows: np.ndarray) -> Value:
        array = self.download(value)
        if array.dtype.kind == "f":
            array[rows] = np.nan
        return self.upload(array)


def _marks(feeds: Mapping[str, Value]) -> np.ndarray:
    """The first number of each row of the first input; zeros where that has no rows of floats."""
    array = next(iter(feeds.values())).numpy()
    return array.reshape(len(array), -1)[:, 0] if array.dtype.kind == "f" and array.size else np.zeros(len(array))

"""Before a model takes calls, an engine that compiles for each number of rows has run them all; another has run the golden rows alone."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ganserve import hookimpl
from ganserve.bundle import read
from ganserve.engines import Options
from ganserve.engines.onnxruntime import OnnxRuntimeSession, compiles
from ganserve.plugins import load as load_plugins
from ganserve.serving.model import EngineChoice, Settings
from ganserve.spec import Engine
from ganserve.testing.server import serving

ran: list[int] = []
"""The rows of each run of the mapping."""


class Session(OnnxRuntimeSession):
    def __init__(self, graph_file: Path, options: Options) -> None:
        super().__init__(graph_file, options)
        self.name = options.graph.name

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> Mapping[str, Any]:
        if self.name == "mapping":
            ran.append(len(self.download(next(iter(feeds.values())))))
        return super().run(feeds, outputs)


@hookimpl
def ganserve_engines() -> list[Engine]:
    where = {"available": f"{__name__}:available", "load": f"{__name__}:Session"}
    return [
        Engine(name="silent", summary="does not say", **where),
        Engine(name="eager", summary="compiles nothing", **where, compiles=f"{__name__}:never"),
        Engine(name="compiler", summary="compiles for sizes", **where, compiles=f"{__name__}:always"),
    ]


def available() -> None:
    return None


def never(graph_file: Path, options: Options) -> bool:
    return False


def always(graph_file: Path, options: Options) -> bool:
    return True


@pytest.mark.parametrize(
    ("engine", "sizes"), [("silent", [1, 2, 4, 8, 12]), ("compiler", [1, 2, 4, 8, 12]), ("eager", [])]
)
def test_every_size_has_been_run_where_engines_compile_for_each(echo: Path, engine: str, sizes: list[int]) -> None:
    ran.clear()
    models = Settings(threads=1, max_batch=12, engines=(EngineChoice(engine),))
    with serving(echo, plugins=load_plugins(extra=[sys.modules[__name__]]), models=models):
        assert ran == [read(echo).manifest.golden.rows, *sizes]


def test_onnxruntime_compiles_for_sizes_on_a_gpu_alone(echo: Path) -> None:
    graph = read(echo).manifest.graphs[0]

    def asked(**given: Any) -> bool:
        return compiles(echo / graph.file, Options(graph=graph, **given))

    assert not asked(device="cpu")
    assert asked(device="cuda:1")
    assert asked(device="cpu", provider="TensorrtExecutionProvider")

"""What the tests of the trainers share."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from ganserve import plugins
from ganserve.plugins import Plugins
from ganserve_trainers.checkpoint import State
from ganserve_trainers.distributed import make_fabric
from ganserve_trainers.loop import Settings
from ganserve_trainers.run import DataSource, start_run

FAMILIES = Path(__file__).parent / "families"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks are fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def families() -> Plugins:
    """The installed plugins and the toy family, which is loaded from its folder."""
    return plugins.load(plugins_dir=FAMILIES)


@pytest.fixture
def train_toy(families: Plugins) -> Callable[..., State]:
    """Train the toy family on digits in a folder: ``train_toy(folder, preset, kimg=..., config={...})``."""

    def run(folder: Path, preset: str = "tiny", config: dict[str, Any] | None = None, **settings: Any) -> State:
        family = families.family("toy")
        whole = {**family.config(preset), **(config or {})}
        defaults = {"seed": 3, "batch": whole["batch"], "kimg": 1.0, "grid": 16, "log_every": 10}
        return start_run(
            make_fabric("cpu"),
            family,
            preset,
            whole,
            DataSource(where="digits:"),
            folder,
            Settings(**{**defaults, **settings}),
            console=Console(quiet=True),
        )

    return run


@pytest.fixture(scope="session")
def one_registry() -> Iterator[None]:
    """Torch builds its table of ONNX operators anew for every export, which takes most of the time; here one serves all."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield

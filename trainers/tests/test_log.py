"""What a run tells: ``log.jsonl``, TensorBoard and the progress bar say the same."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ganserve.plugins import Plugins
from ganserve_trainers.checkpoint import State
from ganserve_trainers.distributed import make_fabric
from ganserve_trainers.log import Log
from ganserve_trainers.run import resume_run

Train = Callable[..., State]


def entries(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def board(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return found


def test_tensorboard_shows_what_the_log_says(tmp_path: Path, train_toy: Train, families: Plugins) -> None:
    """Every value, at its step and no other, before and after a resume; the speed is rounded in the log."""
    train_toy(tmp_path, kimg=0.5)
    resume_run(make_fabric("cpu"), tmp_path, {"kimg": 1.0}, Console(quiet=True), families)
    lines = entries(tmp_path)
    assert [line["step"] for line in lines] == [10, 20, 30, 32, 40, 50, 60, 63]
    expected: dict[str, dict[int, float]] = {}
    for line in lines:
        step = line["step"]
        for name, value in line.items():
            if name not in {"step", "images", "seconds"}:
                expected.setdefault(name, {})[step] = value
    shown = board(tmp_path)
    assert set(shown.Tags()["scalars"]) == set(expected) >= {"discriminator/loss", "generator/loss", "preview/variety"}
    for name, values in expected.items():
        found = {event.step: event.value for event in shown.Scalars(name)}
        assert found == pytest.approx(values, rel=1e-6, abs=0.06 if name == "images_per_second" else 0)
        assert len(shown.Scalars(name)) == len(values)


def test_tensorboard_shows_every_grid_of_samples(tmp_path: Path, train_toy: Train) -> None:
    train_toy(tmp_path, kimg=0.96, snapshot_kimg=0.32)
    found = board(tmp_path)
    assert {tag.partition("/")[0] for tag in found.Tags()["images"]} == {"samples"}
    for tag in found.Tags()["images"]:
        assert [image.step for image in found.Images(tag)] == [0, 20, 40, 60]


@pytest.mark.parametrize("width", [80, 140])
def test_the_bar_shows_how_far_how_fast_and_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Of 25,000 images 100 are seen a second. A narrow terminal cuts the values."""
    now = 0.0
    monkeypatch.setattr("ganserve_trainers.log.time.monotonic", lambda: now)
    values = {"discriminator/loss": 0.25, "discriminator/real": 0.5, "generator/loss": 0.75}
    console = terminal(width, get_time=lambda: now)
    with Log(tmp_path, 25_000, console) as log:
        for second in range(1, 6):
            now = float(second)
            log.write(second, 100 * second, values)
    shown = last_line(console)
    assert re.match(r"0\.5 of 25 kimg\W+100 images/s 0:04:05 discriminator/loss 0\.2", shown)
    assert shown.endswith("generator/loss 0.75") == (width == 140)


def test_a_run_on_a_terminal_ends_with_its_speed_and_no_time_left(
    tmp_path: Path, train_toy: Train, families: Plugins
) -> None:
    train_toy(tmp_path, kimg=0.32)
    console = terminal(80)
    resume_run(make_fabric("cpu"), tmp_path, {"kimg": 1.6}, console, families)
    assert re.match(r"1\.6 of 1\.6 kimg\W+\d+ images/s 0:00:00 discriminator/fake", last_line(console))


def terminal(width: int, **options: Any) -> Console:
    return Console(force_terminal=True, file=io.StringIO(), width=width, color_system=None, **options)


def last_line(console: Console) -> str:
    """What stands there in the end; a bar is drawn again and again over itself."""
    assert isinstance(console.file, io.StringIO)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    return re.split(r"[\r\n]+", plain.strip())[-1].rstrip()

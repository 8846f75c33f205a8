"""What a run tells while it goes on: a progress bar, ``log.jsonl`` and TensorBoard, once an interval and never in between."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ganserve_trainers.distributed import mean_over_processes
from ganserve_trainers.grid import to_uint8
from ganserve_trainers.written import replacing, told

QUIET = 30.0
"""Seconds between two lines where the output is no terminal, so that no bar can be drawn."""


class Meter:
    """Running means of named scalars that stay on their device: adding one never waits for it."""

    def __init__(self) -> None:
        """Start empty."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor], group: str) -> None:
        """Add one value to the mean of ``group/name`` for each name."""
        for key, value in values.items():
            name, value = f"{group}/{key}", value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means over all processes since the last take, by name; one transfer from the device."""
        names = sorted(self._sums)
        if not names:
            return {}
        means = mean_over_processes(torch.stack([self._sums[name] / self._counts[name] for name in names]))
        self._sums, self._counts = {}, {}
        return dict(zip(names, means.tolist(), strict=True))


class Log:
    """The log of the first process, as a context; ``folder`` is the run's, ``total`` its length in images."""

    def __init__(self, folder: Path, total: int, console: Console, step: int = 0, images: int = 0) -> None:
        """Go on from ``step``: entries of later steps, left by a crash, are removed."""
        self._file = folder / "log.jsonl"
        _keep_until(self._file, step)
        self._board_folder = folder / "tensorboard"
        with told(self._board_folder):
            self._board = SummaryWriter(str(self._board_folder), purge_step=step + 1 if step else None)
        self._console = console
        self._bar = Progress(
            TextColumn("{task.fields[done]}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            # What a narrow terminal has no room for is cut off here, not from the columns before.
            TextColumn("{task.fields[values]}", table_column=Column(ratio=1, no_wrap=True)),
            expand=True,
            console=console,
            disable=not console.is_terminal,
        )
        self._total = total
        self._task = self._bar.add_task("", total=total, completed=images, done="", speed="", values="")
        self._images = images
        self._clock = self._started = self._said = time.monotonic()

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away and close the files."""
        self._bar.stop()
        with told(self._board_folder):
            self._board.close()

    def write(self, step: int, images: int, values: Mapping[str, float]) -> None:
        """Log the means of an interval that ended at ``step`` with ``images`` images seen.

        Raises :class:`~ganserve.errors.TrainingError` where the disk is full, as :meth:`images` does.
        """
        now = time.monotonic()
        speed = (images - self._images) / max(now - self._clock, 1e-9)
        self._images, self._clock = images, now
        entry: dict[str, Any] = {"step": step, "images": images, "seconds": round(now - self._started, 3)}
        entry |= {"images_per_second": round(speed, 1), **values}
        with told(self._file), open(self._file, "ab") as file:
            file.write(msgspec.json.encode(entry) + b"\n")
        with told(self._board_folder):
            for name, value in (*values.items(), ("images_per_second", speed)):
                self._board.add_scalar(name, value, step)
        shown = "  ".join(f"{name} {value:.3g}" for name, value in values.items())
        if not self._console.is_terminal and now - self._said > QUIET:
            self._said = now
            self._console.print(f"{self._done(images)}  {speed:.0f} images/s  {shown}", highlight=False)
        self._bar.update(
            self._task, completed=images, done=self._done(images), speed=f"{speed:.0f} images/s", values=shown
        )

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within it, time does not count towards the speed (previews and checkpoints)."""
        begun = time.monotonic()
        yield
        self._clock += time.monotonic() - begun

    def images(self, name: str, images: Tensor, step: int) -> None:
        """Show images ``[n, C, H, W]`` in [-1, 1] on TensorBoard."""
        with told(self._board_folder):
            self._board.add_images(name, to_uint8(images), step, dataformats="NHWC")

    def _done(self, images: int) -> str:
        return f"{images / 1000:.1f} of {self._total / 1000:g} kimg"


def _keep_until(file: Path, step: int) -> None:
    if not file.is_file():
        return
    lines = [line for line in file.read_bytes().splitlines(keepends=True) if _step(line) <= step]
    with replacing(file) as temporary:
        temporary.write_bytes(b"".join(lines))


def _step(line: bytes) -> float:
    try:
        return float(msgspec.json.decode(line)["step"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash

"""Damaged and hostile pictures by the hundred thousand through the picture decoder.

python bench/fuzz_pictures.py --files 200000

Nothing but pictures and clean refusals may come of them. A child process with a limit on its memory decodes; this one watches
it, and goes on after a file that hangs or kills it. A file that did harm is saved, with what it did.
"""

import json
import mmap
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np
from hostile_pictures import Case, case, corpus

from ganserve.codecs import GivenImage, PictureLimits
from ganserve.codecs.picture import ImageDecoder
from ganserve.errors import InvalidArgument
from ganserve.spec import Input, Tensor

LIMITS = PictureLimits(pixels=1 << 20, bytes=1 << 20)
_NOT_YET = -1
"""In place of a file's number, while a child gets ready."""


def decoders() -> list[ImageDecoder]:
    """One for every kind of tensor."""
    kinds: list[tuple[tuple[int | str, ...], int, dict[str, Any]]] = [
        ((16, 20, 3), 1, {}),
        (("h", "w", 3), 8, {}),
        (("h", "w", 4), 1, {}),
        ((32, 32, 1), 1, {"filter": "nearest"}),
        (("h", "w", 1), 4, {"ids": True, "classes": 200}),
    ]
    return [
        ImageDecoder(
            Input(tensor="image", codec="image", reads=("image",), options=options),
            Tensor(name="image", dtype="uint8", shape=shape, multiple=multiple),
            Path(),
        )
        for shape, multiple, options in kinds
    ]


def outcome(given: GivenImage, decoder: ImageDecoder) -> str:
    """What comes of a file: ``decoded``, or ``refused: …`` with the beginning of the reason. Anything else is raised."""
    try:
        picture = decoder.picture(given, LIMITS)
    except InvalidArgument as error:
        (violation,) = error.violations
        if violation.field != "images[image]" or not violation.description:
            raise AssertionError(f"a refusal that names no field: {error}") from error
        return "refused: " + " ".join(word for word in violation.description.split()[:5] if word.isalpha())
    pixels, frame = picture.pixels, picture.frame
    left, top, right, bottom = frame.box
    if pixels.dtype != np.uint8 or pixels.shape[1::-1] != frame.canvas or frame.pictures < 1:
        raise AssertionError(f"{pixels.dtype} {pixels.shape} for {frame}")
    if not (0 <= left < right <= frame.canvas[0] and 0 <= top < bottom <= frame.canvas[1]):
        raise AssertionError(f"a box outside of the canvas: {frame}")
    return "decoded"


def work(files: int, seed: int, memory: int, beat_file: str, first: int, skip: tuple[int, ...]) -> None:
    """The child: decode files ``first`` … and tell of them, line by line, on standard output; ``beat_file`` holds the number of the one at hand."""
    warnings.simplefilter("error")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (memory << 20), resource.RLIM_INFINITY))
    seeds, kinds, counts = corpus(), decoders(), Counter[str]()
    slowest = (0.0, first)
    with open(beat_file, "r+b") as file, mmap.mmap(file.fileno(), 8) as beat:
        for number in range(first, files):
            beat[:] = struct.pack("<q", number)
            made = case(number, seed, seeds, len(kinds))
            started = time.process_time()
            try:
                counts["a hang or a crash" if number in skip else outcome(made.given, kinds[made.decoder])] += 1
            except BaseException:
                counts["WRONG"] += 1
                _tell(wrong=number, why=traceback.format_exc())
            slowest = max(slowest, (time.process_time() - started, number))
            if number % 1000 == 999 or number + 1 == files:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
                _tell(done=number + 1, counts=counts, slowest=slowest, mib=peak)
                counts.clear()


def _tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


class Watch:
    """A run as its parent sees it: children until all files are through, and what they told."""

    def __init__(self, files: int, seed: int, memory: int, seconds: float, out: Path) -> None:
        self.files, self.seed, self.memory, self.seconds, self.out = files, seed, memory, seconds, out
        self.counts = Counter[str]()
        self.done, self.wrong, self.slowest, self.mib = 0, list[int](), (0.0, 0), 0
        self.started = time.monotonic()

    def run(self) -> None:
        """Until all files are through."""
        skip: list[int] = []
        while self.done < self.files:
            with tempfile.NamedTemporaryFile() as beat:
                beat.write(struct.pack("<q", _NOT_YET))
                beat.flush()
                status = self._child(Path(beat.name), skip)
                if status != 0:
                    number = _number(Path(beat.name))
                    if number == _NOT_YET:
                        raise SystemExit(f"the decoding process ended with {status} before its first file; see above")
                    skip.append(number)
                    self._keep(
                        number, f"the process ended with {status}; -9: it was ended after {self.seconds} s at this file"
                    )

    def report(self) -> None:
        """Counts by outcome, the slowest file and the memory."""
        took = time.monotonic() - self.started
        click.echo(f"\n{self.done} files in {took:.0f} s, seed {self.seed}; {len(self.wrong)} did harm")
        for name, count in self.counts.most_common():
            click.echo(f"{count:8}  {name}")
        seconds, number = self.slowest
        made = self._case(number)
        click.echo(
            f"slowest: {1000 * seconds:.0f} ms of CPU, file {number} ({made.name}, {len(made.given.data)} bytes)"
        )
        click.echo(f"peak memory: {self.mib} MiB")

    def _child(self, beat: Path, skip: list[int]) -> int:
        command = [sys.executable, __file__, "--files", self.files, "--seed", self.seed, "--memory", self.memory]
        command += ["--child", beat, "--first", self.done, *(word for number in skip for word in ("--skip", number))]
        child = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
        threading.Thread(target=_guard, args=(child, beat, self.seconds), daemon=True).start()
        assert child.stdout is not None
        for line in child.stdout:
            told = json.loads(line)
            if "wrong" in told:
                self._keep(told["wrong"], told["why"])
                continue
            self.done = told["done"]
            self.counts.update(told["counts"])
            self.slowest, self.mib = max(self.slowest, tuple(told["slowest"])), max(self.mib, told["mib"])
            rate = self.done / (time.monotonic() - self.started)
            click.echo(
                f"\r{self.done} of {self.files} files, {rate:.0f} a second, {len(self.wrong)} did harm", nl=False
            )
        click.echo()
        return child.wait()

    def _keep(self, number: int, why: str) -> None:
        if number not in self.wrong:
            self.wrong.append(number)
        made = self._case(number)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"{number}.bin").write_bytes(made.given.data)
        (self.out / f"{number}.txt").write_text(f"{made.name}, decoder {made.decoder}\n{why}\n")
        click.echo(f"\nfile {number} ({made.name}): {why.strip().splitlines()[-1]}")

    def _case(self, number: int) -> Case:
        return case(number, self.seed, corpus(), len(decoders()))


def _number(beat: Path) -> int:
    (number,) = struct.unpack("<q", beat.read_bytes())
    return int(number)


def _guard(child: subprocess.Popen[str], beat: Path, seconds: float) -> None:
    """End ``child`` once it has been at one file for ``seconds``."""
    before = _NOT_YET
    while child.poll() is None:
        try:
            now = _number(beat)
        except FileNotFoundError:
            return
        if now == before != _NOT_YET:
            child.kill()
        before = now
        time.sleep(seconds)


@click.command()
@click.option("--files", default=200_000, show_default=True, help="How many.")
@click.option("--seed", default=0, show_default=True, help="Of all chance.")
@click.option("--memory", default=256, show_default=True, help="MiB that decoding may take beside the program itself.")
@click.option("--seconds", default=30.0, show_default=True, help="After which a file is taken for a hang.")
@click.option("--out", type=click.Path(path_type=Path), default="fuzz-pictures", help="Folder for files that did harm.")
@click.option("--child", default="", hidden=True)
@click.option("--first", default=0, hidden=True)
@click.option("--skip", multiple=True, type=int, hidden=True)
def main(
    files: int, seed: int, memory: int, seconds: float, out: Path, child: str, first: int, skip: tuple[int, ...]
) -> None:
    """Decode damaged pictures; exit with 1 if one did harm."""
    if child:
        work(files, seed, memory, child, first, skip)
        return
    watch = Watch(files, seed, memory, seconds, out)
    watch.run()
    watch.report()
    if watch.wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

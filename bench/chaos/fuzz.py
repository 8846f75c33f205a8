"""Fuzzing: damaged messages, bundles, caches and pictures by the hundred thousand. Nothing but clean refusals may come of them.

    python -m bench.chaos.fuzz messages --inputs 50000 --keep tests/corpus

A child process with a limit on its memory tries them, and is watched: it goes on after an input that hangs or kills it. What does harm is
saved. With ``--keep`` one short input for each answer is kept, for the tests to try again.
"""

import json
import logging
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

import click

from bench.chaos.fuzz_targets import quick_folder, target
from bench.chaos.mutation import Mutator
from bench.chaos.scenario import Outcome, Scenario, sized

SHARES = {"messages": 600_000, "inference": 240_000, "pictures": 100_000, "caches": 40_000, "bundles": 20_000}
"""How many inputs each target gets at full size: a million in all, by how long one takes."""

PICTURES = Path(__file__).parents[1] / "fuzz_pictures.py"
MEMORY = 512 << 20
"""Bytes that the child may take beside what it has at its start."""
HANG = 60.0
"""Seconds after which an input is taken for a hang."""
SHORTEST_LONG = 2000
"""Bytes above which no input is kept."""
MOST_TOLD = 1000
"""The most answers that a child tells of."""
MOST_KEPT = 100
"""The most inputs that are kept of a target."""


def run(scale: float) -> Outcome:
    """Fuzz every target."""
    told, harm, inputs = [], 0, 0
    for name, full in SHARES.items():
        count = sized(full, scale, 200)
        began = time.monotonic()
        kinds, harmful = _pictures(count) if name == "pictures" else attempt(name, count, 0, Path("fuzz-finds"), None)
        harm, inputs = harm + harmful, inputs + count
        told.append(f"{name} {count} ({kinds} answers, {count / (time.monotonic() - began):.0f}/s)")
    return Outcome(not harm, f"{inputs} inputs, {harm} did harm: {', '.join(told)}")


def _pictures(count: int) -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, PICTURES, "--files", str(count)], capture_output=True, text=True, check=False
    )
    return done.stdout.count("refused: ") + 1, done.returncode


def attempt(name: str, count: int, seed: int, finds: Path, keep: Path | None) -> tuple[int, int]:
    """Try ``count`` inputs of the target ``name``; how many answers there were, and how many inputs did harm."""
    answers, harm, first = Counter[str](), 0, 0
    with tempfile.NamedTemporaryFile() as beat:
        while first < count:
            beat.seek(0)
            beat.write(bytes(8))
            beat.flush()
            command = [sys.executable, "-m", "bench.chaos.fuzz", name, "--child", beat.name, "--seed", str(seed)]
            command += ["--inputs", str(count - first), *(["--keep", str(keep)] if keep else [])]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            threading.Thread(target=_guard, args=(child, Path(beat.name)), daemon=True).start()
            assert child.stdout is not None
            for line in child.stdout:
                if not line.startswith("{"):
                    # Native libraries write there too.
                    continue
                fact = json.loads(line)
                answers.update(fact.get("answers", {}))
                if "harm" in fact:
                    harm += 1
                    _save(finds, name, bytes.fromhex(fact["harm"]), fact["why"])
            (tried,) = struct.unpack("<q", Path(beat.name).read_bytes())
            if child.wait():
                if not tried:
                    raise SystemExit(f"the process for {name} ended with {child.returncode} before its first input")
                harm += 1
                finds.mkdir(parents=True, exist_ok=True)
                why = f"the process ended with {child.returncode} at input {tried} of seed {seed}\n"
                (finds / f"{name}-{seed}-{tried}.txt").write_text(why)
            # On from where it ended, with other chance, since what was learnt has gone with the child.
            first, seed = first + tried, seed + 1
    return len(answers), harm


def _save(finds: Path, name: str, data: bytes, why: str) -> None:
    finds.mkdir(parents=True, exist_ok=True)
    place = finds / f"{name}-{abs(hash(data)):x}"
    place.with_suffix(".bin").write_bytes(data)
    place.with_suffix(".txt").write_text(why)


def _guard(child: "subprocess.Popen[str]", beat: Path) -> None:
    before = None
    while child.poll() is None:
        try:
            now = beat.read_bytes()
        except FileNotFoundError:
            return
        if now == before:
            child.kill()
        before = now
        time.sleep(HANG)


def child(name: str, count: int, seed: int, beat_file: str, keep: Path | None) -> None:
    """Try ``count`` inputs here, and tell of them in lines of JSON."""
    logging.disable()
    warnings.simplefilter("error")
    with quick_folder() as folder, open(beat_file, "r+b") as file, mmap.mmap(file.fileno(), 8) as beat:
        found = target(name, Path(folder))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        mutator, answers = Mutator(found.seeds, seed, found.message), Counter[str]()
        kept: dict[str, bytes] = {}
        for number in range(1, count + 1):
            beat[:] = struct.pack("<q", number)
            data = mutator.next()
            try:
                answer = found.judge(data)
            except BaseException:
                print(json.dumps({"harm": data.hex(), "why": traceback.format_exc()}), flush=True)
                continue
            answers[answer] += 1
            mutator.answered(data, answer)
            if len(data) < min(SHORTEST_LONG, len(kept.get(answer, b"")) or SHORTEST_LONG):
                kept[answer] = data
        print(json.dumps({"answers": dict(answers.most_common(MOST_TOLD))}), flush=True)
        if keep is not None:
            (keep / name).mkdir(parents=True, exist_ok=True)
            chosen = sorted(kept.items())[:: max(1, -(-len(kept) // MOST_KEPT))]
            for number, (_, data) in enumerate(chosen):
                (keep / name / f"{number:03}.bin").write_bytes(data)


@click.command()
@click.argument("name", type=click.Choice([name for name in SHARES if name != "pictures"]))
@click.option("--inputs", default=20_000, show_default=True, help="How many.")
@click.option("--seed", default=0, show_default=True, help="Of all chance.")
@click.option("--finds", type=click.Path(path_type=Path), default="fuzz-finds", help="Folder for what did harm.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep an input for each answer below this folder.")
@click.option("--child", "beat", default="", hidden=True)
def main(name: str, inputs: int, seed: int, finds: Path, keep: Path | None, beat: str) -> None:
    """Fuzz one target; exit with 1 if an input did harm."""
    if beat:
        child(name, inputs, seed, beat, keep)
        return
    began = time.monotonic()
    answers, harm = attempt(name, inputs, seed, finds, keep)
    click.echo(
        f"{inputs} inputs, {answers} answers, {harm} did harm, {inputs / (time.monotonic() - began):.0f} a second"
    )
    if harm:
        raise SystemExit(1)


SCENARIO = Scenario("corrupted bundle, ONNX, cache, image, message (fuzzed)", "clean refusals only", run)

if __name__ == "__main__":
    main()

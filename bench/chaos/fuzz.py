"""Fuzzing: damaged messages, bundles, caches and pictures by the hundred thousand. Nothing but clean refusals may come of them.

    python -m bench.chaos.fuzz messages --inputs 50000 --keep

A child process with a limit on its memory tries them, and is watched: it goes on after an input that hangs or kills it. What does harm is
saved. It begins with sound inputs and with those that are kept; ``--keep`` adds to these.
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

from bench.chaos import corpus
from bench.chaos.fuzz_targets import quick_folder, target
from bench.chaos.mutation import MOST, Mutator
from bench.chaos.scenario import Outcome, Scenario, sized

SHARES = {"messages": 600_000, "inference": 240_000, "pictures": 100_000, "caches": 40_000, "bundles": 20_000}
"""How many inputs each target gets at full size: a million in all, by how long one takes."""

BEAT = struct.Struct("<qq")
"""What a child tells of the input at hand, in a file that outlives it: its number, its length, and then the input itself."""
HANG = 60.0
"""Seconds after which an input is taken for a hang."""
SHORTEST_LONG = 2000
"""Bytes above which no input is kept."""
MOST_TOLD = 1000
"""The most answers that a child tells of."""


def run(scale: float) -> Outcome:
    """Fuzz every target."""
    told, harm, inputs = [], 0, 0
    for name, full in SHARES.items():
        count = sized(full, scale, 200)
        began = time.monotonic()
        kinds, harmful = attempt(name, count, 0, Path("fuzz-finds"))
        harm, inputs = harm + harmful, inputs + count
        told.append(f"{name} {count} ({kinds} answers, {count / (time.monotonic() - began):.0f}/s)")
    return Outcome(not harm, f"{inputs} inputs, {harm} did harm: {', '.join(told)}")


def attempt(name: str, count: int, seed: int, finds: Path, keep: bool = False) -> tuple[int, int]:
    """Try ``count`` inputs of the target ``name``; how many answers there were, and how many inputs did harm."""
    answers, harm, first = Counter[str](), 0, 0
    with tempfile.NamedTemporaryFile() as beat:
        while first < count:
            beat.seek(0)
            beat.write(bytes(BEAT.size + MOST))
            beat.flush()
            command = [sys.executable, "-m", "bench.chaos.fuzz", name, "--child", beat.name, "--seed", str(seed)]
            command += ["--inputs", str(count - first), *(["--keep"] if keep else [])]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
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
                        _save(finds / name, bytes.fromhex(fact["harm"]), fact["why"])
            told = Path(beat.name).read_bytes()
            tried, size = BEAT.unpack_from(told)
            if child.returncode:
                if not tried:
                    raise SystemExit(f"the process for {name} ended with {child.returncode} before its first input")
                harm += 1
                why = f"the process ended with {child.returncode} at input {tried} of seed {seed}\n"
                _save(finds / name, told[BEAT.size :][:size], why)
            # On from where it ended, with other chance, since what was learnt has gone with the child.
            first, seed = first + tried, seed + 1
    return len(answers), harm


def _save(finds: Path, data: bytes, why: str) -> None:
    corpus.keep(finds, data).with_suffix(".txt").write_text(why)


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


def child(name: str, count: int, seed: int, beat_file: str, keep: bool) -> None:
    """Try ``count`` inputs here, and tell of them in lines of JSON."""
    logging.disable()
    warnings.simplefilter("error")
    with quick_folder() as folder, open(beat_file, "r+b") as file, mmap.mmap(file.fileno(), BEAT.size + MOST) as beat:
        found = target(name, Path(folder))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + found.memory, resource.RLIM_INFINITY))
        mutator, answers = Mutator(found, seed), Counter[str]()
        for data in corpus.kept(name):
            mutator.answered(data, found.judge(data))
        new: dict[str, bytes] = {}
        for number in range(1, count + 1):
            data = mutator.next()
            beat[: BEAT.size + len(data)] = BEAT.pack(number, len(data)) + data
            try:
                answer = found.judge(data)
            except BaseException:
                print(json.dumps({"harm": data.hex(), "why": traceback.format_exc()}), flush=True)
                continue
            answers[answer] += 1
            if mutator.answered(data, answer) or answer in new:
                new[answer] = min(data, new.get(answer, data), key=len)
        print(json.dumps({"answers": dict(answers.most_common(MOST_TOLD))}), flush=True)
        if keep:
            _keep(name, new)


def _keep(name: str, new: dict[str, bytes]) -> None:
    """Add an input for each answer that is ``new``, as far as there is room; for some of them, evenly chosen, if there is not for all."""
    folder = corpus.CORPUS / name
    short = [data for _, data in sorted(new.items()) if len(data) < SHORTEST_LONG]
    room = corpus.MOST - len(corpus.kept(name))
    for at in range(min(room, len(short))):
        corpus.keep(folder, short[at * len(short) // min(room, len(short))])


@click.command()
@click.argument("name", type=click.Choice(list(SHARES)))
@click.option("--inputs", default=20_000, show_default=True, help="How many.")
@click.option("--seed", default=0, show_default=True, help="Of all chance.")
@click.option("--finds", type=click.Path(path_type=Path), default="fuzz-finds", help="Folder for what did harm.")
@click.option("--keep", is_flag=True, help="Add to tests/corpus: finds whose fault is mended, inputs for new answers.")
@click.option("--child", "beat", default="", hidden=True)
def main(name: str, inputs: int, seed: int, finds: Path, keep: bool, beat: str) -> None:
    """Fuzz one target; exit with 1 if an input did harm."""
    if beat:
        child(name, inputs, seed, beat, keep)
        return
    began = time.monotonic()
    if keep:
        for find in (finds / name).glob("*"):
            if find.suffix != ".txt":
                corpus.keep(corpus.CORPUS / name, find.read_bytes())
    answers, harm = attempt(name, inputs, seed, finds, keep)
    click.echo(
        f"{inputs} inputs, {answers} answers, {harm} did harm, {inputs / (time.monotonic() - began):.0f} a second"
    )
    if keep:
        click.echo(f"{corpus.CORPUS / name} has {len(corpus.kept(name))} inputs; room is for {corpus.MOST}")
    if harm:
        raise SystemExit(1)


SCENARIO = Scenario("corrupted bundle, ONNX, cache, image, message (fuzzed)", "clean refusals only", run)

if __name__ == "__main__":
    main()

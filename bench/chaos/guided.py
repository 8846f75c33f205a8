"""Fuzzing that follows coverage: atheris keeps what reaches lines of ganserve that nothing reached before, and damages that further.

    python -m bench.chaos.guided messages --seconds 600

The targets, the sound inputs and half of the damage are those of :mod:`bench.chaos.fuzz`; the corpus of the tests is where it starts.
It stops at the first find, and says where that was saved.
"""

import logging
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from bench.chaos.corpus import CORPUS
from bench.chaos.mutation import MOST, Mutator
from bench.chaos.scenario import Outcome, Scenario, sized

TARGETS = ("messages", "inference", "bundles")
"""Not caches: atheris sees what a file's digest is compared with, and puts that there. Digests find damage; what keeps strangers from a
cache is who may write to its folder."""

SECONDS = 120
"""How long each target gets at full size."""

HANG = 60
"""Seconds after which an input is taken for a hang."""
MEMORY = 2048
"""MiB that the process may take."""


def run(scale: float) -> Outcome:
    """Fuzz every target for a while."""
    told, held = [], True
    for name in TARGETS:
        inputs, reached, clean = attempt(name, sized(SECONDS, scale, 5), 0, Path("fuzz-finds"))
        held = held and clean and inputs > 0
        told.append(f"{name} {inputs} inputs, {reached} branches")
    return Outcome(held, "; ".join(told))


def attempt(name: str, seconds: int, seed: int, finds: Path) -> tuple[int, int, bool]:
    """Fuzz the target ``name``: how many inputs there were, how many branches they reached, and whether none did harm."""
    (finds / name).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        (Path(folder) / "corpus").mkdir()
        options = [f"-max_total_time={seconds}", f"-max_len={MOST}", f"-timeout={HANG}", f"-rss_limit_mb={MEMORY}"]
        options += [f"-seed={seed + 1}", f"-artifact_prefix={finds.resolve()}/{name}/", "-print_final_stats=1"]
        command = [sys.executable, "-m", "bench.chaos.guided", name, "--child", folder]
        done = subprocess.run([*command, "--", *options], capture_output=True, text=True, errors="replace", check=False)
    inputs = re.search(r"number_of_executed_units:\s+(\d+)", done.stderr)
    reached = re.findall(r"cov: (\d+)", done.stderr)
    if done.returncode:
        sys.stderr.write(done.stderr[-10_000:])
    return int(inputs[1]) if inputs else 0, int(reached[-1]) if reached else 0, done.returncode == 0


def child(name: str, folder: Path, options: list[str]) -> None:
    """Fuzz here; ends the process."""
    import atheris

    logging.disable()
    with atheris.instrument_imports(include=["ganserve"]):
        from bench.chaos.fuzz_targets import target

        # It imports what it needs, and what is imported later would tell nothing.
        found = target(name, folder)
    for number, data in enumerate(found.seeds):
        (folder / "corpus" / f"seed-{number}").write_bytes(data)

    def damaged(data: bytes, most: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if dice.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return Mutator(found, seed).damaged(data)[:most]

    # What is learnt is kept in the first of them.
    places = (str(folder / "corpus"), str(CORPUS / name))
    atheris.Setup([sys.argv[0], *options, *places], found.judge, custom_mutator=damaged)
    atheris.Fuzz()


@click.command()
@click.argument("name", type=click.Choice(TARGETS))
@click.option("--seconds", default=60, show_default=True, help="How long.")
@click.option("--seed", default=0, show_default=True, help="Of the damage.")
@click.option("--finds", type=click.Path(path_type=Path), default="fuzz-finds", help="Folder for what did harm.")
@click.option("--child", "folder", type=click.Path(path_type=Path), hidden=True)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(name: str, seconds: int, seed: int, finds: Path, folder: Path | None, options: tuple[str, ...]) -> None:
    """Fuzz one target; exit with 1 if an input did harm."""
    if folder is not None:
        child(name, folder, list(options))
        return
    inputs, reached, clean = attempt(name, seconds, seed, finds)
    click.echo(f"{inputs} inputs reached {reached} branches; {'none' if clean else f'one, kept in {finds},'} did harm")
    if not clean:
        raise SystemExit(1)


SCENARIO = Scenario("the same, led by coverage (atheris)", "clean refusals only", run)

if __name__ == "__main__":
    main()

"""Runs a second of an engine over those of PyTorch as one writes it: same bundle, rows, threads, process.

    python bench/untrained.py cyclegan paper-256 --out .data/bench/cyclegan-256
    python bench/engines.py .data/bench/cyclegan-256 --engine openvino:bf16

Both run the bundle's golden rows, at their size. Turns alternate; the ratio is that of the medians. Run it on a machine that does
nothing else.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click

from ganserve.bench_task import Measured, measured

EAGER = "torch"
"""The engine that runs the family's own modules, in fp32 and inference mode."""


def run_of(target: Measured, engine: str, rows: int, threads: int) -> Callable[[], object]:
    """A function that runs ``rows`` rows on ``engine`` and waits for the first output on the host; it has run once."""
    run = target.runs(engine, threads)(rows)
    run()
    return run


def seconds_of(run: Callable[[], object], seconds: float) -> list[float]:
    """How long each run took, in turns of at least ``seconds`` and at least one run."""
    times: list[float] = []
    while sum(times) < seconds:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return times


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--engine", default="openvino:bf16", show_default=True, metavar="NAME[:PRECISION]", help="To compare.")
@click.option("--task", default="", metavar="NAME", help="The task [the first that can be measured].")
@click.option("--rows", default=1, show_default=True, help="Of a batch.")
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True, help="Of both.")
@click.option("--seconds", default=5.0, show_default=True, help="Of each turn.")
@click.option("--rounds", default=5, show_default=True, help="Turns of each.")
def main(bundle: Path, engine: str, task: str, rows: int, threads: int, seconds: float, rounds: int) -> None:
    """Compare an engine with eager PyTorch on BUNDLE."""
    target = measured(bundle, task)
    runs = {name: run_of(target, name, rows, threads) for name in (EAGER, engine)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    ratios = []
    for _ in range(rounds):
        turn = {name: seconds_of(run, seconds) for name, run in runs.items()}
        ratios.append(statistics.median(turn[EAGER]) / statistics.median(turn[engine]))
        for name, found in turn.items():
            times[name] += found
    ratio = statistics.median(times[EAGER]) / statistics.median(times[engine])
    what = f"{target.bundle.manifest.name}, {target.task.name}, {rows} row{'s' * (rows > 1)}, {threads} threads"
    click.echo(
        f"{what}: {engine} is {ratio:.2f} times as fast as eager PyTorch ({min(ratios):.2f} to {max(ratios):.2f} over the turns)"
    )


if __name__ == "__main__":
    main()

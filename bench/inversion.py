"""One step of inversion on an engine over the same step as one writes it with PyTorch's autograd and Adam: same weights, rows, threads, process.

    python bench/inversion.py dcgan fashion-32 --rows 1 --rows 4

The networks are untrained: speed does not depend on their weights. Turns alternate; the ratio is that of the medians. Then the
engine alone: searches side by side in one batch over searches one after another. Run it on a machine that does nothing else.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve import golden
from ganserve.bundle import Bundle
from ganserve.engines import Options
from ganserve.inversion import GRAPH
from ganserve.plugins import installed, resolve
from ganserve_trainers.export import Label, export_bundle, torch_graphs

TOGETHER = 8
"""Searches side by side."""


def rows_of(bundle: Bundle, rows: int) -> dict[str, np.ndarray]:
    """The golden rows of the step, as often as needed."""
    found = golden.inputs(bundle, bundle.manifest.graph(GRAPH))
    return {name: np.resize(array, (rows, *array.shape[1:])) for name, array in found.items()}


def on_engine(bundle: Bundle, name: str, threads: int, feeds: dict[str, np.ndarray]) -> Callable[[], object]:
    """A step that brings back the state's latent; it has run once."""
    graph = bundle.manifest.graph(GRAPH)
    engine, _, precision = name.partition(":")
    options = Options(graph=graph, threads=threads, precision=precision or "fp32")  # type: ignore[arg-type]
    session = resolve(installed().engine(engine).load)(bundle.path(graph.file), options)
    outputs = [tensor.name for tensor in graph.outputs]
    values = {key: session.upload(array) for key, array in feeds.items()}

    def run() -> object:
        return session.download(session.run(values, outputs)[outputs[0]])

    run()
    return run


def in_torch(generator: nn.Module, extras: Sequence[Tensor], feeds: dict[str, np.ndarray]) -> Callable[[], object]:
    """The step as one writes it: a loss at all scales, backward, Adam; it has run once."""
    target = torch.tensor(feeds["target"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    x = nn.Parameter(torch.tensor(feeds["x"]))
    optimizer = torch.optim.Adam([x])
    generator.requires_grad_(False)

    def run() -> object:
        difference = generator(x, *extras) - target
        loss = difference.square().sum()
        while difference.shape[2] % 2 == 0 and difference.shape[2] >= 8:
            difference = F.avg_pool2d(difference, 2)
            loss = loss + difference.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return x.detach().numpy()

    run()
    return run


def seconds_of(run: Callable[[], object], seconds: float) -> list[float]:
    """How long each run took, in turns of at least ``seconds``."""
    times: list[float] = []
    while sum(times) < seconds:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return times


def medians(runs: dict[str, Callable[[], object]], seconds: float, rounds: int) -> dict[str, float]:
    """The median time of each, whose turns alternate."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name] += seconds_of(run, seconds)
    return {name: statistics.median(found) for name, found in times.items()}


@click.command()
@click.argument("family")
@click.argument("preset")
@click.option("--engine", default="onnxruntime", show_default=True, metavar="NAME[:PRECISION]", help="To compare.")
@click.option("--rows", "batches", multiple=True, type=int, default=(1, 4), show_default=True, help="Of a batch.")
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True, help="Of both.")
@click.option("--seconds", default=2.0, show_default=True, help="Of each turn.")
@click.option("--rounds", default=5, show_default=True, help="Turns of each.")
def main(
    family: str, preset: str, engine: str, batches: tuple[int, ...], threads: int, seconds: float, rounds: int
) -> None:
    """Compare an engine with PyTorch on inversion with the networks of FAMILY in size PRESET."""
    torch.set_num_threads(threads)
    record = installed().family(family)
    config = record.config(preset)
    networks = resolve(record.build)(config)
    step: Any = torch_graphs(record, config, networks)[GRAPH].network
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_bundle(record, preset, config, networks, Path(folder) / "bundle", Label(name="untrained"))
        names = [tensor.name for tensor in bundle.manifest.graph(GRAPH).inputs]
        extras = names[names.index("rate") + (2 if step.tied else 1) :]
        for rows in batches:
            feeds = rows_of(bundle, rows)
            reference = in_torch(step.generator, [torch.tensor(feeds[name]) for name in extras], feeds)
            found = medians({"torch": reference, engine: on_engine(bundle, engine, threads, feeds)}, seconds, rounds)
            click.echo(
                f"{family} {preset}, {rows} row{'s' * (rows > 1)}, {threads} thread{'s' * (threads > 1)}: {engine} is "
                f"{found['torch'] / found[engine]:.2f} times as fast as PyTorch"
            )
        alone = on_engine(bundle, engine, threads, rows_of(bundle, 1))
        together = on_engine(bundle, engine, threads, rows_of(bundle, TOGETHER))
        found = medians({"alone": alone, "together": together}, seconds, rounds)
        click.echo(
            f"{TOGETHER} searches side by side: {TOGETHER * found['alone'] / found['together']:.2f} times the throughput"
        )


if __name__ == "__main__":
    main()

"""``ganserve demo``: a real server, a real client, pictures."""

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import Progress

from ganserve.commands.output import console, progress, watched, write_png
from ganserve.commands.process import PATIENCE, server, stop, tail
from ganserve.errors import DeadlineExceeded

if TYPE_CHECKING:
    from ganserve.client import Client, ModelSummary, Sample

SEED = 7

NEXT = """
Next:
  ganserve serve {bundles}
  ganserve sample {model} --n 16 --seed 7 --grid grid.png
  ganserve train dcgan --preset fashion-32 --data PATH --out runs/mine
  ganserve export runs/mine --out {bundles}/mine
"""


@click.command(short_help="Start a server, sample every bundle, write picture grids, stop.")
@click.option(
    "--bundles",
    type=click.Path(path_type=Path),
    default=Path("bundles"),
    show_default=True,
    help="Folder of bundles to serve.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Folder for the grids and the server's log.",
)
@click.option("--n", "count", type=click.IntRange(min=1), default=64, show_default=True, help="Images of each model.")
def command(bundles: Path, out: Path, count: int) -> None:
    """Show all of it at work: start a server as a process of its own, sample every model over gRPC, stop it with SIGTERM.

    Writes one PNG grid a model into --out, and the server's log.

    \b
    Examples:
      ganserve demo
      ganserve demo --bundles my-bundles --n 16 --out pictures
    """
    if not any(bundles.glob("**/manifest.json")):
        raise click.ClickException(f"there is no bundle in {bundles}; give their folder with --bundles")
    out.mkdir(parents=True, exist_ok=True)
    output = console()
    with server(bundles, out / "server.log") as (process, address):
        from ganserve.client import Client

        with Client(address) as client:
            wait_ready(client, process, out / "server.log", output)
            served = _sample_all(client, count, out, output)
        stop(process, out / "server.log")
    output.print("server stopped cleanly")
    output.print(NEXT.format(bundles=bundles, model=served[0]), end="", markup=False)


def wait_ready(client: "Client", process: subprocess.Popen[bytes], log: Path, output: Console) -> None:
    """Wait until the server says over grpc.health.v1 that it serves; tell at once if it ended instead."""
    started = time.monotonic()
    while process.poll() is None:
        try:
            client.wait_ready(0.5)
        except DeadlineExceeded:
            if time.monotonic() - started > PATIENCE:
                raise
        else:
            output.print(f"server at {client.address} ready after {time.monotonic() - started:.1f} s")
            return
    raise click.ClickException(f"the server ended with code {process.returncode}; {tail(log)}")


def _sample_all(client: "Client", count: int, out: Path, output: Console) -> list[str]:
    models = client.models()
    for model in models:
        if model.state == "failed":
            output.print(f"{model.name} is not served: {model.reason}", markup=False)
    with progress(output) as bars:
        served = [model.name for model in models if model.state == "ready" and _sample(client, model, count, out, bars)]
    if not served:
        raise click.ClickException("no model could be sampled")
    return served


def _sample(client: "Client", model: "ModelSummary", count: int, out: Path, bars: Progress) -> bool:
    """Write one grid of ``model``; False if it has nothing to sample."""
    from ganserve.client import grid

    tasks = [task.name for task in client.model(model.name, model.version).tasks if task.kind == "sample"]
    if not tasks:
        return False
    started = time.monotonic()
    stream = client.sample_stream(model.name, count, seed=SEED, task=tasks[0], version=model.version)
    samples: list[Sample] = list(watched(bars, model.name, count, stream))
    seconds = time.monotonic() - started
    path = out / f"{model.name}.png"
    write_png(path, grid([sample.image() for sample in samples]))
    engines = ", ".join(dict.fromkeys(samples[0].served.engines))
    bars.console.print(f"{path}: {count} images of {model.name} by {engines} in {seconds:.2f} s", highlight=False)
    return True

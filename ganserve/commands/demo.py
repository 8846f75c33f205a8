"""``ganserve demo``: a real server, a real client, pictures."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import Progress

from ganserve.commands.output import console, progress, watched, write_png
from ganserve.errors import DeadlineExceeded

if TYPE_CHECKING:
    from ganserve.client import Client, ModelSummary, Sample

PATIENCE = 60.0
"""Seconds that the server may take to be ready, and to stop."""

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


@contextlib.contextmanager
def server(bundles: Path, log: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """``ganserve serve`` as a process of its own, logging to ``log``, and its address; killed if it is still there at the end."""
    port = free_port()
    command = [sys.executable, "-m", "ganserve", "serve", str(bundles), "--port", str(port), "--metrics-port", "0"]
    command.extend(options)
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    try:
        yield process, f"127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    raise click.ClickException(f"the server ended with code {process.returncode}; {_tail(log)}")


def stop(process: subprocess.Popen[bytes], log: Path) -> None:
    """End the server as an orchestrator does, and insist that it ends well."""
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        raise click.ClickException(f"the server did not stop within {PATIENCE:.0f} s; {_tail(log)}") from None
    if code:
        raise click.ClickException(f"the server stopped with code {code} instead of 0; {_tail(log)}")


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


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-5:]
    return "\n".join([f"the end of {log}:", *lines])

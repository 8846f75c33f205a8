"""``ganserve demo``: a real server, a real client, pictures."""

import math
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import Progress

from ganserve.commands.output import console, progress, watched, write_png
from ganserve.commands.process import PATIENCE, server, stop, tail
from ganserve.errors import BundleError, DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ganserve.client import Client, ModelSummary, Sample, TaskInfo

SEED = 7

PROMPTS = ("a red heart", "grinning face", "a black cat", "the sun", "a green tree", "woman", "a blue car", "flag")
"""What models that read prompts are asked for, a line of the grid each."""

NEXT = """
Next:
  ganserve serve {bundles}
  ganserve sample {model} --n 16 --seed 7 --grid grid.png{more}
  ganserve train dcgan --preset fashion-32 --data PATH --out runs/mine
  ganserve export runs/mine --out {bundles}/mine
"""


TEXT = """
No bundle here makes pictures of prompts, for a sentence encoder is larger than all of these. In a checkout with Node.js's npm, one command trains and exports one
(an hour or so on two cores; `make demo` then asks it, too; docs/text.md tells more):
  make bundles/dfgan-emoji
"""

EXAMPLES = "examples"
"""The folder of a bundle in which pictures lie that may be translated."""


@click.command(short_help="Start a server, ask every bundle for pictures, write them in grids, stop.")
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
    """Show all of it at work: start a server as a process of its own, ask every model over gRPC, stop it with SIGTERM.

    Models that make images from seeds are sampled; those that translate get the pictures in their bundle's folder "examples".
    Writes one PNG grid a model into --out, and the server's log.

    \b
    Examples:
      ganserve demo
      ganserve demo --bundles my-bundles --n 16 --out pictures
    """
    if not any(bundles.glob("**/manifest.json")):
        raise click.ClickException(f"there is no bundle in {bundles}; give their folder with --bundles")
    out.mkdir(parents=True, exist_ok=True)
    output, started = console(), time.monotonic()
    with server(bundles, out / "server.log") as (process, address):
        from ganserve.client import Client

        with Client(address) as client:
            wait_ready(client, process, out / "server.log", output)
            sampled, translated, imagined = _ask_all(client, bundles, count, out, output)
        stop(process, out / "server.log")
    output.print(f"server stopped cleanly, {time.monotonic() - started:.1f} s after it was started")
    translate = f"\n  ganserve translate {translated[0]} PICTURES --out translated" if translated else ""
    imagine = f'\n  ganserve imagine {imagined[0]} "{PROMPTS[0]}" --n 4' if imagined else ""
    model = sampled[0] if sampled else "MODEL"
    output.print(NEXT.format(bundles=bundles, model=model, more=translate + imagine), end="", markup=False)
    if not imagined:
        output.print(TEXT, end="", markup=False)


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


def _ask_all(client: "Client", bundles: Path, count: int, out: Path, output: Console) -> tuple[list[str], ...]:
    """The names of the models that were sampled, of those that translated, and of those that were told what to show."""
    sampled, translated, imagined = [], [], []
    with progress(output) as bars:
        for model in client.models():
            if model.state == "failed":
                output.print(f"{model.name} is not served: {model.reason}", markup=False)
                continue
            for task in client.model(model.name, model.version).tasks:
                if task.kind == "sample" and model.name not in sampled:
                    _sample(client, model, task, count, out, bars)
                    sampled.append(model.name)
                if task.kind == "translate" and (pictures := _examples(bundles, model)):
                    _translate(client, model, task, pictures, out, bars)
                    translated.append(model.name)
                if task.kind == "text_to_image":
                    _imagine(client, model, task, count, out, bars)
                    imagined.append(model.name)
    if not sampled + translated + imagined:
        raise click.ClickException("no model could be asked for anything")
    return sampled, translated, imagined


def _examples(bundles: Path, model: "ModelSummary") -> list[Path]:
    """The pictures that come with the bundle of ``model``."""
    from ganserve import bundle

    for path in bundles.glob(f"**/{bundle.MANIFEST}"):
        try:
            manifest = bundle.read(path.parent).manifest
        except BundleError:
            continue  # the server has said why it does not serve that one
        if (manifest.name, manifest.version) == (model.name, model.version):
            return sorted((path.parent / EXAMPLES).glob("*.png"))
    return []


def _sample(client: "Client", model: "ModelSummary", task: "TaskInfo", count: int, out: Path, bars: Progress) -> None:
    """Write one grid of images from seeds."""
    stream = client.sample_stream(model.name, count, seed=_seed(task), task=task.name, version=model.version)
    _show(out / f"{model.name}.png", model, count, stream, [], bars)


def _translate(
    client: "Client", model: "ModelSummary", task: "TaskInfo", pictures: list[Path], out: Path, bars: Progress
) -> None:
    """Write one grid of pictures and what becomes of them, side by side."""
    stream = client.translate_stream(
        model.name, pictures, seed=_seed(task), task=task.name, version=model.version, restore=True
    )
    _show(out / f"{model.name}-{task.name}.png", model, len(pictures), stream, pictures, bars)


def _imagine(client: "Client", model: "ModelSummary", task: "TaskInfo", count: int, out: Path, bars: Progress) -> None:
    """Write one grid of pictures of prompts."""
    each = max(1, count // len(PROMPTS))
    stream = client.imagine_stream(model.name, PROMPTS, each, seed=SEED, task=task.name, version=model.version)
    _show(out / f"{model.name}.png", model, each * len(PROMPTS), stream, [], bars, columns=each)


def _seed(task: "TaskInfo") -> int | None:
    return SEED if "seed" in task.values else None


def _show(
    path: Path,
    model: "ModelSummary",
    count: int,
    stream: "Iterable[Sample]",
    beside: list[Path],
    bars: Progress,
    columns: int | None = None,
) -> None:
    from PIL import Image

    from ganserve.client import grid

    started = time.monotonic()
    results = list(watched(bars, model.name, count, stream))
    seconds = time.monotonic() - started
    images = [result.image() for result in results]
    if beside:
        images = [image for pair in zip(map(Image.open, beside), images, strict=True) for image in pair]
        columns = 2 * math.ceil(math.sqrt(len(beside) / 2))
    write_png(path, grid(images, columns))
    engines = ", ".join(dict.fromkeys(results[0].served.engines))
    bars.console.print(f"{path}: {count} images of {model.name} by {engines} in {seconds:.2f} s", highlight=False)

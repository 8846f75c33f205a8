"""``ganserve invert``."""

import contextlib
import io
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import numpy as np

from ganserve.commands.options import (
    Remote,
    background_option,
    label_of,
    number_of,
    number_option,
    parallel_option,
    quality_option,
    server_option,
    task_option,
    timeout_option,
    version_option,
)
from ganserve.commands.output import asking, progress, write_file
from ganserve.commands.pictures import each, find_pictures, targets_of, tell_failed
from ganserve.commands.sample import SUFFIXES

if TYPE_CHECKING:
    from rich.progress import Progress

    from ganserve.client import Inversion, InvertProgress


@click.command(short_help="Ask a server for the latents of pictures.")
@click.argument("model")
@click.argument("inputs", metavar="IN...", nargs=-1, required=True)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for three files a picture."
)
@task_option
@version_option
@click.option(
    "--start",
    type=click.Choice(["average", "samples", "encoder"]),
    help="Where the search starts [encoder, else samples, else average, whichever the model has].",
)
@click.option(
    "--latent",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Start from the latent in this .npy file instead, such as one that an earlier search wrote.",
)
@click.option("--samples", type=click.IntRange(min=1), help="How many samples are tried [16].")
@click.option("--seed", type=click.IntRange(min=0), help="What they are drawn from [the server's choice].")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of a search [the model's own number].")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), help="End a search with the best so far after this long."
)
@click.option("--label", help="Class by number or name, for a model with classes.")
@number_option
@click.option(
    "--size",
    type=click.Choice(["exact", "resize", "letterbox"]),
    help="How a picture meets the model's size [resize].",
)
@background_option
@click.option(
    "--format",
    "image_format",
    default="png",
    show_default=True,
    help="Of the reconstructions: png, jpeg, webp, raw, npy or npy-float.",
)
@quality_option
@click.option("--overwrite", is_flag=True, help="Invert anew what lies in --out already.")
@parallel_option
@timeout_option(600.0, "; a search ends with the best so far shortly before")
@server_option
def command(
    model: str,
    inputs: tuple[str, ...],
    out: Path,
    latent: Path | None,
    label: str | None,
    numbers: tuple[str, ...],
    image_format: str,
    overwrite: bool,
    parallel: int,
    server: Remote,
    **options: Any,
) -> None:
    """Ask a server for the latents from which MODEL makes the pictures IN.

    For cat.jpg --out gets cat.png, the reconstruction, cat.z.npy, the latent under the name that the model gives it, and
    cat.json, which says how near the reconstruction is, how long it took and what served it. IN are files, quoted globs and folders, whose structure is kept. A
    picture whose .json lies in --out already is not asked for again: a run that was interrupted is started again as it was. A
    picture that fails is named at the end; the others go on.

    \b
    Examples:
      ganserve invert stylegan2-emoji cat.png --out found
      ganserve invert dcgan-fashion shoes --start samples --samples 64 --steps 500 --out found
      ganserve invert stylegan2-emoji 'photos/*.jpg' --seconds 10 --size letterbox --out found
    """
    suffix = SUFFIXES.get(image_format, image_format)
    found = targets_of(find_pictures(inputs), out, "json")
    todo = {target: source for target, source in found.items() if overwrite or not target.exists()}
    asked_for = {
        **options,
        "latent": None if latent is None else _read(latent),
        "label": None if label is None else label_of(label),
        "numbers": dict(number_of(text) for text in numbers),
        "format": image_format,
    }
    made: list[Inversion] = []
    with asking(server) as client, progress() as bars:

        def invert(target: Path, source: Path) -> None:
            with _bar(bars, source.name) as told:
                found = client.invert(model, source, progress=told, **asked_for)
            _write(target, source, suffix, found)
            made.append(found)

        failed = each(bars, model, todo, parallel, invert)
    here = f", {len(found) - len(todo)} were there already" if len(found) > len(todo) else ""
    near = sorted(one.quality.psnr for one in made)
    how = f": PSNR {statistics.median(near):.1f} dB (median; {near[0]:.1f} to {near[-1]:.1f})" if near else ""
    click.echo(f"{len(made)} of {len(found)} pictures inverted to {out}{here}{how}")
    tell_failed(failed)


def _read(path: Path) -> np.ndarray:
    try:
        latent: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise click.BadParameter(f"{path} is no .npy file of numbers: {error}", param_hint="--latent") from error
    return latent


@contextlib.contextmanager
def _bar(bars: "Progress", title: str) -> "Iterator[Callable[[InvertProgress], None]]":
    """A bar for one search, and what moves it."""
    bar = bars.add_task(title, total=None)

    def told(said: "InvertProgress") -> None:
        bars.update(bar, total=said.steps, completed=said.step, description=f"{title} loss {said.loss:.5f}")

    try:
        yield told
    finally:
        bars.remove_task(bar)


def _write(told: Path, source: Path, suffix: str, found: "Inversion") -> None:
    """The files of one picture beside ``told``, its .json, which comes last: it says that all are there."""
    write_file(told.with_suffix(f".{suffix}"), found.data)
    for name, latent in found.latents.items():
        buffer = io.BytesIO()
        np.save(buffer, latent, allow_pickle=False)
        write_file(told.with_suffix(f".{name}.npy"), buffer.getvalue())
    facts = {
        "picture": str(source),
        "model": found.served.model,
        "version": found.served.version,
        "quality": found.quality,
        "loss": found.loss,
        "steps": found.steps,
        "stopped_early": found.stopped_early,
        "start": found.start,
        "seed": found.seed,
        "index": found.index,
        "read": found.read,
        "engines": found.served.engines,
        "determinism": found.served.determinism,
        "seconds": found.served.seconds,
    }
    write_file(told, msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n")

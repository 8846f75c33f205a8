"""``ganserve sample``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganserve.commands.options import (
    Remote,
    direction_option,
    format_option,
    label_of,
    number_of,
    number_option,
    quality_option,
    server_option,
    task_option,
    version_option,
)
from ganserve.commands.output import asking, progress, watched, write_file, write_png

if TYPE_CHECKING:
    from PIL.Image import Image

    from ganserve.client import Sample

SUFFIXES = {"npy-float": "npy"}
"""File name endings of formats that are not called like them."""


@click.command(short_help="Ask a server for images.")
@click.argument("model")
@click.option("--n", "count", type=click.IntRange(min=1), default=1, show_default=True, help="How many.")
@click.option(
    "--seed", type=click.IntRange(min=0), help="Image i is drawn from (seed, first index + i) [the server's choice]."
)
@click.option(
    "--first-index", type=click.IntRange(min=0), default=0, show_default=True, help="Where to go on under --seed."
)
@click.option(
    "--label", "labels", multiple=True, help="Class by number or name: one for all images, or repeated for each."
)
@click.option(
    "--truncation", type=float, multiple=True, help="Truncation of the noise: one for all images, or repeated for each."
)
@number_option
@direction_option
@task_option
@version_option
@format_option
@quality_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for one file an image [samples, unless --grid is given].",
)
@click.option(
    "--grid", "sheet", type=click.Path(dir_okay=False, path_type=Path), help="File for all images in one PNG."
)
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, help="Seconds for all."
)
@server_option
def command(
    model: str,
    count: int,
    seed: int | None,
    first_index: int,
    labels: tuple[str, ...],
    truncation: tuple[float, ...],
    numbers: tuple[str, ...],
    directions: tuple[str, ...],
    task: str | None,
    version: int | None,
    image_format: str,
    quality: int | None,
    out: Path | None,
    sheet: Path | None,
    timeout: float,
    server: Remote,
) -> None:
    """Ask a server for images of MODEL and write them to files, one each, in one grid, or both.

    The same seed and index give the same image again; without --seed the server chooses one, and it is printed.

    \b
    Examples:
      ganserve sample dcgan-fashion --n 16 --seed 7
      ganserve sample dcgan-fashion --n 64 --grid fashion.png
      ganserve sample biggan --n 4 --label goldfish --truncation 0.5 --format webp --out fish
      ganserve sample stylegan2-emoji --n 8 --seed 7 --direction sefa-0=3 --grid moved.png
    """
    from ganserve.client import grid

    folder = out or (None if sheet else Path("samples"))
    first: Sample | None = None
    images: list[Image] = []
    with asking(server) as client, progress() as bars:
        stream = client.sample_stream(
            model,
            count,
            seed=seed,
            first_index=first_index,
            labels=[label_of(label) for label in labels],
            truncation=truncation,
            numbers=dict(number_of(text) for text in numbers),
            directions=dict(number_of(text, "--direction") for text in directions),
            task=task,
            version=version,
            format=image_format,
            quality=quality,
            timeout=timeout,
        )
        for row, sample in enumerate(watched(bars, model, count, stream)):
            first = first or sample
            if folder:
                write_file(folder / _file_name(model, sample, row), sample.data)
            if sheet:
                images.append(sample.image())
    if sheet:
        write_png(sheet, grid(images))
        click.echo(f"{count} images in {sheet}")
    if folder:
        click.echo(f"{count} files in {folder}")
    if first is not None and first.seed is not None:
        again = f"--seed {first.seed}" + (f" --first-index {first.index}" if first.index else "")
        click.echo(f"seed {first.seed}, from index {first.index}: {again} gives the same again")


def _file_name(model: str, sample: "Sample", row: int) -> str:
    mark = f"{row:04d}" if sample.seed is None else f"{sample.seed}-{sample.index}"
    suffix = SUFFIXES.get(sample.format, sample.format)
    return f"{model}-{mark}.{suffix}"

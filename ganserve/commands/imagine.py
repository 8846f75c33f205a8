"""``ganserve imagine``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganserve.commands.options import (
    Remote,
    format_option,
    number_of,
    number_option,
    quality_option,
    server_option,
    task_option,
    version_option,
)
from ganserve.commands.output import asking, progress, watched, write_file, write_png
from ganserve.commands.sample import SUFFIXES

if TYPE_CHECKING:
    from PIL.Image import Image

    from ganserve.client import Imagined


@click.command(short_help="Ask a server for images of what you say.")
@click.argument("model")
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@click.option("--n", "count", type=click.IntRange(min=1), default=1, show_default=True, help="How many of each prompt.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    help="Image i of every prompt is drawn from (seed, first index + i) [the server's choice].",
)
@click.option(
    "--first-index", type=click.IntRange(min=0), default=0, show_default=True, help="Where to go on under --seed."
)
@click.option("--truncation", type=float, help="Truncation of the noise.")
@click.option("--whole", is_flag=True, help="Refuse a prompt that the model would read only the beginning of.")
@number_option
@task_option
@version_option
@format_option
@quality_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for one file an image [images, unless --grid is given].",
)
@click.option(
    "--grid",
    "sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for all images in one PNG: a row for each prompt, a column for each seed.",
)
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, help="Seconds for all."
)
@server_option
def command(
    model: str,
    prompts: tuple[str, ...],
    count: int,
    numbers: tuple[str, ...],
    image_format: str,
    out: Path | None,
    sheet: Path | None,
    server: Remote,
    **options: Any,
) -> None:
    """Ask a server for images of each PROMPT by MODEL and write them to files, one each, in one grid, or both.

    The same prompt, seed and index give the same image again; without --seed the server chooses one, and it is printed.

    \b
    Examples:
      ganserve imagine dfgan-emoji "a red heart" --n 4
      ganserve imagine dfgan-emoji "a red heart" "a green apple" --n 8 --seed 7 --grid hearts.png
    """
    from ganserve.client import grid

    folder = out or (None if sheet else Path("images"))
    first: Imagined | None = None
    cut: set[int] = set()
    images: list[Image] = []
    with asking(server) as client, progress() as bars:
        stream = client.imagine_stream(
            model,
            prompts,
            count,
            numbers=dict(number_of(text) for text in numbers),
            format=image_format,
            **options,
        )
        for row, image in enumerate(watched(bars, model, len(prompts) * count, stream)):
            first = first or image
            cut |= {image.prompt} if image.truncated else set()
            if folder:
                suffix = SUFFIXES.get(image.format, image.format)
                write_file(folder / f"{model}-{image.prompt:02d}-{row % count:04d}.{suffix}", image.data)
            if sheet:
                images.append(image.image())
    if sheet:
        write_png(sheet, grid(images, columns=count))
        click.echo(f"{len(images)} images in {sheet}")
    if folder:
        click.echo(f"{len(prompts) * count} files in {folder}")
    for number in sorted(cut):
        click.echo(f"prompt {number + 1} was cut: the model reads only its beginning; --whole refuses such a prompt")
    if first is not None and first.seed is not None:
        again = f"--seed {first.seed}" + (f" --first-index {first.index}" if first.index else "")
        click.echo(f"seed {first.seed}, from index {first.index}: {again} gives the same again")

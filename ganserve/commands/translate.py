"""``ganserve translate``."""

from pathlib import Path
from typing import Any

import click

from ganserve.commands.options import (
    Remote,
    background_option,
    format_option,
    label_of,
    number_of,
    number_option,
    parallel_option,
    quality_option,
    server_option,
    timeout_option,
    version_option,
)
from ganserve.commands.output import asking, progress, write_file
from ganserve.commands.pictures import each, find_pictures, targets_of, tell_failed
from ganserve.commands.sample import SUFFIXES


@click.command(short_help="Ask a server to translate pictures.")
@click.argument("model")
@click.argument("inputs", metavar="IN...", nargs=-1, required=True)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for one file a picture."
)
@click.option("--direction", "--task", "task", help="Which way, such as a2b, where the model has several.")
@version_option
@click.option(
    "--image", "images", multiple=True, metavar="NAME=FILE", help="A picture beside each: reference, mask; repeatable."
)
@click.option(
    "--size",
    type=click.Choice(["exact", "resize", "letterbox", "native"]),
    help="How a picture meets the model's size [native where the model takes any, else resize].",
)
@click.option("--restore", is_flag=True, help="Scale each result to the size of its picture.")
@background_option
@click.option(
    "--seed", type=click.IntRange(min=0), help="Of the model's noise, the same for all [the server's choice]."
)
@click.option("--label", help="Class by number or name, for a model with classes.")
@number_option
@format_option
@quality_option
@click.option("--overwrite", is_flag=True, help="Translate anew what lies in --out already.")
@parallel_option
@timeout_option(60.0)
@server_option
def command(
    model: str,
    inputs: tuple[str, ...],
    out: Path,
    images: tuple[str, ...],
    label: str | None,
    numbers: tuple[str, ...],
    image_format: str,
    overwrite: bool,
    parallel: int,
    server: Remote,
    **options: Any,
) -> None:
    """Ask a server to translate the pictures IN with MODEL and write each result to --out, under the picture's name.

    IN are files, quoted globs and folders, whose structure is kept. What lies in --out already is not asked for again: a run
    that was interrupted is started again as it was. A picture that fails is named at the end; the others go on.

    \b
    Examples:
      ganserve translate pix2pix-emoji cat.png --out results
      ganserve translate cyclegan photos --direction a2b --restore --out painted --format jpeg
      ganserve translate spade 'maps/**/*.png' --image reference=style.jpg --seed 7 --out landscapes
    """
    suffix = SUFFIXES.get(image_format, image_format)
    found = targets_of(find_pictures(inputs), out, suffix)
    todo = {target: source for target, source in found.items() if overwrite or not target.exists()}
    asked_for = {
        **options,
        "images": dict(_image(text) for text in images),
        "label": None if label is None else label_of(label),
        "numbers": dict(number_of(text) for text in numbers),
        "format": image_format,
    }
    with asking(server) as client, progress() as bars:

        def translate(target: Path, source: Path) -> None:
            write_file(target, client.translate(model, source, **asked_for).data)

        failed = each(bars, model, todo, parallel, translate)
    here = f", {len(found) - len(todo)} were there already" if len(found) > len(todo) else ""
    click.echo(f"{len(todo) - len(failed)} of {len(found)} pictures translated to {out}{here}")
    tell_failed(failed)


def _image(text: str) -> tuple[str, Path]:
    name, _, file = text.partition("=")
    if not Path(file).is_file():
        raise click.BadParameter(f"{text!r} is not NAME=FILE of a file that exists", param_hint="--image")
    return name, Path(file)

"""``ganserve mix``."""

from pathlib import Path

import click

from ganserve.commands.options import Remote, label_of, number_of, points_of, server_option, task_option, version_option
from ganserve.commands.output import asking, progress, watched, write_png


@click.command(short_help="Ask a server to mix the styles of images, as one sheet.")
@click.argument("model")
@click.option(
    "--bases",
    required=True,
    metavar="SEED,SEED...",
    help="Down the left: where the other layers come from; 7:2 is index 2 under seed 7.",
)
@click.option("--styles", required=True, metavar="SEED,SEED...", help="Along the top: where --layers come from.")
@click.option(
    "--layers",
    required=True,
    metavar="N,N-N...",
    help="The layers of the styles, from 0 (coarse), such as 0-3 or 4,6-9.",
)
@click.option("--latent", default="", help="The latent whose layers are mixed [the task's last that has some].")
@click.option("--label", help="Class by number or name that the latents are made with.")
@click.option(
    "--number",
    "numbers",
    multiple=True,
    metavar="NAME=NUMBER",
    help="Another value of the latents, such as psi; repeatable.",
)
@task_option
@version_option
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The PNG file of the sheet."
)
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True, help="Seconds for all."
)
@server_option
def command(
    model: str,
    bases: str,
    styles: str,
    layers: str,
    latent: str,
    label: str | None,
    numbers: tuple[str, ...],
    task: str | None,
    version: int | None,
    out: Path,
    timeout: float,
    server: Remote,
) -> None:
    """Ask a server to mix images of MODEL, every base with every style, and write one sheet with the sources at its edges.

    The coarse layers of a style generator say what an image shows, the fine ones how it is coloured (StyleGAN, figure 3).

    \b
    Examples:
      ganserve mix stylegan2-emoji --bases 1,2,3 --styles 4,5,6,7 --layers 0-3 --out sheet.png
      ganserve mix stylegan2-emoji --bases 1,2 --styles 8,9 --layers 6-9 --number psi=0.7 --out colours.png
    """
    from ganserve.client import Point, mixing_sheet

    given = dict(number_of(text) for text in numbers)
    kind = None if label is None else label_of(label)
    rows, columns = (
        [Point(seed=seed, index=index, label=kind, numbers=given) for seed, index in points_of(text, option)]
        for text, option in ((bases, "--bases"), (styles, "--styles"))
    )
    with asking(server) as client, progress() as bars:
        stream = client.mix(
            model,
            rows,
            columns,
            layers_of(layers),
            grid=True,
            latent=latent,
            task=task,
            version=version,
            format="raw",
            timeout=timeout,
        )
        mixtures = list(watched(bars, model, len(rows) * len(columns), stream))
        sources = client.interpolate(
            model, rows + columns, 1, latent=latent, task=task, version=version, format="raw", timeout=timeout
        )
        images = [one.image() for one in sources]
    write_png(out, mixing_sheet(mixtures, images[: len(rows)], images[len(rows) :]))
    click.echo(f"{len(mixtures)} mixtures in {out}")


def layers_of(text: str) -> list[int]:
    """``0-3,6`` as numbers."""
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() if dash else True)):
            raise click.BadParameter(
                f"{part!r} names no layers: write numbers and ranges such as 0-3,6", param_hint="--layers"
            )
        layers += range(int(first), int(last or first) + 1)
    return layers

"""``ganserve export``: a training run becomes a bundle."""

from pathlib import Path

import click

from ganserve import plugins
from ganserve.commands.options import plugins_dir_option
from ganserve.errors import GanserveError


@click.command(short_help="Turn a training run into a bundle that can be served.")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder to write; its name is the bundle's, unless --name says otherwise.",
)
@click.option("--name", help="What clients call the model: letters, digits, '.', '_' and '-'.")
@click.option(
    "--version",
    "number",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of this version; the highest one answers by default.",
)
@click.option(
    "--licence", default="", help="Licence of the weights, such as CC-BY-4.0; as recorded with the data, unless given."
)
@click.option("--attribution", default="", help="Whom to name, and how; as recorded with the data, unless given.")
@click.option(
    "--half", is_flag=True, help="Round the weights to half precision: half the size; still computed in float32."
)
@click.option(
    "--kimg",
    type=click.FloatRange(min=0, min_open=True),
    help="The checkpoint at so many thousand images [the newest].",
)
@click.option(
    "--features",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="VGG16 weights (.safetensors or .h5): inversion then sees with their eyes too. Adds 29 MB with --half.",
)
@click.option("--force", is_flag=True, help="Replace the bundle that lies at --out.")
@plugins_dir_option
def export(
    run: Path,
    out: Path,
    name: str | None,
    number: int,
    licence: str,
    attribution: str,
    half: bool,
    kimg: float | None,
    features: Path | None,
    force: bool,
    plugins_dir: Path | None,
) -> None:
    """Turn a checkpoint of RUN, a folder that `ganserve train` wrote, into a bundle.

    The generator (its moving average, where one was kept) becomes ONNX, images as bytes included, so that serving needs
    neither torch nor the family's plugin. Every graph must keep the rules that all engines share: any number of rows, each row
    the same whatever runs beside it, no randomness of its own, constant kernels. Its error against torch is measured and
    recorded, and golden rows are stored by which every engine proves itself before it serves.

    \b
    Examples:
      ganserve export runs/fashion --out bundles/dcgan-fashion --licence MIT
      ganserve export runs/emoji --out bundles/dcgan-emoji --half --force
    Then:
      ganserve serve bundles
      ganserve sample dcgan-fashion
    """
    from ganserve_trainers.export import Label, export_run

    label = Label(name=name or out.resolve().name, version=number, licence=licence, attribution=attribution)
    try:
        known = plugins.load(plugins_dir) if plugins_dir else plugins.installed()
        manifest = export_run(
            run, out, label, kimg=kimg, features=features, half=half, force=force, known=known
        ).manifest
    except GanserveError as error:
        raise click.ClickException(str(error)) from error
    for graph in manifest.graphs:
        click.echo(
            f"{graph.name}: {graph.flops / 1e6:,.2f} MFLOP a row, error against torch {graph.parity:.1e} on [-1, 1]"
        )
    size = sum(file.size for file in manifest.files.values())
    click.echo(f"{out}: {manifest.name} version {manifest.version}, {manifest.licence}, {size / 1e6:,.2f} MB")

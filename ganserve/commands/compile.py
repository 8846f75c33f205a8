"""``ganserve compile``."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganserve.commands.options import max_batch_option
from ganserve.commands.output import console, progress, table, watched

if TYPE_CHECKING:
    from ganserve.engines import Precision

ENGINES = ("tensorrt",)
"""The engines that are built ahead of time."""


@click.command(short_help="Build a bundle's engines ahead of time.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--engine", type=click.Choice(ENGINES), default=ENGINES[0], show_default=True, help="The engine to build for."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("engines"),
    show_default=True,
    help="Folder for the engines; what is current there is kept.",
)
@click.option(
    "--precision",
    type=click.Choice(("fp32", "bf16", "fp16")),
    default="fp32",
    show_default=True,
    help="Of the numbers.",
)
@max_batch_option
@click.option("--device", default="cuda:0", show_default=True, help="The GPU to tune for; TensorRT RTX needs none.")
def command(bundle: Path, engine: str, out: Path, precision: "Precision", max_batch: int, device: str) -> None:
    """Build an engine for every graph of BUNDLE, so that a server with a GPU need not do so at its first start.

    The bundle is verified first. With TensorRT RTX no GPU is needed and the engines run on any GPU of compute capability 8.0 or
    later; TensorRT tunes on the GPU it builds on. Engines are executable: build them where you use them, take them from nobody.

    \b
    Examples:
      ganserve compile bundles/dcgan-fashion
      ganserve compile bundles/dcgan-fashion --out /var/cache/ganserve --max-batch 64
    """
    from ganserve.bundle import read
    from ganserve.engines import Options, tensorrt

    found = read(bundle)
    made = table("graph", "seconds", "bytes", "built by", "file")
    with progress() as bars:
        for graph in watched(bars, f"{engine} engines", len(found.manifest.graphs), found.manifest.graphs):
            started = time.monotonic()
            options = Options(graph=graph, device=device, precision=precision, max_rows=max_batch)
            built = tensorrt.compile(found.path(graph.file), out, options)
            seconds = "kept" if built.cached else f"{time.monotonic() - started:.1f}"
            made.add_row(graph.name, seconds, f"{built.size:,}", built.builder, str(built.path))
    console().print(made)

"""``ganserve inspect``."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganserve.commands.options import json_option
from ganserve.commands.output import console, print_json, table

if TYPE_CHECKING:
    from ganserve.bundle import Bundle
    from ganserve.spec import Graph, Latent, Loop, Step, Task, Tensor


@click.command(short_help="Verify a bundle and say what is in it.")
@click.argument("bundle", type=click.Path(path_type=Path))
@json_option
def command(bundle: Path, as_json: bool) -> None:
    """Verify BUNDLE, a folder that `ganserve export` wrote, as the server does, and describe what is in it.

    Graphs with shapes, FLOPs a row and error against torch; tasks with the values they read, their dataflow and latents; edit directions;
    provenance, licence, and every file's digest. A damaged bundle gets one line that names the file, and exit code 1.

    \b
    Examples:
      ganserve inspect bundles/dcgan-fashion
      ganserve inspect bundles/dcgan-fashion --json
    """
    from ganserve.bundle import read

    found = read(bundle)
    if as_json:
        print_json(found.manifest)
    else:
        _describe(found)


def _describe(bundle: "Bundle") -> None:
    from rich.markup import escape

    manifest = bundle.manifest
    output = console()

    def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        listing = table(*columns, title=title)
        for row in rows:
            listing.add_row(*map(escape, row))
        output.print()
        output.print(listing)

    size = sum(file.size for file in manifest.files.values())
    output.print(f"[bold]{manifest.name}[/bold] version {manifest.version}: verified, {size / 1e6:.2f} MB")
    output.print(escape(f"family {manifest.family}, preset {manifest.preset}"))
    output.print(escape(f"licence {manifest.licence}"))
    if manifest.attribution:
        output.print(escape(f"attribution: {manifest.attribution}"))
    show(
        "graphs",
        ("graph", "inputs", "outputs", "opset", "MFLOP a row", "error against torch"),
        (
            (
                graph.name + ("" if graph.batchable else " (rows never meet)"),
                ", ".join(map(_tensor, graph.inputs)),
                ", ".join(map(_tensor, graph.outputs)),
                str(graph.opset),
                f"{graph.flops / 1e6:,.2f}",
                f"{graph.parity:.1e}",
            )
            for graph in manifest.graphs
        ),
    )
    graphs = {graph.name: graph for graph in manifest.graphs}
    for task in manifest.tasks:
        show(f"task {task.name} ({task.kind})", ("what", "reads", "makes"), _dataflow(task, graphs))
        if task.latents:
            show(f"latents of task {task.name}", ("latent", "walk", "layers"), map(_latent, task.latents))
    if manifest.directions:
        show(
            "directions",
            ("direction", "moves", "found by"),
            ((name, direction.tensor, direction.source) for name, direction in manifest.directions.items()),
        )
    if manifest.provenance:
        show("provenance", ("", ""), ((name, str(value)) for name, value in manifest.provenance.items()))
    show(
        f"files, {manifest.golden.rows} golden rows in {manifest.golden.file}",
        ("file", "bytes", "sha256"),
        ((name, f"{file.size:,}", file.sha256) for name, file in manifest.files.items()),
    )


def _dataflow(task: "Task", graphs: "Mapping[str, Graph]") -> Iterable[tuple[str, str, str]]:
    """What a task does, line by line: codecs, steps, and the codec that answers."""
    for source in task.inputs:
        optional = " (optional)" if source.optional else ""
        yield f"codec {source.codec}{optional}", ", ".join(source.reads), source.tensor
    for step in task.steps:
        graph = graphs[step.graph]
        yield _title(step), ", ".join(step.reads(graph).values()), ", ".join(step.makes(graph).values())
    yield f"codec {task.output.codec}", task.output.tensor, "the result"


def _title(step: "Step | Loop") -> str:
    steps = getattr(step, "steps", None)
    return f"graph {step.graph}" if steps is None else f"loop over {step.graph}, {steps} times"


def _latent(latent: "Latent") -> tuple[str, str, str]:
    return latent.tensor, latent.walk, "may be mixed" if latent.layers else ""


def _tensor(tensor: "Tensor") -> str:
    sizes = ", ".join(("n", *map(str, tensor.shape)))
    return f"{tensor.name} {tensor.dtype}[{sizes}]"

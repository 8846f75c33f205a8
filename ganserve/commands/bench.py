"""``ganserve bench``."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganserve.commands.options import json_option
from ganserve.commands.output import console, print_json, table

if TYPE_CHECKING:
    from ganserve.bench import Served, Start


class Bar(click.ParamType[tuple[int, float]]):
    """The least that calls of so many rows are to reach, written ``64=0.9``."""

    name = "bar"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, float]:
        """Read ``value``."""
        if isinstance(value, tuple):
            return value
        rows, _, ratio = str(value).partition("=")
        try:
            bar = int(rows), float(ratio)
        except ValueError:
            self.fail(f"{value!r} is not ROWS=RATIO, such as 1=0.7", param, ctx)
        if not math.isfinite(bar[1]):
            # Nothing is less than NaN: such a bar would always be reached.
            self.fail(f"{value!r} has no finite ratio; expected one such as 1=0.7", param, ctx)
        return bar


@click.command(short_help="Measure what serving adds to the engine, as ratios in one run.")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seconds", type=click.FloatRange(min=0.5), default=3.0, show_default=True, help="Of each run.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Turns of raw and served runs."
)
@click.option("--task", default="", metavar="NAME", help="The task to run [the first that is a single graph].")
@click.option(
    "--engine",
    default="onnxruntime",
    show_default=True,
    metavar="NAME[:PRECISION]",
    help="The engine that serves, and runs alone.",
)
@click.option(
    "--at-least",
    "bars",
    type=Bar(),
    multiple=True,
    metavar="ROWS=RATIO",
    help="Exit with 1 where calls of so many rows are served at less than this of the engine alone; repeat it for other calls.",
)
@json_option
def command(
    bundle: Path,
    seconds: float,
    rounds: int,
    task: str,
    engine: str,
    bars: tuple[tuple[int, float], ...],
    as_json: bool,
) -> None:
    """Serve BUNDLE on the first core, load it from the last, and compare with the engine alone on the first.

    Sampling is loaded by 16 callers of single rows, then by 4 callers of 64; translation by 4 callers with one picture each,
    of the size of the bundle's golden rows. Pictures and results have no file format.

    Only ratios mean anything, and only on a machine that does nothing else: the median of the turns is told, with the least and the
    greatest of them. Needs Linux and two cores.

    \b
    Examples:
      ganserve bench bundles/dcgan-fashion
      ganserve bench bundles/dcgan-fashion --seconds 10 --rounds 9 --json
      ganserve bench bundles/pix2pix-emoji --engine openvino:bf16
      ganserve bench bundles/dcgan-fashion --at-least 1=0.7 --at-least 64=0.9
    """
    from ganserve import bench

    loads = bench.loads(bundle, task)
    if unknown := {rows for rows, _ in bars} - {load.rows for load in loads}:
        known = " and ".join(str(load.rows) for load in loads)
        raise click.BadParameter(
            f"no calls of {min(unknown)} rows are measured; those are of {known}", param_hint="--at-least"
        )
    figures = [bench.served(bundle, load, rounds=rounds, seconds=seconds, task=task, engine=engine) for load in loads]
    start = bench.start(bundle)
    png = bench.encode_ms()
    if as_json:
        ratios = [{"ratio": figure.ratio, "figures": figure} for figure in figures]
        print_json({"served": ratios, "start": start, "png_64_ms": png})
    else:
        _show(figures, start, png)
    for figure in figures:
        for rows, bar in bars:
            if figure.load.rows == rows and figure.ratio < bar:
                raise click.ClickException(
                    f"calls of {rows} rows are served at {figure.ratio:.3f} of the engine alone, {bar:g} was asked for"
                )


def _show(figures: "list[Served]", start: "Start", png: float) -> None:
    rows = table("rows a call", "callers", "served / raw", "p50 ms", "p99 ms", "p99 / p50")
    for figure in figures:
        rows.add_row(
            str(figure.load.rows),
            str(figure.load.concurrency),
            f"{figure.ratio:.3f} ({min(figure.ratios):.2f} to {max(figure.ratios):.2f})",
            f"{figure.p50_ms:.1f}",
            f"{figure.p99_ms:.1f}",
            f"{figure.p99_ms / figure.p50_ms:.2f}",
        )
    output = console()
    output.print(rows)
    torch = "with torch" if start.imports_torch else "no torch"
    output.print(f"ready after {start.ready_seconds:.2f} s, {start.resident_mib:.0f} MiB, {torch}")
    output.print(f"PNG 64x64: {png:.3f} ms an image")

"""How soon a server of all bundles of a folder is ready, and how much memory it has then.

    python bench/start.py bundles --times 5 --at-most-seconds 2 --at-most-mb 250

Seconds mean something on a machine that does nothing else.
"""

import math
import statistics
from pathlib import Path

import click

from ganserve import bench


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--times", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--at-most-seconds", default=math.inf, help="Exit with 1 if the median start takes longer.")
@click.option("--at-most-mb", default=math.inf, help="Exit with 1 if a server takes more, in millions of bytes.")
def main(folder: Path, times: int, at_most_seconds: float, at_most_mb: float) -> None:
    """Start a server on FOLDER, again and again."""
    starts = [bench.start(folder) for _ in range(times)]
    for start in starts:
        torch = "with torch" if start.imports_torch else "no torch"
        click.echo(f"ready after {start.ready_seconds:.2f} s, {start.resident_mib:.0f} MiB, {torch}")
    seconds = statistics.median(start.ready_seconds for start in starts)
    megabytes = max(start.resident_mib for start in starts) * 2**20 / 1e6
    if seconds > at_most_seconds:
        raise click.ClickException(
            f"ready after {seconds:.2f} s in the median, at most {at_most_seconds:g} were asked for"
        )
    if megabytes > at_most_mb:
        raise click.ClickException(f"a server took {megabytes:.0f} MB, at most {at_most_mb:g} were asked for")
    if any(start.imports_torch for start in starts):
        raise click.ClickException("a server imported torch, which none needs")


if __name__ == "__main__":
    main()

"""How soon a server of all bundles of a folder is ready, and how much memory it has then.

    python bench/start.py bundles --times 5

Seconds mean something on a machine that does nothing else.
"""

from pathlib import Path

import click

from ganserve import bench


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--times", type=click.IntRange(min=1), default=5, show_default=True)
def main(folder: Path, times: int) -> None:
    """Start a server on FOLDER, again and again."""
    for _ in range(times):
        found = bench.start(folder)
        torch = "with torch" if found.imports_torch else "no torch"
        click.echo(f"ready after {found.ready_seconds:.2f} s, {found.resident_mib:.0f} MiB, {torch}")


if __name__ == "__main__":
    main()

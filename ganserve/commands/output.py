"""How commands talk: tables, JSON, progress, files that appear whole, and a server that is asked."""

import contextlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ganserve.commands.options import Remote
from ganserve.errors import GanserveError, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from PIL.Image import Image

    from ganserve.client import Client

T = TypeVar("T")


@contextlib.contextmanager
def asking(server: Remote) -> "Iterator[Client]":
    """A client of ``server``; one that does not answer, or asks for a token, is told with what to do about it."""
    from ganserve.client import Client

    try:
        client = Client(server.address, token=server.token, tls=server.tls)
    except ValueError as error:
        raise click.ClickException(f"{error} (--tls, --no-tls)") from error
    with client:
        try:
            yield client
        except Unauthenticated as error:
            raise click.ClickException(
                f"{server} wants to know who asks: {error} (GANSERVE_TOKEN, or --token)"
            ) from error
        except Unavailable as error:
            raise click.ClickException(
                f"{server} is unavailable: {error}; start a server with `ganserve serve`, or name another with --server"
            ) from error


def console() -> Console:
    """The console for results. Into a pipe or file its lines are never folded, for another program reads them."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=10_000)


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table in the style of all tables."""
    return Table(*columns, title=title, title_justify="left", title_style="bold", box=None, header_style="dim")


def print_json(value: Any) -> None:
    """Print records and plain values as JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


@contextlib.contextmanager
def progress(on: Console | None = None) -> Iterator[Progress]:
    """Progress bars, where there is a terminal: on stderr unless told otherwise, so that what is printed stays clean."""
    on = on or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=on, disable=not on.is_terminal) as bars:
        yield bars


def watched(bars: Progress, title: str, count: int, things: Iterable[T]) -> Iterator[T]:
    """``things``, with a bar that follows them."""
    bar = bars.add_task(title, total=count)
    for thing in things:
        bars.advance(bar)
        yield thing


def write_file(path: Path, data: bytes) -> None:
    """Write ``path``, making its folder; to a temporary name first, so that no reader sees half of it.

    Raises :class:`GanserveError` where that is not possible, as on a full disk: what was there before still is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise GanserveError(
            f"{path} cannot be written: {error.strerror}; make room, or choose another place"
        ) from error


def write_png(path: Path, image: "Image") -> None:
    """Write ``image`` to ``path`` as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_file(path, buffer.getvalue())

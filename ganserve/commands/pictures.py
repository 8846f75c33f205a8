"""Commands that ask a server about many pictures: finding them, asking for several at a time, and telling which failed."""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganserve.commands.output import watched
from ganserve.errors import RequestError, Unavailable

if TYPE_CHECKING:
    from rich.progress import Progress

INPUTS = (".png", ".jpg", ".jpeg", ".webp")
"""The files of a folder that are taken for pictures."""

SHOWN = 10
"""How many pictures that failed are named."""


def find_pictures(inputs: Sequence[str]) -> dict[Path, Path]:
    """The picture files that ``inputs`` (files, globs, folders) name → each one's place below its folder, else its name."""
    found: dict[Path, Path] = {}
    for text in inputs:
        matches = [text] if os.path.exists(text) else sorted(glob.glob(text, recursive=True))
        if not matches:
            raise click.BadParameter(f"{text!r} is no file or folder and matches none", param_hint="IN")
        for path in map(Path, matches):
            if path.is_dir():
                inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in INPUTS and one.is_file())
                if not inside and len(matches) == 1:
                    raise click.BadParameter(f"{path} holds no {', '.join(INPUTS)}", param_hint="IN")
                found.update({one: one.relative_to(path) for one in inside})
            else:
                found[path] = Path(path.name)
    return found


def targets_of(found: Mapping[Path, Path], out: Path, suffix: str) -> dict[Path, Path]:
    """Result file → picture; two pictures whose results would have one name are refused."""
    targets: dict[Path, Path] = {}
    for source, place in found.items():
        target = out / place.with_suffix(f".{suffix}")
        if (other := targets.setdefault(target, source)) != source:
            raise click.BadParameter(
                f"{other} and {source} would both become {target}; write them to different folders", param_hint="IN"
            )
    return targets


def each(
    bars: "Progress", title: str, todo: Mapping[Path, Path], parallel: int, work: Callable[[Path, Path], None]
) -> dict[Path, Exception]:
    """Call ``work`` with every (result file, picture) of ``todo``, ``parallel`` at a time; the pictures that failed, with the reason.

    A server that does not answer ends all: :class:`Unavailable`.
    """
    failed: dict[Path, Exception] = {}

    def one(target: Path, source: Path) -> None:
        try:
            work(target, source)
        except Unavailable:
            raise
        except (RequestError, OSError) as error:
            failed[source] = error

    with ThreadPoolExecutor(parallel) as pool:
        under_way = [pool.submit(one, target, source) for target, source in todo.items()]
        try:
            for ended in watched(bars, title, len(todo), as_completed(under_way)):
                ended.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return failed


def tell_failed(failed: Mapping[Path, Exception]) -> None:
    """End the command with the pictures that failed, if any did."""
    if failed:
        named = "".join(f"\n  {source}: {error}" for source, error in list(failed.items())[:SHOWN])
        more = f"\n  and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        raise click.ClickException(f"{len(failed)} failed:{named}{more}")

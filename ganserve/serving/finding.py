"""Bundles on disk: which folders hold one, what each calls itself, and whether it has changed since the last look."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec

from ganserve.bundle import MANIFEST, read_manifest
from ganserve.errors import BundleError

Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""The files of a folder: name, size, time of change in nanoseconds, inode. Another stamp means that the folder ought to be read again;
what is in the files, their digests tell when they are."""


class Found(msgspec.Struct, frozen=True):
    """A folder that holds a bundle, or should. Where its manifest cannot be read, names of folders stand for what it would say."""

    folder: Path
    name: str
    version: int
    """0 where nothing tells it."""
    stamp: Stamp
    reason: str = ""
    """Why it cannot be served, if that is known without reading all of it."""


def key_of(found: Found) -> tuple[Path, str, int]:
    """What a bundle is known by: where it lies and what it calls itself."""
    return found.folder, found.name, found.version


def find(roots: Iterable[Path], known: Mapping[Path, Found]) -> list[Found]:
    """What lies below ``roots``: each is a bundle, or holds bundles, or holds folders of versions.

    What is ``known`` by its folder and has not changed is not read again. Names that begin with a dot are passed over: a bundle can be
    copied under one, and renamed when it is whole. Raises :class:`BundleError` for a root that is no folder.
    """
    return [_look(folder, name, version, known.get(folder)) for folder, name, version in _folders(roots)]


def _folders(roots: Iterable[Path]) -> Iterator[tuple[Path, str, int]]:
    """Folders with the model's name and version as far as they are told by where the folder lies."""
    for root in roots:
        if (root / MANIFEST).is_file():
            yield root, root.name, 0
            continue
        if not root.is_dir():
            raise BundleError(f"{root} is not a folder; give a bundle, or a folder that holds bundles")
        for folder in _inside(root):
            versions = [one for one in _inside(folder) if one.name.isdecimal() or (one / MANIFEST).is_file()]
            if versions and not (folder / MANIFEST).is_file():
                yield from ((one, folder.name, int(one.name) if one.name.isdecimal() else 0) for one in versions)
            else:
                yield folder, folder.name, 0


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _look(folder: Path, name: str, version: int, known: Found | None) -> Found:
    try:
        stamp = stamp_of(folder)
        if known is not None and known.stamp == stamp:
            return known
        manifest = read_manifest(folder)
    except (BundleError, OSError) as error:
        # What was readable once keeps its name: a manifest that breaks must not look like a model that went.
        name, version = (name, version) if known is None else (known.name, known.version)
        return Found(folder, name, version, stamp=(), reason=str(error))
    return Found(folder, manifest.name, manifest.version, stamp)


def stamp_of(folder: Path) -> Stamp:
    """The stamp of ``folder`` as it is now."""
    with os.scandir(folder) as files:
        facts = [(file.name, file.stat()) for file in files]
    return tuple(sorted((name, fact.st_size, fact.st_mtime_ns, fact.st_ino) for name, fact in facts))

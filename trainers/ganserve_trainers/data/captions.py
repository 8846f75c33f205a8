"""Images with captions in one folder: the image folder of Hugging Face, or a text file beside each image.

::

    metadata.jsonl     {"file_name": "a/1.png", "text": "a red heart"}    one line an image or a caption; "text" may be a list
    a/1.png a/1.txt    one caption a line, where there is no metadata.jsonl

An image may have several captions. ``caption`` or ``captions`` does for ``text``.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec

from ganserve.errors import DataError
from ganserve_trainers.data.collection import Collection, Subset
from ganserve_trainers.data.folder import FolderImages, open_folder

logger = logging.getLogger(__name__)

METADATA = "metadata.jsonl"
KEYS = ("text", "caption", "captions")
PROBLEMS_SHOWN = 10


class Captioned(NamedTuple):
    """Images and, for each, one caption or more; the layout; the names of images that were left out."""

    images: Collection
    captions: Sequence[tuple[str, ...]]
    layout: str
    skipped: tuple[str, ...] = ()


@dataclass
class _Found:
    """Captions by image name, and what was wrong on the way."""

    captions: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, where: str, texts: Sequence[Any]) -> None:
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                self.problems.append(f"{where} gives {name} the caption {text!r}: expected words")
            else:
                self.captions.setdefault(name, []).append(text.strip())


def open_captions(root: Path, skip: bool) -> Captioned:
    """The captioned images of the folder ``root``.

    Raises :class:`DataError` for captions that are empty, no text or no UTF-8, captions of images that are not there, and images without
    captions, naming them; if ``skip`` they are named in the log and left out.
    """
    if not root.is_dir():
        raise DataError(f"{root} is no folder: captioned images are read from a folder, with {METADATA} or .txt files")
    images = open_folder(root)
    metadata = root / METADATA
    found = _of_metadata(metadata, images.names) if metadata.is_file() else _of_files(images)
    bare = tuple(name for name in images.names if name not in found.captions)
    found.problems += [f"{name} has no caption" for name in bare]
    if found.problems and not skip:
        shown = "; ".join(found.problems[:PROBLEMS_SHOWN]) + ("; …" if len(found.problems) > PROBLEMS_SHOWN else "")
        raise DataError(
            f"{len(found.problems)} captions of {root} cannot be used: {shown}; mend them, or pass --broken skip"
        )
    if not found.captions:
        raise DataError(f"{root} holds no captions: looked for {METADATA} and for .txt files beside the images")
    for problem in found.problems[:PROBLEMS_SHOWN]:
        logger.warning("skipped: %s", problem)
    kept = [index for index, name in enumerate(images.names) if name in found.captions]
    captions = [tuple(found.captions[images.names[index]]) for index in kept]
    return Captioned(Subset(images, kept), captions, METADATA if metadata.is_file() else ".txt files", bare)


def _of_metadata(path: Path, names: Sequence[str]) -> _Found:
    found, known = _Found(), set(names)
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        where = f"line {number} of {METADATA}"
        if not line.strip():
            continue
        try:
            entry = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            found.problems.append(f"{where} is no JSON in UTF-8: {error}")
            continue
        name = entry.get("file_name") if isinstance(entry, Mapping) else None
        if not isinstance(name, str):
            found.problems.append(f'{where} names no image: expected {{"file_name": "1.png", "text": "a red heart"}}')
        elif (name := PurePosixPath(name.replace("\\", "/")).as_posix()) not in known:
            found.problems.append(f"{where} is of {name}, which is not there")
        else:
            text = next((entry[key] for key in KEYS if key in entry), None)
            found.add(name, where, text if isinstance(text, list) else [text])
    return found


def _of_files(images: FolderImages) -> _Found:
    found = _Found()
    for name in images.names:
        file = (images.root / name).with_suffix(".txt")
        if not file.is_file():
            continue
        try:
            lines = file.read_text("utf-8").splitlines()
        except UnicodeDecodeError as error:
            found.problems.append(f"{file.name} is not in UTF-8: {error}")
        else:
            found.add(name, file.name, [line for line in lines if line.strip()] or [""])
    return found

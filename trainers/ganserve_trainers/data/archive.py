"""Images in a zip file, with optional labels in ``dataset.json``."""

import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ganserve.errors import DataError
from ganserve_trainers.data.folder import SUFFIXES, is_image
from ganserve_trainers.data.labels import FILE, Labels, read_labels

MOST_BYTES = 256 * 2**20
"""The largest member that is unpacked; a larger one is taken for a bomb."""


@dataclass(frozen=True)
class ZipImages:
    """A :class:`~ganserve_trainers.data.Collection` over the image members of a zip file, sorted by name."""

    path: Path
    names: Sequence[str]
    labels: Sequence[int] | None
    classes: tuple[str, ...] = ()
    kind: str = "zip"
    black_border: bool = False
    _open: dict[int, zipfile.ZipFile] = field(default_factory=dict, repr=False, compare=False)

    def image(self, index: int) -> Image.Image:
        """Decode the image at ``index``."""
        archive = self._archive()
        member = archive.getinfo(self.names[index])
        if member.file_size > MOST_BYTES:
            raise DataError(f"{member.filename} unpacks to {member.file_size} bytes: at most {MOST_BYTES} are read")
        with Image.open(io.BytesIO(archive.read(member))) as image:
            image.load()
            return image

    def _archive(self) -> zipfile.ZipFile:
        # A process forked from this one would share the file's position: each opens its own.
        process = os.getpid()
        if process not in self._open:
            self._open[process] = zipfile.ZipFile(self.path)
        return self._open[process]


def open_zip(path: Path) -> ZipImages:
    """The images in the zip file at ``path``; :class:`DataError` if it is damaged or holds none."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            names = sorted(name for name in members if is_image(name))
            labels = read_labels(archive.read(FILE), names) if FILE in members else Labels()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read as a zip file: {error}; copy it again") from error
    if not names:
        raise DataError(f"{path} holds no images: looked for members ending in {', '.join(sorted(SUFFIXES))}")
    return ZipImages(path, names, labels.indices, labels.classes)

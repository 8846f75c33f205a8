"""Images in a folder, at any depth, with optional labels in ``dataset.json``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from ganserve.errors import DataError
from ganserve_trainers.data.labels import FILE, Labels, read_labels

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""File names that count as images; everything else in a folder or zip is passed over."""


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image; hidden files are not."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(("._", ".", "__MACOSX")) for part in path.parts)


@dataclass(frozen=True)
class FolderImages:
    """A :class:`~ganserve_trainers.data.Collection` over the image files under ``root``, sorted by name."""

    root: Path
    names: Sequence[str]
    labels: Sequence[int] | None
    classes: tuple[str, ...] = ()
    kind: str = "folder"
    black_border: bool = False

    def image(self, index: int) -> Image.Image:
        """Decode the image at ``index``."""
        with Image.open(self.root / self.names[index]) as image:
            image.load()
            return image


def open_folder(root: Path) -> FolderImages:
    """The images under ``root``; :class:`DataError` if there is none."""
    found = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    names = sorted(name for name in found if is_image(name))
    if not names:
        raise DataError(
            f"{root} holds no images: looked for files ending in {', '.join(sorted(SUFFIXES))} at any depth"
        )
    file = root / FILE
    labels = read_labels(file.read_bytes(), names) if file.is_file() else Labels()
    return FolderImages(root, names, labels.indices, labels.classes)

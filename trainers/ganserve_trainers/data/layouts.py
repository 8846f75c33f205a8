"""Which layout a path holds."""

from pathlib import Path

from ganserve.errors import DataError
from ganserve_trainers.data.archive import open_zip
from ganserve_trainers.data.cifar import find_cifar, open_cifar
from ganserve_trainers.data.collection import Collection
from ganserve_trainers.data.digits import open_digits
from ganserve_trainers.data.folder import open_folder
from ganserve_trainers.data.idx import IMAGES, find_idx, open_idx

DIGITS = "digits:"
LAYOUTS = (
    "a folder or .zip of images (labels in dataset.json), a folder of MNIST-like idx files or one images-idx3-ubyte[.gz], "
    f"a folder of CIFAR-10's data_batch_*.bin or one of its .bin files, or {DIGITS!r} for scikit-learn's digits"
)


def open_images(where: str) -> Collection:
    """The images at ``where``, which is a path or ``digits:``; :class:`DataError` if nothing readable is there."""
    if where == DIGITS:
        return open_digits()
    path = Path(where)
    if path.is_dir():
        if images := find_idx(path):
            return open_idx(images)
        if batches := find_cifar(path):
            return open_cifar(batches)
        return open_folder(path)
    if not path.is_file():
        raise DataError(f"there is no data at {where}: give {LAYOUTS}")
    if path.suffix.lower() == ".zip":
        return open_zip(path)
    if IMAGES.search(path.name):
        return open_idx(path)
    if path.suffix.lower() == ".bin":
        return open_cifar([path])
    raise DataError(f"{where} is in no known layout: give {LAYOUTS}")

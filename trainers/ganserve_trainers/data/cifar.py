"""CIFAR-10's binary version: records of one label byte and 3×32×32 bytes, planes in the order red, green, blue."""

from pathlib import Path

import numpy as np

from ganserve.errors import DataError
from ganserve_trainers.data.collection import ArrayImages
from ganserve_trainers.data.labels import check_range

RECORD = 1 + 3 * 32 * 32
CLASSES = 10
BATCHES = "data_batch_*.bin"


def find_cifar(folder: Path) -> list[Path]:
    """The training batches in ``folder``; :class:`DataError` where only the pickled version is there."""
    batches = sorted(folder.glob(BATCHES))
    if not batches and (folder / "data_batch_1").is_file():
        raise DataError(
            f"{folder} holds CIFAR-10's pickled python version: a pickle can run code, so it is not read; "
            "fetch the binary version (cifar-10-binary.tar.gz), whose files are called data_batch_1.bin …"
        )
    return batches


def open_cifar(batches: list[Path]) -> ArrayImages:
    """The images and labels of ``batches``, in order."""
    records = np.concatenate([_records(path) for path in batches])
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    stem = batches[0].name if len(batches) == 1 else BATCHES
    images = ArrayImages("cifar10", stem, np.ascontiguousarray(pixels), records[:, 0].tolist())
    check_range(records[:, 0].tolist(), images.names, CLASSES)
    return images


def _records(path: Path) -> np.ndarray:
    data = np.fromfile(path, np.uint8)
    if not len(data) or len(data) % RECORD:
        raise DataError(
            f"{path} has {len(data)} bytes: CIFAR-10's binary files hold records of {RECORD} bytes; fetch it again"
        )
    return data.reshape(-1, RECORD)

"""Images of one size as uint8 tensors: decoded once into memory where they fit, else decoded by worker processes as needed."""

import hashlib
import itertools
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ganserve.errors import DataError
from ganserve_trainers.data.collection import Collection
from ganserve_trainers.data.labels import check_range
from ganserve_trainers.data.layouts import open_images
from ganserve_trainers.data.pixels import fit

logger = logging.getLogger(__name__)

NAMES_SHOWN = 10


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's record says about its data. ``name`` is the path's last part; ``fingerprint`` covers names and labels."""

    name: str
    layout: str
    images: int
    skipped: tuple[str, ...] = ()
    labelled: bool = False
    fingerprint: str = ""
    licence: str = ""
    attribution: str = ""


@dataclass(frozen=True)
class DataOptions:
    """How images become a data set. ``size`` is (height, width); ``classes`` is the preset's number of classes, 0 where it has none.

    ``memory`` is the number of bytes up to which images are kept decoded; above it ``workers`` processes decode them anew.
    """

    size: tuple[int, int]
    channels: int
    classes: int = 0
    broken: Literal["skip", "refuse"] = "refuse"
    background: tuple[int, int, int] = (255, 255, 255)
    memory: int = 4 * 2**30
    workers: int = 2


class Dataset(Protocol):
    """Images of one size, by index."""

    @property
    def description(self) -> Description:
        """What this data is."""

    def __len__(self) -> int:
        """The number of images."""

    def feed(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """For each int64 tensor of indices, the uint8 images ``[n, C, H, W]`` and their int64 labels ``[n]``, if there are any."""


@dataclass(frozen=True)
class Decoded:
    """Every image in one uint8 tensor ``[n, C, H, W]``."""

    description: Description
    images: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def feed(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """See :class:`Dataset`."""
        for indices in batches:
            yield self.images[indices], None if self.labels is None else self.labels[indices]


@dataclass(frozen=True)
class Lazy:
    """Images decoded when they are asked for, by worker processes.

    With ``broken="skip"`` a broken image is replaced by the next readable one in name order, and named once in the log.
    """

    description: Description
    collection: Collection
    options: DataOptions
    broken: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.collection.names)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int, list[int]]:
        """The image that stands for ``index``, the index it really has, and the indices of broken ones passed over."""
        passed: list[int] = []
        for real in (position % len(self) for position in range(index, index + len(self))):
            try:
                with bombs_refused():
                    return decode(self.collection, real, self.options), real, passed
            except DataError:
                if self.options.broken == "refuse":
                    raise
                passed.append(real)
        raise DataError(f"{self.description.name}: all {len(self)} images are broken")

    def feed(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """See :class:`Dataset`."""
        labels = None if self.collection.labels is None else torch.tensor(self.collection.labels)
        loader: DataLoader[Any] = DataLoader(
            self,  # type: ignore[arg-type]
            batch_sampler=_Lists(batches),
            num_workers=self.options.workers,
            collate_fn=_collate,
            generator=torch.Generator(),
        )
        for images, indices, passed in loader:
            self._name(passed)
            yield images, None if labels is None else labels[indices]

    def _name(self, passed: Sequence[int]) -> None:
        for name in {self.collection.names[index] for index in passed} - self.broken:
            self.broken.add(name)
            logger.warning("%s is broken and skipped (%d so far)", name, len(self.broken))


class _Lists:
    """The batch sampler that a DataLoader wants: lists instead of tensors, made one by one."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return (indices.tolist() for indices in self._batches)


def _collate(items: list[tuple[np.ndarray, int, list[int]]]) -> tuple[Tensor, Tensor, list[int]]:
    images, indices, passed = zip(*items, strict=True)
    return torch.from_numpy(np.stack(images)), torch.tensor(indices), list(itertools.chain(*passed))


def load(where: str, options: DataOptions, licence: str = "", attribution: str = "") -> Dataset:
    """The images at ``where`` as ``options`` wants them. Raises :class:`DataError` naming what is broken or mislabelled."""
    collection = open_images(where)
    names, labels = collection.names, collection.labels
    if options.classes and labels is None:
        raise DataError(
            f"{where} has no labels, but the preset is for {options.classes} classes: add a dataset.json of labels"
        )
    if options.classes and labels is not None:
        check_range(labels, names, options.classes)
    description = Description(
        name=Path(where).name,
        layout=collection.kind,
        images=len(names),
        labelled=labels is not None,
        fingerprint=_fingerprint(names, labels),
        licence=licence,
        attribution=attribution,
    )
    if len(names) * options.channels * options.size[0] * options.size[1] > options.memory:
        return Lazy(description, collection, options)
    return _decode_all(description, collection, options)


def decode(collection: Collection, index: int, options: DataOptions) -> np.ndarray:
    """One image as uint8 ``[C, H, W]``; :class:`DataError` naming it if it is broken."""
    try:
        image = collection.image(index)
        return fit(image, options.size, options.channels, options.background, collection.black_border)
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file.
        raise DataError(f"{collection.names[index]} cannot be read: {error or type(error).__name__}") from error


@contextmanager
def bombs_refused() -> Iterator[None]:
    """Within it, an image of more pixels than Pillow's limit is an error instead of a warning. Not for several threads at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _decode_all(description: Description, collection: Collection, options: DataOptions) -> Decoded:
    def attempt(index: int) -> np.ndarray | DataError:
        try:
            return decode(collection, index, options)
        except DataError as error:
            return error

    with bombs_refused(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = list(pool.map(attempt, range(description.images)))
    broken = [index for index, result in enumerate(results) if isinstance(result, DataError)]
    if broken and (options.broken == "refuse" or len(broken) == len(results)):
        shown = "; ".join(str(results[index]) for index in broken[:NAMES_SHOWN])
        raise DataError(
            f"{len(broken)} of {len(results)} images in {description.name} are broken: {shown}"
            f"{' …' if len(broken) > NAMES_SHOWN else ''}; mend or remove them, or pass --broken skip"
        )
    names = collection.names
    for index in broken[:NAMES_SHOWN]:
        logger.warning("skipped: %s", results[index])
    kept = [index for index, result in enumerate(results) if not isinstance(result, DataError)]
    labels = None if collection.labels is None else torch.tensor([collection.labels[index] for index in kept])
    images = torch.from_numpy(np.stack([result for result in results if not isinstance(result, DataError)]))
    skipped = tuple(names[index] for index in broken)
    return Decoded(msgspec.structs.replace(description, images=len(kept), skipped=skipped), images, labels)


def _fingerprint(names: Sequence[str], labels: Sequence[int] | None) -> str:
    return hashlib.sha256(repr((list(names), None if labels is None else list(labels))).encode()).hexdigest()[:16]

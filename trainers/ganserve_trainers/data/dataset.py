"""Images of one size as uint8 tensors: decoded once into memory where they fit, else decoded by worker processes as needed."""

import hashlib
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader

from ganserve.errors import DataError
from ganserve_trainers.data.captions import open_captions
from ganserve_trainers.data.collection import Rows
from ganserve_trainers.data.domains import Direction, Found, Split, open_domains, open_pairs
from ganserve_trainers.data.labels import Classes, check_names, check_range
from ganserve_trainers.data.layouts import open_images
from ganserve_trainers.data.pixels import fit

logger = logging.getLogger(__name__)

IMAGE, LABEL = "image", "label"
"""The names of plain images and of their labels; those of pairs and domains are ``a`` and ``b``."""

TEXT, TEXTS = "text", "texts"
"""The names of the vectors of an image's captions, float32 ``[n, most, size]``, and of their number, int64 ``[n]``; the rest are zeros."""

Encode = Callable[[Sequence[str]], np.ndarray]
"""Captions → their vectors, float32 ``[n, size]``."""

NAMES_SHOWN = 10

SAME_SHAPE = 0.01
"""By so much the aspect ratios of a pair's images may differ; a larger difference would cut them differently."""


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's record says about its data.

    ``name`` is the path's last part, ``classes`` what its labels say, where the preset has classes. ``images`` counts images, pairs, or the images of both domains together; ``skipped``
    names what was left out. ``fingerprint`` covers names and labels.
    """

    name: str
    layout: str
    images: int
    skipped: tuple[str, ...] = ()
    labelled: bool = False
    classes: Classes | None = None
    fingerprint: str = ""
    licence: str = ""
    attribution: str = ""


@dataclass(frozen=True)
class DataOptions:
    """How images become a data set. ``size`` is (height, width); ``classes`` is the preset's number of classes, 0 where it has none.

    ``kind`` says what the data is: images, pairs of images that belong together, two domains of images that do not (see
    :mod:`~ganserve_trainers.data.domains`), or images with captions (:mod:`~ganserve_trainers.data.captions`), of which ``encode``
    makes vectors. Pairs are read the other way round where ``direction`` is ``b2a``. ``memory`` is the number of bytes up to which images are kept decoded; above it ``workers`` processes decode them anew.
    """

    size: tuple[int, int]
    channels: int
    classes: int = 0
    kind: Literal["images", "pairs", "domains", "captions"] = "images"
    direction: Direction = "a2b"
    encode: Encode | None = None
    broken: Literal["skip", "refuse"] = "refuse"
    background: tuple[int, int, int] = (255, 255, 255)
    memory: int = 4 * 2**30
    workers: int = 2


class Walk(NamedTuple):
    """Tensors whose rows belong together, and the number of their rows: training walks through them in one order."""

    tensors: tuple[str, ...]
    rows: int


class Dataset(Protocol):
    """Images of one size, by index."""

    @property
    def description(self) -> Description:
        """What this data is."""

    @property
    def walks(self) -> tuple[Walk, ...]:
        """One walk, or one for each domain."""

    def __len__(self) -> int:
        """The number of rows of an epoch: those of the longest walk."""

    def feed(self, *orders: Iterable[Tensor]) -> Iterator[Mapping[str, Tensor]]:
        """Batches: uint8 pictures ``[n, C, H, W]`` and int64 labels ``[n]``, by the names that :attr:`walks` gives.

        ``orders`` has an iterable for each walk; it gives int64 tensors of indices ``[n]``.
        """


@dataclass(frozen=True)
class Decoded:
    """Every image in one uint8 tensor ``[n, C, H, W]`` for each name, the labels ``[n]`` among them."""

    description: Description
    tensors: Mapping[str, Tensor]

    @property
    def walks(self) -> tuple[Walk, ...]:
        """See :class:`Dataset`."""
        return (Walk(tuple(self.tensors), len(self)),)

    def __len__(self) -> int:
        """The number of rows."""
        return len(next(iter(self.tensors.values())))

    def feed(self, *orders: Iterable[Tensor]) -> Iterator[Mapping[str, Tensor]]:
        """See :class:`Dataset`."""
        (order,) = orders
        for indices in order:
            yield {name: tensor[indices] for name, tensor in self.tensors.items()}


@dataclass(frozen=True)
class Lazy:
    """Images decoded when they are asked for, by worker processes.

    With ``broken="skip"`` a broken row is replaced by the next readable one in name order, and named once in the log.
    """

    description: Description
    rows: Rows
    options: DataOptions
    broken: set[str] = field(default_factory=set)

    @property
    def walks(self) -> tuple[Walk, ...]:
        """See :class:`Dataset`."""
        return (Walk((*self.rows.images, *(() if self.rows.labels is None else (LABEL,)), *self.rows.more), len(self)),)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], list[int]]:
        """The row that stands for ``index``, and the indices of broken ones passed over."""
        passed: list[int] = []
        for real in (position % len(self) for position in range(index, index + len(self))):
            try:
                with bombs_refused():
                    row = decode(self.rows, real, self.options)
            except DataError:
                if self.options.broken == "refuse":
                    raise
                passed.append(real)
            else:
                if self.rows.labels is not None:
                    row[LABEL] = np.asarray(self.rows.labels[real], np.int64)
                row |= {name: array[real] for name, array in self.rows.more.items()}
                return row, passed
        raise DataError(f"{self.description.name}: all {len(self)} images are broken")

    def feed(self, *orders: Iterable[Tensor]) -> Iterator[Mapping[str, Tensor]]:
        """See :class:`Dataset`."""
        (order,) = orders
        loader: DataLoader[Any] = DataLoader(
            self,  # type: ignore[arg-type]
            batch_sampler=_Lists(order),
            num_workers=self.options.workers,
            collate_fn=_collate,
            generator=torch.Generator(),
        )
        for tensors, passed in loader:
            self._name(passed)
            yield tensors

    def _name(self, passed: Sequence[int]) -> None:
        names = self.rows.names if passed else ()
        for name in {names[index] for index in passed} - self.broken:
            self.broken.add(name)
            logger.warning("%s is broken and skipped (%d so far)", name, len(self.broken))


@dataclass(frozen=True)
class Domains:
    """Two data sets ``a`` and ``b`` whose rows do not belong together: each is walked through in an order of its own."""

    description: Description
    domains: Mapping[str, Dataset]

    @property
    def walks(self) -> tuple[Walk, ...]:
        """See :class:`Dataset`."""
        return tuple(walk for domain in self.domains.values() for walk in domain.walks)

    def __len__(self) -> int:
        """The number of images of the larger domain."""
        return max(len(domain) for domain in self.domains.values())

    def feed(self, *orders: Iterable[Tensor]) -> Iterator[Mapping[str, Tensor]]:
        """See :class:`Dataset`."""
        feeds = (domain.feed(order) for domain, order in zip(self.domains.values(), orders, strict=True))
        for parts in zip(*feeds, strict=True):
            yield {name: tensor for part in parts for name, tensor in part.items()}


class _Lists:
    """The batch sampler that a DataLoader wants: lists instead of tensors, made one by one."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return (indices.tolist() for indices in self._batches)


def _collate(items: list[tuple[dict[str, np.ndarray], list[int]]]) -> tuple[dict[str, Tensor], list[int]]:
    rows, passed = zip(*items, strict=True)
    return _stack(rows), list(itertools.chain(*passed))


def _stack(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def load(where: str, options: DataOptions, licence: str = "", attribution: str = "", split: Split = "train") -> Dataset:
    """The data at ``where`` as ``options`` wants it; ``split`` chooses among the folders of pairs and domains.

    Raises :class:`DataError` naming what is broken, mislabelled or without a partner.
    """
    found = _find(where, options, split)
    name = Path(where).name
    if found.unmatched and options.broken == "refuse":
        raise DataError(
            f"{len(found.unmatched)} images in {name} have no partner of their name: {_shown(found.unmatched)}; "
            "rename or remove them, or pass --broken skip"
        )
    for image in found.unmatched[:NAMES_SHOWN]:
        logger.warning("skipped: %s has no partner", image)
    description = Description(
        name=name,
        layout=found.layout,
        images=sum(len(rows) for rows in found.rows),
        skipped=found.unmatched,
        labelled=found.rows[0].labels is not None,
        classes=_classes(found.rows[0], options.classes),
        fingerprint=_fingerprint(found.rows),
        licence=licence,
        attribution=attribution,
    )
    pictures = sum(len(rows) * len(rows.images) for rows in found.rows)
    lazy = pictures * options.channels * options.size[0] * options.size[1] > options.memory
    options = replace(options, workers=max(1, options.workers // len(found.rows)))
    parts = [(Lazy if lazy else _decode_all)(description, rows, options) for rows in found.rows]
    if len(parts) == 1:
        return parts[0]
    whole = msgspec.structs.replace(
        description,
        images=sum(len(part) for part in parts),
        skipped=tuple(dict.fromkeys(name for part in parts for name in part.description.skipped)),
    )
    return Domains(whole, {part.walks[0].tensors[0]: part for part in parts})


def _find(where: str, options: DataOptions, split: Split) -> Found:
    if options.kind == "pairs":
        return open_pairs(where, split, options.direction)
    if options.kind == "domains":
        return open_domains(where, split)
    if options.kind == "captions":
        return _find_captions(where, options)
    if split != "train":
        raise DataError(
            f"{where} is read as plain images, which have no {split} split: give the {split} images as a path"
        )
    collection = open_images(where)
    names, labels = collection.names, collection.labels
    if options.classes and labels is None:
        raise DataError(
            f"{where} has no labels, but the preset is for {options.classes} classes: add a dataset.json of labels"
        )
    if options.classes and labels is not None:
        check_range(labels, names, options.classes)
        check_names(where, collection.classes, options.classes)
    return Found((Rows({IMAGE: collection}, labels, collection.classes),), collection.kind)


def _find_captions(where: str, options: DataOptions) -> Found:
    assert options.encode is not None
    images, captions, layout, skipped = open_captions(Path(where), options.broken == "skip")
    vectors = options.encode([caption for texts in captions for caption in texts])
    counts = np.array([len(texts) for texts in captions], np.int64)
    padded = np.zeros((len(captions), counts.max(), vectors.shape[1]), np.float32)
    padded[np.arange(counts.max()) < counts[:, None]] = vectors
    return Found((Rows({IMAGE: images}, captions=captions, more={TEXT: padded, TEXTS: counts}),), layout, skipped)


def decode(rows: Rows, index: int, options: DataOptions) -> dict[str, np.ndarray]:
    """The images of one row, each as uint8 ``[C, H, W]``; :class:`DataError` naming one that is broken, or a pair that does not fit."""
    pixels, shapes = {}, []
    for name, collection in rows.images.items():
        try:
            image = ImageOps.exif_transpose(collection.image(index))
            shapes.append(image.size)
            pixels[name] = fit(image, options.size, options.channels, options.background, collection.black_border)
        except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file.
            raise DataError(f"{collection.names[index]} cannot be read: {error or type(error).__name__}") from error
    ratios = [width / height for width, height in shapes]
    if max(ratios) > min(ratios) * (1 + SAME_SHAPE):
        sizes = " and ".join(f"{width}x{height}" for width, height in shapes)
        raise DataError(f"{rows.names[index]} have {sizes} pixels: both images of a pair have one aspect ratio")
    return pixels


@contextmanager
def bombs_refused() -> Iterator[None]:
    """Within it, an image of more pixels than Pillow's limit is an error instead of a warning. Not for several threads at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _decode_all(description: Description, rows: Rows, options: DataOptions) -> Decoded:
    def attempt(index: int) -> dict[str, np.ndarray] | DataError:
        try:
            return decode(rows, index, options)
        except DataError as error:
            return error

    with bombs_refused(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = list(pool.map(attempt, range(len(rows))))
    broken = {index: str(result) for index, result in enumerate(results) if isinstance(result, DataError)}
    if broken and (options.broken == "refuse" or len(broken) == len(results)):
        raise DataError(
            f"{len(broken)} of {len(results)} images in {description.name} are broken: {_shown(list(broken.values()), '; ')}; "
            "mend or remove them, or pass --broken skip"
        )
    for message in itertools.islice(broken.values(), NAMES_SHOWN):
        logger.warning("skipped: %s", message)
    tensors = _stack([result for result in results if not isinstance(result, DataError)])
    if rows.labels is not None:
        tensors[LABEL] = torch.tensor([label for index, label in enumerate(rows.labels) if index not in broken])
    kept = [index for index in range(len(rows)) if index not in broken]
    tensors |= {name: torch.from_numpy(array[kept]) for name, array in rows.more.items()}
    names = rows.names
    skipped = (*description.skipped, *(names[index] for index in broken))
    return Decoded(msgspec.structs.replace(description, images=len(results) - len(broken), skipped=skipped), tensors)


def _shown(items: Sequence[str], between: str = ", ") -> str:
    return between.join(items[:NAMES_SHOWN]) + (" …" if len(items) > NAMES_SHOWN else "")


def _classes(rows: Rows, classes: int) -> Classes | None:
    if not classes or rows.labels is None:
        return None
    counts = np.bincount(rows.labels, minlength=classes)
    return Classes(names=rows.classes, counts=tuple(counts.tolist()))


def _fingerprint(found: Sequence[Rows]) -> str:
    names = [name for rows in found for collection in rows.images.values() for name in collection.names]
    labels, captions = found[0].labels, found[0].captions
    facts = (names, None if labels is None else list(labels), *([list(captions)] if captions is not None else []))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

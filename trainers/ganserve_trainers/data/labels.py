"""Labels in StyleGAN's layout: a ``dataset.json`` beside the images that reads ``{"labels": [["a/b.png", 3], ...]}``.

The file may name the classes too: ``"names": ["heart", ...]``, in order of index.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ganserve.errors import DataError

FILE = "dataset.json"


class Classes(msgspec.Struct, frozen=True, kw_only=True):
    """The classes of labelled images in order of index: their names, if the data has any, and how many images each has."""

    names: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()


class Labels(NamedTuple):
    """A class index for each image, and the names of the classes, none where the data does not say."""

    indices: Sequence[int] | None = None
    classes: tuple[str, ...] = ()


def read_labels(text: bytes, names: Sequence[str]) -> Labels:
    """The label of each image in ``names``; no labels where the file says ``"labels": null``.

    Raises :class:`DataError` naming the image for a label that is missing, not an integer or not one of the classes.
    """
    try:
        content = msgspec.json.decode(text)
        entries = content["labels"]
        table = None if entries is None else {name.replace("\\", "/"): label for name, label in entries}
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f'{FILE} is not in StyleGAN\'s layout ({type(error).__name__}: {error}): expected {{"labels": [["name.png", 3], ...]}}'
        ) from error
    if table is None:
        return Labels()
    classes = _classes(content)
    return Labels([_label(table, name, len(classes)) for name in names], classes)


def check_range(labels: Sequence[int], names: Sequence[str], classes: int) -> None:
    """Raise :class:`DataError` naming the first image whose label is not in [0, ``classes``)."""
    for name, label in zip(names, labels, strict=True):
        if not 0 <= label < classes:
            raise DataError(
                f"{name} has label {label}: the preset has {classes} classes, so labels are 0 to {classes - 1}; "
                "correct the label, or train with --set classes=N"
            )


def check_names(where: str, names: Sequence[str], classes: int) -> None:
    """Raise :class:`DataError` where there are ``names``, but not one for each of the preset's ``classes``."""
    if names and len(names) != classes:
        raise DataError(
            f"{where} names {len(names)} classes, the preset has {classes}: train with --set classes={len(names)}"
        )


def _classes(content: dict[str, Any]) -> tuple[str, ...]:
    try:
        names = msgspec.convert(content.get("names", ()), tuple[str, ...])
    except msgspec.ValidationError as error:
        raise DataError(f'{FILE} has no proper "names" ({error}): expected a text for each class, or none') from error
    if len(set(names)) < len(names):
        raise DataError(
            f'{FILE} gives two classes one name in "names": {next(n for n in names if names.count(n) > 1)!r}'
        )
    return names


def _label(table: dict[str, object], name: str, classes: int) -> int:
    label = table.get(name)
    if label is None:
        raise DataError(f"{FILE} has no label for {name}: label every image, or none by 'labels': null")
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        raise DataError(f"{FILE} gives {name} the label {label!r}: expected a class index, an integer from 0")
    if classes and label >= classes:
        raise DataError(f'{FILE} gives {name} the label {label}, but "names" has {classes}: one a class, from 0')
    return label

"""Labels in StyleGAN's layout: a ``dataset.json`` beside the images that reads ``{"labels": [["a/b.png", 3], ...]}``."""

from collections.abc import Sequence

import msgspec

from ganserve.errors import DataError

FILE = "dataset.json"


def read_labels(text: bytes, names: Sequence[str]) -> list[int] | None:
    """The label of each image in ``names``, or None where the file says ``"labels": null``.

    Raises :class:`DataError` naming the image for a label that is missing, not an integer or below zero.
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
        return None
    return [_label(table, name) for name in names]


def check_range(labels: Sequence[int], names: Sequence[str], classes: int) -> None:
    """Raise :class:`DataError` naming the first image whose label is not in [0, ``classes``)."""
    for name, label in zip(names, labels, strict=True):
        if not 0 <= label < classes:
            raise DataError(
                f"{name} has label {label}: the preset has {classes} classes, so labels are 0 to {classes - 1}; "
                "correct the label, or train with --set classes=N"
            )


def _label(table: dict[str, object], name: str) -> int:
    label = table.get(name)
    if label is None:
        raise DataError(f"{FILE} has no label for {name}: label every image, or none by 'labels': null")
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        raise DataError(f"{FILE} gives {name} the label {label!r}: expected a class index, an integer from 0")
    return label

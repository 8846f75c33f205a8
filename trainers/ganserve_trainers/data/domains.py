"""Two domains A and B in one folder or zip: pairs that belong together, and unpaired images.

::

    trainA/ trainB/ [testA/ testB/]                two folders for each split
    A/train/ B/train/ [A/test/ B/test/]            two folders of any names, each with its splits
    A/ B/                                          two folders of any names, without a split
    [train/ test/] 1.png 2.png …                   pairs side by side in one image: A left, B right

All of it may lie within further folders. Where the two folders have names of their own, the first by name is A.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from ganserve.errors import DataError
from ganserve_trainers.data.collection import Collection, Half, Rows, Subset
from ganserve_trainers.data.layouts import open_images

Split = Literal["train", "test"]
Direction = Literal["a2b", "b2a"]

SPLITS = {"train": ("train",), "test": ("test", "val")}
"""Split → the folders it may lie in, the first that is there."""

SPLIT_FOLDERS = frozenset(folder for folders in SPLITS.values() for folder in folders)
DOMAIN_FOLDERS = frozenset(f"{folder}{domain}" for folder in SPLIT_FOLDERS for domain in "AB")

EXPECTED = "expected trainA and trainB (with testA and testB beside them), two folders with train and test in each, or two folders"


class Found(NamedTuple):
    """What was found: the data set's rows, one entry for each walk through them; the layout; images left without a partner."""

    rows: tuple[Rows, ...]
    layout: str
    unmatched: tuple[str, ...] = ()


def open_pairs(where: str, split: Split, direction: Direction) -> Found:
    """The pairs ``a``, ``b`` of ``split``, A as ``b`` if ``direction`` is b2a. :class:`DataError` where there are none."""
    collection = _open(where)
    folders = _folders(where, collection.names, split)
    if folders is None:
        images = Subset(collection, _side_by_side(where, collection.names, split))
        halves = Half(images, right=False), Half(images, right=True)
        return Found((_pairs(*halves, direction),), "pairs side by side")
    first, second = (_by_key(collection.names, folder) for folder in folders)
    keys = [key for key in first if key in second]
    if not keys:
        raise DataError(
            f"{where}: no image in {folders[0]} has the name of one in {folders[1]}; pairs are matched by name, without suffix"
        )
    left = [
        name for mine, other in ((first, second), (second, first)) for name in _without(mine, other, collection.names)
    ]
    a, b = (Subset(collection, [table[key] for key in keys]) for table in (first, second))
    return Found((_pairs(a, b, direction),), f"pairs in {folders[0]} and {folders[1]}", tuple(left))


def open_domains(where: str, split: Split) -> Found:
    """The unpaired images ``a`` and ``b`` of ``split``; :class:`DataError` where there are no two folders."""
    collection = _open(where)
    folders = _folders(where, collection.names, split)
    if folders is None:
        raise DataError(f"{where} does not hold two domains: {EXPECTED}")
    domains = (Subset(collection, _below(collection.names, folder)) for folder in folders)
    rows = tuple(Rows({name: domain}) for name, domain in zip("ab", domains, strict=True))
    return Found(rows, f"domains in {folders[0]} and {folders[1]}")


def _open(where: str) -> Collection:
    collection = open_images(where)
    if collection.kind not in ("folder", "zip"):
        raise DataError(
            f"{where} is of the layout {collection.kind}: two domains are read from a folder or a .zip of images"
        )
    return collection


def _pairs(a: Collection, b: Collection, direction: Direction) -> Rows:
    return Rows({"a": a, "b": b} if direction == "a2b" else {"a": b, "b": a})


def _folders(where: str, names: Sequence[str], split: Split) -> tuple[str, str] | None:
    """The folders of both domains, with a slash behind, or None where there are no two; :class:`DataError` if one is missing."""
    root = _root(names)
    tops = _tops(names, root)
    if tops & DOMAIN_FOLDERS:
        for folder in SPLITS[split]:
            if {f"{folder}A", f"{folder}B"} <= tops:
                return f"{root}{folder}A/", f"{root}{folder}B/"
        raise DataError(
            f"{where} lacks images in {split}A or {split}B: found {', '.join(sorted(tops & DOMAIN_FOLDERS))}"
        )
    first, second = ("A", "B") if {"A", "B"} <= tops else sorted(tops) if len(tops) == 2 else ("", "")
    if not first or {first, second} & SPLIT_FOLDERS:
        return None
    within = _tops(names, f"{root}{first}/") & _tops(names, f"{root}{second}/")
    if not within & SPLIT_FOLDERS:
        if split != "train":
            raise DataError(f"{where} has no {split} split: {EXPECTED}")
        return f"{root}{first}/", f"{root}{second}/"
    for folder in SPLITS[split]:
        if folder in within:
            return f"{root}{first}/{folder}/", f"{root}{second}/{folder}/"
    raise DataError(f"{where} has no {split} split: found {', '.join(sorted(within))} in {first} and {second}")


def _side_by_side(where: str, names: Sequence[str], split: Split) -> list[int]:
    root = _root(names)
    tops = _tops(names, root) & SPLIT_FOLDERS
    for folder in SPLITS[split]:
        if folder in tops:
            return _below(names, f"{root}{folder}/")
    if tops or split != "train":
        raise DataError(f"{where} has no {split} split: expected pairs side by side in a folder {split!r}")
    return list(range(len(names)))


def _root(names: Sequence[str]) -> str:
    """The folder that everything lies in, with a slash behind, and that is neither a domain nor a split."""
    root = ""
    while len(tops := _tops(names, root)) == 1:
        (top,) = tops
        if top in {"", "A", "B"} | SPLIT_FOLDERS | DOMAIN_FOLDERS:
            break
        root += f"{top}/"
    return root


def _tops(names: Sequence[str], root: str) -> set[str]:
    """The folders that lie in ``root`` and hold images, and ``""`` where it holds images itself."""
    below = (name[len(root) :] for name in names if name.startswith(root))
    return {name.partition("/")[0] if "/" in name else "" for name in below}


def _below(names: Sequence[str], folder: str) -> list[int]:
    return [index for index, name in enumerate(names) if name.startswith(folder)]


def _by_key(names: Sequence[str], folder: str) -> dict[str, int]:
    """The images below ``folder`` by their path in it without suffix; :class:`DataError` naming two that have one."""
    table: dict[str, int] = {}
    for index in _below(names, folder):
        key = PurePosixPath(names[index][len(folder) :]).with_suffix("").as_posix()
        if key in table:
            raise DataError(f"{names[table[key]]} and {names[index]} would both be paired with {key!r}: remove one")
        table[key] = index
    return table


def _without(mine: dict[str, int], other: dict[str, int], names: Sequence[str]) -> list[str]:
    return [names[index] for key, index in mine.items() if key not in other]

"""Pairs and domains: the layouts that are found, what is matched by name, what is refused and what is skipped."""

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ganserve.errors import DataError
from ganserve_trainers.data import DataOptions, Dataset, Decoded, Domains, Lazy, load
from ganserve_trainers.data.order import batches

PAIRS = DataOptions(size=(8, 8), channels=1, kind="pairs")
DOMAINS = DataOptions(size=(8, 8), channels=1, kind="domains")
TWO_FOLDERS = [
    ("trainA", "trainB"),
    ("A/train", "B/train"),
    ("A", "B"),
    ("photo/train", "sketch/train"),
    ("photo", "sketch"),
]


def save(folder: Path, brightness: dict[str, int], size: tuple[int, int] = (8, 8)) -> None:
    """Images of one brightness each, by name."""
    for name, value in brightness.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, value).save(path)


def save_beside(path: Path, left: int, right: int, size: tuple[int, int] = (16, 8)) -> None:
    """Two brightnesses side by side."""
    image = Image.new("L", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder.parent))  # with the folder, as such archives are made
    return path


def brightness(data: Dataset) -> dict[str, list[int]]:
    """The brightness of every image, by name."""
    whole = next(data.feed(*([torch.arange(walk.rows)] for walk in data.walks)))
    assert all(images.dtype == torch.uint8 and images.shape[1:] == (1, 8, 8) for images in whole.values())
    return {name: images[:, 0, 4, 4].tolist() for name, images in whole.items()}


# Pairs


@pytest.mark.parametrize("pack", [str, lambda folder: str(zipped(folder))], ids=["folder", "zip"])
@pytest.mark.parametrize(("a", "b"), TWO_FOLDERS)
def test_two_folders_are_matched_by_name(tmp_path: Path, a: str, b: str, pack: object) -> None:
    root = tmp_path / "data"
    save(root / a, {"1.png": 1, "x/2.png": 2, "x/1.png": 3})
    save(root / b, {"x/1.jpg": 13, "x/2.bmp": 12, "1.gif": 11})
    assert callable(pack)
    data = load(pack(root), PAIRS)
    assert isinstance(data, Decoded)
    assert brightness(data) == {"a": [1, 3, 2], "b": [11, 13, 12]}
    assert data.walks == ((("a", "b"), 3),)
    assert (data.description.images, data.description.skipped, data.description.labelled) == (3, (), False)
    assert data.description.layout.startswith("pairs in ")


def test_the_direction_swaps_the_pair(tmp_path: Path) -> None:
    save(tmp_path, {"trainA/1.png": 1, "trainB/1.png": 2})
    one, other = (load(str(tmp_path), replace(PAIRS, direction=direction)) for direction in ("a2b", "b2a"))  # type: ignore[arg-type]
    assert brightness(one) == {"a": [1], "b": [2]}
    assert brightness(other) == {"a": [2], "b": [1]}
    assert one.description.fingerprint != other.description.fingerprint


def test_the_test_split_is_read_by_the_same_reader(tmp_path: Path) -> None:
    save(tmp_path / "cycle", {"trainA/1.png": 1, "trainB/1.png": 2, "testA/7.png": 3, "testB/7.png": 4})
    save(tmp_path / "nested", {"A/train/1.png": 1, "B/train/1.png": 2, "A/val/7.png": 3, "B/val/7.png": 4})
    save_beside(tmp_path / "beside" / "train" / "1.png", 1, 2)
    save_beside(tmp_path / "beside" / "test" / "7.png", 3, 4)
    for name in ("cycle", "nested", "beside"):
        assert brightness(load(str(tmp_path / name), PAIRS)) == {"a": [1], "b": [2]}
        assert brightness(load(str(tmp_path / name), PAIRS, split="test")) == {"a": [3], "b": [4]}


@pytest.mark.parametrize("names", [("1.png", "2.png"), ("some/1.png", "some/2.png"), ("train/1.png", "train/2.png")])
def test_pairs_lie_side_by_side(tmp_path: Path, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        save_beside(tmp_path / "data" / name, 10 + index, 20 + index, (40, 20))
    data = load(str(tmp_path / "data"), PAIRS)
    assert brightness(data) == {"a": [10, 11], "b": [20, 21]}
    assert data.description.layout == "pairs side by side"
    swapped = load(str(zipped(tmp_path / "data")), replace(PAIRS, direction="b2a"))
    assert brightness(swapped) == {"a": [20, 21], "b": [10, 11]}


def test_a_pair_side_by_side_is_turned_upright_before_it_is_cut(tmp_path: Path) -> None:
    image = Image.new("L", (8, 16), 10)
    image.paste(20, (0, 8, 8, 16))  # below, which is left once it is turned clockwise
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "1.png", exif=exif)
    assert brightness(load(str(tmp_path), PAIRS)) == {"a": [20], "b": [10]}


@pytest.mark.parametrize("size", [(15, 8), (17, 8), (8, 8)])
def test_an_image_that_is_no_pair_is_refused_by_name(tmp_path: Path, size: tuple[int, int]) -> None:
    save_beside(tmp_path / "1.png", 1, 2)
    save_beside(tmp_path / "bad.png", 1, 2, size)
    message = (
        rf"1 of 2 images in .*: bad\.png cannot be read: it has {size[0]}x{size[1]} pixels: .*twice as wide as high"
    )
    with pytest.raises(DataError, match=message):
        load(str(tmp_path), PAIRS)
    data = load(str(tmp_path), replace(PAIRS, broken="skip"))
    assert (data.description.images, data.description.skipped) == (1, ("bad.png",))


def test_what_has_no_partner_is_named_and_counted(tmp_path: Path) -> None:
    save(tmp_path, {f"trainA/{index:02}.png": index for index in range(12)} | {"trainB/11.png": 1, "trainB/b.png": 2})
    with pytest.raises(DataError, match=r"12 images .*: trainA/00\.png, .*trainA/09\.png …; .*--broken skip") as caught:
        load(str(tmp_path), PAIRS)
    assert "trainA/10.png" not in str(caught.value)  # ten are enough
    data = load(str(tmp_path), replace(PAIRS, broken="skip"))
    assert brightness(data) == {"a": [11], "b": [1]}
    assert len(data.description.skipped) == 12
    assert {"trainA/10.png", "trainB/b.png"} < set(data.description.skipped)


def test_a_broken_half_of_a_pair_takes_the_other_along(tmp_path: Path) -> None:
    save(tmp_path, {"trainA/1.png": 1, "trainA/2.png": 2, "trainB/1.png": 11, "trainB/2.png": 12, "trainB/3.png": 13})
    (tmp_path / "trainB" / "1.png").write_bytes(b"no png")
    (tmp_path / "trainB" / "3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images .*: trainB/1\.png cannot be read"):
        load(str(tmp_path), PAIRS)
    data = load(str(tmp_path), replace(PAIRS, broken="skip"))
    assert brightness(data) == {"a": [2], "b": [12]}
    assert data.description.skipped == ("trainA/1.png + trainB/1.png",)


def test_both_images_of_a_pair_have_one_aspect_ratio(tmp_path: Path) -> None:
    save(tmp_path, {"trainA/1.png": 1, "trainA/2.png": 2, "trainB/2.png": 3})
    save(tmp_path, {"trainB/1.png": 1}, (16, 8))
    with pytest.raises(DataError, match=r"trainA/1\.png \+ trainB/1\.png have 8x8 and 16x8 pixels"):
        load(str(tmp_path), PAIRS)
    save(tmp_path, {"trainB/1.png": 1}, (16, 16))  # another size is none of the matter
    assert len(load(str(tmp_path), PAIRS)) == 2


def test_pairs_above_the_memory_limit_are_decoded_by_workers_to_the_same_pixels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, {f"train{domain}/{index}.png": 10 * index + ord(domain) for index in range(3) for domain in "AB"})
    lazy = load(str(tmp_path), replace(PAIRS, memory=2 * 3 * 64 - 1, workers=1))
    assert isinstance(lazy, Lazy)
    plain = load(str(tmp_path), replace(PAIRS, memory=2 * 3 * 64))
    assert isinstance(plain, Decoded)
    assert lazy.walks == plain.walks
    assert brightness(lazy) == brightness(plain) == {"a": [65, 75, 85], "b": [66, 76, 86]}
    (tmp_path / "trainB" / "0.png").write_bytes(b"no png")
    skipping = load(str(tmp_path), replace(PAIRS, memory=0, workers=1, broken="skip"))
    assert brightness(skipping) == {"a": [75, 75, 85], "b": [76, 76, 86]}
    assert "trainA/0.png + trainB/0.png is broken and skipped" in caplog.text


# Domains


@pytest.mark.parametrize(("a", "b"), TWO_FOLDERS)
def test_domains_have_any_names_and_counts(tmp_path: Path, a: str, b: str) -> None:
    save(tmp_path / a, {"zebra.png": 1, "x/ant.png": 2, "bee.png": 3})
    save(tmp_path / b, {"horse.png": 4, "zebra.png": 5})
    data = load(str(tmp_path), DOMAINS)
    assert isinstance(data, Domains)
    assert brightness(data) == {"a": [3, 2, 1], "b": [4, 5]}
    assert data.walks == ((("a",), 3), (("b",), 2))
    assert len(data) == 3
    assert (data.description.images, data.description.layout) == (5, f"domains in {a}/ and {b}/")


def test_domains_have_a_test_split_and_skip_broken_images(tmp_path: Path) -> None:
    save(tmp_path, {"trainA/1.png": 1, "trainB/2.png": 2, "testA/3.png": 3, "testA/4.png": 4, "testB/5.png": 5})
    assert brightness(load(str(tmp_path), DOMAINS, split="test")) == {"a": [3, 4], "b": [5]}
    (tmp_path / "testA" / "3.png").write_bytes(b"no png")
    with pytest.raises(DataError, match=r"1 of 2 images in .* are broken: testA/3\.png"):
        load(str(tmp_path), DOMAINS, split="test")
    data = load(str(tmp_path), replace(DOMAINS, broken="skip"), split="test")
    assert (data.description.images, data.description.skipped) == (2, ("testA/3.png",))


def test_domains_above_the_memory_limit_are_decoded_by_workers(tmp_path: Path) -> None:
    save(tmp_path, {"trainA/1.png": 1, "trainA/2.png": 2, "trainB/2.png": 3})
    lazy = load(str(tmp_path), replace(DOMAINS, memory=100, workers=1))
    assert isinstance(lazy, Domains)
    assert all(isinstance(domain, Lazy) for domain in lazy.domains.values())
    assert brightness(lazy) == {"a": [1, 2], "b": [3]}


def test_two_domains_are_walked_through_in_orders_of_their_own() -> None:
    sizes = (12, 5)

    def rows(batch: int, rank: int = 0, world: int = 1, start: int = 0, count: int = 12) -> list[list[list[int]]]:
        orders = [batches(3, size, batch, start, rank, world, walk) for walk, size in enumerate(sizes)]
        return [[next(order).tolist() for order in orders] for _ in range(count)]

    walk = [[index for batch in rows(5) for index in batch[domain]] for domain in (0, 1)]
    for domain, size in enumerate(sizes):
        epochs = [walk[domain][at : at + size] for at in range(0, 60, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1
    pairs = list(zip(*walk, strict=True))
    assert len(set(pairs[:12]) & set(pairs[12:24])) < 6  # an epoch later, other pairs
    assert rows(5, start=4, count=8) == rows(5)[4:]
    halves = [rows(5, rank, 2, count=6) for rank in (0, 1)]
    together = [[one[domain] + other[domain] for domain in (0, 1)] for one, other in zip(*halves, strict=True)]
    assert together == rows(10, count=6)


def test_the_first_walk_is_that_of_plain_images() -> None:
    assert next(batches(3, 9, 9)).tolist() == next(batches(3, 9, 9, walk=0)).tolist()
    assert next(batches(3, 9, 9)).tolist() != next(batches(3, 9, 9, walk=1)).tolist()


# What is refused


@pytest.mark.parametrize(
    ("files", "options", "split", "message"),
    [
        (("trainA/1.png",), PAIRS, "train", r"lacks images in trainA or trainB: found trainA"),
        (("trainA/1.png", "trainB/1.png"), DOMAINS, "test", r"lacks images in testA or testB: found trainA, trainB"),
        (("A/1.png", "B/1.png"), PAIRS, "test", r"has no test split: expected trainA and trainB"),
        (("A/train/1.png", "B/train/1.png"), PAIRS, "test", r"has no test split: found train in A and B"),
        (("train/1.png",), PAIRS, "test", r"has no test split: expected pairs side by side in a folder 'test'"),
        (("1.png", "2.png"), PAIRS, "test", r"has no test split"),
        (("1.png", "2.png"), DOMAINS, "train", r"does not hold two domains: expected trainA and trainB"),
        (("x/1.png", "y/1.png", "z/1.png"), DOMAINS, "train", r"does not hold two domains"),
        (("A/1.png", "B/2.png"), PAIRS, "train", r"no image in A/ has the name of one in B/"),
        (("A/1.png", "A/1.jpg", "B/1.png"), PAIRS, "train", r"A/1\.jpg and A/1\.png would both be paired with '1'"),
        (("1.png",), DataOptions(size=(8, 8), channels=1), "test", r"plain images, which have no test split"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, files: Sequence[str], options: DataOptions, split: str, message: str
) -> None:
    save(tmp_path, dict.fromkeys(files, 1))
    with pytest.raises(DataError, match=message):
        load(str(tmp_path), options, split=split)  # type: ignore[arg-type]


def test_digits_are_no_pairs() -> None:
    with pytest.raises(
        DataError, match=r"digits: is of the layout digits: two domains are read from a folder or a \.zip"
    ):
        load("digits:", PAIRS)

import gzip
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganserve.errors import DataError
from ganserve_trainers.data import DataOptions, Decoded, Lazy, load, open_images
from ganserve_trainers.data.labels import Classes
from ganserve_trainers.data.pixels import fit

GREY = DataOptions(size=(8, 8), channels=1)
RGB = DataOptions(size=(8, 8), channels=3)
WHITE = (255, 255, 255)
FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")


def save_images(folder: Path, count: int = 3, size: tuple[int, int] = (8, 8)) -> Path:
    """``a/0.png`` …, each of one brightness, 10 apart."""
    (folder / "a").mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", size, (10 * index,) * 3).save(folder / "a" / f"{index}.png")
    return folder


def label(folder: Path, labels: object, **more: object) -> Path:
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, **more}))
    return folder


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def decoded(where: Path | str, options: DataOptions = GREY) -> Decoded:
    data = load(str(where), options)
    assert isinstance(data, Decoded)
    return data


# Folders and zips


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    save_images(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._0.png").write_text("what macOS leaves behind")
    data = decoded(tmp_path)
    assert data.tensors["image"][:, 0, 0, 0].tolist() == [0, 10, 20]
    assert "label" not in data.tensors
    assert (data.description.layout, data.description.images, data.description.labelled) == ("folder", 3, False)


def test_a_zip_gives_what_its_folder_gives(tmp_path: Path) -> None:
    folder = label(save_images(tmp_path / "data"), [["a/0.png", 2], ["a/1.png", 0], ["a/2.png", 1]])
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(folder))
    zipped, plain = decoded(tmp_path / "data.zip"), decoded(folder)
    assert torch.equal(zipped.tensors["image"], plain.tensors["image"])
    assert zipped.tensors["label"].tolist() == [2, 0, 1]
    assert zipped.description.fingerprint == plain.description.fingerprint


def test_null_labels_are_none(tmp_path: Path) -> None:
    assert "label" not in decoded(label(save_images(tmp_path), None)).tensors


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a/0.png", 0], ["a/1.png", 1]], r"no label for a/2\.png"),
        ([["a/0.png", 0], ["a/1.png", -1], ["a/2.png", 0]], r"gives a/1\.png the label -1"),
        ([["a/0.png", 0], ["a/1.png", [0.5]], ["a/2.png", 0]], r"gives a/1\.png the label \[0\.5\]"),
        ([["a/0.png", 0], ["a/1.png", 1], ["a/2.png", 3]], r"a/2\.png has label 3: the preset has 3 classes"),
        ("nonsense", r"not in StyleGAN's layout"),
        ([["a/0.png"]], r"not in StyleGAN's layout"),
    ],
)
def test_wrong_labels_are_refused_with_the_name_of_the_file(tmp_path: Path, labels: object, message: str) -> None:
    label(save_images(tmp_path), labels)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path), DataOptions(size=(8, 8), channels=3, classes=3))


def test_classes_have_names_and_counts(tmp_path: Path) -> None:
    labels = [["a/0.png", 2], ["a/1.png", 0], ["a/2.png", 2]]
    names = ["cat", "dog", "heart"]
    known = replace(RGB, classes=3)
    assert decoded(label(save_images(tmp_path), labels), known).description.classes == Classes(counts=(1, 0, 2))
    label(tmp_path, labels, names=names)
    assert decoded(tmp_path, known).description.classes == Classes(names=tuple(names), counts=(1, 0, 2))
    assert decoded(tmp_path).description.classes is None  # the preset has none


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "dog", "cat"], r"two classes one name in \"names\": 'cat'"),
        (["cat", "dog"], r'gives a/2\.png the label 2, but "names" has 2'),
        (["cat", "dog", "heart", "star"], r"names 4 classes, the preset has 3: train with --set classes=4"),
        ([1, 2, 3], r'no proper "names" \(Expected `str`'),
        ("cat", r'no proper "names"'),
    ],
)
def test_wrong_names_of_classes_are_refused(tmp_path: Path, names: object, message: str) -> None:
    label(save_images(tmp_path), [["a/0.png", 0], ["a/1.png", 1], ["a/2.png", 2]], names=names)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path), replace(RGB, classes=3))


def test_a_preset_with_classes_needs_labels(tmp_path: Path) -> None:
    save_images(tmp_path)
    with pytest.raises(DataError, match="has no labels, but the preset is for 3 classes"):
        load(str(tmp_path), DataOptions(size=(8, 8), channels=3, classes=3))


# Broken images


def break_one(folder: Path) -> Path:
    path = folder / "a" / "1.png"
    path.write_bytes(path.read_bytes()[:50])  # in the middle of its pixels
    return folder


def test_a_broken_image_is_refused_by_name(tmp_path: Path) -> None:
    break_one(save_images(tmp_path))
    with pytest.raises(DataError, match=r"1 of 3 images in .* are broken: a/1\.png cannot be read.*--broken skip"):
        load(str(tmp_path), RGB)


def test_a_broken_image_is_skipped_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    break_one(label(save_images(tmp_path), [["a/0.png", 4], ["a/1.png", 5], ["a/2.png", 6]]))
    data = decoded(tmp_path, DataOptions(size=(8, 8), channels=1, broken="skip"))
    assert data.tensors["image"][:, 0, 0, 0].tolist() == [0, 20]
    assert data.tensors["label"].tolist() == [4, 6]
    assert (data.description.images, data.description.skipped) == (2, ("a/1.png",))
    assert "a/1.png" in caplog.text


def test_images_that_are_all_broken_are_never_skipped(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no png")
    with pytest.raises(DataError, match="1 of 1 images"):
        load(str(tmp_path), DataOptions(size=(8, 8), channels=1, broken="skip"))


def test_an_image_bomb_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_images(tmp_path, size=(12, 12))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"exceeds limit of 100 pixels"):
        load(str(tmp_path), RGB)


# Decoding as needed


def test_images_above_the_memory_limit_are_decoded_by_workers_to_the_same_pixels(tmp_path: Path) -> None:
    label(save_images(tmp_path, size=(20, 20)), [["a/0.png", 4], ["a/1.png", 5], ["a/2.png", 6]])
    lazy = load(str(tmp_path), DataOptions(size=(8, 8), channels=3, memory=0, workers=1))
    assert isinstance(lazy, Lazy)
    wanted = [torch.tensor([2, 0]), torch.tensor([1, 1])]
    pairs = zip(lazy.feed(iter(wanted)), decoded(tmp_path, RGB).feed(iter(wanted)), strict=True)
    for one, other in pairs:
        assert one.keys() == other.keys() == {"image", "label"}
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_worker_replaces_a_broken_image_by_the_next_and_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    break_one(label(save_images(tmp_path), [["a/0.png", 4], ["a/1.png", 5], ["a/2.png", 6]]))
    lazy = load(str(tmp_path), DataOptions(size=(8, 8), channels=1, memory=0, workers=1, broken="skip"))
    batch = next(lazy.feed([torch.tensor([1, 0])]))
    assert batch["image"][:, 0, 0, 0].tolist() == [20, 0]
    assert batch["label"].tolist() == [6, 4]
    assert "a/1.png is broken and skipped" in caplog.text


def test_a_worker_refuses_a_broken_image_by_name(tmp_path: Path) -> None:
    break_one(save_images(tmp_path))
    lazy = load(str(tmp_path), DataOptions(size=(8, 8), channels=1, memory=0, workers=1))
    with pytest.raises(DataError, match=r"a/1\.png cannot be read"):
        list(lazy.feed([torch.tensor([1])]))


# Idx


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress)])
def test_idx_files_are_read_from_a_folder(tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]) -> None:
    pixels = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
    (tmp_path / f"train-images-idx3-ubyte{ending}").write_bytes(pack(idx(pixels)))
    (tmp_path / f"train-labels-idx1-ubyte{ending}").write_bytes(pack(idx(np.array([7, 8, 9], np.uint8))))
    (tmp_path / f"t10k-images-idx3-ubyte{ending}").write_bytes(pack(idx(pixels[:1])))
    data = decoded(tmp_path, DataOptions(size=(32, 32), channels=1, classes=10))
    assert data.tensors["label"].tolist() == [7, 8, 9]
    assert np.array_equal(data.tensors["image"][:, 0, 2:30, 2:30].numpy(), pixels)
    border = data.tensors["image"][:, 0].clone()
    border[:, 2:30, 2:30] = 0
    assert not border.any()  # 28 → 32 is padded with zeros


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(np.zeros((2, 4, 4), np.uint8))[:-1], r"declares \[2, 4, 4\] = 32 bytes but holds 31 bytes"),
        (idx(np.zeros((2, 4, 4), np.uint8)) + b"\0", r"holds more"),
        (gzip.compress(idx(np.zeros((2, 4, 4), np.uint8)), mtime=0)[:-9], r"is damaged"),
        (idx(np.zeros(4, np.uint8)), r"begins with 00000801: .* begins with 00000803"),
        (b"", r"begins with "),
        (bytes([0, 0, 8, 3, 1]), r"is damaged"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path), GREY)


def test_idx_labels_must_match_the_images(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((2, 4, 4), np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match="has 2 images but its labels file has 3 labels"):
        load(str(tmp_path), GREY)


@pytest.mark.skipif(not FASHION.is_file(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_is_read() -> None:
    images = open_images(str(FASHION))
    assert len(images.names) == 10_000
    assert images.labels is not None
    assert np.bincount(images.labels).tolist() == [1000] * 10
    assert images.image(0).size == (28, 28)


# CIFAR-10 and digits


def cifar(count: int, first_label: int = 0) -> bytes:
    planes = np.concatenate([np.full((count, 1024), value, np.uint8) for value in (10, 20, 30)], axis=1)
    labels = (np.arange(count, dtype=np.uint8) + first_label)[:, None]
    return np.concatenate([labels, planes], axis=1).tobytes()


def test_cifar_binary_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(cifar(2))
    (tmp_path / "data_batch_2.bin").write_bytes(cifar(1, first_label=9))
    (tmp_path / "test_batch.bin").write_bytes(cifar(4))
    data = decoded(tmp_path, DataOptions(size=(32, 32), channels=3, classes=10))
    assert data.tensors["image"].shape == (3, 3, 32, 32)
    assert data.tensors["image"][0, :, 5, 7].tolist() == [10, 20, 30]
    assert data.tensors["label"].tolist() == [0, 1, 9]
    assert len(decoded(tmp_path / "test_batch.bin", RGB)) == 4


def test_a_cifar_label_out_of_range_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(cifar(2, first_label=9))
    with pytest.raises(DataError, match=r"data_batch_1\.bin\[1\] has label 10"):
        load(str(tmp_path), RGB)


def test_a_cut_cifar_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(cifar(2)[:-1])
    with pytest.raises(DataError, match=r"has 6145 bytes: .* records of 3073 bytes"):
        load(str(tmp_path), RGB)


def test_the_pickled_cifar_is_refused_with_a_hint_and_never_opened(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(DataError, match=r"pickle can run code.*fetch the binary version"):
        load(str(tmp_path), RGB)


def test_digits_have_their_range_and_labels() -> None:
    data = decoded("digits:", DataOptions(size=(8, 8), channels=1, classes=10))
    assert (len(data), int(data.tensors["image"].max()), int(data.tensors["image"].min())) == (1797, 255, 0)
    assert set(data.tensors["label"].tolist()) == set(range(10))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nowhere", r"there is no data at .*nowhere: give a folder or \.zip"),
        ("a.txt", r"is in no known layout"),
        ("bad.zip", r"cannot be read as a zip file"),
        ("empty", r"holds no images"),
    ],
)
def test_what_cannot_be_read_is_told_apart(tmp_path: Path, where: str, message: str) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "bad.zip").write_text("no zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        load(str(tmp_path / where), GREY)


# One image


def test_a_transparent_image_is_flattened_on_the_background() -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    pixels = fit(image, (8, 8), 3, (0, 0, 255), pad=False)
    assert pixels[:, 0, 0].tolist() == [255, 0, 0]
    assert pixels[:, 4, 4].tolist() == [0, 0, 255]


def test_a_palette_with_transparency_is_flattened() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 9, 9, 9])
    image.info["transparency"] = 1
    assert fit(image, (8, 8), 1, WHITE, pad=False)[0, 0, 0] == 255


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    image = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
    assert fit(image, (8, 8), 1, WHITE, pad=False)[0, 0, 0] == 0x80


def test_a_larger_image_is_resized_with_antialiasing() -> None:
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = fit(Image.fromarray(checks), (8, 8), 1, WHITE, pad=True)
    assert np.abs(pixels.astype(int) - 127).max() <= 8  # a filter without antialiasing would pick 0 or 255


def test_a_wide_image_is_cut_around_its_centre() -> None:
    image = Image.new("L", (24, 8))
    image.paste(200, (8, 0, 16, 8))
    assert (fit(image, (8, 8), 1, WHITE, pad=False) == 200).all()


def test_a_much_smaller_image_on_black_is_enlarged_instead_of_padded() -> None:
    assert (fit(Image.new("L", (8, 8), 200), (32, 32), 1, WHITE, pad=True) == 200).all()


def test_an_image_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("L", (8, 8))
    image.paste(255, (0, 0, 8, 4))  # white above
    exif = image.getexif()
    exif[0x0112] = 3  # shown upside down
    image.save(tmp_path / "a.png", exif=exif)
    pixels = decoded(tmp_path).tensors["image"][0, 0]
    assert (int(pixels[0, 0]), int(pixels[7, 0])) == (0, 255)

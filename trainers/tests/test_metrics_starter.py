import gzip
import importlib
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_digits

from ganserve import bundle, plugins
from ganserve.bundle import Bundle, File
from ganserve.codecs.seeds import draw, draw_labels
from ganserve.errors import BundleError, DataError
from ganserve.spec import Noise
from ganserve.testing.echo import LABELS, write_bundle
from ganserve_trainers.command import train
from ganserve_trainers.export import Label, export_bundle

PROVENANCE = {"command": "ganserve train dcgan --preset tiny", "seed": 5, "data": {"name": "digits", "images": 1500}}


@pytest.fixture(scope="module")
def starter() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "bench")
        yield importlib.import_module("starter")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The untrained tiny DCGAN: 8×8 grey images."""
    family = plugins.load().family("dcgan")
    config = family.config("tiny")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = plugins.resolve(family.build)(config)
    label = Label(name="tiny", licence="CC0-1.0", attribution="Nobody's images.", provenance=PROVENANCE)
    return export_bundle(family, "tiny", config, networks, tmp_path_factory.mktemp("bundles") / "tiny", label)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture(scope="module")
def digits_as_idx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, digits = tmp_path_factory.mktemp("idx"), load_digits()
    for part, rows in (("train", slice(0, 1500)), ("t10k", slice(1500, None))):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", digits.images[rows] * 15.9375)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", digits.target[rows])
    return folder


def test_samples_come_from_a_server_of_the_bundle(starter: ModuleType, tiny: Bundle):
    images = starter.sampled(tiny.folder, 7, 0, 130)
    assert (images.shape, images.dtype) == ((130, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(starter.sampled(tiny.folder, 7, 120, 10), images[120:])
    golden = tiny.golden()["generator.image"]
    np.testing.assert_array_equal(starter.sampled(tiny.folder, tiny.manifest.golden.seed, 0, len(golden)), golden)


def test_an_untrained_bundle_is_reported_and_fails(starter: ModuleType, tiny: Bundle, digits_as_idx: Path):
    arguments = ["fashion", "--bundle", str(tiny.folder), "--data", str(digits_as_idx), "--samples", "200"]
    result = CliRunner().invoke(starter.main, arguments)
    assert result.exit_code == 1, result.output
    assert "FAIL" in result.output
    page = (tiny.folder / "README.md").read_text(encoding="utf-8")
    for wanted in (
        "# tiny",
        PROVENANCE["command"],
        "| seed | 5 |",
        "| data.images | 1500 |",
        "CC0-1.0. Nobody's images.",
    ):
        assert str(wanted) in page
    assert page.count("%") > 20
    with Image.open(tiny.folder / "samples.png") as picture:
        assert picture.size == (8 * (2 + 8 * (8 + 2)),) * 2
    with Image.open(tiny.folder / "neighbours.png") as picture:
        assert picture.size == (8 * (2 + 8 * (8 + 2)), 4 * 8 * (2 + 8 + 2))
    bundle.read(tiny.folder)


def test_a_page_shows_each_class(starter: ModuleType, tmp_path: Path):
    echo = bundle.read(write_bundle(tmp_path / "echo", tasks=("sample",)))
    classed = msgspec.structs.replace(echo, manifest=msgspec.structs.replace(echo.manifest, provenance=PROVENANCE))
    rows = starter.of_classes(classed.folder, 3, 8)
    assert tuple(rows) == LABELS
    drawn = draw_labels(np.array([(3, index) for index in range(8)], np.uint64), len(LABELS))
    made = starter.sampled(classed.folder, 3, 0, 8)
    for index, label in enumerate(drawn):
        np.testing.assert_array_equal(made[index], rows[LABELS[label]][index])
    samples = np.concatenate([made] * 8)
    starter.write_report(classed, starter.Report("Some.", [("a", "b")], "", None), samples, samples, 3, "x")
    assert "Each class by its name, seed 3, indices 0 to 7" in (classed.folder / "README.md").read_text("utf-8")
    height, width, _ = made[0].shape
    with Image.open(classed.folder / "classes.webp") as picture:
        down = -(-len(LABELS) // 2)
        assert picture.size == (2 * (150 + 2 + 8 * (width + 2)), down * (2 + height + 2))


def test_rows_of_grey_images_have_names_too(starter: ModuleType):
    rows = {"one": np.zeros((2, 8, 8, 1), np.uint8), "two": np.full((2, 8, 8, 1), 9, np.uint8)}
    assert starter.named_rows(rows).shape == (12, 2 * (150 + 2 + 2 * 10), 3)


def test_a_class_whose_samples_are_all_the_same_shows(starter: ModuleType):
    real = starter.Labelled((load_digits().images * 15.9375).astype(np.uint8)[:, :, :, None], load_digits().target)
    names = [f"digit {index}" for index in range(10)]
    made = {name: real.images[real.labels == index][:16] for index, name in enumerate(names)}
    said, figure = starter.measure_classes(made, real)
    assert said.endswith("median of classes (and lowest)")
    assert 0.9 < float(figure.split()[0]) < 1.1
    made["digit 3"] = made["digit 3"][:1].repeat(16, axis=0)
    assert starter.measure_classes(made, real)[1].endswith("(0.000, digit 3)")
    with pytest.raises(DataError, match=r"expected a dataset\.json"):
        starter.measure_classes(made, starter.Labelled(real.images, None))


def test_real_images_pass_where_noise_fails(starter: ModuleType, digits_as_idx: Path):
    like = np.zeros((1, 8, 8, 1), np.uint8)
    train, test = (
        starter.read_images(path, like) for path in (digits_as_idx, digits_as_idx / starter.FASHION_TEST_IMAGES)
    )
    noise = draw(Noise(distribution="uniform", low=0, high=255), np.array([[0, 0]], np.uint64), (300, 8, 8, 1))[0]
    good = starter.measure_fashion(train.images[:300], train, test, seed=0)
    bad = starter.measure_fashion(noise.astype(np.uint8), train, test, seed=0)
    assert good.passed
    assert not bad.passed


def test_emoji_figures_order_real_blurred_and_made(starter: ModuleType):
    real = (load_digits().images * 15.9375).astype(np.uint8)[:800, :, :, None].repeat(3, axis=-1)
    noise = np.random.default_rng(0).integers(0, 256, real.shape, np.uint8)
    report = starter.measure_emoji(
        noise, real, len(real) - 1, lambda images: images[..., 0].reshape(len(images), -1) / 255.0, seed=0
    )
    made, other, blurred = (float(value) for _, value in report.figures[:3])
    assert other < blurred < made
    assert "400 samples" in report.figures[0][0]
    assert "799 of them are the training data" in report.data
    assert "not FID" in report.notes


def test_features_are_remembered_by_the_images(starter: ModuleType, tmp_path: Path):
    asked = []

    def extractor(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        return images.reshape(len(images), -1).astype(np.float32)

    images = np.random.default_rng(0).integers(0, 256, (20, 2, 2, 3), np.uint8)
    for _ in range(2):
        np.testing.assert_array_equal(starter.remembered(extractor, tmp_path)(images), images.reshape(20, -1))
    assert asked == [16, 4]
    starter.remembered(extractor, tmp_path)(images[::-1])
    assert asked == [16, 4, 16, 4]


def manifest_of(**provenance: object) -> SimpleNamespace:
    files = {"golden.npz": File(sha256="a" * 64, size=1), "weights.bin": File(sha256="b" * 64, size=1)}
    return SimpleNamespace(provenance=provenance, files=files)


def test_a_bundle_that_hides_its_training_is_refused(starter: ModuleType):
    with pytest.raises(BundleError, match="no command and no seed"):
        starter.training(manifest_of(steps=3))


def test_runs_that_began_from_one_another_are_told_in_their_order(starter: ModuleType):
    """Each command, with the images that its run saw, and how many had been seen when it ended; and whose weights these are."""
    first = {"command": "train one", "images": 1000}
    second = {"command": "train two", "images": 2500, "begun_from": first}
    text = starter.training(manifest_of(command="train three", seed=3, images_seen=64, begun_from=second))
    lines = text.splitlines()
    assert lines[1:7:2] == [
        "# 1 kimg, 1,000 images in all",
        "# 1.5 kimg, 2,500 images in all",
        "# 0.064 kimg, 2,564 images in all",
    ]
    assert lines[2:8:2] == ["train one", "train two", "train three"]
    assert "| seed | 3 |" in lines
    assert f"| weights.bin (sha256) | {'b' * 64} |" in lines
    assert "begun_from" not in text
    assert "a" * 64 not in text


def test_a_curve_lists_every_number_of_images_once(starter: ModuleType):
    curve = importlib.import_module("curve")
    text = curve.table(["one", "two"], [{10: 3.0, 20: 2.5}, {20: 1.256}])
    assert text.splitlines()[2:] == ["| 10 | 3.00 |  |", "| 20 | 2.50 | 1.26 |"]


def test_a_curve_takes_the_checkpoints_that_are_asked_for(starter: ModuleType):
    curve = importlib.import_module("curve")
    seen = [10.016, 20.0, 30.016, 100.0]
    assert curve.chosen(seen, []) == seen
    assert curve.chosen(seen, [100, 30, 10.1, 10]) == [10.016, 30.016, 100.0]
    assert curve.chosen(seen, [50, 400, -20]) == []
    # What lies near to none does not take the place of what does.
    assert curve.chosen(seen, [100, 400]) == [100.0]


def test_a_point_of_a_curve_is_made_by_that_checkpoint(starter: ModuleType, tmp_path: Path):
    curve = importlib.import_module("curve")
    options = ["dcgan", "--preset", "tiny", "--data", "digits:", "--out", str(tmp_path), "--kimg", "0.064"]
    result = CliRunner().invoke(train, [*options, "--snapshot-kimg", "0.032"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert curve.images_seen(tmp_path) == [0.032, 0.064]
    early, late = (curve.made_at(tmp_path, kimg, 4, seed=1) for kimg in (0.032, 0.064))
    assert early.shape == late.shape == (4, 8, 8, 1)
    assert (early != late).any()

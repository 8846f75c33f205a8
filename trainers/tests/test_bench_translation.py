"""bench/translation.py and bench/starter_translation.py: what they say of good and bad translations, and a run of each."""

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_digits

from ganserve import bundle, plugins
from ganserve.bundle import Bundle
from ganserve.errors import DataError
from ganserve_trainers.export import Label, export_bundle
from ganserve_trainers.metrics.domains import train_domain_judge

PROVENANCE = {"command": "ganserve train pix2pix --preset tiny", "seed": 5}


@pytest.fixture(scope="module")
def benches() -> Iterator[Mapping[str, ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "bench")
        yield {name: importlib.import_module(name) for name in ("translation", "starter_translation")}


@pytest.fixture(scope="module")
def bench(benches: Mapping[str, ModuleType]) -> ModuleType:
    return benches["translation"]


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Handwritten digits of 16×16 pixels in RGB."""
    small = (load_digits().images * 15.9375).astype(np.uint8)
    return small.repeat(2, axis=1).repeat(2, axis=2)[..., None].repeat(3, axis=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, digits: np.ndarray) -> Path:
    """Digits and their negatives as pairs, 128 to train and 12 held out; each held-out one has a variant."""
    root = tmp_path_factory.mktemp("data")
    for split, numbers in (("train", range(128)), ("test", range(128, 152))):
        for domain, sign in (("A", digits), ("B", 255 - digits)):
            folder = root / f"{split}{domain}"
            folder.mkdir()
            for number in numbers:
                name = f"{number // 2}{'-dark' if number % 2 else ''}" if split == "test" else str(number)
                Image.fromarray(sign[number]).save(folder / f"{name}.png")
    return root


def export(family_name: str, folder: Path) -> Bundle:
    """An untrained tiny bundle."""
    family = plugins.installed().family(family_name)
    config = family.config("tiny")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = plugins.resolve(family.build)(config)
    label = Label(name="tiny", licence="CC0-1.0", attribution="Nobody's images.", provenance=PROVENANCE)
    return export_bundle(family, "tiny", config, networks, folder, label)


@pytest.fixture(scope="module")
def pix2pix(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export("pix2pix", tmp_path_factory.mktemp("bundles") / "tiny")


def held_out(bench: ModuleType, digits: np.ndarray, names: list[str] | None = None) -> Any:
    names = names or [str(number) for number in range(60)]
    return bench.Pictures({"a": digits[:60], "b": 255 - digits[:60]}, {"a": names, "b": names})


def test_a_good_translation_passes_and_a_copy_fails(bench: ModuleType, digits: np.ndarray, pix2pix: Bundle):
    pairs, mean_target = held_out(bench, digits), (255 - digits).mean(axis=0).round().astype(np.uint8)
    noise = np.random.default_rng(0).integers(-9, 10, digits[:60].shape)
    good = np.clip(255 - digits[:60] + noise, 0, 255).astype(np.uint8)
    passed = bench.measure_pairs(pix2pix.manifest, pairs, good, mean_target)
    assert passed.passed
    assert [aim.name for aim in passed.aims] == [
        "L1 against copy of the input",
        "L1 against mean target of training",
        "SSIM against copy of the input",
        "SSIM against mean target of training",
    ]
    copied = bench.measure_pairs(pix2pix.manifest, pairs, digits[:60], mean_target)
    assert copied.figures["the model"] == copied.figures["copy of the input"]
    assert not any(aim.met for aim in copied.aims)
    assert "| L1 against copy of the input | lower | +0.0000 [+0.0000, +0.0000] | FAIL |" in bench.markdown(copied)


def test_a_difference_within_the_interval_is_no_success(bench: ModuleType):
    difference = np.random.default_rng(1).normal(-0.01, 1.0, 50)
    difference -= difference.mean() + 0.01
    assert not bench.better("L1", difference, [str(number) for number in range(50)], -1).met
    assert bench.better("L1", difference - 1, [str(number) for number in range(50)], -1).met
    assert not bench.better("SSIM", difference - 1, [str(number) for number in range(50)], 1).met


def test_large_pictures_are_measured_at_five_scales(bench: ModuleType, digits: np.ndarray, pix2pix: Bundle):
    large = digits[:3].repeat(11, axis=1).repeat(11, axis=2)
    pictures = bench.Pictures({"a": large, "b": 255 - large}, {"a": list("abc"), "b": list("abc")})
    report = bench.measure_pairs(pix2pix.manifest, pictures, 255 - large, large[0])
    assert report.figures["the model"]["MS-SSIM"].mean == pytest.approx(1.0)


def test_domains_want_a_change_that_comes_back_and_convinces(bench: ModuleType, digits: np.ndarray, pix2pix: Bundle):
    real = held_out(bench, digits)
    a, b = real.images["a"], real.images["b"]
    judge = train_domain_judge((digits[100:400], 255 - digits[400:700]), (a, b))

    def measure(there: Mapping[str, np.ndarray], back: Mapping[str, np.ndarray]) -> Any:
        return bench.measure_domains(pix2pix.manifest, judge, real, there, back)

    good = measure({"a": 255 - a, "b": 255 - b}, {"a": a, "b": b})
    assert good.passed
    assert good.figures["a2b"]["cycle L1"].mean == 0.0
    copies = measure({"a": a, "b": b}, {"a": a, "b": b})
    assert {aim.name for aim in copies.aims if not aim.met} == {
        "a2b: mean abs(output - input)",
        "a2b: taken for b",
        "b2a: mean abs(output - input)",
        "b2a: taken for a",
    }
    lossy = measure({"a": 255 - a, "b": 255 - b}, {"a": a[::-1], "b": b[::-1]})
    assert {aim.name for aim in lossy.aims if not aim.met} == {
        "a2b: cycle L1 over that of random pictures",
        "b2a: cycle L1 over that of random pictures",
    }
    unproven = replace(judge, accuracy=(0.94, 1.0))
    report = bench.measure_domains(pix2pix.manifest, unproven, real, {"a": 255 - a, "b": 255 - b}, {"a": a, "b": b})
    assert not report.passed
    assert "taken for the target" not in report.figures["a2b"]
    assert {aim.found for aim in report.aims if "taken for" in aim.name} == {"not claimed: the judge failed"}


def test_pairs_are_translated_by_a_server(bench: ModuleType, pix2pix: Bundle, data: Path, tmp_path: Path):
    arguments = ["pairs", str(pix2pix.folder), str(data), "--out", str(tmp_path), "--variants=-dark"]
    result = CliRunner().invoke(bench.main, arguments)
    assert result.exit_code == 1, result.output
    assert "FAIL" in result.output
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["pictures"] == {"held-out pairs": 24, "groups of variants": 12}
    assert report["figures"]["the model"]["L1"]["mean"] > report["figures"]["mean target of training"]["L1"]["mean"]
    assert len(report["aims"]) == 4
    with Image.open(tmp_path / "sheet.png") as sheet:
        # 12 groups, two to a line of six pictures, each four times as large.
        assert sheet.size == (4 * (2 + 6 * 18), 4 * (2 + 6 * 18))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "sheet.png"]


def test_a_seed_gives_the_same_translations(bench: ModuleType, pix2pix: Bundle, digits: np.ndarray):
    made = []
    for seed in (3, 3, 4):
        with bench.translator(pix2pix, seed) as translate:
            made.append(translate("a2b", digits[:3]))
    np.testing.assert_array_equal(made[0], made[1])
    assert (made[0] != made[2]).any()
    assert made[0].shape == (3, 16, 16, 3)


def test_domains_are_translated_there_and_back(bench: ModuleType, data: Path, tmp_path: Path):
    source = export("cyclegan", tmp_path / "bundle")
    result = CliRunner().invoke(bench.main, ["domains", str(source.folder), str(data), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert set(report["figures"]) == {"a2b", "b2a"}
    assert {aim["name"]: aim["met"] for aim in report["aims"]}["the judge is right about real a"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.json",
        "sheet-a2b.png",
        "sheet-b2a.png",
    ]


def test_what_cannot_be_measured_is_said(bench: ModuleType, pix2pix: Bundle, data: Path, tmp_path: Path):
    one_way = CliRunner().invoke(bench.main, ["domains", str(pix2pix.folder), str(data), "--out", str(tmp_path)])
    assert one_way.exit_code == 1
    assert "no task b2a: measure it by pairs" in one_way.output
    unsplit = CliRunner().invoke(
        bench.main, ["pairs", str(pix2pix.folder), str(data / "trainA"), "--out", str(tmp_path)]
    )
    assert unsplit.exit_code == 1
    assert "no test split" in unsplit.output
    samples = export("dcgan", tmp_path / "dcgan")
    sampled = CliRunner().invoke(bench.main, ["pairs", str(samples.folder), str(data), "--out", str(tmp_path)])
    assert sampled.exit_code == 1
    assert "no task of kind translate" in sampled.output
    with pytest.raises(DataError, match="trained on plain images"):
        bench.read_pictures(str(data), samples.manifest, "test")


def test_spaced_takes_one_of_each_group(bench: ModuleType):
    groups = [str(number // 3) for number in range(30)]
    np.testing.assert_array_equal(bench.spaced(groups, 4), [0, 9, 18, 27])
    np.testing.assert_array_equal(bench.spaced(groups[:6], 4), [0, 3])


def test_the_page_of_a_starter_bundle(benches: Mapping[str, ModuleType], pix2pix: Bundle, data: Path):
    for _ in range(2):
        result = CliRunner().invoke(
            benches["starter_translation"].main,
            ["--bundle", str(pix2pix.folder), "--data", str(data), "--source", "Digits by hand.", "--variants=-dark"],
        )
        assert result.exit_code == 1, result.output
        assert "FAIL" in result.output
    page = (pix2pix.folder / "README.md").read_text(encoding="utf-8")
    for wanted in (
        "# tiny",
        "Digits by hand.",
        PROVENANCE["command"],
        "CC0-1.0. Nobody's images.",
        "copy of the input",
        "| FAIL |",
    ):
        assert str(wanted) in page
    examples = sorted((pix2pix.folder / "examples").iterdir())
    assert len(examples) == 12
    for example in examples:
        with Image.open(example) as written, Image.open(data / "testA" / example.name) as original:
            np.testing.assert_array_equal(np.asarray(written), np.asarray(original))
    assert not [path for path in pix2pix.folder.iterdir() if path.name.startswith(".")]
    bundle.read(pix2pix.folder)

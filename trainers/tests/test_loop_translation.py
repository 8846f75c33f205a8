"""Training on pairs and on two domains: what reaches the loss, what the previews show, rates that change, and resuming all of it."""

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from ganserve.errors import TrainingError
from ganserve.plugins import Plugins
from ganserve_trainers import checkpoint, loop
from ganserve_trainers.checkpoint import State
from ganserve_trainers.data import DataOptions, load
from ganserve_trainers.distributed import make_fabric
from ganserve_trainers.loop import Settings
from ganserve_trainers.run import DataSource, data_options, load_run, resume_run, start_run

Train = Callable[..., State]
COUNTS = {"A": 12, "B": 7}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Gradients from left to right in trainA and trainB, all of them different; A is reddish, B bluish."""
    rows = np.random.default_rng(0)
    for domain, channel in (("A", 0), ("B", 2)):
        folder = tmp_path / "data" / f"train{domain}"
        folder.mkdir(parents=True)
        for index in range(12):
            pixels = np.zeros((8, 8, 3), np.uint8)
            pixels[..., channel] = np.sort(rows.integers(0, 256, 8))
            pixels[..., 1] = 20 * index
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "data"


@pytest.fixture
def train(families: Plugins, images: Path) -> Train:
    """Train the translator in a folder: ``train(folder, "tiny", kimg=..., config={...})``; domains have 12 and 7 images."""

    def run(folder: Path, preset: str, config: dict[str, Any] | None = None, **settings: Any) -> State:
        family = families.family("translator")
        whole = {**family.config(preset), **(config or {})}
        if whole["data"] == "domains":
            for index in range(COUNTS["B"], 12):
                (images / "trainB" / f"{index}.png").unlink(missing_ok=True)
        defaults = {
            "seed": 3,
            "batch": whole["batch"],
            "kimg": whole["kimg"],
            "grid": 4,
            "log_every": 10,
            "mirror": True,
        }
        return start_run(
            make_fabric("cpu"),
            family,
            preset,
            whole,
            DataSource(where=str(images)),
            folder,
            Settings(**{**defaults, **settings}),
            console=Console(quiet=True),
        )

    return run


def last(folder: Path) -> checkpoint.Checkpoint:
    saved = checkpoint.latest(folder / "checkpoints")
    assert saved is not None
    return saved


def rate(folder: Path) -> float:
    (numbers,) = last(folder).state.optimizers
    return float(numbers["groups"][0]["lr"])


def feed(images: Path, kind: str, count: int, **settings: Any) -> Iterator[dict[str, Tensor]]:
    options = DataOptions(size=(8, 8), channels=3, kind=kind)  # type: ignore[arg-type]
    whole = Settings(**{"seed": 5, "batch": 64, "kimg": 1, **settings})
    stream = loop._feed(load(str(images), options), whole, 0, 0, 1, torch.device("cpu"))
    return (dict(next(stream)) for _ in range(count))


def upright(batch: Tensor, channel: int) -> Tensor:
    """Which images ``[n]`` get brighter from left to right, as all do in the files."""
    return batch[:, channel, 0, -1] > batch[:, channel, 0, 0]


def test_pictures_come_normalised_by_name(images: Path) -> None:
    (batch,) = feed(images, "pairs", 1, channels_last=True)
    assert batch.keys() == {"a", "b"}
    for picture in batch.values():
        assert (picture.dtype, tuple(picture.shape)) == (torch.float32, (64, 3, 8, 8))
        assert (float(picture.min()), float(picture.max()) <= 1) == (-1.0, True)
        assert picture.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch["a"][:, 1], batch["b"][:, 1])  # green is the number of the pair


def test_two_domains_of_one_size_meet_in_other_pairs_every_epoch(images: Path) -> None:
    epochs = [tuple(batch[name][:, 1, 0, 0] for name in "ab") for batch in feed(images, "domains", 2, batch=12)]
    for a, b in epochs:  # green is the number in the domain
        assert torch.equal(a.sort().values, b.sort().values)
        assert not torch.equal(a, b)
    first, second = ({(float(x), float(y)) for x, y in zip(a, b, strict=True)} for a, b in epochs)
    assert first != second


def test_a_pair_is_mirrored_together_and_two_domains_each_for_itself(images: Path) -> None:
    for kind, alike in (("pairs", True), ("domains", False)):
        a, b = (
            torch.cat(parts)
            for parts in zip(
                *((upright(x["a"], 0), upright(x["b"], 2)) for x in feed(images, kind, 4, mirror=True)), strict=True
            )
        )
        assert torch.equal(a, b) is alike
        assert 90 < int(a.sum()) < 166
        assert 90 < int(b.sum()) < 166
        if not alike:
            assert 90 < int((a == b).sum()) < 166  # as often as not, so they are independent
    (still,) = feed(images, "pairs", 1)
    assert upright(still["a"], 0).all()


@pytest.mark.parametrize("preset", ["tiny", "domains"])
def test_a_resumed_run_with_a_history_and_a_falling_rate_equals_an_unstopped_one(
    tmp_path: Path, train: Train, families: Plugins, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganserve_translator.network import History

    train(tmp_path / "whole", preset)
    add = History.add

    def add_and_stop(self: Any, images: Tensor) -> None:
        add(self, images)
        if self.count == 60:
            signal.raise_signal(signal.SIGTERM)  # so its length, and with it every rate, is that of the whole run

    monkeypatch.setattr(History, "add", add_and_stop)
    stopped = train(tmp_path / "parts", preset)
    assert stopped.step == 15
    assert rate(tmp_path / "parts") == pytest.approx(0.1 * (1 - 14 / 40), rel=1e-12)
    state = resume_run(make_fabric("cpu"), tmp_path / "parts", {}, Console(quiet=True), families)
    assert state.step == 40
    whole, parts = last(tmp_path / "whole"), last(tmp_path / "parts")
    assert whole.networks["history"]["count"] == 160
    for kind in ("networks", "averages"):
        for name, tensors in getattr(whole, kind).items():
            for key, value in tensors.items():
                assert torch.equal(value, getattr(parts, kind)[name][key]), f"{kind} {name} {key}"
    assert all(torch.equal(value, parts.optimizers[key]) for key, value in whole.optimizers.items())
    assert rate(tmp_path / "whole") == rate(tmp_path / "parts") == pytest.approx(0.1 / 40, rel=1e-12)


def test_a_rate_is_a_factor_on_every_group(tmp_path: Path, train: Train) -> None:
    train(tmp_path / "falling", "tiny")
    train(tmp_path / "constant", "tiny", {"decay": False})
    assert rate(tmp_path / "constant") == 0.1
    assert rate(tmp_path / "falling") == pytest.approx(0.1 / 40)
    one, other = (last(tmp_path / name).networks["translator"]["body.weight"] for name in ("falling", "constant"))
    assert not torch.equal(one, other)


def test_the_grid_shows_input_output_and_target_in_one_row(tmp_path: Path, train: Train, images: Path) -> None:
    train(tmp_path, "tiny", kimg=0.04)
    with Image.open(tmp_path / "samples" / "fakes-000000.png") as file:
        grid = np.asarray(file)
    with Image.open(tmp_path / "samples" / "reals.png") as file:
        reals = np.asarray(file)
    assert grid.shape == (2 * 8, 2 * 3 * 8, 3)
    assert reals.shape == (2 * 8, 2 * 8, 3)
    tiles = grid.reshape(2, 8, 2, 3, 8, 3).transpose(0, 2, 3, 1, 4, 5).reshape(4, 3, 8, 8, 3)
    assert (tiles[:, 0, ..., 2] == 0).all()  # A is reddish
    assert (tiles[:, 2, ..., 0] == 0).all()  # B is bluish
    assert (tiles[:, 0, 0, 0, 1] == tiles[:, 2, 0, 0, 1]).all()  # and both are of one pair
    assert np.array_equal(reals[:8, :8], tiles[0, 2])


def test_a_run_is_loaded_with_its_history(tmp_path: Path, train: Train, families: Plugins) -> None:
    train(tmp_path, "tiny", kimg=0.04)
    history = load_run(tmp_path, families).networks["history"]
    assert history.count == 40
    assert torch.equal(history.pictures, last(tmp_path).networks["history"]["pictures"])
    assert len(torch.unique(history.pictures[:, 1, 0, 0])) == 6


def test_a_translation_to_one_image_has_collapsed_though_its_inputs_vary(tmp_path: Path, train: Train) -> None:
    with pytest.raises(TrainingError, match=r"the generator collapsed"):
        train(tmp_path, "tiny", {"constant": True}, kimg=0.4, snapshot_kimg=0.04)
    entry = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert entry["preview/variety"] < 1e-6


def test_a_small_domain_fills_a_larger_preview(tmp_path: Path, train: Train) -> None:
    train(tmp_path, "domains", kimg=0.04, grid=12)
    with Image.open(tmp_path / "samples" / "fakes-000000.png") as grid:
        assert grid.size == (6 * 8, 6 * 8)  # 36 pictures: twelve groups of three


def test_a_recipe_that_compares_with_what_the_data_lacks_is_refused(tmp_path: Path, train: Train) -> None:
    with pytest.raises(TrainingError, match="the recipe compares previews with 'image': the data has a, b"):
        train(tmp_path, "tiny", {"compares": "image"})


def test_a_history_that_is_not_finite_stops_the_run(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganserve_translator.network import History

    add = History.add

    def add_and_break(self: Any, images: Tensor) -> None:
        add(self, images)
        if self.count == 40:  # after the last loss
            self.pictures[0] = torch.inf

    monkeypatch.setattr(History, "add", add_and_break)
    with pytest.raises(TrainingError, match=r"diverged before step 10: weights of 'history' are not finite"):
        train(tmp_path, "tiny", kimg=0.04)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "triples"}, "data is 'triples': expected one of images, pairs, domains"),
        ({"direction": "c2d"}, "direction is 'c2d': expected one of a2b, b2a"),
    ],
)
def test_an_unknown_kind_of_data_is_refused(families: Plugins, change: dict[str, Any], message: str) -> None:
    config = {**families.family("translator").config("tiny"), **change}
    with pytest.raises(TrainingError, match=message):
        data_options(config, DataSource(where="x"))


def test_a_preset_says_what_its_data_is(families: Plugins) -> None:
    config = families.family("translator").config("domains")
    options = data_options(config, DataSource(where="x"))
    assert (options.kind, options.direction, options.channels) == ("domains", "a2b", 3)
    plain = data_options({"image": (8, 8, 1)}, DataSource(where="x"))
    assert (plain.kind, replace(plain, size=(1, 1)).classes) == ("images", 0)

"""The data set of the classes of emoji that are drawn alike."""

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from ganserve_trainers.data import open_images
from tools.emoji_familiar import FAMILIAR, main


def test_familiar_classes_are_taken_and_numbered_anew(tmp_path: Path) -> None:
    captions = tmp_path / "google-captions"
    for split, labels in (
        ("train", [("1f408.png", 0), ("1f600.png", 1), ("1f1eb-1f1f7.png", 2)]),
        ("test", [("1f408-1.png", 0), ("1f603.png", 1)]),
    ):
        (captions / split).mkdir(parents=True)
        for name, label in labels:
            Image.new("RGB", (64, 64), (label, 0, 0)).save(captions / split / name)
        content = {"labels": labels, "names": ["animal-mammal", "face", "country-flag"]}
        (captions / split / "dataset.json").write_text(json.dumps(content))
    for said in ("train 2, test 1", "is there"):
        done = CliRunner().invoke(main, ["--captions", str(captions), "--out", str(tmp_path)])
        assert done.exit_code == 0, done.output
        assert said in done.output
    folder = tmp_path / "google-familiar"
    train = open_images(str(folder / "train"))
    assert train.labels is not None
    assert {name: FAMILIAR[label] for name, label in zip(train.names, train.labels, strict=True)} == {
        "1f1eb-1f1f7.png": "country-flag",
        "1f600.png": "face",
    }
    assert train.classes == FAMILIAR
    assert open_images(str(folder / "test")).names == ["1f603.png"]
    assert np.asarray(Image.open(folder / "train/1f600.png"))[0, 0, 0] == 1, "the same pixels"
    assert "Google LLC" in (folder / "ATTRIBUTION.txt").read_text()

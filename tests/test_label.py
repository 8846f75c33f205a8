import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganserve.codecs.label import LabelDecoder
from ganserve.codecs.seeds import draw_labels
from ganserve.errors import InvalidArgument, SpecError
from ganserve.spec import Input, Tensor

LABEL = Tensor(name="y", dtype="int64")
NAMES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat")


def decoder(
    reads: tuple[str, ...] = ("label",),
    tensor: Tensor = LABEL,
    classes: int = 5,
    names: tuple[str, ...] = NAMES,
    **more: Any,
) -> LabelDecoder:
    options = {"classes": classes, "names": names} | more
    return LabelDecoder(Input(tensor="y", codec="label", reads=reads, options=options), tensor, Path())


def violations(codec: LabelDecoder, labels: list[Any]) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        codec.decode({"label": labels}, len(labels))
    return dict(caught.value.violations)


def test_indices_and_names_may_be_mixed() -> None:
    decoded = decoder().decode({"label": [0, "Coat", np.int64(2), "Trouser"]}, 4)
    assert decoded.dtype == np.int64
    assert decoded.tolist() == [0, 4, 2, 1]


@given(st.lists(st.integers(-3, 8), min_size=1, max_size=6))
def test_an_index_is_taken_exactly_if_it_is_in_range(labels: list[int]) -> None:
    wrong = [f"label[{row}]" for row, label in enumerate(labels) if not 0 <= label < 5]
    if wrong:
        assert list(violations(decoder(), labels)) == wrong
    else:
        assert decoder().decode({"label": labels}, len(labels)).tolist() == labels


def test_violations_tell_the_range_and_close_names() -> None:
    told = violations(decoder(), [1, 5, "trousers", "Volcano", 1.0])
    assert told == {
        "label[1]": "5 is no class of this model: expected an index from 0 to 4 or a name such as 'T-shirt'",
        "label[2]": "'trousers' is no class of this model: expected an index from 0 to 4 or a name such as 'T-shirt'; "
        "did you mean 'Trouser'?",
        "label[3]": "'Volcano' is no class of this model: expected an index from 0 to 4 or a name such as 'T-shirt'",
        "label[4]": "1.0 is no class of this model: expected an index from 0 to 4 or a name such as 'T-shirt'",
    }


def test_classes_without_names_know_only_indices() -> None:
    told = violations(decoder(names=()), ["Coat"])
    assert told == {"label[0]": "'Coat' is no class of this model: expected an index from 0 to 4"}


def test_hostile_labels_cost_little_and_make_a_short_error() -> None:
    names = tuple(f"class number {index}" for index in range(1000))
    codec = decoder(classes=1000, names=names)
    start = time.perf_counter()
    told = violations(codec, ["x" * 1_000_000] * 5 + [f"klass nomber {i}" for i in range(5000)])
    assert time.perf_counter() - start < 2
    assert len(told) == 9
    assert sum(map(len, told.values())) < 2000


def test_a_missing_label_is_drawn_from_the_seed_if_the_input_reads_it() -> None:
    codec = decoder(reads=("label", "seed"))
    seeds = np.stack([np.full(40, 9), np.arange(40)], axis=1).astype(np.uint64)
    drawn = codec.decode({"seed": [tuple(pair) for pair in seeds.tolist()]}, 40)
    assert np.array_equal(drawn, draw_labels(seeds, 5))
    assert set(drawn.tolist()) == set(range(5))
    assert codec.decode({"seed": seeds[:2], "label": [3, "Coat"]}, 2).tolist() == [3, 4]


def test_labels_are_drawn_as_often_as_their_counts_say() -> None:
    codec = decoder(reads=("label", "seed"), counts=(1, 0, 6, 0, 3))
    drawn = codec.decode({"seed": np.array([(3, index) for index in range(4000)], np.uint64)}, 4000)
    shares = np.bincount(drawn, minlength=5) / 4000
    assert shares[[1, 3]].tolist() == [0, 0]
    np.testing.assert_allclose(shares, (0.1, 0, 0.6, 0, 0.3), atol=0.03)
    alike = decoder(reads=("label", "seed"), counts=(1,) * 5)
    pairs = np.array([(3, index) for index in range(100)], np.uint64)
    assert np.array_equal(alike.decode({"seed": pairs}, 100), draw_labels(pairs, 5))


def test_a_missing_label_is_named_otherwise() -> None:
    with pytest.raises(InvalidArgument, match="label: is missing: this model needs one, an index from 0 to 4"):
        decoder().decode({}, 2)


def test_the_decoder_tells_its_names() -> None:
    assert decoder().describe() == {"label": {"classes": 5, "names": list(NAMES), "optional": False}}
    assert decoder(reads=("label", "seed"), names=()).describe() == {
        "label": {"classes": 5, "names": [], "optional": True}
    }


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"classes": 0}, "classes"),
        ({"classes": 6}, "5 names, 5 of them different, for 6 classes"),
        ({"names": ("a", "a", "b", "c", "d")}, "5 names, 4 of them different"),
        ({"counts": (1, 2)}, "2 counts, 3 together, for 5 classes"),
        ({"counts": (0,) * 5}, "5 counts, 0 together"),
        ({"counts": (2**32, 1, 1, 1, 1)}, "5 counts, 4294967300 together"),
        ({"counts": (-1, 1, 1, 1, 1)}, "counts"),
        ({"color": 1}, "color"),
        ({"reads": ("seed",)}, "reads 'label'"),
        ({"reads": ("label", "truncation")}, "reads 'label'"),
        ({"tensor": Tensor(name="y", dtype="int32")}, "one int64 a row"),
        ({"tensor": Tensor(name="y", dtype="int64", shape=(5,))}, "one int64 a row"),
    ],
)
def test_a_decoder_that_cannot_work_is_refused_when_made(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        decoder(**fault)

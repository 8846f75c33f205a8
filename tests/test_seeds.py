import json
import math
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganserve.codecs import seeds as module
from ganserve.codecs.seeds import NoiseDecoder, draw, draw_labels, float32_range, seed_pairs
from ganserve.errors import InvalidArgument, SpecError
from ganserve.spec import Input, Noise, Tensor

DOCUMENT = (Path(__file__).parents[1] / "docs" / "seeds.md").read_text()
WORD = st.integers(0, 2**64 - 1)
NORMAL, SPHERE, UNIFORM = Noise(), Noise(distribution="sphere"), Noise(distribution="uniform")


@pytest.fixture(scope="module")
def plain() -> SimpleNamespace:
    """The implementation printed in the document."""
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/seeds.md", "exec"), names)
    return SimpleNamespace(**names)


def pairs(*rows: tuple[int, int]) -> np.ndarray:
    return np.array(rows, dtype=np.uint64).reshape(-1, 2)


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint32)


def nearly_equal(ours: np.ndarray, theirs: list[float]) -> bool:
    """Equal but for the last bit, in which two mathematical libraries may differ."""
    return bool(np.all(np.abs(bits(ours).astype(np.int64) - bits(np.array(theirs, np.float32))) <= 1))


# The words


# Random123's tests/kat_vectors, philox4x64 with 10 rounds: counter, key, block.
KNOWN_ANSWERS = [
    (
        "0000000000000000 0000000000000000 0000000000000000 0000000000000000",
        "0000000000000000 0000000000000000",
        "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b",
    ),
    (
        "ffffffffffffffff ffffffffffffffff ffffffffffffffff ffffffffffffffff",
        "ffffffffffffffff ffffffffffffffff",
        "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
    ),
    (
        "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89",
        "452821e638d01377 be5466cf34e90c6c",
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
    ),
]


def hexadecimal(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "block"), KNOWN_ANSWERS)
def test_the_documents_philox_and_numpys_give_the_known_answers(
    plain: SimpleNamespace, counter: str, key: str, block: str
) -> None:
    assert plain.philox4x64(hexadecimal(counter), hexadecimal(key)) == hexadecimal(block)
    number = sum(word << 64 * place for place, word in enumerate(hexadecimal(counter)))
    before = [(number - 1) % 2**256 >> 64 * place & (2**64 - 1) for place in range(4)]
    numpys = np.random.Philox(key=np.array(hexadecimal(key), np.uint64), counter=np.array(before, np.uint64))
    assert numpys.random_raw(4).tolist() == hexadecimal(block)


@given(seed=WORD, index=WORD, round_=WORD, step=WORD, stream=WORD, count=st.integers(1, 40))
def test_words_are_those_of_the_document(
    plain: SimpleNamespace, seed: int, index: int, round_: int, step: int, stream: int, count: int
) -> None:
    ours = module._philox.words([seed, index], round_, step, stream, count)
    assert ours.tolist() == plain.words(count, seed, index, stream, step, round_)


def test_units_are_exact_at_both_ends(plain: SimpleNamespace) -> None:
    ends = np.array([0, 2**12 - 1, 2**12, 2**63, 2**64 - 1], np.uint64)
    assert module._unit(ends).tolist() == [plain.unit(word) for word in ends.tolist()]
    assert module._unit(ends)[0] == 2.0**-53
    assert module._unit(ends)[-1] == 1.0 - 2.0**-53


def test_words_drawn_in_threads_at_once_are_not_mixed_up() -> None:
    expected = [draw(NORMAL, pairs((seed, 0)), (50,)) for seed in range(8)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(200):
            if not np.array_equal(draw(NORMAL, pairs((seed, 0)), (50,)), expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# The values


@settings(max_examples=60)
@given(seed=WORD, index=WORD, step=WORD, stream=st.integers(0, 2**32 - 1), count=st.integers(1, 70))
def test_every_distribution_is_the_documents(
    plain: SimpleNamespace, seed: int, index: int, step: int, stream: int, count: int
) -> None:
    where = (seed, index, stream, step)
    row = pairs((seed, index))
    steps = np.array([step], np.uint64)
    for name, noise in (("normal", Noise(stream=stream)), ("sphere", Noise(distribution="sphere", stream=stream))):
        assert nearly_equal(draw(noise, row, (count,), steps)[0], getattr(plain, name)(count, *where))
    for low, high in ((-1.0, 1.0), (0.1, 0.3)):
        noise = Noise(distribution="uniform", stream=stream, low=low, high=high)
        assert draw(noise, row, (count,), steps)[0].tolist() == plain.uniform(count, low, high, *where)


@settings(max_examples=25, deadline=None)
@given(seed=WORD, count=st.integers(1, 20), threshold=st.sampled_from([0.1, 0.3, 1.0, 2.0, 2.7, 10.0]))
def test_truncated_normals_are_the_documents(plain: SimpleNamespace, seed: int, count: int, threshold: float) -> None:
    ours = draw(Noise(stream=5), pairs((seed, 1)), (count,), step=3, truncation=np.array([threshold]))[0]
    assert nearly_equal(ours, plain.truncated(count, threshold, seed, 1, 5, 3))
    assert np.all(np.abs(ours) <= threshold)


def test_the_documents_vectors_hold(plain: SimpleNamespace) -> None:
    (block,) = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    vectors = json.loads(block)
    assert {vector["kind"] for vector in vectors} == {"words", "normal", "uniform", "truncated", "sphere", "label"}
    for vector in vectors:
        kind, values = vector["kind"], vector["values"]
        if kind == "label":
            drawn = draw_labels(pairs(*vector["pairs"]), vector["classes"], vector.get("counts", ()))
            assert drawn.tolist() == values
            continue
        seed, index, stream, step = vector["where"]
        if kind == "words":
            assert [format(word, "016x") for word in plain.words(len(values), *vector["where"])] == values
            continue
        distribution = "normal" if kind == "truncated" else kind
        bounds = {name: vector[name] for name in ("low", "high") if name in vector}
        threshold = np.array([vector["threshold"]]) if kind == "truncated" else None
        noise = Noise(distribution=distribution, stream=stream, **bounds)
        ours = draw(noise, pairs((seed, index)), (len(values),), step, threshold)[0]
        assert nearly_equal(ours, values), vector


def test_a_small_threshold_is_kept_to_without_repeating_values() -> None:
    row = draw(NORMAL, pairs((1, 0)), (128,), truncation=np.array([0.02]))
    assert np.abs(row).max() <= 0.02
    assert len(np.unique(row)) == 128


@pytest.mark.parametrize("noise", [NORMAL, SPHERE, UNIFORM], ids=lambda noise: noise.distribution)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 63, 100, 127, 129, 512, 1001])
def test_a_rows_bits_do_not_depend_on_its_neighbours(noise: Noise, count: int) -> None:
    everyone = pairs(*((41, index) for index in range(37)))
    together = draw(noise, everyone, (count,))
    singles = np.concatenate([draw(noise, everyone[i : i + 1], (count,)) for i in range(37)])
    assert np.array_equal(bits(together), bits(singles))
    for start, stop in ((0, 2), (1, 4), (5, 12), (3, 36)):
        assert np.array_equal(bits(draw(noise, everyone[start:stop], (count,))), bits(together[start:stop]))


@pytest.mark.parametrize("count", [1, 9, 50, 128])
def test_a_truncated_rows_bits_do_not_depend_on_its_neighbours(count: int) -> None:
    everyone = pairs(*((9, index) for index in range(12)))
    thresholds = np.array([0.3, 1.0, math.inf, 2.0, 0.5, 10.0] * 2)
    together = draw(NORMAL, everyone, (count,), truncation=thresholds)
    for row in range(12):
        alone = draw(NORMAL, everyone[row : row + 1], (count,), truncation=thresholds[row : row + 1])
        assert np.array_equal(bits(alone), bits(together[row : row + 1]))
    plain_rows = draw(NORMAL, everyone[[2, 8]], (count,))
    assert np.array_equal(bits(together[[2, 8]]), bits(plain_rows))


@pytest.mark.parametrize("count", [1, 2, 15, 33, 100])
def test_a_longer_row_begins_with_the_shorter_one(count: int) -> None:
    for noise in (NORMAL, UNIFORM):
        longer = draw(noise, pairs((3, 4)), (count + 50,))[:, :count]
        assert np.array_equal(bits(longer.copy()), bits(draw(noise, pairs((3, 4)), (count,))))


def test_seed_index_stream_and_step_each_change_every_value() -> None:
    base = draw(NORMAL, pairs((1, 1)), (20,))
    others = [
        draw(NORMAL, pairs((2, 1)), (20,)),
        draw(NORMAL, pairs((1, 2)), (20,)),
        draw(Noise(stream=1), pairs((1, 1)), (20,)),
        draw(NORMAL, pairs((1, 1)), (20,), step=1),
    ]
    for other in others:
        assert not np.any(base == other)


def test_shapes_are_filled_in_c_order_and_rows_have_their_own_steps() -> None:
    two = pairs((1, 0), (1, 0))
    drawn = draw(NORMAL, two, (2, 3), step=np.array([0, 4]))
    assert (drawn.shape, drawn.dtype, drawn.flags.c_contiguous) == ((2, 2, 3), np.float32, True)
    assert np.array_equal(drawn[0].ravel(), draw(NORMAL, two[:1], (6,))[0])
    assert np.array_equal(drawn[1].ravel(), draw(NORMAL, two[:1], (6,), step=4)[0])
    assert draw(NORMAL, two, ()).shape == (2,)
    assert draw(UNIFORM, pairs(), (4,)).shape == (0, 4)


def test_the_moments_and_quantiles_are_those_of_the_distributions() -> None:
    everyone = pairs(*((2024, index) for index in range(2000)))
    normals = np.sort(draw(NORMAL, everyone, (100,)).ravel().astype(np.float64))
    expected = 0.5 * (1.0 + np.vectorize(math.erf)(normals / math.sqrt(2.0)))
    # Kolmogorov's statistic: 1.63 / sqrt(n) is the 1 % point.
    assert np.abs(expected - np.arange(len(normals)) / len(normals)).max() < 1.63 / math.sqrt(len(normals))
    uniforms = np.sort(draw(UNIFORM, everyone, (100,)).ravel().astype(np.float64))
    assert np.abs((uniforms + 1) / 2 - np.arange(len(uniforms)) / len(uniforms)).max() < 1.63 / math.sqrt(len(uniforms))
    spheres = draw(SPHERE, everyone, (100,)).astype(np.float64)
    assert np.allclose(np.sqrt(np.mean(spheres**2, axis=1)), 1.0, atol=1e-6)
    # Values 2i and 2i + 1 share a radius, and still are independent.
    assert abs(np.corrcoef(*draw(NORMAL, everyone, (2,)).T)[0, 1]) < 4 / math.sqrt(2000)


def test_truncated_normals_are_spread_like_the_middle_of_a_normal() -> None:
    everyone = pairs(*((5, index) for index in range(300)))
    values = draw(NORMAL, everyone, (64,), truncation=np.full(300, 1.0)).ravel().astype(np.float64)
    # Var of N(0,1) given |x| <= 1: 1 - 2 phi(1) / erf(1/sqrt 2) = 0.29112.
    assert abs(values.var() - 0.29112) < 0.006
    assert abs(values.mean()) < 0.016


def test_uniform_never_returns_high_even_where_rounding_would() -> None:
    top = np.full((1, 4), 2**64 - 1, np.uint64)
    for low, high in ((-1.0, 1.0), (0.0, 0.3), (0.7, 0.9)):
        noise = Noise(distribution="uniform", low=low, high=high)
        assert float(np.float32(high)) >= high or float(np.float32(low)) < low
        assert np.all(module._uniform(noise, top).astype(np.float64) < high)
        assert np.all(module._uniform(noise, 0 * top).astype(np.float64) >= low)


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30))
def test_float32_ranges_hold_exactly_the_float32_numbers_inside(one: float, two: float) -> None:
    low, high = min(one, two), max(one, two)
    try:
        first, last = float32_range(low, high)
    except SpecError:
        between = np.nextafter(np.float32(low), np.float32(np.inf), dtype=np.float32)
        assert low == high or float(between) >= high or float(np.float32(low)) < low
        return
    assert low <= float(first) <= float(last) < high
    assert float(np.nextafter(first, np.float32(-np.inf))) < low
    assert float(np.nextafter(last, np.float32(np.inf))) >= high


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.1 + 1e-12), (0.0, math.inf), (-1e39, 0.0)])
def test_uniform_ranges_without_float32_numbers_are_refused(low: float, high: float) -> None:
    with pytest.raises(SpecError, match="uniform noise"):
        float32_range(low, high)


@pytest.mark.parametrize("threshold", [0.0, 0.0199, -1.0, math.nan])
def test_draw_refuses_thresholds_that_would_take_forever(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"0\.02"):
        draw(NORMAL, pairs((1, 1)), (4,), truncation=np.array([threshold]))


def test_labels_are_uniform_and_the_documents(plain: SimpleNamespace) -> None:
    everyone = pairs(*((11, index) for index in range(5000)))
    labels = draw_labels(everyone, 10)
    assert labels.dtype == np.int64
    assert labels[:50].tolist() == [plain.label(10, 11, index) for index in range(50)]
    # Chi-squared with 9 degrees of freedom: 21.67 is the 1 % point.
    assert ((np.bincount(labels, minlength=10) - 500) ** 2 / 500).sum() < 21.67
    assert draw_labels(pairs((2**64 - 1, 5)), 1).tolist() == [0]


# The decoder

Z = Tensor(name="z", dtype="float32", shape=(8,))


def decoder(reads: tuple[str, ...] = ("seed",), tensor: Tensor = Z, **options: Any) -> NoiseDecoder:
    return NoiseDecoder(Input(tensor="z", codec="noise", reads=reads, options=options), tensor, Path())


def test_the_decoder_draws_its_tensor() -> None:
    values = {"seed": [(1, 2), (3, 2**64 - 1)]}
    drawn = decoder(stream=3).decode(values, 2)
    assert np.array_equal(drawn, draw(Noise(stream=3), pairs((1, 2), (3, 2**64 - 1)), (8,)))
    assert np.array_equal(drawn, decoder(stream=3).decode({"seed": pairs((1, 2), (3, 2**64 - 1))}, 2))


def test_the_decoder_truncates_row_by_row_if_asked() -> None:
    both = decoder(reads=("seed", "truncation"))
    drawn = both.decode({"seed": [(1, 0), (1, 0)], "truncation": [0.5, 10.0]}, 2)
    assert np.abs(drawn[0]).max() <= 0.5
    assert np.array_equal(drawn[1], decoder().decode({"seed": [(1, 0)]}, 1)[0])
    assert np.array_equal(both.decode({"seed": [(1, 0)]}, 1), decoder().decode({"seed": [(1, 0)]}, 1))


def test_late_rows_drawn_together_are_those_drawn_alone() -> None:
    both = decoder(reads=("seed", "truncation"))
    asked: list[dict[str, Any]] = [
        {"seed": [(1, 0), (1, 1), (1, 2)], "truncation": [0.5, 10.0, 0.05]},
        {"seed": [(2, 0), (2, 1)]},
        {"seed": [(3, 7)], "truncation": [1.0]},
    ]
    late = [both.late(values, len(values["seed"])) for values in asked]
    alone = [both.decode(values, len(values["seed"])) for values in asked]
    assert [rows.shape for rows in late] == [rows.shape for rows in alone]
    assert np.array_equal(both.make(late), np.concatenate(alone))
    picked = both.make([late[0][1:], late[1][np.array([1, 0])]])
    assert np.array_equal(picked, np.concatenate([alone[0][1:], alone[1][::-1]]))


def test_what_cannot_be_drawn_is_refused_before_it_is_late() -> None:
    with pytest.raises(InvalidArgument):
        decoder(reads=("seed", "truncation")).late({"seed": [(1, 0)], "truncation": [math.nan]}, 1)


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -math.inf, 0.0, 0.019, 10.1])
def test_thresholds_out_of_range_are_named(threshold: float) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decoder(reads=("seed", "truncation")).decode({"seed": [(1, 0)] * 3, "truncation": [1.0, threshold, 1.0]}, 3)
    (violation,) = caught.value.violations
    assert violation.field == "truncation[1]"
    assert f"{threshold} is out of range: expected 0.02 to 10.0" in violation.description


@pytest.mark.parametrize("pair", [(-1, 0), (0, 2**64), (1.5, 0), (1,), (1, 2, 3), 7, "ab"])
def test_seeds_that_are_no_pairs_are_named(pair: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        seed_pairs([(0, 0), pair])
    (violation,) = caught.value.violations
    assert violation.field == "seed[1]"
    assert "2**64 - 1" in violation.description


def test_a_threshold_without_a_seed_is_refused() -> None:
    with pytest.raises(InvalidArgument) as error:
        decoder(reads=("seed", "truncation")).decode({"truncation": [1.0]}, 1)
    assert [violation.field for violation in error.value.violations] == ["seed"]


def test_an_error_names_only_the_first_of_many_wrong_elements() -> None:
    with pytest.raises(InvalidArgument) as caught:
        decoder(reads=("seed", "truncation")).decode({"seed": [(1, 0)] * 100, "truncation": [99.0] * 100}, 100)
    assert len(caught.value.violations) == 9
    assert caught.value.violations[-1].description == "92 more elements are wrong, the last of them truncation[99]"


def test_the_decoder_tells_ranges() -> None:
    assert decoder(reads=("seed", "truncation")).describe() == {
        "seed": {"type": "uint64", "distribution": "normal"},
        "truncation": {"low": 0.02, "high": 10.0, "default": None},
    }
    assert set(decoder().describe()) == {"seed"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"distribution": "cauchy"}, r"cauchy.*distribution"),
        ({"sigma": 2.0}, "sigma"),
        ({"distribution": "uniform", "low": 1.0, "high": 1.0}, "empty"),
        ({"distribution": "uniform", "low": 0.0, "high": math.inf}, "finite"),
        ({"reads": ("label",)}, "reads 'seed'"),
        ({"reads": ("seed", "label")}, "reads 'seed'"),
        ({"reads": ("seed", "truncation"), "distribution": "sphere"}, "nothing else"),
        ({"tensor": Tensor(name="z", dtype="float32", shape=("n",))}, "fixed shape"),
        ({"tensor": Tensor(name="z", dtype="int64", shape=(4,))}, "int64"),
    ],
)
def test_a_decoder_that_cannot_work_is_refused_when_made(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        decoder(**fault)

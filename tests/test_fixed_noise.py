from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganserve.codecs.fixed_noise import FixedNoiseDecoder
from ganserve.codecs.seeds import draw
from ganserve.errors import InvalidArgument, SpecError
from ganserve.spec import Input, Noise, Tensor


def decoder(
    dtype: Any = "float32",
    shape: tuple[int | str, ...] = (5,),
    reads: tuple[str, ...] = ("noise_seed",),
    **options: Any,
) -> FixedNoiseDecoder:
    source = Input(tensor="noise", codec="fixed-noise", reads=reads, optional=True, options={"stream": 1} | options)
    return FixedNoiseDecoder(source, Tensor(name="noise", dtype=dtype, shape=shape), Path())


def drawn(*seeds: int) -> np.ndarray:
    return draw(Noise(stream=1), np.array([(seed, 0) for seed in seeds], np.uint64), (5,))


def test_without_a_seed_every_row_has_the_default_ones_noise() -> None:
    assert np.array_equal(decoder().decode({}, 3), np.repeat(drawn(0), 3, axis=0))
    assert np.array_equal(decoder(default=7).decode({}, 2), np.repeat(drawn(7), 2, axis=0))


def test_a_seed_a_row_draws_that_rows_noise() -> None:
    assert np.array_equal(decoder().decode({"noise_seed": [4.0, 2**53]}, 2), drawn(4, 2**53))


def test_the_latents_of_a_seed_share_no_number_with_its_noise() -> None:
    latent = draw(Noise(stream=0), np.array([(4, 0)], np.uint64), (5,))
    assert not np.isin(decoder().decode({"noise_seed": [4.0]}, 1), latent).any()


@pytest.mark.parametrize("seed", [-1.0, 0.5, 2.0**54, float("nan"), float("inf")])
def test_what_is_no_seed_is_refused_by_name(seed: float) -> None:
    with pytest.raises(
        InvalidArgument, match=r"noise_seed\[1\]: .* expected a whole number from 0 to 9007199254740992"
    ):
        decoder().decode({"noise_seed": [1.0, seed]}, 2)


def test_the_decoder_tells_its_range_and_default() -> None:
    assert decoder(default=3).describe() == {"noise_seed": {"low": 0, "high": 2**53, "default": 3}}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"dtype": "uint8"}, "float32 of a fixed shape"),
        ({"shape": ("height",)}, "float32 of a fixed shape"),
        ({"reads": ("seed", "truncation")}, "one value"),
        ({"default": -1}, "option default is -1"),
        ({"distribution": "uniform", "low": 0.0, "high": 1e39}, "finite in float32"),
        ({"stddev": 1.0}, "stddev"),
    ],
)
def test_a_decoder_that_cannot_work_is_refused_when_made(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        decoder(**fault)

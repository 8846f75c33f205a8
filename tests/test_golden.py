"""What an engine may differ by from the golden rows: errors just within each bound pass, errors just beyond it do not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from ganserve.bundle import Bundle, ExportedGraph, read
from ganserve.engines import Precision, Session
from ganserve.errors import GoldenError
from ganserve.golden import FP32_FLOAT, GREY_LEVEL, TOLERANCES, check, size


@pytest.fixture(scope="module")
def bundle(echo: Path) -> Bundle:
    return read(echo)


class Wrong:
    """An engine that makes the golden rows of ``graph``, with ``errors`` added to their output ``name``."""

    def __init__(self, bundle: Bundle, graph: ExportedGraph, name: str, errors: np.ndarray) -> None:
        arrays = bundle.golden()
        self.made = {tensor.name: arrays[f"{graph.name}.{tensor.name}"] for tensor in graph.outputs}
        right = self.made[name]
        if right.dtype == np.uint8:
            # Errors in the direction where there is room for them.
            self.made[name] = np.where(right > 127, right - errors, right + errors).astype(np.uint8)
        else:
            self.made[name] = (right + errors).astype(right.dtype)

    def upload(self, array: np.ndarray) -> np.ndarray:
        return array

    def run(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str]) -> Mapping[str, np.ndarray]:
        return {name: self.made[name] for name in wanted}

    def download(self, value: np.ndarray) -> np.ndarray:
        return value


def checked(bundle: Bundle, name: str, output: str, errors: np.ndarray, precision: Precision) -> float:
    graph = next(graph for graph in bundle.manifest.graphs if graph.name == name)
    return check(bundle, graph, cast("Session", Wrong(bundle, graph, output, errors)), precision)


def some(shape: Sequence[int], share: float, error: float) -> np.ndarray:
    """Zeros, of which the first ``share`` are ``error``."""
    errors = np.zeros(int(np.prod(shape)))
    errors[: round(share * errors.size)] = error
    return errors.reshape(shape)


def shape_of(bundle: Bundle, name: str) -> tuple[int, ...]:
    return cast("tuple[int, ...]", bundle.golden()[name].shape)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_pixels_may_be_off_by_so_many_grey_levels_on_average(bundle: Bundle, precision: Precision) -> None:
    shape, allowed = shape_of(bundle, "synthesis.image"), TOLERANCES[precision]
    most = int(allowed.mean * np.prod(shape))  # so many pixels may be off by one
    wrong = np.zeros(shape)
    wrong.flat[:most] = 1
    assert checked(bundle, "synthesis", "image", wrong, precision) == 1
    wrong.flat[most if most < wrong.size else 0] += 1
    with pytest.raises(GoldenError, match=rf"{precision} allows {allowed.most:.3g} \(mean {allowed.mean:.3g},"):
        checked(bundle, "synthesis", "image", wrong, precision)


def test_in_fp32_no_pixel_may_be_off_by_two(bundle: Bundle) -> None:
    # Of so many that one does not show at the 99.9th percentile.
    shape = shape_of(bundle, "negative.result")
    one = 1 / np.prod(shape)
    assert checked(bundle, "negative", "result", some(shape, one, 1), "fp32") == 1
    with pytest.raises(GoldenError, match="differ by 2 grey levels"):
        checked(bundle, "negative", "result", some(shape, one, 2), "fp32")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(("graph", "output"), [("synthesis", "image"), ("mapping", "w")])
def test_one_value_in_a_thousand_may_be_further_off_in_half_precision(
    bundle: Bundle, precision: Precision, graph: str, output: str
) -> None:
    right = bundle.golden()[f"{graph}.{output}"]
    # Grey levels are of images in bytes, or on [-1, 1]; other numbers are taken relative to the largest of them.
    level = 1.0 if right.dtype == np.uint8 else GREY_LEVEL * size(right)
    few = some(right.shape, 0.05, 7.9 * level)
    assert checked(bundle, graph, output, few if level < 1 else np.floor(few), precision) <= 8
    with pytest.raises(GoldenError, match=r"p99\.9 (8|9).*allows 255 \(mean 1, p99\.9 8\)"):
        checked(bundle, graph, output, some(right.shape, 0.05, 9 * level), precision)


def test_a_float_in_fp32_may_be_off_by_a_thousandth_of_the_largest(bundle: Bundle) -> None:
    right = bundle.golden()["mapping.w"]
    within, beyond = (some(right.shape, 1 / right.size, share * FP32_FLOAT * size(right)) for share in (0.99, 1.01))
    assert checked(bundle, "mapping", "w", within, "fp32") == pytest.approx(0.99 * FP32_FLOAT / GREY_LEVEL, rel=0.01)
    with pytest.raises(GoldenError, match=r"at most 0\.001 is allowed"):
        checked(bundle, "mapping", "w", beyond, "fp32")


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_no_number_is_refused_in_every_precision(bundle: Bundle, precision: Precision, number: float) -> None:
    with pytest.raises(GoldenError, match="NaN or infinity"):
        checked(bundle, "mapping", "w", some(shape_of(bundle, "mapping.w"), 0.1, number), precision)


def test_whole_numbers_must_be_equal(bundle: Bundle) -> None:
    graph, name = next(
        (graph.name, tensor.name)
        for graph in bundle.manifest.graphs
        for tensor in graph.outputs
        if tensor.dtype in ("int32", "int64", "bool")
    )
    shape = shape_of(bundle, f"{graph}.{name}")
    assert checked(bundle, graph, name, np.zeros(shape), "bf16") == 0
    arrays = bundle.golden()[f"{graph}.{name}"]
    flipped = some(shape, 1 / arrays.size, 1) * (1 - 2 * arrays.astype(float))
    with pytest.raises(GoldenError, match=r"1 of .* golden values differ; integers must be equal"):
        checked(bundle, graph, name, flipped, "bf16")

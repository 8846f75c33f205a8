"""What an engine may differ by from the golden rows: errors just within each bound pass, errors just beyond it do not."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pytest

from ganserve.bundle import Bundle, ExportedGraph, read
from ganserve.engines import Precision, Session
from ganserve.errors import GoldenError
from ganserve.golden import FP32_FLOAT, GREY_LEVEL, TOLERANCES, check, size
from ganserve.testing.echo import write_bundle


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read(write_bundle(tmp_path_factory.mktemp("bundles") / "echo"))


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


def checked(echo: Bundle, name: str, output: str, errors: np.ndarray, precision: Precision) -> float:
    graph = next(graph for graph in echo.manifest.graphs if graph.name == name)
    return check(echo, graph, cast("Session", Wrong(echo, graph, output, errors)), precision)


def some(shape: Sequence[int], share: float, error: float) -> np.ndarray:
    """Zeros, of which the first ``share`` are ``error``."""
    errors = np.zeros(int(np.prod(shape)))
    errors[: round(share * errors.size)] = error
    return errors.reshape(shape)


def shape_of(echo: Bundle, name: str) -> tuple[int, ...]:
    return cast("tuple[int, ...]", echo.golden()[name].shape)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_pixels_may_be_off_by_so_many_grey_levels_on_average(echo: Bundle, precision: Precision) -> None:
    shape, allowed = shape_of(echo, "synthesis.image"), TOLERANCES[precision]
    count = int(np.prod(shape))
    within = np.floor(allowed.mean * count) / count
    assert checked(echo, "synthesis", "image", some(shape, within, 1), precision) == 1
    with pytest.raises(
        GoldenError, match=rf"\(mean .*; {precision} allows {allowed.most:.3g} \(mean {allowed.mean:.3g},"
    ):
        checked(
            echo,
            "synthesis",
            "image",
            some(shape, within + 1 / count, 1) if within < 1 else some(shape, 1, 2),
            precision,
        )


def test_in_fp32_no_pixel_may_be_off_by_two(echo: Bundle) -> None:
    # Of so many that one does not show at the 99.9th percentile.
    shape = shape_of(echo, "negative.result")
    one = 1 / np.prod(shape)
    assert checked(echo, "negative", "result", some(shape, one, 1), "fp32") == 1
    with pytest.raises(GoldenError, match="differ by 2 grey levels"):
        checked(echo, "negative", "result", some(shape, one, 2), "fp32")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(("graph", "output"), [("synthesis", "image"), ("mapping", "w")])
def test_one_value_in_a_thousand_may_be_further_off_in_half_precision(
    echo: Bundle, precision: Precision, graph: str, output: str
) -> None:
    right = echo.golden()[f"{graph}.{output}"]
    # Grey levels are of images in bytes, or on [-1, 1]; other numbers are taken relative to the largest of them.
    level = 1.0 if right.dtype == np.uint8 else GREY_LEVEL * size(right)
    few = some(right.shape, 0.05, 7.9 * level)
    assert checked(echo, graph, output, few if level < 1 else np.floor(few), precision) <= 8
    with pytest.raises(GoldenError, match=r"p99\.9 (8|9).*allows 255 \(mean 1, p99\.9 8\)"):
        checked(echo, graph, output, some(right.shape, 0.05, 9 * level), precision)


def test_a_float_in_fp32_may_be_off_by_a_thousandth_of_the_largest(echo: Bundle) -> None:
    right = echo.golden()["mapping.w"]
    for share in (0.99, 1.01):
        errors = some(right.shape, 1 / right.size, share * FP32_FLOAT * size(right))
        if share < 1:
            assert checked(echo, "mapping", "w", errors, "fp32") == pytest.approx(
                share * FP32_FLOAT / GREY_LEVEL, rel=0.01
            )
        else:
            with pytest.raises(GoldenError, match=r"at most 0\.001 is allowed"):
                checked(echo, "mapping", "w", errors, "fp32")


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_no_number_is_refused_in_every_precision(echo: Bundle, precision: Precision, number: float) -> None:
    with pytest.raises(GoldenError, match="NaN or infinity"):
        checked(echo, "mapping", "w", some(shape_of(echo, "mapping.w"), 0.1, number), precision)


def test_whole_numbers_must_be_equal(echo: Bundle) -> None:
    graph, name = next(
        (graph.name, tensor.name)
        for graph in echo.manifest.graphs
        for tensor in graph.outputs
        if tensor.dtype in ("int32", "int64", "bool")
    )
    shape = shape_of(echo, f"{graph}.{name}")
    assert checked(echo, graph, name, np.zeros(shape), "bf16") == 0
    arrays = echo.golden()[f"{graph}.{name}"]
    flipped = some(shape, 1 / arrays.size, 1) * (1 - 2 * arrays.astype(float))
    with pytest.raises(GoldenError, match=r"1 of .* golden values differ; integers must be equal"):
        checked(echo, graph, name, flipped, "bf16")

"""Golden rows: an engine proves itself on a bundle, graph by graph, before it may serve.

A bundle stores a few input rows and what torch made of them. Engines have been seen to run a network right and its gradient
wrong; no declaration replaces this test.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from ganserve.bundle import Bundle, ExportedGraph
from ganserve.codecs.seeds import draw
from ganserve.engines import Precision, Session
from ganserve.errors import GoldenError
from ganserve.spec import Tensor

GREY_LEVEL = 2 / 255
"""One uint8 step, on the [-1, 1] scale of float images."""


class Tolerance(msgspec.Struct, frozen=True):
    """What an engine may differ by, in grey levels of 255 on [-1, 1]: at most, on average, and at the 99.9th percentile."""

    most: float
    mean: float
    p999: float


TOLERANCES: Mapping[Precision, Tolerance] = {
    # 1e-3 on [-1, 1] is an eighth of a grey level, which rounding to uint8 may turn into one.
    "fp32": Tolerance(most=1.0, mean=0.13, p999=1.0),
    "bf16": Tolerance(most=255.0, mean=1.0, p999=8.0),
    "fp16": Tolerance(most=255.0, mean=1.0, p999=8.0),
}
FP32_FLOAT = 1e-3
"""The most that a float output may differ by in fp32, relative to its largest golden value."""


def check(bundle: Bundle, graph: ExportedGraph, session: Session, precision: Precision) -> float:
    """Run the golden rows of ``graph``; the largest error in grey levels, or :class:`GoldenError` with both numbers."""
    arrays = bundle.golden()
    names = [tensor.name for tensor in graph.outputs]
    made = session.run({name: session.upload(array) for name, array in inputs(bundle, graph).items()}, names)
    worst = 0.0
    for tensor in graph.outputs:
        found = session.download(made[tensor.name])
        worst = max(worst, _compare(graph, tensor, found, arrays[f"{graph.name}.{tensor.name}"], precision))
    return worst


def size(expected: np.ndarray) -> float:
    """What errors of a float output are relative to: the largest of the ``expected`` values, or 1 where all are zero.

    A gradient may be a thousand times smaller than an image, and a style w larger: an absolute bound would pass the one even if it
    were all wrong, and refuse the other for rounding.
    """
    return float(np.abs(expected.astype(np.float64)).max(initial=0.0)) or 1.0


def inputs(bundle: Bundle, graph: ExportedGraph) -> dict[str, np.ndarray]:
    """The golden rows that go into ``graph``, by input name."""
    arrays = bundle.golden()
    return {tensor.name: _input(bundle, graph, tensor, arrays) for tensor in graph.inputs}


def _input(bundle: Bundle, graph: ExportedGraph, tensor: Tensor, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    golden = bundle.manifest.golden
    noise = golden.noise.get(graph.name, {}).get(tensor.name)
    if noise is None:
        return arrays[f"{graph.name}.{tensor.name}"]
    seeds = np.array([(golden.seed, row) for row in range(golden.rows)], np.uint64)
    return draw(noise, seeds, tuple(size for size in tensor.shape if isinstance(size, int)))


def _compare(
    graph: ExportedGraph, tensor: Tensor, found: np.ndarray, expected: np.ndarray, precision: Precision
) -> float:
    where = f"graph {graph.name!r}, output {tensor.name!r}"
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise GoldenError(
            f"{where}: golden rows are {expected.dtype}{list(expected.shape)}, the engine made {found.dtype}{list(found.shape)}"
        )
    if tensor.dtype in ("int32", "int64", "bool"):
        if wrong := int((found != expected).sum()):
            raise GoldenError(f"{where}: {wrong} of {expected.size} golden values differ; integers must be equal")
        return 0.0
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    if not np.isfinite(difference).all():
        raise GoldenError(f"{where}: the engine made NaN or infinity from golden rows")
    if tensor.dtype != "uint8":
        difference /= size(expected)
    if tensor.dtype == "float32" and precision == "fp32":
        apart = float(difference.max())
        if apart > FP32_FLOAT:
            raise GoldenError(
                f"{where}: golden rows differ by {apart:.3g} of their largest value, at most {FP32_FLOAT} is allowed"
            )
        return apart / GREY_LEVEL
    levels = difference if tensor.dtype == "uint8" else difference / GREY_LEVEL
    most, mean, p999 = float(levels.max()), float(levels.mean()), float(np.quantile(levels, 0.999))
    allowed = TOLERANCES[precision]
    if most > allowed.most or mean > allowed.mean or p999 > allowed.p999:
        raise GoldenError(
            f"{where}: golden rows differ by {most:.3g} grey levels (mean {mean:.3g}, p99.9 {p999:.3g}); {precision} allows "
            f"{allowed.most:.3g} (mean {allowed.mean:.3g}, p99.9 {allowed.p999:.3g})"
        )
    return most

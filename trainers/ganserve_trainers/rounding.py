"""What storing weights in half precision costs: the images of the rounded networks beside those of the trained ones."""

from collections.abc import Mapping

import numpy as np

from ganserve.errors import ExportError
from ganserve.golden import TOLERANCES
from ganserve.spec import Spec
from ganserve_trainers.examples import Examples


def rounding_error(
    spec: Spec, trained: Mapping[str, Examples], rounded: Mapping[str, Examples]
) -> dict[str, float] | None:
    """By how many grey levels the bytes of images differ: at ``most``, on average (``mean``) and at the 99.9th percentile (``p999``).

    That of the graph in which they differ most on average; None where no graph makes bytes. Raises :class:`ExportError` where that is more
    than an engine in half precision may differ by (:data:`ganserve.golden.TOLERANCES`).
    """
    allowed, worst = TOLERANCES["fp16"], None
    for graph in spec.graphs:
        for tensor in graph.outputs:
            if tensor.dtype != "uint8":
                continue
            before, after = (made[graph.name].outputs[tensor.name].astype(np.int16) for made in (trained, rounded))
            levels = np.abs(after - before)
            found = {
                "most": float(levels.max()),
                "mean": float(levels.mean()),
                "p999": float(np.quantile(levels, 0.999)),
            }
            if found["mean"] > allowed.mean or found["p999"] > allowed.p999:
                raise ExportError(
                    f"graph {graph.name!r}, output {tensor.name!r}: weights in half precision change its images by {found['mean']:.3g} grey levels on "
                    f"average (p99.9 {found['p999']:.3g}), at most {allowed.mean:.3g} ({allowed.p999:.3g}) are allowed; export without half precision"
                )
            if worst is None or found["mean"] > worst["mean"]:
                worst = found
    return worst

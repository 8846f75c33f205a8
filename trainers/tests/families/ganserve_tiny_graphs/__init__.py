"""The tiny graphs on which engines are tested, as a family: for an engine that runs a family's own modules."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ganserve import hookimpl
from ganserve.spec import Codec, Family, Input, Output, Spec, Step, Task, Tensor
from ganserve.testing.graphs import MAPPING, SYNTHESIS, TRANSLATION, TYPES

GRAPHS = (TYPES, MAPPING, SYNTHESIS, TRANSLATION)


class Rows:
    """Example rows of any type and shape; a free size is 8."""

    def __init__(self, source: Input, tensor: Tensor, folder: object) -> None:
        self.tensor = tensor

    def example(self, pairs: np.ndarray) -> np.ndarray:
        shape = (len(pairs), *(8 if isinstance(size, str) else size for size in self.tensor.shape))
        random = np.random.default_rng(0)
        if self.tensor.dtype == "float32":
            return random.standard_normal(shape, np.float32)
        return random.integers(0, {"uint8": 256, "bool": 2}.get(self.tensor.dtype, 9), shape).astype(self.tensor.dtype)


def spec(config: Mapping[str, Any]) -> Spec:
    return Spec(
        graphs=GRAPHS,
        tasks=tuple(
            Task(
                name=graph.name,
                kind="sample",
                inputs=tuple(Input(tensor=tensor.name, codec="rows", reads=("seed",)) for tensor in graph.inputs),
                steps=(Step(graph=graph.name),),
                output=Output(tensor=graph.outputs[0].name, codec="array"),
            )
            for graph in GRAPHS
        ),
    )


@hookimpl
def ganserve_codecs() -> Iterable[Codec]:
    return [Codec(name="rows", summary="rows for the tiny graphs", decode="ganserve_tiny_graphs:Rows")]


@hookimpl
def ganserve_families() -> Iterable[Family]:
    return [
        Family(
            name="tiny-graphs",
            summary="the graphs on which engines are tested",
            paper="none",
            presets={"tiny": {}},
            spec=spec,
            build="ganserve_tiny_graphs.network:build",
            train="ganserve_tiny_graphs.network:build",
            export="ganserve_tiny_graphs.network:export",
        )
    ]

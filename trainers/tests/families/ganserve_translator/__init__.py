"""A translation of 8×8 images by one convolution, on pairs or on two domains, with a history of what it made."""

from collections.abc import Iterable, Mapping
from typing import Any

from ganserve import hookimpl
from ganserve.spec import Family, Graph, Input, Output, Spec, Step, Task, Tensor

PAIRS: Mapping[str, Any] = {
    "image": (8, 8, 3), "data": "pairs", "direction": "a2b", "compares": "b", "batch": 4, "kimg": 0.16,
    "lr": 0.1, "decay": True, "constant": False,
}  # fmt: skip


def spec(config: Mapping[str, Any]) -> Spec:
    image = Tensor(name="image", dtype="uint8", shape=tuple(config["image"]))
    result = Tensor(name="result", dtype="uint8", shape=tuple(config["image"]))
    task = Task(
        name="a2b",
        kind="translate",
        inputs=(Input(tensor="image", codec="image", reads=("image",)),),
        steps=(Step(graph="translator"),),
        output=Output(tensor="result", codec="image"),
    )
    return Spec(graphs=(Graph(name="translator", inputs=(image,), outputs=(result,)),), tasks=(task,))


@hookimpl
def ganserve_families() -> Iterable[Family]:
    return [
        Family(
            name="translator",
            summary="one convolution",
            paper="none",
            presets={"tiny": PAIRS, "domains": {**PAIRS, "data": "domains"}},
            spec=spec,
            build="ganserve_translator.network:build",
            train="ganserve_translator.network:train",
            export="ganserve_translator.network:build",
        )
    ]

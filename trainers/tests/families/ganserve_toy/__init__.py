"""A GAN of two dense layers on 8×8 images, loaded from its folder like any stranger's plugin."""

from collections.abc import Iterable, Mapping
from typing import Any

from ganserve import hookimpl
from ganserve.spec import Family, Graph, Input, Output, Spec, Step, Task, Tensor

TINY: Mapping[str, Any] = {
    "image": (8, 8, 1), "batch": 16, "kimg": 1.0, "z": 8, "hidden": 64, "dropout": 0.0, "classes": 0,
    "d_steps": 1, "lr": 2e-3, "ema": 0.5, "clip": None, "sabotage": "",
}  # fmt: skip


def spec(config: Mapping[str, Any]) -> Spec:
    z = Tensor(name="z", dtype="float32", shape=(config["z"],))
    image = Tensor(name="image", dtype="uint8", shape=tuple(config["image"]))
    seed = Input(tensor="z", codec="noise", reads=("seed",))
    task = Task(
        name="sample",
        kind="sample",
        inputs=(seed,),
        steps=(Step(graph="generator"),),
        output=Output(tensor="image", codec="image"),
    )
    return Spec(graphs=(Graph(name="generator", inputs=(z,), outputs=(image,)),), tasks=(task,))


@hookimpl
def ganserve_families() -> Iterable[Family]:
    return [
        Family(
            name="toy",
            summary="two dense layers against two",
            paper="none",
            presets={"tiny": TINY, "dropout": {**TINY, "dropout": 0.3, "d_steps": 2, "clip": 1.0}},
            spec=spec,
            build="ganserve_toy.network:build",
            train="ganserve_toy.network:train",
            export="ganserve_toy.network:build",
        )
    ]

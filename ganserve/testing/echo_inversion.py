"""The echo of an inversion: a generator that is linear in its latent, and the graph that seeks the latent of a picture.

Everything can be said by hand: pictures are 127.5 + W·z (:func:`image_of`), so that the gradient of the loss is analytic, the best
latent is known, and :func:`search_of` is the whole search in numpy. Tasks of the bundle:

- ``sample``: seed, psi → ``start`` (sample = psi·z) → ``paint``.
- ``invert``: a picture → a latent. It may start from the average (zeros), from samples, and, unless left out, from what
  ``encode`` makes of the picture, which is the very latent where no pixel was saturated.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np

from ganserve.codecs.seeds import draw
from ganserve.inversion import inversion, invert_graph, invert_inputs, invert_loop
from ganserve.spec import Graph, Input, Latent, Noise, Output, Step, Task, Tensor
from ganserve.testing.echo import GOLDEN_ROWS, write_by_hand
from ganserve.testing.echo_inversion_graphs import (
    BETA1,
    BETA2,
    COOL,
    EPSILON,
    INVERSE,
    PIXELS,
    SHAPE,
    SIZE,
    WARM,
    WAVES,
    encode_body,
    invert_body,
    paint_body,
    start_body,
)

Start: TypeAlias = Literal["average", "samples", "encoder"]

STEPS, RATE = 100, 0.1
"""Steps and learning rate of a search by default."""

NOISE = Noise(distribution="normal", stream=11)


def image_of(latents: np.ndarray) -> np.ndarray:
    """What ``paint`` makes of ``latents`` [n, 4]: uint8 [n, 16, 16, 3], the levels rounded and saturated."""
    return _painted(_levels(latents))


class Found(NamedTuple):
    """What a search has after its last step: the best of the latents it looked at, that one's loss, and the loss of each step."""

    latent: np.ndarray
    loss: float
    losses: Sequence[float]


def search_of(
    target: np.ndarray, start: np.ndarray, steps: int = STEPS, rate: float = RATE, *, until: int | None = None
) -> Found:
    """The search for ``target`` uint8 [16, 16, 3] from ``start`` [4], ended after the step ``until`` (all, by default)."""
    x, best = start.astype(np.float32), start.astype(np.float32)
    first = second = np.zeros(SIZE, np.float32)
    best_loss, losses = math.inf, []
    for step in range(steps if until is None else until):
        made = _step(target[None], x[None], first[None], second[None], np.float32(rate), step, steps)
        loss = float(made["loss"][0])
        losses.append(loss)
        if loss < best_loss:
            best, best_loss = x, loss
        x, first, second = made["x_next"][0], made["first_next"][0], made["second_next"][0]
    return Found(best, best_loss, losses)


def write_inversion_bundle(
    folder: Path, *, name: str = "echo-inversion", version: int = 1, encoder: bool = True
) -> Path:
    """Write the bundle into ``folder`` (made if missing) and return it."""
    bodies = {"start": start_body(), "paint": paint_body(), "encode": encode_body(), "invert": invert_body()}
    graphs = [graph for graph in _GRAPHS if encoder or graph.name != "encode"]
    return write_by_hand(
        folder,
        name=name,
        version=version,
        graphs=graphs,
        bodies=bodies,
        tasks=(_sample_task(), _invert_task(encoder)),
        golden={name: array for name, array in _golden().items() if encoder or not name.startswith("encode.")},
    )


def _latent(name: str) -> Tensor:
    return Tensor(name=name, dtype="float32", shape=(SIZE,))


def _picture(name: str) -> Tensor:
    return Tensor(name=name, dtype="uint8", shape=SHAPE)


_SEARCH = invert_graph(_latent("z"), _picture("image"))

_GRAPHS = (
    Graph(
        name="start",
        inputs=(_latent("noise"), Tensor(name="psi", dtype="float32")),
        outputs=(_latent("sample"), _latent("average")),
    ),
    Graph(name="paint", inputs=(_latent("z"),), outputs=(_picture("image"),)),
    Graph(name="encode", inputs=(_picture("target"),), outputs=(_latent("encoded"),)),
    msgspec.structs.replace(_SEARCH, outputs=(*_SEARCH.outputs, Tensor(name="perceptual", dtype="float32"))),
)

_LATENTS = (Latent(tensor="z", walk="slerp"),)
_DRAWN = (
    Input(tensor="noise", codec="noise", reads=("seed",), options={"stream": NOISE.stream}),
    Input(tensor="psi", codec="number", reads=("psi",), options={"low": 0, "high": 2, "default": 1.0}, optional=True),
)


def _sample_task() -> Task:
    return Task(
        name="sample",
        kind="sample",
        inputs=_DRAWN,
        steps=(Step(graph="start", outputs={"sample": "z"}), Step(graph="paint")),
        output=Output(tensor="image", codec="image"),
        latents=_LATENTS,
    )


def _invert_task(encoder: bool) -> Task:
    starts: dict[Start, str] = {"average": "average", "samples": "sample"}
    if encoder:
        starts["encoder"] = "encoded"
    encode = (Step(graph="encode"),) if encoder else ()
    return Task(
        name="invert",
        kind="invert",
        inputs=(*invert_inputs(RATE, steps=STEPS), *_DRAWN),
        steps=(Step(graph="start"), *encode, invert_loop("z"), Step(graph="paint")),
        output=Output(tensor="image", codec="image"),
        latents=_LATENTS,
        inversion=inversion("z", starts),
    )


def _levels(latents: np.ndarray) -> np.ndarray:
    levels: np.ndarray = (latents.astype(np.float32)[:, None, :] * WAVES).sum(axis=2) + np.float32(127.5)
    return levels


def _painted(levels: np.ndarray) -> np.ndarray:
    painted: np.ndarray = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return painted.reshape(-1, *SHAPE)


def _encoded(targets: np.ndarray) -> np.ndarray:
    levels = targets.reshape(-1, 1, PIXELS).astype(np.float32) - np.float32(127.5)
    encoded: np.ndarray = (levels * INVERSE).sum(axis=2)
    return encoded


def _step(
    target: np.ndarray,
    x: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    rate: np.float32,
    step: int,
    steps: int,
) -> dict[str, np.ndarray]:
    """One step of rows that share ``rate``, ``step`` and ``steps``."""
    levels = _levels(x)
    apart = (levels - target.reshape(len(x), PIXELS)) / np.float32(127.5)
    gradient = (apart[:, :, None] * WAVES).mean(axis=1) * np.float32(2 / 127.5)
    first = (BETA1 * first + (1 - BETA1) * gradient).astype(np.float32)
    second = (BETA2 * second + (1 - BETA2) * gradient**2).astype(np.float32)
    cooled = min(1.0, (1 - step / steps) / COOL)
    speed = rate * min(1.0, (step + 1) / steps / WARM) * (0.5 - 0.5 * math.cos(math.pi * cooled))
    move = first / (1 - BETA1 ** (step + 1)) / (np.sqrt(second / (1 - BETA2 ** (step + 1))) + EPSILON)
    return {
        "x_next": (x - speed * move).astype(np.float32),
        "first_next": first,
        "second_next": second,
        "loss": (apart**2).mean(axis=1),
        "perceptual": np.abs(apart).mean(axis=1),
        "preview": _painted(levels),
    }


def _golden() -> dict[str, np.ndarray]:
    """Each graph's rows; those of the search are at step 7 of 20, with moments and a best that are not those of the start."""
    pairs = np.array([(0, row) for row in range(GOLDEN_ROWS)], np.uint64)
    noise = draw(NOISE, pairs, (SIZE,))
    psi = np.linspace(0.5, 1.0, GOLDEN_ROWS, dtype=np.float32)
    z = noise * psi[:, None]
    image = image_of(z)
    target = image[::-1]
    first, second = np.float32(0.01) * noise, np.float32(0.001) * noise**2
    made = _step(target, z, first, second, np.float32(RATE), 7, 20)
    # The first row finds a better latent, the others do not.
    best_loss = made["loss"] * np.array([2.0, *[0.5] * (GOLDEN_ROWS - 1)], np.float32)
    better = made["loss"] < best_loss
    made["best_next"] = np.where(better[:, None], z, noise)
    made["best_loss_next"] = np.where(better, made["loss"], best_loss)
    reads = {"target": target, "x": z, "first": first, "second": second, "best": noise, "best_loss": best_loss}
    reads |= {"step": np.full(GOLDEN_ROWS, 7), "steps": np.full(GOLDEN_ROWS, 20)}
    reads |= {"rate": np.full(GOLDEN_ROWS, RATE, np.float32)}
    return {
        "start.noise": noise,
        "start.psi": psi,
        "start.sample": z,
        "start.average": np.zeros_like(z),
        "paint.z": z,
        "paint.image": image,
        "encode.target": target,
        "encode.encoded": _encoded(target),
        **{f"invert.{name}": array for name, array in (reads | made).items()},
    }

"""The records of a task of kind ``invert``, so that a family declares inversion in a few lines.

One run of the graph is one step of Adam (Kingma & Ba, 2015) on the latent, with the gradient inside; ``ganserve_trainers.inversion``
has its torch module. The loop feeds it back, row by row.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from ganserve.spec import Graph, Input, Inversion, Loop, Tensor

GRAPH = "invert"
"""What the step's graph is called, and the task."""

START = "start"
"""The task tensor that the search starts from."""

MAX_STEPS = 2000
"""The most steps that a caller may ask for."""

_STATE = {
    "x_next": "x",
    "first_next": "first",
    "second_next": "second",
    "best_next": "best",
    "best_loss_next": "best_loss",
}


def invert_graph(latent: Tensor, image: Tensor, extras: Sequence[Tensor] = (), *, tied: bool = False) -> Graph:
    """The graph of one step on latents like ``latent`` whose pictures are like ``image``, uint8 [H, W, C].

    ``extras`` are what the generator reads besides the latent, called as there. With ``tied`` there is an input of that name, float32
    a row: 1 gives all layers of the latent one gradient, so that they stay equal if they were (a style of W), 0 each its own (W+).

    Inputs besides: ``target`` is the picture sought, ``x`` the latent of the moment, ``first`` and ``second`` Adam's moments, ``best``
    and ``best_loss`` the best so far, ``step`` the step's number from 0, ``steps`` how many there will be, ``rate`` the learning rate.
    At step 0 the moments and the best are not read. Outputs: the next state; ``loss`` and ``preview`` are of ``x``, before the update.
    """

    def like(name: str) -> Tensor:
        return Tensor(name=name, dtype="float32", shape=latent.shape)

    def picture(name: str) -> Tensor:
        return Tensor(name=name, dtype="uint8", shape=image.shape)

    def number(name: str) -> Tensor:
        return Tensor(name=name, dtype="float32")

    def count(name: str) -> Tensor:
        return Tensor(name=name, dtype="int64")

    return Graph(
        name=GRAPH,
        inputs=(
            *(picture("target"), like("x"), like("first"), like("second"), like("best"), number("best_loss")),
            *(count("step"), count("steps"), number("rate"), *([number("tied")] if tied else []), *extras),
        ),
        outputs=(
            *(like("x_next"), like("first_next"), like("second_next"), like("best_next"), number("best_loss_next")),
            *(number("loss"), picture("preview")),
        ),
    )


def invert_loop(latent: str, inputs: Mapping[str, str] | None = None) -> Loop:
    """The loop over :func:`invert_graph` from the tensor :data:`START` to ``latent``; ``inputs`` binds what the generator reads besides."""
    begun = {**dict.fromkeys(("x", "first", "second", "best"), START), "best_loss": "rate"}
    return Loop(
        graph=GRAPH,
        state=_STATE,
        steps="steps",
        max_steps=MAX_STEPS,
        counter="step",
        limit="steps",
        inputs={**begun, **(inputs or {})},
        # Of the last picture the loop has a loss too; the one that counts is that of the best.
        outputs={"best_next": latent, "best_loss_next": "loss", "loss": "last_loss"},
    )


def invert_inputs(rate: float, *, steps: int = 300, tied: bool | None = None) -> tuple[Input, ...]:
    """What a caller says of every search: the picture, ``steps``, the learning ``rate`` and, if it is not None, ``tied``; defaults as given."""
    numbers: dict[str, dict[str, float]] = {
        "steps": {"low": 1, "high": MAX_STEPS, "default": steps},
        "rate": {"low": 1e-5, "high": 10.0, "default": rate},
        **({} if tied is None else {"tied": {"low": 0, "high": 1, "default": int(tied)}}),
    }
    return (
        Input(tensor="target", codec="image", reads=("image",)),
        *(
            Input(tensor=name, codec="number", reads=(name,), optional=True, options=options)
            for name, options in numbers.items()
        ),
    )


def inversion(latent: str, starts: Mapping[Literal["average", "samples", "encoder"], str]) -> Inversion:
    """How a task with :func:`invert_loop` seeks ``latent``; ``starts`` as in :class:`ganserve.spec.Inversion`."""
    return Inversion(start=START, starts=starts, latent=latent, loss="loss", preview="preview")

"""Messages of Interpolate, Mix and Combine ↔ the values of :mod:`ganserve.serving.compose`.

Every function adds what is wrong with its part of a request to ``wrong``, by the path of the field.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import msgspec
import numpy as np

from ganserve.codecs import GivenPrompt
from ganserve.codecs.tokens import VALUE
from ganserve.errors import InvalidArgument, Violation
from ganserve.serving.call import SEED, Ask
from ganserve.serving.compose import Source
from ganserve.serving.latents import Normalization, combine, frames_of, interpolate, mix
from ganserve.serving.model import Model
from ganserve.serving.task import LoadedTask
from ganserve.serving.wire import (
    MOST_STRENGTH,
    OUTPUT_FIELDS,
    OWN_FIELDS,
    array_of,
    check_direction,
    common_of,
    filled,
    label_of,
)
from ganserve.spec import Latent, Walk
from ganserve.v1 import latents_pb2 as pb

_WALKS: dict[pb.Walk, Walk | None] = {pb.WALK_UNSPECIFIED: None, pb.WALK_LERP: "lerp", pb.WALK_SLERP: "slerp"}
_NORMALIZATIONS: dict[pb.Normalization, Normalization] = {
    pb.NORMALIZATION_UNSPECIFIED: "none",
    pb.NORMALIZATION_MEAN: "mean",
    pb.NORMALIZATION_LENGTH: "length",
}

Wrong: TypeAlias = list[Violation]


class Composed(msgspec.Struct, frozen=True, eq=False):
    """A request of the service Latents, right in form: what is made of which points, and how its images are."""

    ask: Ask
    latent: str
    sources: Sequence[Source]
    compose: Callable[[np.ndarray], np.ndarray]


class Walked(Composed, frozen=True, eq=False):
    """Interpolate; ``places`` are those of the frames."""

    places: Sequence[tuple[int, float]]


class Mixed(Composed, frozen=True, eq=False):
    """Mix; ``pairs`` are the numbers of each image's base and style."""

    pairs: Sequence[tuple[int, int]]


def walked(request: pb.InterpolateRequest, model: Model, task: LoadedTask, most: int) -> Walked:
    """The walk that ``request`` asks for; :class:`InvalidArgument` names every field that is wrong in form."""
    wrong: Wrong = []
    latent = _latent(request.latent, task, layers=False)
    if request.walk not in _WALKS:
        wrong.append(Violation("walk", f"{request.walk} is unknown; expected 0 to {max(_WALKS)}"))
    keys = len(request.keys)
    if not 2 <= keys <= most:
        wrong.append(Violation("keys", f"{keys} points; expected 2 to {most}"))
    images = request.frames * (keys if request.loop else keys - 1) + (not request.loop)
    if request.frames < 1:
        wrong.append(Violation("frames", f"{request.frames} frames from key to key; expected 1 or more"))
    elif images > most >= keys:
        wrong.append(
            Violation("frames", f"they make {images} images of {keys} keys; at most {most} are made in a call")
        )
    _refuse(wrong)
    sources = [_source(key, f"keys[{number}]", task, latent, wrong) for number, key in enumerate(request.keys)]
    ask = _making(request.making, model, task, latent, images, wrong)
    _refuse(wrong)
    places = frames_of(keys, request.frames, loop=request.loop)
    walk = _WALKS[request.walk] or latent.walk
    compose = partial(interpolate, places=places, walk=walk, layers=latent.layers)
    return Walked(ask, latent.tensor, sources, compose, places)


def mixed(request: pb.MixRequest, model: Model, task: LoadedTask, most: int) -> Mixed:
    """The mixtures that ``request`` asks for; :class:`InvalidArgument` names every field that is wrong in form."""
    wrong: Wrong = []
    latent = _latent(request.latent, task, layers=True)
    bases, styles = len(request.bases), len(request.styles)
    wrong += [
        Violation(field, f"{count} points; expected 1 to {most}")
        for field, count in (("bases", bases), ("styles", styles))
        if not 1 <= count <= most
    ]
    if not request.grid and bases != styles and 1 not in (bases, styles):
        text = f"{styles} styles for {bases} bases; give as many, or one for all, or ask for a grid"
        wrong.append(Violation("styles", text))
    images = bases * styles if request.grid else max(bases, styles)
    if request.grid and images > most:
        wrong.append(
            Violation("grid", f"{bases} bases and {styles} styles make {images} images; at most {most} are made")
        )
    layers = task.tensors[latent.tensor].shape[0]
    assert isinstance(layers, int), "latents have fixed shapes"
    if not request.layers:
        wrong.append(
            Violation("layers", f"empty: nothing would come from the styles; expected some of 0 to {layers - 1}")
        )
    wrong += [
        Violation(f"layers[{number}]", f"there is no layer {layer} in {latent.tensor!r}; expected 0 to {layers - 1}")
        for number, layer in enumerate(request.layers)
        if not 0 <= layer < layers
    ]
    _refuse(wrong)
    sources = [
        _source(point, f"{field}[{number}]", task, latent, wrong)
        for field, points in (("bases", request.bases), ("styles", request.styles))
        for number, point in enumerate(points)
    ]
    ask = _making(request.making, model, task, latent, images, wrong)
    _refuse(wrong)
    pairs = (
        [(base, style) for base in range(bases) for style in range(styles)]
        if request.grid
        else [(min(number, bases - 1), min(number, styles - 1)) for number in range(images)]
    )
    compose = partial(
        mix,
        bases=[base for base, _ in pairs],
        styles=[bases + style for _, style in pairs],
        layers=list(request.layers),
    )
    return Mixed(ask, latent.tensor, sources, compose, pairs)


def combined(request: pb.CombineRequest, model: Model, task: LoadedTask, most: int) -> Composed:
    """The sum that ``request`` asks for; :class:`InvalidArgument` names every field that is wrong in form."""
    wrong: Wrong = []
    latent = _latent(request.latent, task, layers=False)
    if request.normalization not in _NORMALIZATIONS:
        known = max(_NORMALIZATIONS)
        wrong.append(Violation("normalization", f"{request.normalization} is unknown; expected 0 to {known}"))
    if not 1 <= len(request.terms) <= most:
        wrong.append(Violation("terms", f"{len(request.terms)} terms; expected 1 to {most}"))
    _refuse(wrong)
    weights = [term.weight for term in request.terms]
    wrong += [
        Violation(
            f"terms[{number}].weight", f"{weight} is out of range; expected {-MOST_STRENGTH:g} to {MOST_STRENGTH:g}"
        )
        for number, weight in enumerate(weights)
        if not abs(weight) <= MOST_STRENGTH
    ]
    sources = [
        _source(term.point, f"terms[{number}].point", task, latent, wrong) for number, term in enumerate(request.terms)
    ]
    ask = _making(request.making, model, task, latent, 1, wrong)
    _refuse(wrong)
    normalization = _NORMALIZATIONS[request.normalization]
    if normalization == "mean" and not math.fsum(weights):
        raise InvalidArgument.of("normalization", "the weights add up to 0, by which nothing can be divided")

    def compose(points: np.ndarray) -> np.ndarray:
        try:
            return combine(points, weights, normalization, layers=latent.layers)
        except ValueError as error:
            raise InvalidArgument.of(_SUM, str(error)) from error

    return Composed(ask, latent.tensor, sources, compose)


_SUM = "terms"


def prompts_of(wish: Composed) -> dict[str, str]:
    """The prompts of ``wish``, by their fields."""
    found = {source.field(VALUE): source.values[VALUE].text for source in wish.sources if VALUE in source.values}
    for prompt in wish.ask.values.get(VALUE, ())[:1]:
        found[making_field(VALUE)] = prompt.text
    return found


def making_field(name: str) -> str:
    """The field of a request of Latents for what making its images calls ``name``: a value with or without its row, or a tensor."""
    base = name.partition("[")[0]
    if base == _SUM:
        return name
    own = {**{field: field for field in OWN_FIELDS}, **OUTPUT_FIELDS}
    return f"making.{name if base == 'tensors' else own.get(base, f'numbers[{base}]')}"


def _point_field(path: str, name: str) -> str:
    """The field for what making the point in ``path`` calls ``name``."""
    base = name.partition("[")[0]
    if base == "tensors":
        return f"{path}.tensor"
    return f"{path}.{name if base in (*OWN_FIELDS, 'directions') else f'numbers[{base}]'}"


def _refuse(wrong: Wrong) -> None:
    if wrong:
        raise InvalidArgument(wrong)


def _latent(name: str, task: LoadedTask, *, layers: bool) -> Latent:
    """The latent called ``name``, or the last if that is empty; with ``layers``, of those that have some."""
    latents = [latent for latent in task.task.latents if latent.layers or not layers]
    found = [latent for latent in latents if name in ("", latent.tensor)]
    if not found:
        what = "latent with layers" if layers else "latent"
        known = ", ".join(latent.tensor for latent in latents) or "none"
        wish = f"no {what} {name!r}" if name else f"no {what}"
        raise InvalidArgument.of("latent", f"task {task.task.name!r} has {wish}; it has {known}")
    return found[-1]


def _source(point: pb.Point, path: str, task: LoadedTask, latent: Latent, wrong: Wrong) -> Source:
    values = _values(point, path, wrong)
    tensor: np.ndarray | None = None
    match point.WhichOneof("source"):
        case "seed":
            values[SEED] = (point.seed.seed, point.seed.index)
        case "prompt":
            values[VALUE] = GivenPrompt(text=point.prompt, whole=True)
        case "tensor":
            array = array_of(point.tensor, task.tensors[latent.tensor], axes=())
            if isinstance(array, str):
                wrong.append(Violation(f"{path}.tensor", array))
            else:
                tensor = array
        case _:
            wrong.append(Violation(path, "empty; give a seed, a tensor or a prompt"))
    for name, strength in point.directions.items():
        check_direction(f"{path}.directions[{name}]", name, [strength], task, wrong)
    return Source(values=values, tensor=tensor, directions=dict(point.directions), field=partial(_point_field, path))


def _making(message: pb.Making, model: Model, task: LoadedTask, latent: Latent, rows: int, wrong: Wrong) -> Ask:
    """How ``rows`` images are made, without the latents that they are made of."""
    own: Wrong = []
    common = common_of(message, task, own)
    own += [
        Violation(f"tensors[{name}]", f"{len(array)} rows; give one, which holds for all images")
        for name, array in common.tensors.items()
        if len(array) != 1
    ]
    if latent.tensor in common.tensors:
        own.append(Violation(f"tensors[{latent.tensor}]", "not used: the latent comes from the points"))
    wrong += [Violation(f"making.{field}", text) for field, text in own]
    values = _values(message, "making", wrong)
    if message.HasField("seed"):
        values[SEED] = (message.seed.seed, message.seed.index)
    if message.HasField("prompt"):
        values[VALUE] = GivenPrompt(text=message.prompt, whole=True)
    spread: dict[str, Any] = {name: [value] * rows for name, value in values.items()}
    if SEED in spread:
        spread[SEED] = np.array(spread[SEED], np.uint64)
    return Ask(
        model=model,
        task=task,
        rows=rows,
        values=spread,
        tensors={name: filled(array, rows) for name, array in common.tensors.items()},
        returns=common.returns,
        encode=common.encode,
        draws=False,
    )


def _values(message: pb.Point | pb.Making, path: str, wrong: Wrong) -> dict[str, Any]:
    """The values of ``message``, but its seed."""
    values: dict[str, Any] = {}
    if message.HasField("label"):
        values["label"] = label_of(message.label, f"{path}.label", wrong)
    if message.HasField("truncation"):
        values["truncation"] = message.truncation
    for name, number in message.numbers.items():
        if name in OWN_FIELDS:
            wrong.append(Violation(f"{path}.numbers[{name}]", f"{name} has a field of its own"))
        else:
            values[name] = number
    return values

"""Work in latent spaces: what a caller asks for, as messages, and what the server answers."""

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, TypedDict, Unpack

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from ganserve.client.enums import choices
from ganserve.client.request import Label, integer, label_message, output_options
from ganserve.client.samples import Sample, made_fields_of, served_of
from ganserve.client.tensors import AnyArray, tensor_message
from ganserve.client.text import plain
from ganserve.errors import InvalidArgument
from ganserve.v1 import generation_pb2, latents_pb2

WALKS = choices("WALK_", latents_pb2.Walk)
"""The ways from one point to the next, by name: lerp, slerp."""

NORMALIZATIONS = choices("NORMALIZATION_", latents_pb2.Normalization)
"""What may become of a sum, by name: mean, length."""


class Point(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A point of a latent space: drawn from (``seed``, ``index``), given as the array ``tensor`` or made of ``prompt``; then moved along ``directions``.

    The rest is read by what makes the latent of a seed (``psi`` of a style, for example), and refused with a tensor.
    """

    seed: int | None = None
    index: int = 0
    tensor: ArrayLike | None = None
    """The latent itself, without the row axis."""
    prompt: str | None = None
    """What the latent is made of, for one that an encoder makes of text."""
    label: Label | None = None
    truncation: float | None = None
    numbers: Mapping[str, float] = {}
    directions: Mapping[str, float] = {}
    """Name → strength."""


AnyPoint: TypeAlias = Point | int | tuple[int, int] | AnyArray
"""A :class:`Point`, or in short: a seed, (seed, index), or the latent as an array."""


Terms: TypeAlias = Mapping[int | tuple[int, int], float] | Iterable[tuple[AnyPoint, float]]
"""The points of a sum with their weights: ``{seed: weight}``, or pairs."""


class ImageOptions(TypedDict, total=False):
    """How the images are made, all of them alike; all may be left out."""

    label: Label | None
    """The class, where making an image from the latent reads one. One that the latent is made with belongs to its :class:`Point`."""
    truncation: float | None
    """Of noise that making an image from the latent still draws."""
    numbers: Mapping[str, float]
    """Other values that making an image from the latent reads (``noise_seed``)."""
    tensors: Mapping[str, ArrayLike]
    """Tensors given instead of computed: [1, ...] (``noise_gain``)."""
    seed: int | None
    """Where whatever making an image still draws comes from: (seed, index)."""
    prompt: str | None
    """What all images show, where making one from the latent reads a prompt."""
    index: int
    """See ``seed``."""
    format: str | None
    """How images are encoded: png (the default), jpeg, webp, raw, npy or npy-float."""
    quality: int | None
    """1 to 100, for jpeg and webp."""
    returns: Sequence[str]
    """Tensors of the task to return beside each result; the latent itself may be one."""


class MakingOptions(ImageOptions, total=False):
    """The options of ``interpolate``, ``mix`` and ``combine`` alike; all may be left out."""

    task: str | None
    """The task; needed only where a model has several for sampling."""
    version: int | None
    """The model's version; the latest by default."""
    latent: str
    """The latent to work in (``z``, ``w``); by default the task's last, for ``mix`` its last with layers."""


class WalkFrame(Sample, frozen=True, kw_only=True, eq=False):
    """A :class:`Sample` on a walk."""

    frame: int
    """Its number from 0."""
    position: float
    """1.25 is a quarter of the way from key 1 to key 2."""


class Mixture(Sample, frozen=True, kw_only=True, eq=False):
    """A :class:`Sample` with layers of two points."""

    base: int
    """The number of its base."""
    style: int
    """The number of its style."""


def interpolate_request(
    model: str,
    keys: Iterable[AnyPoint],
    *,
    frames: int,
    walk: str | None,
    loop: bool,
    task: str | None = None,
    version: int | None = None,
    latent: str = "",
    **images: Unpack[ImageOptions],
) -> latents_pb2.InterpolateRequest:
    """The message for a walk; :class:`InvalidArgument` for what no message can hold."""
    return latents_pb2.InterpolateRequest(
        model=model,
        version=integer("version", version or 0),
        task=task or "",
        latent=latent,
        keys=_points("keys", keys),
        frames=integer("frames", frames, bits=32),
        loop=loop,
        walk=_choice("walk", walk, WALKS, "WALK_UNSPECIFIED"),
        making=_making(**images),
    )


def mix_request(
    model: str,
    bases: Iterable[AnyPoint],
    styles: Iterable[AnyPoint],
    layers: Iterable[int],
    *,
    grid: bool,
    task: str | None = None,
    version: int | None = None,
    latent: str = "",
    **images: Unpack[ImageOptions],
) -> latents_pb2.MixRequest:
    """The message for mixtures; :class:`InvalidArgument` for what no message can hold."""
    return latents_pb2.MixRequest(
        model=model,
        version=integer("version", version or 0),
        task=task or "",
        latent=latent,
        bases=_points("bases", bases),
        styles=_points("styles", styles),
        layers=[integer(f"layers[{number}]", layer, bits=32) for number, layer in enumerate(layers)],
        grid=grid,
        making=_making(**images),
    )


def combine_request(
    model: str,
    terms: Terms,
    *,
    normalization: str | None,
    max_reply_bytes: int,
    task: str | None = None,
    version: int | None = None,
    latent: str = "",
    **images: Unpack[ImageOptions],
) -> latents_pb2.CombineRequest:
    """The message for a sum; :class:`InvalidArgument` for what no message can hold."""
    pairs = list(terms.items() if isinstance(terms, Mapping) else terms)
    return latents_pb2.CombineRequest(
        model=model,
        version=integer("version", version or 0),
        task=task or "",
        latent=latent,
        terms=[
            latents_pb2.Term(point=_point(f"terms[{number}].point", point), weight=weight)
            for number, (point, weight) in enumerate(pairs)
        ],
        normalization=_choice("normalization", normalization, NORMALIZATIONS, "NORMALIZATION_UNSPECIFIED"),
        making=_making(**images),
        max_reply_bytes=max_reply_bytes,
    )


def frame_of(response: latents_pb2.InterpolateResponse) -> WalkFrame:
    """The frame of one message of a walk."""
    return WalkFrame(
        **made_fields_of(response),
        served=served_of(response.served),
        frame=response.frame,
        position=response.position,
    )


def mixture_of(response: latents_pb2.MixResponse) -> Mixture:
    """The mixture of one message."""
    return Mixture(
        **made_fields_of(response), served=served_of(response.served), base=response.base, style=response.style
    )


def sum_of(response: latents_pb2.CombineResponse) -> Sample:
    """The image of a sum."""
    return Sample(**made_fields_of(response), served=served_of(response.served))


def _points(field: str, points: Iterable[AnyPoint]) -> list[latents_pb2.Point]:
    return [_point(f"{field}[{number}]", point) for number, point in enumerate(points)]


def _point(field: str, point: AnyPoint) -> latents_pb2.Point:
    point = _full(point)
    if sum(one is not None for one in (point.seed, point.tensor, point.prompt)) != 1:
        raise InvalidArgument.of(field, "give a seed, a tensor or a prompt, and one of them only")
    message = latents_pb2.Point(
        truncation=point.truncation, numbers=dict(point.numbers), directions=dict(point.directions)
    )
    if point.seed is not None:
        message.seed.CopyFrom(_seed(field, point.seed, point.index))
    if point.tensor is not None:
        message.tensor.CopyFrom(tensor_message(f"{field}.tensor", point.tensor))
    if point.prompt is not None:
        message.prompt = plain(f"{field}.prompt", point.prompt)
    if point.label is not None:
        message.label.CopyFrom(label_message(f"{field}.label", point.label))
    return message


def _full(point: AnyPoint) -> Point:
    if isinstance(point, Point):
        return point
    if isinstance(point, numbers.Integral):
        return Point(seed=int(point))
    if isinstance(point, tuple) and len(point) == 2 and all(isinstance(part, numbers.Integral) for part in point):
        return Point(seed=int(point[0]), index=int(point[1]))
    return Point(tensor=np.asarray(point))


def _seed(field: str, seed: int, index: int) -> generation_pb2.SeedIndex:
    return generation_pb2.SeedIndex(
        seed=integer(f"{field}.seed", seed, signed=False), index=integer(f"{field}.index", index, signed=False)
    )


def _making(
    *,
    label: Label | None = None,
    truncation: float | None = None,
    numbers: Mapping[str, float] | None = None,
    tensors: Mapping[str, ArrayLike] | None = None,
    seed: int | None = None,
    index: int = 0,
    prompt: str | None = None,
    format: str | None = None,  # noqa: A002 - the word for it
    quality: int | None = None,
    returns: Sequence[str] = (),
) -> latents_pb2.Making:
    making = latents_pb2.Making(
        truncation=truncation,
        prompt=None if prompt is None else plain("making.prompt", prompt),
        numbers=numbers,
        tensors={name: tensor_message(f"making.tensors[{name}]", value) for name, value in (tensors or {}).items()},
        output=output_options(format, quality),
        return_tensors=returns,
    )
    if label is not None:
        making.label.CopyFrom(label_message("making.label", label))
    if seed is not None:
        making.seed.CopyFrom(_seed("making", seed, index))
    return making


def _choice(field: str, name: str | None, names: Mapping[str, str], otherwise: str) -> str:
    if name is None:
        return otherwise
    if name not in names:
        raise InvalidArgument.of(field, f"{name!r} is unknown; expected one of {', '.join(names)}")
    return names[name]

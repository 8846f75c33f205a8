"""Translations: what a caller asks for, as messages, and what the server answers."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypedDict

import msgspec
from numpy.typing import ArrayLike

from ganserve.client.enums import choices
from ganserve.client.pictures import AnyPicture, image_message
from ganserve.client.request import Label, integer, label_message, output_options
from ganserve.client.samples import Sample, fields_of, served_of
from ganserve.client.tensors import tensor_message
from ganserve.errors import InvalidArgument
from ganserve.v1 import generation_pb2, media_pb2

IMAGE = "image"
"""The name of the picture that a translation is of."""

SIZES = choices("SIZE_POLICY_", generation_pb2.SizePolicy)
"""How a picture may meet the size that a model takes, by name: exact, resize, letterbox, native."""

Frame: TypeAlias = AnyPicture | Mapping[str, AnyPicture]
"""One frame of a stream: the picture ``image``, or several pictures by name."""


class TranslateOptions(TypedDict, total=False):
    """The options of ``translate`` and ``translate_stream``; all may be left out."""

    images: Mapping[str, AnyPicture]
    """Pictures beside ``image``, by the name that the task gives them: reference, label_map, mask."""
    task: str | None
    """The direction, such as a2b; needed only where a model has several."""
    version: int | None
    """The model's version; the latest by default."""
    size: str | None
    """``exact`` refuses a picture of another size than the model's, ``resize`` scales it, ``letterbox`` scales it without distortion,
    ``native`` takes it as it is. By default native where the model takes any size, else resize."""
    restore: bool
    """Scale the result to the size of the picture."""
    background: tuple[int, int, int]
    """The colour behind what is transparent, and beside a letterboxed picture; white by default."""
    seed: int | None
    """Noise is drawn from (seed, index). Without it the server chooses one and tells it. All frames of a stream share it."""
    index: int
    """See ``seed``."""
    tensors: Mapping[str, ArrayLike]
    """Tensors given instead of computed, by the name that the task gives them: [1, ...]."""
    label: Label | None
    """The class, by index or name."""
    truncation: float | None
    """Truncation of the noise."""
    numbers: Mapping[str, float]
    """Other values that the task reads."""
    format: str | None
    """How the result is encoded: png (the default), jpeg, webp, raw, npy or npy-float."""
    quality: int | None
    """1 to 100, for jpeg and webp."""
    returns: Sequence[str]
    """Tensors of the task to return beside the result."""


class ReadImage(msgspec.Struct, frozen=True, kw_only=True):
    """What the server read of a picture."""

    width: int
    height: int
    """In pixels, upright."""
    pictures: int
    """How many the file held: more than 1 for an animation, of which the first was used."""


class Translation(Sample, frozen=True, kw_only=True, eq=False):
    """A :class:`Sample` made from pictures; ``images`` tells what was read of each."""

    images: Mapping[str, ReadImage] = {}


def translate_request(
    model: str,
    image: AnyPicture | None,
    *,
    max_reply_bytes: int,
    images: Mapping[str, AnyPicture] | None = None,
    task: str | None = None,
    version: int | None = None,
    size: str | None = None,
    restore: bool = False,
    background: tuple[int, int, int] | None = None,
    seed: int | None = None,
    index: int = 0,
    tensors: Mapping[str, ArrayLike] | None = None,
    label: Label | None = None,
    truncation: float | None = None,
    numbers: Mapping[str, float] | None = None,
    format: str | None = None,  # noqa: A002 - the word for it
    quality: int | None = None,
    returns: Sequence[str] = (),
) -> generation_pb2.TranslateRequest:
    """The message for ``image``, which may be None where a stream brings it or the task reads none of that name.

    Raises :class:`InvalidArgument` for what no message can hold; the server judges the rest.
    """
    pictures = {**({} if image is None else {IMAGE: image}), **(images or {})}
    request = generation_pb2.TranslateRequest(
        model=model,
        version=integer("version", version or 0),
        task=task or "",
        images=_messages(pictures),
        size=size_policy(size),
        restore=restore,
        index=integer("index", index, bits=64, signed=False),
        tensors={name: tensor_message(f"tensors[{name}]", value) for name, value in (tensors or {}).items()},
        truncation=truncation,
        numbers=numbers,
        output=output_options(format, quality),
        return_tensors=returns,
        max_reply_bytes=max_reply_bytes,
    )
    if background is not None:
        request.background.CopyFrom(color_message(background))
    if seed is not None:
        request.seed = integer("seed", seed, bits=64, signed=False)
    if label is not None:
        request.label.CopyFrom(label_message("label", label))
    return request


def frame_request(number: int, frame: Frame) -> generation_pb2.TranslateStreamRequest:
    """The message for one frame of a stream; errors name it ``frames[number]``."""
    pictures = frame if isinstance(frame, Mapping) else {IMAGE: frame}
    try:
        return generation_pb2.TranslateStreamRequest(images=_messages(pictures))
    except InvalidArgument as error:
        raise InvalidArgument(
            [one._replace(field=f"frames[{number}].{one.field}") for one in error.violations]
        ) from error


def translation_of(message: generation_pb2.Translation, served: generation_pb2.Served) -> Translation:
    """The result of a reply."""
    images = {name: read_image_of(read) for name, read in message.images.items()}
    return Translation(**fields_of(message), images=images, served=served_of(served))


def _messages(pictures: Mapping[str, AnyPicture]) -> dict[str, media_pb2.Image]:
    return {name: image_message(f"images[{name}]", picture) for name, picture in pictures.items()}


def read_image_of(message: generation_pb2.ReadImage) -> ReadImage:
    """What the server read of a picture."""
    return ReadImage(width=message.width, height=message.height, pictures=message.pictures)


def color_message(color: tuple[int, int, int]) -> generation_pb2.Color:
    """The background as a message."""
    red, green, blue = (
        integer(f"background.{name}", value, bits=32, signed=False)
        for name, value in zip(("red", "green", "blue"), color, strict=True)
    )
    return generation_pb2.Color(red=red, green=green, blue=blue)


def size_policy(name: str | None) -> str:
    """The protocol's name of how a picture meets the size that a model takes."""
    if name is None:
        return "SIZE_POLICY_UNSPECIFIED"
    if name not in SIZES:
        raise InvalidArgument.of("size", f"{name!r} is unknown; expected one of {', '.join(SIZES)}")
    return SIZES[name]

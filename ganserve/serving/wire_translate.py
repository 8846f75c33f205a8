"""Messages of Translate and TranslateStream ↔ the values of :mod:`ganserve.serving.call`. A request is one row."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from ganserve.codecs import GivenImage
from ganserve.errors import InvalidArgument, Violation
from ganserve.serving.call import SEED, Ask, Call
from ganserve.serving.model import Model
from ganserve.serving.results import Result
from ganserve.serving.task import LoadedTask
from ganserve.serving.wire import FORMATS, OUTPUT_FIELDS, OWN_FIELDS, common_of, fill, label_of
from ganserve.v1 import generation_pb2 as pb
from ganserve.v1 import inversion_pb2, media_pb2

_SIZES: Mapping[pb.SizePolicy, str] = {
    pb.SIZE_POLICY_UNSPECIFIED: "",
    pb.SIZE_POLICY_EXACT: "exact",
    pb.SIZE_POLICY_RESIZE: "resize",
    pb.SIZE_POLICY_LETTERBOX: "letterbox",
    pb.SIZE_POLICY_NATIVE: "native",
}

_OWN = {**{name: name for name in OWN_FIELDS}, **OUTPUT_FIELDS}


Images: TypeAlias = Mapping[str, media_pb2.Image | GivenImage]
"""Pictures by their names, as messages; or as those were read for another frame of a stream."""


def ask_of_translate(request: pb.TranslateRequest, images: Images, model: Model, task: LoadedTask) -> Ask:
    """The request, with ``images`` for its own, as an :class:`Ask` of one row.

    :class:`InvalidArgument` lists every field that is wrong in form.
    """
    wrong: list[Violation] = []
    common = common_of(request, task, wrong)
    wrong += [
        Violation(f"tensors[{name}]", f"{len(array)} rows; a translation is one row")
        for name, array in common.tensors.items()
        if len(array) != 1
    ]
    _check_images(request, images, task, wrong)
    fit = {"size": size_of(request, wrong), "background": background_of(request, wrong), "restore": request.restore}
    values: dict[str, Any] = _values(request, images, task, wrong)
    values |= {name: [given_of(f"images[{name}]", image, fit, wrong)] for name, image in images.items()}
    if wrong:
        raise InvalidArgument(wrong)
    return Ask(
        model=model,
        task=task,
        rows=1,
        values=values,
        tensors=common.tensors,
        returns=common.returns,
        encode=common.encode,
    )


def translate_field(task: LoadedTask) -> Callable[[str], str]:
    """What makes the field of a TranslateRequest of a name: ``tensors[z]``, ``images[image]``, or a value, such as ``label[0]``."""
    pictures = _reads(task)

    def field(name: str) -> str:
        base = name.partition("[")[0]
        if base in ("tensors", "images"):
            return name
        return f"images[{base}]" if base in pictures else _OWN.get(base, f"numbers[{base}]")

    return field


def frame_field(number: int, settings: pb.TranslateRequest, own: Images) -> Callable[[str], str]:
    """What makes the field of a stream's message of the field of a TranslateRequest.

    Pictures are those of frame ``number``, unless they come from the ``settings`` because the frame has none in its ``own`` of
    that name; all else is in the settings.
    """

    def field(name: str) -> str:
        picture = name.removeprefix("images[").partition("]")[0]
        in_frame = name.startswith("images") and (picture in own or picture not in settings.images)
        return f"frames[{number}].{name}" if in_frame else f"settings.{name}"

    return field


def fill_translation(message: pb.Translation, result: Result, call: Call) -> None:
    """Write a finished row, and what its pictures were, into ``message``."""
    fill(message, result, call)
    for name, frame in call.frames.items():
        image = message.images[name]
        (image.width, image.height), image.pictures = frame.sent, frame.pictures


def _reads(task: LoadedTask) -> list[str]:
    return [decoder.value for decoder in task.pictures.values()]


def _values(request: pb.TranslateRequest, images: Images, task: LoadedTask, wrong: list[Violation]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if request.HasField("seed"):
        values[SEED] = np.array([(request.seed, request.index)], np.uint64)
    elif request.index:
        wrong.append(Violation("index", "an index needs the seed that it counts under; give seed"))
    if request.HasField("label"):
        values["label"] = [label_of(request.label, "label", wrong)]
    if request.HasField("truncation"):
        values["truncation"] = [request.truncation]
    for name, number in request.numbers.items():
        if name in OWN_FIELDS:
            wrong.append(Violation(f"numbers[{name}]", f"{name} has a field of its own"))
        elif name in images or name in _reads(task):
            wrong.append(Violation(f"numbers[{name}]", f"{name} is a picture; give it in images"))
        else:
            values[name] = [number]
    return values


def _check_images(request: pb.TranslateRequest, images: Images, task: LoadedTask, wrong: list[Violation]) -> None:
    """Refuse pictures that the task does not read, and what cannot be done without one or with this task's results."""
    name, reads = task.task.name, _reads(task)
    known = f"task {name!r} reads {'the pictures ' + ', '.join(reads) if reads else 'no pictures'}"
    wrong += [Violation(f"images[{image}]", f"not used; {known}") for image in images if image not in reads]
    if not images and not request.tensors:
        wrong.append(Violation("images", f"empty; {known}"))
    if not images:
        given = {"size": request.size, "restore": request.restore, "background": request.HasField("background")}
        wrong += [Violation(field, "not used: no picture is given") for field, is_given in given.items() if is_given]
    if request.restore and not task.makes_images:
        wrong.append(Violation("restore", f"task {name!r} makes no picture that could be scaled back"))


def size_of(request: pb.TranslateRequest | inversion_pb2.InvertRequest, wrong: list[Violation]) -> str:
    """How the picture of ``request`` meets the size that a model takes, one of :data:`ganserve.codecs.SIZES` or empty."""
    if request.size not in _SIZES:
        wrong.append(Violation("size", f"{request.size} is unknown; expected 0 to {max(_SIZES)}"))
    return _SIZES.get(request.size, "")


def background_of(
    request: pb.TranslateRequest | inversion_pb2.InvertRequest, wrong: list[Violation]
) -> tuple[int, int, int]:
    """The colour behind the picture of ``request``; white where it names none."""
    if not request.HasField("background"):
        return (255, 255, 255)
    colour = request.background
    for part, level in (("red", colour.red), ("green", colour.green), ("blue", colour.blue)):
        if level > 255:
            wrong.append(Violation(f"background.{part}", f"{level}; expected 0 to 255"))
    return (colour.red, colour.green, colour.blue)


def given_of(
    field: str, image: media_pb2.Image | GivenImage, fit: Mapping[str, Any], wrong: list[Violation]
) -> GivenImage:
    """The picture in ``field`` of a request, to be fitted as ``fit`` says."""
    if isinstance(image, GivenImage):
        return image
    if not image.data:
        wrong.append(Violation(f"{field}.data", "empty; send a PNG, JPEG or WebP file, or pixels as RAW or NPY"))
    for part, size in (("width", image.width), ("height", image.height), ("channels", image.channels)):
        if size < 0:
            wrong.append(Violation(f"{field}.{part}", f"{size}; expected the picture's own, or 0 where the file tells"))
    if image.format not in FORMATS or image.format == media_pb2.IMAGE_FORMAT_NPY_FLOAT:
        wrong.append(
            Violation(f"{field}.format", f"{image.format} is no format of pictures in a request; expected 0 to 5")
        )
    return GivenImage(
        data=image.data,
        format=FORMATS.get(image.format, ""),
        width=image.width,
        height=image.height,
        channels=image.channels,
        **fit,
    )

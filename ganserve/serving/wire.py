"""Protobuf messages ↔ the values of :mod:`ganserve.serving.call`, where every rpc has them alike, and those of Sample.

No room but those called wire and service reads or writes a message.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

import msgspec
import numpy as np

from ganserve.codecs import EncodeOptions, Media
from ganserve.errors import InvalidArgument, Violation
from ganserve.serving.call import SEED, Ask, Call
from ganserve.serving.model import Model
from ganserve.serving.results import Result
from ganserve.serving.task import LoadedTask
from ganserve.spec import DType, Tensor
from ganserve.v1 import generation_pb2 as pb
from ganserve.v1 import latents_pb2, media_pb2, text_pb2

DTYPES: Mapping[media_pb2.DataType, DType] = {
    media_pb2.DATA_TYPE_FLOAT32: "float32",
    media_pb2.DATA_TYPE_FLOAT16: "float16",
    media_pb2.DATA_TYPE_UINT8: "uint8",
    media_pb2.DATA_TYPE_INT32: "int32",
    media_pb2.DATA_TYPE_INT64: "int64",
    media_pb2.DATA_TYPE_BOOL: "bool",
}
DATA_TYPES: Mapping[str, media_pb2.DataType] = {dtype: number for number, dtype in DTYPES.items()}

FORMATS: Mapping[media_pb2.ImageFormat, str] = {
    media_pb2.IMAGE_FORMAT_UNSPECIFIED: "",
    media_pb2.IMAGE_FORMAT_PNG: "png",
    media_pb2.IMAGE_FORMAT_JPEG: "jpeg",
    media_pb2.IMAGE_FORMAT_WEBP: "webp",
    media_pb2.IMAGE_FORMAT_RAW: "raw",
    media_pb2.IMAGE_FORMAT_NPY: "npy",
    media_pb2.IMAGE_FORMAT_NPY_FLOAT: "npy-float",
}
_IMAGE_FORMATS = {name: number for number, name in FORMATS.items() if name}

MAX_UINT64 = 2**64 - 1

MOST_STRENGTH = 1e6
"""The farthest that a latent may be moved along a direction, and the largest weight in a sum: nonsense already, but finite."""

OWN_FIELDS = (SEED, "label", "truncation", "prompt")
"""Values that have a field of their own in every request; numbers of other names travel in ``numbers``."""

OUTPUT_FIELDS = {"format": "output.image_format", "quality": "output.quality"}
"""The fields of output options, by what encoders call them."""

_SAMPLE_FIELDS = {"seed": "seed", "label": "labels", "truncation": "truncation", **OUTPUT_FIELDS}


Made: TypeAlias = (
    pb.Sample
    | pb.Translation
    | text_pb2.Imagined
    | latents_pb2.InterpolateResponse
    | latents_pb2.MixResponse
    | latents_pb2.CombineResponse
)
"""Messages with media and tensors."""


WithTensors: TypeAlias = pb.SampleRequest | pb.TranslateRequest | text_pb2.TextToImageRequest | latents_pb2.Making
"""Messages with tensors that are given, and output options."""


class Common(msgspec.Struct, frozen=True, eq=False):
    """What requests of every kind carry alike."""

    tensors: Mapping[str, np.ndarray]
    returns: tuple[str, ...]
    encode: EncodeOptions


def common_of(request: WithTensors, task: LoadedTask, wrong: list[Violation]) -> Common:
    """Tensors, names and output options of ``request``; what is wrong with them is added to ``wrong``."""
    tensors = _tensors(request, task, wrong)
    returns = tuple(dict.fromkeys(request.return_tensors))
    wrong += [
        Violation(
            "return_tensors",
            f"{name!r} is no tensor of task {task.task.name!r}; its tensors are {', '.join(task.tensors)}",
        )
        for name in returns
        if name not in task.tensors
    ]
    return Common(tensors, returns, encode_of(request.output, task, wrong))


def encode_of(output: media_pb2.OutputOptions, task: LoadedTask, wrong: list[Violation]) -> EncodeOptions:
    """How results are encoded; what is wrong with it is added to ``wrong``."""
    number = output.image_format
    if number not in FORMATS:
        wrong.append(Violation("output.image_format", f"{number} is unknown; expected 0 to {max(FORMATS)}"))
    if number and not task.makes_images:
        wrong.append(
            Violation("output.image_format", f"task {task.task.name!r} makes no images; its arrays come as NPY")
        )
    return EncodeOptions(format=FORMATS.get(number, ""), quality=output.quality)


def sample_field(name: str) -> str:
    """The field of a SampleRequest for ``name``: ``tensors[z]``, or a value with or without its row, such as ``label[3]``."""
    base, bracket, row = name.partition("[")
    return name if base in ("tensors", "directions") else _SAMPLE_FIELDS.get(base, f"numbers[{base}]") + bracket + row


def ask_of(request: pb.SampleRequest, model: Model, task: LoadedTask, max_rows: int) -> Ask:
    """The request as an :class:`Ask`; :class:`InvalidArgument` lists every field that is wrong in form, not only the first."""
    wrong: list[Violation] = []
    common = common_of(request, task, wrong)
    rows = _rows(request, common.tensors, max_rows, wrong)
    values = _values(request, rows, wrong) if rows else {}
    directions = _directions(request, task, rows, wrong) if rows else {}
    if wrong:
        raise InvalidArgument(wrong)
    return Ask(
        model=model,
        task=task,
        rows=rows,
        values=values,
        tensors={name: filled(array, rows) for name, array in common.tensors.items()},
        returns=common.returns,
        encode=common.encode,
        directions=directions,
    )


# What answers a call is written in the place where it is sent from: a message made apart is copied into its parent, pixels and all.


def fill(message: pb.Sample | pb.Translation | text_pb2.Imagined, result: Result, call: Call) -> None:
    """Write what a row of Sample, Translate or TextToImage has into ``message``."""
    fill_result(message, result)
    if call.seeds is not None:
        message.seed.seed, message.seed.index = call.seeds[result.row].tolist()


def fill_result(message: Made, result: Result) -> None:
    """Write what a row of any rpc has into ``message``."""
    fill_media(message.media, result.media)
    for name, array in result.tensors.items():
        fill_tensor(message.tensors[name], array)


class Work(Protocol):
    """Something that was served: a call, or several as one."""

    @property
    def engines(self) -> Sequence[str]:
        """The engine of each graph that ran, in order."""

    @property
    def bit_exact(self) -> bool:
        """Whether the same request gives the same bits next time."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds spent so far, part by part."""


def fill_served(message: pb.Served, model: Model, call: Work) -> None:
    """Write what served a call into ``message``."""
    message.CopyFrom(_served(model.name, model.manifest.version, tuple(call.engines), call.bit_exact))
    seconds = message.seconds
    for part, spent in call.seconds.items():
        seconds[part] = spent


@lru_cache(maxsize=256)
def _served(model: str, version: int, engines: tuple[str, ...], bit_exact: bool) -> pb.Served:
    """What is the same for all calls of a kind; not to be written to."""
    exact = pb.DETERMINISM_BIT_EXACT if bit_exact else pb.DETERMINISM_TOLERANCE
    return pb.Served(model=model, version=version, engines=engines, determinism=exact)


def fill_tensor(message: media_pb2.Tensor, array: np.ndarray) -> None:
    """Write ``array`` into ``message``."""
    message.data_type = DATA_TYPES[array.dtype.name]
    message.shape.extend(array.shape)
    message.data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def fill_media(message: media_pb2.Media, media: Media) -> None:
    """Write ``media`` into ``message``."""
    if media.kind == "image":
        image = message.image
        image.format, image.data = _IMAGE_FORMATS[media.format], media.data
        for name, number in media.attributes.items():
            setattr(image, name, number)
    else:
        message.array.npy = media.data


def _rows(request: pb.SampleRequest, tensors: Mapping[str, np.ndarray], most: int, wrong: list[Violation]) -> int:
    """How many rows are asked for; 0 where that is wrong."""
    implied = max(0, len(request.seeds), *map(len, tensors.values()))
    rows = request.count or implied
    if not 1 <= rows <= most:
        wrong.append(Violation("count", f"{rows} rows asked for; expected 1 to {most}"))
        return 0
    wrong += [
        Violation(f"tensors[{name}]", f"{len(array)} rows for {rows} rows asked for; give one for all or one for each")
        for name, array in tensors.items()
        if len(array) not in (1, rows)
    ]
    return rows


def _values(request: pb.SampleRequest, rows: int, wrong: list[Violation]) -> dict[str, Sequence[Any] | np.ndarray]:
    values: dict[str, Sequence[Any] | np.ndarray] = {}
    if (seeds := seeds_of(request, rows, "rows", wrong)) is not None:
        values[SEED] = seeds
    if request.labels:
        labels = [label_of(label, f"labels[{position}]", wrong) for position, label in enumerate(request.labels)]
        values["label"] = _spread("labels", labels, rows, wrong)
    if request.truncation:
        values["truncation"] = _spread("truncation", request.truncation, rows, wrong)
    for name, numbers in request.numbers.items():
        if name in OWN_FIELDS:
            wrong.append(Violation(f"numbers[{name}]", f"{name} has a field of its own"))
        else:
            values[name] = _spread(f"numbers[{name}]", numbers.values, rows, wrong)
    return values


def _directions(
    request: pb.SampleRequest, task: LoadedTask, rows: int, wrong: list[Violation]
) -> dict[str, np.ndarray]:
    directions = {}
    for name, numbers in request.directions.items():
        field = f"directions[{name}]"
        strengths = _spread(field, numbers.values, rows, wrong)
        check_direction(field, name, numbers.values, task, wrong)
        # What float32 cannot hold has just been refused.
        with np.errstate(over="ignore"):
            directions[name] = np.array(strengths, np.float32)
    return directions


def check_direction(
    field: str, name: str, strengths: Sequence[float], task: LoadedTask, wrong: list[Violation]
) -> None:
    """Add to ``wrong`` that ``task`` has no direction ``name``, or that the first of ``strengths`` is out of range."""
    if name not in task.directions:
        known = ", ".join(task.directions) or "none"
        wrong.append(Violation(field, f"task {task.task.name!r} has no such direction; its directions are {known}"))
    if outside := [strength for strength in strengths if not abs(strength) <= MOST_STRENGTH]:
        wrong.append(
            Violation(field, f"{outside[0]} is out of range; expected {-MOST_STRENGTH:g} to {MOST_STRENGTH:g}")
        )


def seeds_of(
    request: pb.SampleRequest | text_pb2.TextToImageRequest, count: int, things: str, wrong: list[Violation]
) -> np.ndarray | None:
    """The pairs (seed, index) of ``count`` ``things``, uint64 ``[count, 2]``; None where none are given, or where something is ``wrong``."""
    first, seeds = request.first_index, request.seeds
    one = request.HasField("seed")
    if one and seeds:
        wrong.append(Violation("seeds", "seed and seeds exclude each other; give one of them"))
    elif seeds and len(seeds) != count:
        wrong.append(Violation("seeds", f"{len(seeds)} seeds for {count} {things}; give one for each"))
    elif seeds:
        return np.array([(seed, first) for seed in seeds], np.uint64)
    elif one and first > MAX_UINT64 - (count - 1):
        wrong.append(Violation("first_index", f"{first} + {count} {things} exceed 2^64"))
    elif one:
        return np.array([(request.seed, first + number) for number in range(count)], np.uint64)
    elif first:
        wrong.append(Violation("first_index", "an index needs the seed that it counts under; give seed or seeds"))
    return None


def label_of(label: pb.Label, field: str, wrong: list[Violation]) -> int | str:
    """The index or name that ``label``, in ``field`` of the request, holds."""
    match label.WhichOneof("label"):
        case "index":
            return label.index
        case "name":
            return label.name
        case _:
            wrong.append(Violation(field, "empty; give an index or a name"))
            return 0


def _spread(field: str, given: Sequence[Any], rows: int, wrong: list[Violation]) -> Sequence[Any]:
    if len(given) not in (1, rows):
        wrong.append(Violation(field, f"{len(given)} values for {rows} rows; give one for all or one for each"))
        return [0] * rows
    return list(given) * rows if len(given) == 1 else list(given)


def _tensors(request: WithTensors, task: LoadedTask, wrong: list[Violation]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name, message in request.tensors.items():
        field = f"tensors[{name}]"
        if (declared := task.tensors.get(name)) is None:
            wrong.append(
                Violation(
                    field, f"task {task.task.name!r} has no such tensor; its tensors are {', '.join(task.tensors)}"
                )
            )
        elif isinstance(array := array_of(message, declared), str):
            wrong.append(Violation(field, array))
        else:
            found[name] = array
    return found


def array_of(message: media_pb2.Tensor, declared: Tensor, axes: tuple[str, ...] = ("rows",)) -> np.ndarray | str:
    """The numbers that ``message`` holds of the tensor ``declared``, behind the further ``axes``, or what is wrong with them."""
    want = f"expected {declared.dtype}{[*axes, *declared.shape]}".replace("'", "")
    dtype = DTYPES.get(message.data_type)
    if dtype != declared.dtype:
        return f"its type is {dtype or 'not told'}; {want}"
    shape = tuple(message.shape)
    if len(shape) < len(axes) or min(shape, default=1) < 1 or not declared.accepts(shape[len(axes) :]):
        return f"its shape is {list(shape)}; {want}"
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if len(message.data) != size:
        return f"{len(message.data)} bytes of data for shape {list(shape)}; expected {size}"
    array = np.frombuffer(message.data, np.dtype(dtype).newbyteorder("<")).reshape(shape)
    if dtype in ("float32", "float16") and not np.isfinite(array).all():
        return "it has NaN or infinity; expected finite numbers"
    if dtype == "bool" and array.view(np.uint8).max() > 1:
        return "it has bytes other than 0 and 1; expected bools"
    return array.astype(dtype, copy=False)


def filled(array: np.ndarray, rows: int) -> np.ndarray:
    """``array``, of which a single row stands for ``rows``."""
    # Not a copy a row: a few megabytes of request must not become gigabytes.
    return array if len(array) == rows else np.broadcast_to(array, (rows, *array.shape[1:]))

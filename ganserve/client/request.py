"""What a caller asks for, as a SampleRequest."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypedDict

from numpy.typing import ArrayLike

from ganserve.client.enums import choices
from ganserve.client.tensors import tensor_message
from ganserve.errors import InvalidArgument
from ganserve.v1 import generation_pb2, media_pb2

FORMATS = choices("IMAGE_FORMAT_", media_pb2.ImageFormat)
"""Image formats by name: png, jpeg, webp, raw, npy, npy-float."""

Label: TypeAlias = int | str
Numbers: TypeAlias = float | Sequence[float]


class SampleOptions(TypedDict, total=False):
    """The options of ``sample`` and ``sample_stream``; all may be left out. "A row" is one result."""

    seed: int | None
    """Row i is drawn from (seed, first_index + i). Without it the server chooses one, and every sample tells it."""
    first_index: int
    """The index of the first row."""
    seeds: Sequence[int]
    """A seed for each row instead of ``seed``."""
    labels: Label | Sequence[Label]
    """Classes by index or name: one for all rows, or one for each."""
    truncation: Numbers
    """Truncation of the noise: one for all rows, or one for each."""
    tensors: Mapping[str, ArrayLike]
    """Tensors given instead of computed, by the name that the task gives them (``z``, ``w``): [n, ...], or [1, ...] for all rows."""
    numbers: Mapping[str, Numbers]
    """Other values that the task reads: one for all rows, or one for each."""
    directions: Mapping[str, Numbers]
    """How far rows are moved along the model's named directions: one strength for all rows, or one for each."""
    task: str | None
    """The task; needed only where a model has several."""
    version: int | None
    """The model's version; the latest by default."""
    format: str | None
    """How images are encoded: png (the default), jpeg, webp, raw, npy or npy-float."""
    quality: int | None
    """1 to 100, for jpeg and webp."""
    returns: Sequence[str]
    """Tensors of the task to return beside each result."""


def sample_request(
    model: str,
    n: int | None,
    *,
    max_reply_bytes: int,
    seed: int | None = None,
    first_index: int = 0,
    seeds: Sequence[int] = (),
    labels: Label | Sequence[Label] = (),
    truncation: Numbers = (),
    tensors: Mapping[str, ArrayLike] | None = None,
    numbers: Mapping[str, Numbers] | None = None,
    directions: Mapping[str, Numbers] | None = None,
    task: str | None = None,
    version: int | None = None,
    format: str | None = None,  # noqa: A002 - the word for it
    quality: int | None = None,
    returns: Sequence[str] = (),
) -> generation_pb2.SampleRequest:
    """The message for ``n`` rows; without ``n``, as many as the longest of seeds, tensors, labels, numbers and directions has, at least 1.

    Raises :class:`InvalidArgument` for what no message can hold; the server judges the rest.
    """
    classes = [labels] if isinstance(labels, int | str) else list(labels)
    psi = _list(truncation)
    values = {name: _list(value) for name, value in (numbers or {}).items()}
    strengths = {name: _list(value) for name, value in (directions or {}).items()}
    given = {name: tensor_message(f"tensors[{name}]", value) for name, value in (tensors or {}).items()}
    if n is None:
        rows = (tensor.shape[0] for tensor in given.values() if tensor.shape)
        n = max(
            [1, len(seeds), len(classes), len(psi), *map(len, values.values()), *map(len, strengths.values()), *rows]
        )
    request = generation_pb2.SampleRequest(
        model=model,
        version=integer("version", version or 0),
        task=task or "",
        count=integer("count", n, bits=32),
        first_index=integer("first_index", first_index, signed=False),
        seeds=[integer(f"seeds[{row}]", one, signed=False) for row, one in enumerate(seeds)],
        tensors=given,
        labels=[label_message(f"labels[{position}]", label) for position, label in enumerate(classes)],
        truncation=psi,
        numbers={name: generation_pb2.Numbers(values=value) for name, value in values.items()},
        directions={name: generation_pb2.Numbers(values=value) for name, value in strengths.items()},
        output=output_options(format, quality),
        return_tensors=returns,
        max_reply_bytes=max_reply_bytes,
    )
    if seed is not None:
        request.seed = integer("seed", seed, signed=False)
    return request


def label_message(field: str, label: Label) -> generation_pb2.Label:
    """A class as a message."""
    if isinstance(label, str):
        return generation_pb2.Label(name=label)
    return generation_pb2.Label(index=integer(field, label))


def output_options(format: str | None, quality: int | None) -> media_pb2.OutputOptions:  # noqa: A002
    """How results are encoded, as a message."""
    if format is not None and format not in FORMATS:
        raise InvalidArgument.of("output.image_format", f"{format!r} is unknown; expected one of {', '.join(FORMATS)}")
    return media_pb2.OutputOptions(
        image_format="IMAGE_FORMAT_UNSPECIFIED" if format is None else FORMATS[format],
        quality=integer("output.quality", quality or 0, bits=32),
    )


def integer(field: str, value: int, bits: int = 64, *, signed: bool = True) -> int:
    """``value`` if an integer of so many bits can hold it, else :class:`InvalidArgument` about ``field``."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if not low <= value <= high:
        raise InvalidArgument.of(field, f"{value} is out of range; expected {low} to {high}")
    return int(value)


def _list(value: Numbers) -> list[float]:
    return [float(value)] if isinstance(value, int | float) else [float(one) for one in value]

"""The parameters of a request of the Open Inference Protocol: a closed set, each of one type, each for the tasks that it means something to."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from ganserve.errors import InvalidArgument, Violation
from ganserve.serving.inversion import Start
from ganserve.serving.task import LoadedTask

_Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may say beside its tensors, with what holds where it says nothing. ``said`` are the names of what it says."""

    said: frozenset[str] = frozenset()

    task: str = ""
    """The task; empty is the model's only one of its kind."""
    count: _Count | None = None
    """The rows, where the inputs have one for all of them or there are none."""
    first_index: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The index of the first row under its seed."""
    format: Annotated[str, msgspec.Meta(min_length=1, max_length=16)] = "raw"
    """How results are encoded: ``raw`` as a tensor, any other name as BYTES."""
    quality: int = 0
    """From 1 to 100, of lossy formats."""
    max_reply_bytes: _Count = 2**31 - 1
    """Refuse a reply that may outgrow this."""
    timeout: _Count | None = None
    """Microseconds after which rows that still wait are not run."""
    size: Literal["", "exact", "resize", "letterbox", "native"] = ""
    """How pictures meet the size that the model takes."""
    background: Annotated[str, msgspec.Meta(pattern="^#[0-9a-fA-F]{6}$")] = "#ffffff"
    """The colour behind pictures, as #rrggbb."""
    restore: bool = False
    """Scale the result to the size of the picture as it was sent."""
    start: Start | None = None
    """Where a search starts."""
    samples: _Count | None = None
    """How many samples a search tries."""
    seconds: _Seconds | None = None
    """After about how long a search ends."""
    response_per_row: bool = False
    """A message for each row of a request in a stream."""
    triton_enable_empty_final_response: bool = False
    """Whether an empty last response would be understood. None is sent: the last response says that it is. Triton's C++ client says it always."""

    def rgb(self) -> tuple[int, int, int]:
        """The background's levels."""
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue


_FIELDS = {field.name: field for field in msgspec.structs.fields(Parameters) if field.name != "said"}


def parameters_from(given: Mapping[str, object]) -> Parameters:
    """The parameters ``given`` by name; :class:`InvalidArgument` for each that is unknown, None, or of another type or range."""
    if len(given) > len(_FIELDS):
        raise InvalidArgument.of("parameters", f"{len(given)} are given; there are {len(_FIELDS)}")
    found: dict[str, Any] = {}
    wrong: list[Violation] = []
    for name, value in given.items():
        field = f"parameters[{name}]"
        if name not in _FIELDS:
            wrong.append(Violation(field, f"is unknown; the parameters are {', '.join(_FIELDS)}"))
        elif value is None:
            wrong.append(Violation(field, "has no value"))
        else:
            try:
                found[name] = msgspec.convert(value, _FIELDS[name].type)
            except msgspec.ValidationError as error:
                wrong.append(Violation(field, f"is refused: {error}"))
    if wrong:
        raise InvalidArgument(wrong)
    return Parameters(**found, said=frozenset(found))


def check_parameters(parameters: Parameters, task: LoadedTask, *, streaming: bool) -> None:
    """Nothing that a caller says is silently ignored: :class:`InvalidArgument` for what means nothing to ``task``, or but in a stream."""
    useless = f"not used by task {task.task.name!r} of kind {task.task.kind!r}"
    wrong = [Violation(f"parameters[{name}]", useless) for name in sorted(parameters.said.difference(_allowed(task)))]
    if parameters.response_per_row and not streaming:
        wrong.append(Violation("parameters[response_per_row]", "not used: it is for ModelStreamInfer"))
    if wrong:
        raise InvalidArgument(wrong)


def _allowed(task: LoadedTask) -> Iterator[str]:
    yield from ("task", "count", "format", "quality", "max_reply_bytes", "timeout")
    yield from ("response_per_row", "triton_enable_empty_final_response")
    if task.pictures:
        yield from ("size", "background")
    if task.task.kind == "invert":
        yield from ("start", "samples", "seconds")
        return
    yield "first_index"
    if task.pictures and task.makes_images:
        yield "restore"

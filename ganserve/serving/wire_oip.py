"""Requests and replies of the Open Inference Protocol ↔ the values of :mod:`ganserve.serving.call`."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ganserve.codecs import EncodeOptions, GivenImage, GivenPrompt
from ganserve.errors import InvalidArgument, Violation
from ganserve.inference import messages as pb
from ganserve.serving.call import SEED, Ask
from ganserve.serving.inversion import InvertAsk
from ganserve.serving.model import Model
from ganserve.serving.oip_parameters import Parameters, parameters_from
from ganserve.serving.oip_ports import DIRECTION, Port, outlets_of, ports_of
from ganserve.serving.task import LoadedTask
from ganserve.serving.wire import MAX_UINT64, check_direction, filled
from ganserve.serving.wire_oip_tensors import arrays_of


class Wish(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a request asks for: its rows, as one ask or as one ask a row, and the outputs that it wants, in order."""

    asks: Sequence[Ask]
    outputs: Sequence[str]
    request: pb.ModelInferRequest
    parameters: Parameters

    @property
    def model(self) -> Model:
        """The model."""
        return self.asks[0].model

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(ask.rows for ask in self.asks)

    @property
    def task(self) -> LoadedTask:
        """The task."""
        return self.asks[0].task


def parameters_of(request: pb.ModelInferRequest) -> Parameters:
    """The parameters of ``request``; :class:`InvalidArgument` for each that is unknown or has another type or range."""
    chosen = {name: message.WhichOneof("parameter_choice") for name, message in request.parameters.items()}
    return parameters_from({name: kind and getattr(request.parameters[name], kind) for name, kind in chosen.items()})


def wish_of(
    request: pb.ModelInferRequest, parameters: Parameters, model: Model, task: LoadedTask, max_rows: int
) -> Wish:
    """The request as a :class:`Wish`; :class:`InvalidArgument` lists every part that is wrong in form, not only the first."""
    wrong: list[Violation] = []
    ports = ports_of(model, task)
    arrays = arrays_of(request, ports, max_rows, wrong)
    outputs = _outputs(request, task, wrong)
    if (parameters.samples or 0) > max_rows:
        wrong.append(Violation("parameters[samples]", f"{parameters.samples}; expected 1 to {max_rows}"))
    if wrong:
        raise InvalidArgument(wrong)
    rows = _rows(arrays, parameters, max_rows)
    values, tensors, directions = _given(arrays, rows, ports, parameters, task, wrong)
    if wrong:
        raise InvalidArgument(wrong)
    whole = Ask(
        model=model,
        task=task,
        rows=rows,
        values=values,
        tensors=tensors,
        returns=tuple(name for name in outputs if name in task.tensors and name != task.task.output.tensor),
        encode=EncodeOptions(format=parameters.format, quality=parameters.quality),
        directions=directions,
    )
    return Wish(asks=_split(whole, parameters), outputs=outputs, request=request, parameters=parameters)


def field_of(model: Model, task: LoadedTask) -> Callable[[str], str]:
    """What makes the field of a ModelInferRequest of the name of a value or tensor, such as ``label[3]``, ``tensors[z]`` or ``images[image]``."""
    ports = ports_of(model, task)

    def field(name: str) -> str:
        base, _, inner = name.partition("[")
        inner = inner.removesuffix("]")
        match base:
            case "tensors" | "images":
                return f"inputs[{inner}]"
            case "outputs":
                return name
            case "directions":
                return f"inputs[{DIRECTION}{inner}]"
            case "latent" if task.task.inversion is not None:
                return f"inputs[{task.task.inversion.latent}]"
        if base in ports:
            return f"inputs[{base}]" + (f"[{inner}]" if inner else "")
        return f"parameters[{base}]"

    return field


def row_field(field: Callable[[str], str], row: int, rows: int) -> Callable[[str], str]:
    """``field`` for what is wrong with the one ask of ``row``, of ``rows`` such asks: the row is named behind the input."""

    def of_row(name: str) -> str:
        told = field(name.removesuffix("[0]"))
        return f"{told}[{row}]" if rows > 1 and told.startswith("inputs") else told

    return of_row


def _outputs(request: pb.ModelInferRequest, task: LoadedTask, wrong: list[Violation]) -> list[str]:
    known = outlets_of(task)
    if len(request.outputs) > len(known):
        wrong.append(Violation("outputs", f"{len(request.outputs)} are asked for; this task has {len(known)}"))
        return []
    names = [output.name for output in request.outputs]
    for output in request.outputs:
        field = f"outputs[{output.name}]"
        if output.name not in known:
            wrong.append(Violation(field, f"is no output of this task; its outputs are {', '.join(known)}"))
        elif names.count(output.name) > 1:
            wrong.append(Violation(field, "asked for twice; name each output once"))
        wrong += [
            Violation(field, f"its parameter {parameter!r} is unknown here") for parameter in sorted(output.parameters)
        ]
    return names


def _rows(arrays: Mapping[str, np.ndarray], parameters: Parameters, most: int) -> int:
    rows = parameters.count or max([1, *map(len, arrays.values())])
    if rows > most:
        raise InvalidArgument.of("parameters[count]", f"{rows} rows asked for; expected 1 to {most}")
    wrong = [
        Violation(f"inputs[{name}]", f"{len(array)} rows for {rows} rows asked for; give one for all or one for each")
        for name, array in arrays.items()
        if len(array) not in (1, rows)
    ]
    if wrong:
        raise InvalidArgument(wrong)
    return rows


def _given(
    arrays: Mapping[str, np.ndarray],
    rows: int,
    ports: Mapping[str, Port],
    parameters: Parameters,
    task: LoadedTask,
    wrong: list[Violation],
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The values, the tensors and the directions, a row for each of ``rows``."""
    values: dict[str, Any] = {}
    tensors: dict[str, np.ndarray] = {}
    directions: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        match ports[name].kind:
            case "tensor":
                declared = task.tensors[name]
                one = array.shape[1 : 1 + len(declared.shape)]
                if not declared.accepts(one):
                    multiples = (
                        f"its shape is {list(array.shape)}; expected free sizes to be multiples of {declared.multiple}"
                    )
                    wrong.append(Violation(f"inputs[{name}]", multiples))
                tensors[name] = filled(array.reshape(len(array), *one), rows)
            case "direction":
                direction, strengths = name.removeprefix(DIRECTION), array.reshape(-1).astype(np.float64)
                check_direction(f"inputs[{name}]", direction, strengths.tolist(), task, wrong)
                # What float32 cannot hold has just been refused.
                with np.errstate(over="ignore"):
                    directions[direction] = filled(strengths.astype(np.float32), rows)
            case "seed":
                values[name] = _seeds(array.reshape(-1), rows, parameters, wrong)
            case "picture":
                values[name] = _spread(_pictures(array, parameters), rows)
            case "prompt":
                # No output tells that a prompt was cut, so none is.
                texts = _texts(name, array.reshape(-1), wrong, "prompts")
                values[name] = _spread([GivenPrompt(text=text, whole=True) for text in texts], rows)
            case "label":
                values[name] = _spread(_labels(name, array.reshape(-1), wrong), rows)
            case "number":
                values[name] = _spread(array.reshape(-1).tolist(), rows)
    _check_parameters(arrays, ports, parameters, wrong)
    return values, tensors, directions


def _check_parameters(
    arrays: Mapping[str, np.ndarray], ports: Mapping[str, Port], parameters: Parameters, wrong: list[Violation]
) -> None:
    if SEED not in arrays and parameters.first_index:
        wrong.append(Violation("parameters[first_index]", "an index needs the seed that it counts under; give seed"))
    if not any(ports[name].kind == "picture" for name in arrays):
        fitting = sorted(parameters.said & {"size", "background", "restore"})
        wrong += [Violation(f"parameters[{name}]", "not used: no picture is given") for name in fitting]


def _seeds(seeds: np.ndarray, rows: int, parameters: Parameters, wrong: list[Violation]) -> np.ndarray | None:
    """The pair of each row: one seed stands for consecutive indices, as a seed for each row does for its own first one."""
    first = parameters.first_index
    if (seeds < 0).any():
        wrong.append(Violation("inputs[seed]", f"{seeds.min()} is refused; expected 0 to {MAX_UINT64}"))
        return None
    count = rows if len(seeds) == 1 else 1
    if first > MAX_UINT64 - (count - 1):
        wrong.append(Violation("parameters[first_index]", f"{first} + {count} rows exceed 2^64"))
        return None
    pairs = np.empty((rows, 2), np.uint64)
    pairs[:, 0] = seeds
    pairs[:, 1] = np.uint64(first)
    if len(seeds) == 1:
        pairs[:, 1] += np.arange(rows, dtype=np.uint64)
    return pairs


def _pictures(array: np.ndarray, parameters: Parameters) -> list[GivenImage]:
    fit: dict[str, Any] = {"size": parameters.size, "background": parameters.rgb(), "restore": parameters.restore}
    if array.dtype == object:
        return [GivenImage(data=data, **fit) for data in array.reshape(-1)]
    height, width, channels = array.shape[1:]
    return [
        GivenImage(data=row.tobytes(), format="raw", width=width, height=height, channels=channels, **fit)
        for row in array
    ]


def _labels(name: str, array: np.ndarray, wrong: list[Violation]) -> list[Any]:
    if array.dtype != object:
        numbers: list[Any] = array.tolist()
        return numbers
    return _texts(name, array, wrong, "names of classes")


def _texts(name: str, array: np.ndarray, wrong: list[Violation], what: str) -> list[str]:
    try:
        return [element.decode() for element in array]
    except UnicodeDecodeError as error:
        wrong.append(Violation(f"inputs[{name}]", f"{error.object[:20]!r} is no UTF-8; expected {what}"))
        return []


def prompts_of(wish: Wish) -> dict[str, str]:
    """The prompts of ``wish``, each once, by the fields that bring them."""
    found: dict[str, str] = {}
    for ask in wish.asks:
        for name in sorted(wish.task.prompts & ask.values.keys()):
            for row, prompt in enumerate(ask.values[name]):
                found.setdefault(prompt.text, f"inputs[{name}][{row}]")
    return {field: text for text, field in found.items()}


def _spread(given: Sequence[Any], rows: int) -> Sequence[Any]:
    return list(given) * rows if len(given) == 1 else given


def _split(whole: Ask, parameters: Parameters) -> Sequence[Ask]:
    """``whole``, or an ask for each of its rows where these have pictures, which are fitted one by one."""
    if not whole.task.pictures:
        return [whole]
    return [_single(whole, row, parameters) for row in range(whole.rows)]


def _single(whole: Ask, row: int, parameters: Parameters) -> Ask:
    part = slice(row, row + 1)
    one = msgspec.structs.replace(
        whole,
        rows=1,
        values={name: given[part] for name, given in whole.values.items()},
        tensors={name: array[part] for name, array in whole.tensors.items()},
        directions={name: array[part] for name, array in whole.directions.items()},
    )
    if (inversion := whole.task.task.inversion) is None:
        return one
    fields = {name: getattr(one, name) for name in ("model", "task", "rows", "values", "encode")}
    latent = one.tensors.get(inversion.latent)
    return InvertAsk(
        **fields,
        tensors={},
        start=parameters.start or (None if latent is None else "given"),
        samples=parameters.samples or None,
        latent=None if latent is None else latent[0],
        seconds=parameters.seconds or math.inf,
    )

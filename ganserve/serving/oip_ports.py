"""What a task takes and gives as the Open Inference Protocol sees it: named tensors, rows first.

A task's request values (seed, label, truncation, pictures ...) and its tensors (z, w ...) are inputs alike; where a value and a tensor
have one name, the input is the value. Each strength of a named direction is an input ``direction.NAME``.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from ganserve.errors import NotFound
from ganserve.serving.call import SEED
from ganserve.serving.model import Model
from ganserve.serving.task import LoadedTask
from ganserve.spec import Graph, Loop, Step, TaskKind, Tensor

Kind: TypeAlias = Literal["seed", "label", "number", "picture", "prompt", "tensor", "direction"]

DTYPES: Mapping[str, np.dtype] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The protocol's types of numbers, as they lie in raw contents."""

BYTES = "BYTES"
"""The protocol's type of texts and files."""

DIRECTION = "direction."

INDEX = "index"
"""The output that tells, beside the seed, which of its rows each is."""

INVERSION = ("loss", "psnr", "ssim")
"""What a task of kind ``invert`` tells of each row besides its picture and its latent."""

_INTEGERS = ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
_FLOATS = ("FP32", "FP64", "FP16")

_KINDS: Sequence[TaskKind] = ("sample", "text_to_image", "translate", "invert")


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """An input. ``datatypes`` are those that it may have, the declared one first; ``shape`` is that of one row, -1 a free size.

    An input of one number a row may come as [n] or [n, 1]. A picture as UINT8 has the shape [n, height, width, channels].
    """

    name: str
    kind: Kind
    datatypes: tuple[str, ...]
    shape: tuple[int, ...] = (1,)
    optional: bool = True

    def refusal(self, datatype: str, shape: tuple[int, ...]) -> str | None:
        """Why the input cannot be ``datatype`` of ``shape``, rows first; None if it can."""
        if datatype not in self.datatypes:
            return f"its type is {datatype[:20]!r}; expected {' or '.join(self.datatypes)}"
        want = (-1, -1, -1) if self.kind == "picture" and datatype == "UINT8" else self.shape
        fits = len(shape) == 1 + len(want) and all(
            one in (-1, other) for one, other in zip(want, shape[1:], strict=True)
        )
        if min(shape, default=0) < 1 or not (fits or (want == (1,) and len(shape) == 1)):
            return f"its shape is {list(shape[:8])}; expected {[-1, *want]}, sizes of at least 1, rows first"
        return None


class Outlet(msgspec.Struct, frozen=True, kw_only=True):
    """An output: its type and the shape of one row, -1 a free size."""

    name: str
    datatype: str
    shape: tuple[int, ...] = (1,)


def task_of(model: Model, name: str) -> LoadedTask:
    """The task of ``model`` called ``name``; if that is empty, the only one of the first kind that it has. :class:`NotFound` names what there is."""
    if not name:
        return model.task("", usual_task(model).task.kind)
    if name not in model.tasks:
        raise NotFound(f"model {model.name!r} has no task {name!r}; its tasks are: {', '.join(model.tasks)}")
    return model.tasks[name]


def usual_task(model: Model) -> LoadedTask:
    """The task that a request means which names none, or the first of those that it may mean: what is told of ``model`` is told of it."""
    return min(model.tasks.values(), key=lambda loaded: _KINDS.index(loaded.task.kind))


def ports_of(model: Model, task: LoadedTask) -> dict[str, Port]:
    """The inputs of a ``task`` of ``model`` by name: its values, the tensors that its steps read, its directions."""
    values = {name: _value(task, name) for name in task.task.values()}
    if task.task.inversion is not None:
        # A search enters nothing but the latent from which it starts.
        latent = task.task.inversion.latent
        return {**values, latent: _tensor(task.tensors[latent])}
    read = {name for step in task.task.steps for name in _reads(step, model.graphs[step.graph].graph)}
    tensors = {name: _tensor(one) for name, one in task.tensors.items() if name in read and name not in values}
    names = [f"{DIRECTION}{name}" for name in task.directions]
    return {**values, **tensors, **{name: Port(name=name, kind="direction", datatypes=_FLOATS) for name in names}}


def outlets_of(task: LoadedTask) -> dict[str, Outlet]:
    """The outputs of ``task`` by name, its result first."""
    result = task.task.output.tensor
    found = [_outlet(task.tensors[result])]
    if SEED in task.task.values():
        found += [Outlet(name=name, datatype="UINT64") for name in (SEED, INDEX)]
    if task.task.inversion is not None:
        found += [_outlet(task.tensors[task.task.inversion.latent])]
        found += [Outlet(name=name, datatype="FP32") for name in INVERSION]
    else:
        found += [_outlet(tensor) for name, tensor in task.tensors.items() if name != result]
    return {outlet.name: outlet for outlet in found}


def datatype_of(dtype: np.dtype) -> str:
    """The protocol's name of ``dtype``."""
    little = dtype.newbyteorder("<")
    return next(name for name, one in DTYPES.items() if one == little)


def _reads(step: Step | Loop, graph: Graph) -> set[str]:
    return step.needs(graph) if isinstance(step, Loop) else set(step.reads(graph).values())


def _value(task: LoadedTask, name: str) -> Port:
    sources = [source for source in task.task.inputs if name in source.reads]
    # A seed is drawn where none is given, and what is drawn from a seed need not be given.
    optional = all(source.optional or SEED in source.reads for source in sources)
    kind, datatypes = _typed(task, name)
    return Port(name=name, kind=kind, datatypes=datatypes, optional=optional)


def _typed(task: LoadedTask, name: str) -> tuple[Kind, tuple[str, ...]]:
    if name == SEED:
        return "seed", _INTEGERS
    if name in [decoder.value for decoder in task.pictures.values()]:
        return "picture", (BYTES, "UINT8")
    if name in task.prompts:
        return "prompt", (BYTES,)
    sources = [source for source in task.task.inputs if name in source.reads]
    if any(source.codec == "label" for source in sources):
        return "label", (*_INTEGERS, BYTES)
    whole = all(task.tensors[source.tensor].dtype in ("int64", "int32") for source in sources)
    return "number", (*_INTEGERS, *_FLOATS) if whole else (*_FLOATS, *_INTEGERS)


def _tensor(tensor: Tensor) -> Port:
    outlet = _outlet(tensor)
    return Port(name=tensor.name, kind="tensor", datatypes=(outlet.datatype,), shape=outlet.shape)


def _outlet(tensor: Tensor) -> Outlet:
    shape = tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
    return Outlet(name=tensor.name, datatype=datatype_of(np.dtype(tensor.dtype)), shape=shape or (1,))

"""The records that plugins, bundles and the server share: frozen, validated when made, readable from JSON.

A family describes itself with :class:`Family`; its :class:`Spec` (graphs and tasks) is what a bundle's manifest stores and
what the server runs. Shapes are those of one row: the first axis of every tensor counts rows and is never written down.

A :class:`Task` is a small dataflow over named tensors. Its :class:`Input` records say which codec makes a tensor from the
values of a request; its steps (:class:`Step`, :class:`Loop`) make tensors from tensors. Where two steps make one tensor, the
first whose inputs can be had wins; a step runs only if its output is needed and was not given.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec

from ganserve.errors import SpecError
from ganserve.names import Name, check_name, check_reference
from ganserve.tensors import (
    Direction,
    Distribution,
    DType,
    Input,
    Inversion,
    Latent,
    Noise,
    Output,
    Record,
    Tensor,
    Walk,
)

__all__ = [
    "Codec",
    "DType",
    "Direction",
    "Distribution",
    "Engine",
    "Family",
    "Graph",
    "Input",
    "Inversion",
    "Latent",
    "Loop",
    "Noise",
    "Output",
    "Record",
    "Spec",
    "Step",
    "Task",
    "TaskKind",
    "Tensor",
    "Walk",
    "check_tasks",
    "tensors_of",
]

TaskKind: TypeAlias = Literal["sample", "translate", "text_to_image", "invert"]


class Graph(Record, frozen=True, kw_only=True):
    """One ONNX graph: named inputs and outputs. ``batchable=False`` says that its rows must never meet: each runs alone.

    ``radius`` says of a convolutional graph how many input pixels around its own place an output pixel depends on, at most; a
    picture too large to run whole may then be run in overlapping tiles. None: on all of them (instance norm, attention).
    """

    name: Name
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batchable: bool = True
    radius: Annotated[int, msgspec.Meta(ge=0)] | None = None

    def __post_init__(self) -> None:
        """Refuse empty or ambiguous signatures."""
        check_name("graph", self.name)
        if not self.inputs or not self.outputs:
            raise SpecError(f"graph {self.name!r} needs at least one input and one output")
        for side, tensors in (("input", self.inputs), ("output", self.outputs)):
            names = [tensor.name for tensor in tensors]
            if len(set(names)) != len(names):
                raise SpecError(f"graph {self.name!r} names an {side} twice: {names}")

    def input(self, name: str) -> Tensor:
        """The input called ``name``; :class:`SpecError` if there is none."""
        return _find(self.inputs, name, f"graph {self.name!r} has no input {name!r}")

    def output(self, name: str) -> Tensor:
        """The output called ``name``; :class:`SpecError` if there is none."""
        return _find(self.outputs, name, f"graph {self.name!r} has no output {name!r}")


class Step(Record, frozen=True, kw_only=True, tag="graph", tag_field="step"):
    """One run of a graph. ``inputs`` and ``outputs`` bind the graph's names to the task's tensors; unnamed ones keep their name.

    Neighbouring steps share a stage, whose batch stays on the device; ``cut=True`` ends the stage after this step. A ``shared`` step
    is a stage of its own, in which rows of equal inputs run once for all requests that wait for them: worth it where that is common
    (many images of one prompt), and not where noise goes in.
    """

    graph: Name
    inputs: Mapping[Name, Name] = {}
    outputs: Mapping[Name, Name] = {}
    cut: bool = False
    shared: bool = False

    def reads(self, graph: Graph) -> dict[str, str]:
        """Graph input → task tensor, for every input of ``graph``."""
        return {tensor.name: self.inputs.get(tensor.name, tensor.name) for tensor in graph.inputs}

    def makes(self, graph: Graph) -> dict[str, str]:
        """Graph output → task tensor, for every output of ``graph``."""
        return {tensor.name: self.outputs.get(tensor.name, tensor.name) for tensor in graph.outputs}


class Loop(Record, frozen=True, kw_only=True, tag="loop", tag_field="step"):
    """A graph fed back on itself, row by row, until its ``done`` output says so or ``steps`` runs are over.

    ``state`` maps a graph output to the graph input that it becomes in the next run; before the first run that input is bound
    through ``inputs`` like any other. ``counter`` names a graph input that is given the run's number from 0 (int64, a scalar a
    row), ``limit`` one that is given the row's number of runs; ``done`` names a bool output. ``noise`` draws an input afresh at
    each run. ``steps`` is a number, or the int64 tensor that holds each row's own (at most ``max_steps``). The graph's outputs are read after the last run.
    """

    graph: Name
    state: Mapping[Name, Name]
    steps: int | Name
    max_steps: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000
    inputs: Mapping[Name, Name] = {}
    outputs: Mapping[Name, Name] = {}
    counter: Name | None = None
    limit: Name | None = None
    done: Name | None = None
    noise: Mapping[Name, Noise] = {}

    def __post_init__(self) -> None:
        """Refuse loops that never run or never feed back."""
        if isinstance(self.steps, int) and not 1 <= self.steps <= self.max_steps:
            raise SpecError(
                f"loop over {self.graph!r} asks for {self.steps} steps: expected 1 to max_steps ({self.max_steps})"
            )
        if not self.state:
            raise SpecError(
                f"loop over {self.graph!r} has no state: nothing would change from run to run; use a graph step"
            )

    def reads(self, graph: Graph) -> dict[str, str]:
        """Graph input → task tensor, for the inputs that the task (not the loop itself) provides."""
        own = {self.counter, self.limit, *self.noise}
        return {
            tensor.name: self.inputs.get(tensor.name, tensor.name) for tensor in graph.inputs if tensor.name not in own
        }

    def makes(self, graph: Graph) -> dict[str, str]:
        """Graph output → task tensor, for every output of ``graph``."""
        return {tensor.name: self.outputs.get(tensor.name, tensor.name) for tensor in graph.outputs}

    def needs(self, graph: Graph) -> set[str]:
        """The task tensors that must be there before the loop starts."""
        return {*self.reads(graph).values(), *([self.steps] if isinstance(self.steps, str) else [])}


class Task(Record, frozen=True, kw_only=True):
    """What one rpc does with a bundle: inputs made by codecs, steps over named tensors, and the output that answers.

    ``latents`` are the tensors that may be walked, mixed and edited, in the order in which they are made; a task of kind
    ``invert`` says in ``inversion`` how it seeks.
    """

    name: Name
    kind: TaskKind
    inputs: tuple[Input, ...]
    steps: tuple[Step | Loop, ...]
    output: Output
    latents: tuple[Latent, ...] = ()
    inversion: Inversion | None = None

    def values(self) -> tuple[str, ...]:
        """The names of the request values that some input reads, in order of first mention."""
        return tuple(dict.fromkeys(name for source in self.inputs for name in source.reads))


class Spec(Record, frozen=True, kw_only=True):
    """The graphs of a model and the tasks that use them; validated as a whole."""

    graphs: tuple[Graph, ...]
    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        """Check every task's dataflow against the graphs."""
        check_tasks(self.graphs, self.tasks)

    def graph(self, name: str) -> Graph:
        """The graph called ``name``; :class:`SpecError` if there is none."""
        return _find(self.graphs, name, f"there is no graph {name!r}")


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One GAN family. The references are ``"module:attribute"`` strings, so that registering imports no torch.

    ``presets`` maps a preset's name to its configuration and must hold a ``tiny`` one (seconds on one core).
    ``spec(config)`` gives the :class:`Spec`. ``build(config)`` gives the networks by name. ``train(config, networks)`` gives a
    ``ganserve_trainers.recipe.Recipe``. ``export(config, networks)`` gives a torch module for each graph of the spec.
    ``directions(config, networks)``, where there is one, gives edit directions by name as ``ganserve_trainers.directions.Found``.
    """

    name: str
    summary: str
    paper: str
    presets: Mapping[str, Mapping[str, Any]]
    spec: Callable[[Mapping[str, Any]], Spec]
    build: str
    train: str
    export: str
    directions: str | None = None

    def __post_init__(self) -> None:
        """Check names and references."""
        check_name("family", self.name)
        for preset in self.presets:
            check_name("preset", preset)
        if "tiny" not in self.presets:
            raise SpecError(
                f"family {self.name!r} has no 'tiny' preset: the conformance suite needs one that trains in seconds; it has {sorted(self.presets)}"
            )
        for field in ("build", "train", "export", "directions"):
            if (reference := getattr(self, field)) is not None:
                check_reference(f"family {self.name!r}, {field}", reference)

    def config(self, preset: str) -> Mapping[str, Any]:
        """The configuration of ``preset``; :class:`SpecError` naming the presets there are."""
        if preset not in self.presets:
            raise SpecError(f"family {self.name!r} has no preset {preset!r}; it has {', '.join(sorted(self.presets))}")
        return self.presets[preset]


class Codec(msgspec.Struct, frozen=True, kw_only=True):
    """A way from request values to a tensor (``decode``), from a tensor's row to media (``encode``), or both.

    ``decode`` refers to a callable ``(Input, Tensor, folder) -> ganserve.codecs.Decoder``, ``encode`` to one
    ``(Output, Tensor) -> ganserve.codecs.Encoder``; both are called once, when a model is loaded.
    """

    name: str
    summary: str
    decode: str | None = None
    encode: str | None = None

    def __post_init__(self) -> None:
        """Check names and references."""
        check_name("codec", self.name)
        for field in ("decode", "encode"):
            if (reference := getattr(self, field)) is not None:
                check_reference(f"codec {self.name!r}, {field}", reference)


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime for graphs.

    ``available`` refers to a callable ``() -> str | None``: why it cannot run here, or None when it can. ``load`` refers to one
    ``(graph_file, ganserve.engines.Options) -> ganserve.engines.Session``. Where loading may begin with a build of minutes,
    ``must_build`` refers to a callable of the same arguments that says whether it would: a server lets another engine answer meanwhile.
    ``compiles``, likewise, says whether a session compiles for each number of rows that it meets: a server then runs them all first (None: it does).
    """

    name: str
    summary: str
    available: str
    load: str
    must_build: str | None = None
    compiles: str | None = None

    def __post_init__(self) -> None:
        """Check names and references."""
        check_name("engine", self.name)
        for field in ("available", "load", "must_build", "compiles"):
            if (reference := getattr(self, field)) is not None:
                check_reference(f"engine {self.name!r}, {field}", reference)


def tensors_of(graphs: Mapping[str, Graph], task: Task) -> dict[str, Tensor]:
    """Every named tensor of ``task`` with its declaration, taken from the graphs that make or read it.

    Raises :class:`SpecError` where a step names a graph or a port that does not exist, or two uses of a tensor disagree.
    """
    found: dict[str, Tensor] = {}
    for step in task.steps:
        if step.graph not in graphs:
            raise SpecError(f"task {task.name!r} runs graph {step.graph!r}; there are {', '.join(sorted(graphs))}")
        graph = graphs[step.graph]
        for port, name in _ports(task, step, graph):
            tensor = msgspec.structs.replace(port, name=name)
            seen = found.setdefault(name, tensor)
            if seen.dtype != tensor.dtype or not _compatible(seen.shape, tensor.shape):
                raise SpecError(
                    f"task {task.name!r}: tensor {name!r} is {seen.dtype}{list(seen.shape)} in one step and "
                    f"{tensor.dtype}{list(tensor.shape)} in graph {graph.name!r}; bind one of them to another name"
                )
    if task.inversion is not None and task.inversion.start in found:
        # What may become the start is like it, and need be read by nothing else.
        for name in task.inversion.starts.values():
            found.setdefault(name, msgspec.structs.replace(found[task.inversion.start], name=name))
    return found


def check_tasks(graphs: tuple[Graph, ...], tasks: tuple[Task, ...]) -> None:
    """Raise :class:`SpecError` unless names are unique and every task can make its output from its inputs."""
    by_name = {graph.name: graph for graph in graphs}
    for kind, names in (("graph", [graph.name for graph in graphs]), ("task", [task.name for task in tasks])):
        if not names or len(set(names)) != len(names):
            raise SpecError(f"expected one or more {kind}s with different names, got {names}")
    for task in tasks:
        tensors = tensors_of(by_name, task)
        for source in task.inputs:
            if source.tensor not in tensors:
                raise SpecError(
                    f"task {task.name!r}: input {source.tensor!r} is read by no step; its tensors are {', '.join(tensors)}"
                )
        _check_latents(task, tensors)
        made = {source.tensor for source in task.inputs}
        # What an inversion starts from is chosen among its starts, call by call.
        made |= {task.inversion.start} if task.inversion is not None else set()
        made |= {name for step in task.steps for name in step.makes(by_name[step.graph]).values()}
        for step in task.steps:
            graph = by_name[step.graph]
            needs = step.needs(graph) if isinstance(step, Loop) else set(step.reads(graph).values())
            if missing := needs - made:
                raise SpecError(
                    f"task {task.name!r}: nothing makes {', '.join(sorted(missing))}, which graph {graph.name!r} reads; add an input or a step"
                )
        if task.output.tensor not in made:
            raise SpecError(f"task {task.name!r}: nothing makes its output {task.output.tensor!r}; add a step")


def _check_latents(task: Task, tensors: Mapping[str, Tensor]) -> None:
    inversion = task.inversion
    if (task.kind == "invert") != (inversion is not None):
        raise SpecError(f"task {task.name!r}: a task of kind 'invert', and no other, says how in `inversion`")
    sought = [] if inversion is None else [inversion.start, inversion.latent, *inversion.starts.values()]
    told = [] if inversion is None else [inversion.loss, inversion.preview]
    for name in (*(latent.tensor for latent in task.latents), *sought, *told):
        if name not in tensors:
            raise SpecError(f"task {task.name!r}: {name!r} is none of its tensors; they are {', '.join(tensors)}")
    for latent in task.latents:
        shape = tensors[latent.tensor].shape
        if tensors[latent.tensor].dtype != "float32" or any(isinstance(size, str) for size in shape) or not shape:
            raise SpecError(f"task {task.name!r}: latent {latent.tensor!r} must be float32 of a fixed shape")
        if latent.layers and len(shape) < 2:
            raise SpecError(
                f"task {task.name!r}: latent {latent.tensor!r} has shape {list(shape)}, so no layers to mix"
            )
    if wrong := [name for name in sought if tensors[name].shape != tensors[sought[0]].shape]:
        raise SpecError(
            f"task {task.name!r}: {wrong[0]!r} has another shape than {sought[0]!r}, where the inversion starts"
        )


def _ports(task: Task, step: Step | Loop, graph: Graph) -> Iterator[tuple[Tensor, str]]:
    for port in (*step.inputs, *step.outputs):
        graph.input(port) if port in step.inputs else graph.output(port)
    for port, name in step.reads(graph).items():
        yield graph.input(port), name
    for port, name in step.makes(graph).items():
        yield graph.output(port), name
    if isinstance(step, Loop):
        _check_loop(task, step, graph)
        if isinstance(step.steps, str):
            yield Tensor(name=step.steps, dtype="int64"), step.steps


def _check_loop(task: Task, loop: Loop, graph: Graph) -> None:
    for made, read in loop.state.items():
        one, two = graph.output(made), graph.input(read)
        if one.dtype != two.dtype or one.shape != two.shape:
            raise SpecError(
                f"task {task.name!r}: loop state {made!r} → {read!r} changes from {one.dtype}{list(one.shape)} to {two.dtype}{list(two.shape)}; a state keeps its type and shape"
            )
    for own in (loop.counter, loop.limit):
        if own is not None and (graph.input(own).dtype, graph.input(own).shape) != ("int64", ()):
            raise SpecError(f"task {task.name!r}: graph {graph.name!r} must take {own!r} as one int64 a row")
    if loop.done is not None and (graph.output(loop.done).dtype, graph.output(loop.done).shape) != ("bool", ()):
        raise SpecError(f"task {task.name!r}: graph {graph.name!r} must give {loop.done!r} as one bool a row")
    for name in loop.noise:
        if graph.input(name).dtype != "float32" or any(isinstance(size, str) for size in graph.input(name).shape):
            raise SpecError(f"task {task.name!r}: noise input {name!r} must be float32 of a fixed shape")


def _compatible(one: tuple[int | str, ...], two: tuple[int | str, ...]) -> bool:
    return len(one) == len(two) and all(
        isinstance(a, str) or isinstance(b, str) or a == b for a, b in zip(one, two, strict=True)
    )


_Named = TypeVar("_Named", Tensor, Graph)


def _find(records: tuple[_Named, ...], name: str, otherwise: str) -> _Named:
    for record in records:
        if record.name == name:
            return record
    raise SpecError(f"{otherwise}; there are {', '.join(record.name for record in records)}")

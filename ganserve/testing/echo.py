"""The echo bundle: a real bundle of tiny arithmetic graphs, so that a whole server can be tested without torch or training.

Everything it makes can be said by hand (:func:`image_of`). Tasks:

- ``sample``: seed, truncation, label → ``mapping`` (w = z + label) → ``synthesis`` (w → image). Both z and w may be entered.
- ``walk``: a loop. x starts at z; each run halves it and adds fresh noise; ``steps`` (a number a row) runs.
- ``settle``: a loop that ends by itself, row by row: x halves until every |x| is below 0.1.
- ``alone``: ``synthesis`` declared unbatchable.
- ``fragile``: a graph that fails on rows whose ``hurt`` is not 0, so that one row can break its batch.

Its translate tasks, which take pictures of any size unless told otherwise (:mod:`ganserve.testing.echo_pictures` has the graphs):

- ``negative``: 255 less a 3x3 blur: an output pixel depends on its neighbours alone, so pictures run in tiles.
- ``negative-alone``: the same graph declared unbatchable.
- ``global``: every pixel less the picture's mean: no tiles.
- ``blend``: two pictures, ``image`` and ``reference``, mixed by ``weight`` (a number, 0.5 by default).
- ``noisy``: the picture, each channel shifted by noise from the seed.
- ``double``: every pixel four times, in twice the width and height.
- ``fixed``: ``negative`` of 16x16 pixels.
- ``measure``: the picture's mean colour, which is no picture.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ganserve.bundle import ExportedGraph, File, Golden, Manifest, digest, write_manifest
from ganserve.codecs.seeds import draw
from ganserve.spec import Graph, Input, Loop, Noise, Output, Step, Task, Tensor
from ganserve.testing.echo_pictures import PICTURE_BODIES, PICTURE_GRAPHS, PICTURE_TASKS, Body, picture_golden

LABELS = ("circle", "square", "star")
SIZE = 4
"""The length of z and w, and the height and width of the image."""

GOLDEN_ROWS = 3
OPSET = 20
Z_NOISE = Noise(distribution="normal", stream=0)
WALK_NOISE = Noise(distribution="normal", stream=7)

_Z = Tensor(name="z", dtype="float32", shape=(SIZE,))
_W = Tensor(name="w", dtype="float32", shape=(SIZE,))
_X = Tensor(name="x", dtype="float32", shape=(SIZE,))
_LABEL = Tensor(name="label", dtype="int64")
_HURT = Tensor(name="hurt", dtype="int64")
_IMAGE = Tensor(name="image", dtype="uint8", shape=(SIZE, SIZE, 3))


def image_of(w: np.ndarray) -> np.ndarray:
    """What ``synthesis`` makes of ``w`` [n, 4]: uint8 [n, 4, 4, 3], pixel (i, j) all channels 128 + 20·w[j], saturated."""
    row = np.clip(np.float32(128) + np.float32(20) * w.astype(np.float32), 0, 255).astype(np.uint8)
    return np.broadcast_to(row[:, None, :, None], (len(w), SIZE, SIZE, 3)).copy()


def write_bundle(
    folder: Path, *, name: str = "echo", version: int = 1, shift: float = 0.0, tasks: Collection[str] | None = None
) -> Path:
    """Write the echo bundle into ``folder`` (made if missing) and return it.

    ``mapping`` adds ``shift`` to w, so that versions can be told apart; of its ``tasks`` some may be enough, with the graphs that they run.
    """
    bodies = {"mapping": _mapping(shift), "synthesis": _synthesis(), "alone": _synthesis()}
    bodies |= {"walk": _walk(), "settle": _settle(), "fragile": _fragile()}
    bodies |= {name: body() for name, body in PICTURE_BODIES.items()}
    chosen = tuple(task for task in _tasks() if tasks is None or task.name in tasks)
    runs = {step.graph for task in chosen for step in task.steps}
    golden = _golden_arrays(GOLDEN_ROWS)
    golden["mapping.w"] = golden["mapping.w"] + np.float32(shift)
    return write_by_hand(
        folder,
        name=name,
        version=version,
        graphs=tuple(graph for graph in (*_graphs(), *PICTURE_GRAPHS) if graph.name in runs),
        bodies=bodies,
        tasks=chosen,
        golden={array: rows for array, rows in golden.items() if array.partition(".")[0] in runs},
    )


def write_by_hand(
    folder: Path,
    *,
    name: str,
    version: int,
    graphs: Sequence[Graph],
    bodies: Mapping[str, Body],
    tasks: tuple[Task, ...],
    golden: Mapping[str, np.ndarray],
    texts: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write a bundle of ``graphs`` whose nodes and weights are ``bodies``, by their names; ``golden`` has :data:`GOLDEN_ROWS` rows.

    ``texts`` are further files by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    exported = tuple(_exported(graph) for graph in graphs)
    for graph in exported:
        onnx.save(_model(graph, bodies[graph.name]), folder / graph.file)
    for file, text in texts.items():
        (folder / file).write_text(text, "utf-8")
    rows = Golden(file="golden.npz", rows=GOLDEN_ROWS)
    np.savez(folder / rows.file, **golden)  # type: ignore[arg-type]
    files: dict[str, File] = {file: digest(folder / file) for file in (*(g.file for g in exported), *texts, rows.file)}
    manifest = Manifest(
        name=name,
        version=version,
        family="echo",
        preset="tiny",
        licence="Apache-2.0",
        attribution="made by ganserve.testing",
        graphs=exported,
        tasks=tasks,
        golden=rows,
        files=files,
    )
    write_manifest(folder, manifest)
    return folder


def _graphs() -> tuple[Graph, ...]:
    step = Tensor(name="step", dtype="int64")
    noise = Tensor(name="noise", dtype="float32", shape=(SIZE,))
    after = Tensor(name="next", dtype="float32", shape=(SIZE,))
    done = Tensor(name="done", dtype="bool")
    return (
        Graph(name="mapping", inputs=(_Z, _LABEL), outputs=(_W,)),
        Graph(name="synthesis", inputs=(_W,), outputs=(_IMAGE,)),
        Graph(name="alone", inputs=(_W,), outputs=(_IMAGE,), batchable=False),
        Graph(name="walk", inputs=(_X, noise, step), outputs=(after, Tensor(name="count", dtype="int64"))),
        Graph(name="settle", inputs=(_X,), outputs=(after, done)),
        Graph(name="fragile", inputs=(_W, _HURT), outputs=(_IMAGE,)),
    )


def _tasks() -> tuple[Task, ...]:
    z = Input(tensor="z", codec="noise", reads=("seed", "truncation"), options={"stream": Z_NOISE.stream})
    label = Input(
        tensor="label", codec="label", reads=("label", "seed"), options={"classes": len(LABELS), "names": LABELS}
    )
    steps = Input(tensor="steps", codec="number", reads=("steps",), options={"low": 1, "high": 50})
    hurt = Input(
        tensor="hurt", codec="number", reads=("hurt",), options={"low": 0, "high": 1, "default": 0}, optional=True
    )
    image = Output(tensor="image", codec="image")
    show = Step(graph="synthesis", inputs={"w": "x_end"})
    walk = Loop(
        graph="walk",
        inputs={"x": "z"},
        outputs={"next": "x_end"},
        state={"next": "x"},
        steps="steps",
        max_steps=50,
        counter="step",
        noise={"noise": WALK_NOISE},
    )
    settle = Loop(
        graph="settle", inputs={"x": "z"}, outputs={"next": "x_end"}, state={"next": "x"}, steps=50, done="done"
    )
    w = Step(graph="mapping")
    return (
        Task(name="sample", kind="sample", inputs=(z, label), steps=(w, Step(graph="synthesis")), output=image),
        Task(name="walk", kind="sample", inputs=(z, steps), steps=(walk, show), output=image),
        Task(name="settle", kind="sample", inputs=(z,), steps=(settle, show), output=image),
        Task(name="alone", kind="sample", inputs=(z, label), steps=(w, Step(graph="alone")), output=image),
        Task(name="fragile", kind="sample", inputs=(z, label, hurt), steps=(w, Step(graph="fragile")), output=image),
        *PICTURE_TASKS,
    )


def _exported(graph: Graph) -> ExportedGraph:
    return ExportedGraph(
        name=graph.name,
        inputs=graph.inputs,
        outputs=graph.outputs,
        batchable=graph.batchable,
        radius=graph.radius,
        file=f"{graph.name}.onnx",
        opset=OPSET,
        flops=0,
        parity=0.0,
    )


def _golden_arrays(rows: int) -> dict[str, np.ndarray]:
    seeds = np.array([(0, row) for row in range(rows)], np.uint64)
    z = draw(Z_NOISE, seeds, (SIZE,))
    label = np.arange(rows, dtype=np.int64) % len(LABELS)
    w = z + label[:, None].astype(np.float32)
    arrays = {"mapping.z": z, "mapping.label": label, "mapping.w": w}
    arrays |= {"synthesis.w": w, "synthesis.image": image_of(w), "alone.w": w, "alone.image": image_of(w)}
    half = z * np.float32(0.5)
    step = np.zeros(rows, np.int64)
    arrays |= {"walk.x": z, "walk.noise": w, "walk.step": step, "walk.next": half + w, "walk.count": step + 1}
    arrays |= {"settle.x": z, "settle.next": half, "settle.done": np.abs(half).max(axis=1) < 0.1}
    return arrays | {"fragile.w": w, "fragile.hurt": step, "fragile.image": image_of(w)} | picture_golden(seeds)


def _model(graph: Graph, body: Body) -> onnx.ModelProto:
    nodes, weights = body
    made = helper.make_graph(
        nodes, graph.name, [_info(one) for one in graph.inputs], [_info(one) for one in graph.outputs], weights
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(tensor.name, kind, ["rows", *tensor.shape])


def _weights(**arrays: np.ndarray) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]


def _mapping(shift: float) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    nodes = [
        helper.make_node("Cast", ["label"], ["number"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["number", "last"], ["column"]),
        helper.make_node("Add", ["z", "column"], ["labelled"]),
        helper.make_node("Add", ["labelled", "shift"], ["w"]),
    ]
    return nodes, _weights(last=np.array([1], np.int64), shift=np.array(shift, np.float32))


def _paint(source: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Mul", [source, "contrast"], ["scaled"]),
        helper.make_node("Add", ["scaled", "grey"], ["level"]),
        helper.make_node("Clip", ["level", "black", "white"], ["clipped"]),
        helper.make_node("Unsqueeze", ["clipped", "axes"], ["spread"]),
        helper.make_node("Tile", ["spread", "repeats"], ["pixels"]),
        # Last, for TensorRT has uint8 at the edges of a graph only.
        helper.make_node("Cast", ["pixels"], ["image"], to=onnx.TensorProto.UINT8),
    ]


def _paint_weights() -> list[onnx.TensorProto]:
    levels = {"contrast": 20, "grey": 128, "black": 0, "white": 255}
    numbers = {name: np.array(level, np.float32) for name, level in levels.items()}
    return _weights(**numbers, axes=np.array([1, 3], np.int64), repeats=np.array([1, SIZE, 1, 3], np.int64))


def _synthesis() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    return _paint("w"), _paint_weights()


def _walk() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["halved"]),
        helper.make_node("Add", ["halved", "noise"], ["next"]),
        helper.make_node("Add", ["step", "one"], ["count"]),
    ]
    return nodes, _weights(half=np.array(0.5, np.float32), one=np.array(1, np.int64))


def _settle() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["next"]),
        helper.make_node("Abs", ["next"], ["size"]),
        helper.make_node("ReduceMax", ["size", "last"], ["largest"], keepdims=0),
        helper.make_node("Less", ["largest", "enough"], ["done"]),
    ]
    half, enough = np.array(0.5, np.float32), np.array(0.1, np.float32)
    return nodes, _weights(half=half, enough=enough, last=np.array([1], np.int64))


def _fragile() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    # Gather from a table of one entry: any index but 0 is out of bounds, and the engine raises for the whole batch.
    nodes = [
        helper.make_node("Gather", ["table", "hurt"], ["zero"], axis=0),
        helper.make_node("Unsqueeze", ["zero", "last"], ["column"]),
        helper.make_node("Add", ["w", "column"], ["whole"]),
        *_paint("whole"),
    ]
    weights = _weights(table=np.zeros(1, np.float32), last=np.array([1], np.int64))
    return nodes, [*weights, *_paint_weights()]

"""The bundle: a folder that holds one exported model as data. ``docs/bundles.md`` describes the format.

``manifest.json`` says everything; beside it lie one ONNX file a graph, the weights they share, golden rows and whatever files
the codecs need. Reading verifies all of it before an engine sees a byte: the format, every digest, names that stay in the
folder, external data that stays in the bundle, and the manifest's tensors against the graphs'. Nothing is ever unpickled.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
import onnx

from ganserve.bundle_arrays import check_directions, check_golden, latent_shapes, load
from ganserve.errors import BundleError, SpecError
from ganserve.names import Name, check_name
from ganserve.spec import Direction, DType, Graph, Noise, Record, Task, Tensor, check_tasks

FORMAT = 1
"""The format that this version writes and reads."""

MANIFEST = "manifest.json"
MAX_OPSET = 20

_STANDARD = "ai.onnx"
"""The domain of ONNX's own operators."""

Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

_ONNX_DTYPES: Mapping[DType, int] = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "uint8": onnx.TensorProto.UINT8,
    "int32": onnx.TensorProto.INT32,
    "int64": onnx.TensorProto.INT64,
    "bool": onnx.TensorProto.BOOL,
}


_ONNX_NAMES: Mapping[int, str] = {number: name for name, number in onnx.TensorProto.DataType.items()}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle may cost to read; a larger one is refused before it is parsed."""

    manifest_bytes: int = 1 << 20
    graph_bytes: int = 64 << 20
    golden_bytes: int = 256 << 20
    directions_bytes: int = 64 << 20
    total_bytes: int = 16 << 30
    files: int = 64


class File(Record, frozen=True, kw_only=True):
    """Digest and size in bytes of one file of the bundle."""

    sha256: Sha256
    size: Annotated[int, msgspec.Meta(ge=0)]


class ExportedGraph(Graph, frozen=True, kw_only=True):
    """A graph as exported: its file, opset, FLOPs a row (two for a multiply-add) and largest error against torch on [-1, 1]."""

    file: Name
    opset: Annotated[int, msgspec.Meta(ge=7, le=MAX_OPSET)]
    flops: Annotated[int, msgspec.Meta(ge=0)]
    parity: float


class Golden(Record, frozen=True, kw_only=True):
    """Rows that every engine must reproduce before it may serve.

    ``file`` is an ``.npz`` with an array ``graph.tensor`` for every output and every input, except the inputs in ``noise``
    (graph → tensor → how it is drawn): their row i is drawn from (``seed``, i).
    """

    file: Name
    rows: Annotated[int, msgspec.Meta(ge=1, le=64)]
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    noise: Mapping[Name, Mapping[Name, Noise]] = {}


class Manifest(Record, frozen=True, kw_only=True):
    """All that is known of a bundle. ``config`` is the preset's, ``provenance`` how it was trained, ``files`` every file it reads.

    ``directions`` are the named ways to move a latent.
    """

    name: Name
    version: Annotated[int, msgspec.Meta(ge=1)]
    family: Name
    preset: Name
    licence: str
    attribution: str
    graphs: tuple[ExportedGraph, ...]
    tasks: tuple[Task, ...]
    golden: Golden
    files: Mapping[Name, File]
    directions: Mapping[Name, Direction] = {}
    config: Mapping[str, Any] = {}
    provenance: Mapping[str, Any] = {}
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Check the dataflow, and that every file named is listed."""
        check_name("bundle", self.name)
        check_tasks(self.graphs, self.tasks)
        named = {graph.file: f"graph {graph.name!r}" for graph in self.graphs} | {self.golden.file: "golden"}
        named |= {
            file: f"input {source.tensor!r}" for task in self.tasks for source in task.inputs for file in source.files
        }
        named |= {direction.file: f"direction {name!r}" for name, direction in self.directions.items()}
        self._check_directions()
        graphs = {graph.name: graph for graph in self.graphs}
        for name, drawn in self.golden.noise.items():
            if name not in graphs:
                raise SpecError(f"golden noise is for graph {name!r}; there are {', '.join(graphs)}")
            for tensor in map(graphs[name].input, drawn):
                if tensor.dtype != "float32" or any(isinstance(size, str) for size in tensor.shape):
                    raise SpecError(f"golden noise: input {tensor.name!r} of {name!r} must be float32 of a fixed shape")
        for file, user in named.items():
            check_name("file", file)
            if file not in self.files:
                raise SpecError(
                    f"{user} needs {file!r}, which is not among the bundle's files: {', '.join(sorted(self.files))}"
                )

    def _check_directions(self) -> None:
        shapes = latent_shapes(self)
        for name, direction in self.directions.items():
            check_name("direction", name)
            what = f"direction {name!r} moves {direction.tensor!r}, which"
            if direction.tensor not in shapes:
                raise SpecError(f"{what} is no latent; there are {', '.join(shapes) or 'none'}")
            if len(shapes[direction.tensor]) > 1:
                raise SpecError(f"{what} has another shape in another task; bind one of them to another name")

    def graph(self, name: str) -> ExportedGraph:
        """The graph called ``name``, which must exist."""
        return next(graph for graph in self.graphs if graph.name == name)


class Bundle(msgspec.Struct, frozen=True):
    """A verified bundle: its manifest and the folder it lies in."""

    manifest: Manifest
    folder: Path

    def path(self, file: str) -> Path:
        """The path of one of the manifest's files."""
        return self.folder / file

    def golden(self) -> dict[str, np.ndarray]:
        """The golden arrays by ``graph.tensor``."""
        return load(self.path(self.manifest.golden.file))

    def directions(self) -> dict[str, np.ndarray]:
        """The vectors of the directions by name: float32 of the latents' shapes."""
        files = {direction.file for direction in self.manifest.directions.values()}
        vectors = {file: load(self.path(file)) for file in files}
        return {name: vectors[direction.file][name] for name, direction in self.manifest.directions.items()}


def read(folder: Path, limits: Limits | None = None) -> Bundle:
    """Verify the bundle in ``folder``; :class:`BundleError` says what is wrong with it and in which file."""
    limits = limits or Limits()
    try:
        manifest = read_manifest(folder, limits)
        _check_files(folder, manifest, limits)
        for graph in manifest.graphs:
            _check_graph(folder, graph, manifest.files, limits)
        check_golden(folder, manifest, limits.golden_bytes)
        check_directions(folder, manifest, limits.directions_bytes)
    except (OSError, SpecError) as error:
        raise BundleError(f"bundle {folder}: {error}") from error
    return Bundle(manifest, folder)


def read_manifest(folder: Path, limits: Limits | None = None) -> Manifest:
    """What the bundle in ``folder`` says of itself, of which nothing else has been verified; :class:`BundleError` where it says nothing."""
    limits = limits or Limits()
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"bundle {folder}: there is no {MANIFEST}; a bundle is a folder that `ganserve export` wrote")
    if (size := path.stat().st_size) > limits.manifest_bytes:
        raise BundleError(f"bundle {folder}: {MANIFEST} has {size} bytes, at most {limits.manifest_bytes} are read")
    text = path.read_bytes()
    try:
        found = msgspec.json.decode(text, type=_Format).format
        if found != FORMAT:
            raise BundleError(
                f"bundle {folder}: format {found} is not {FORMAT}, the one read here; export it again with this version"
            )
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"bundle {folder}: {MANIFEST} is not a manifest: {error}") from error


def weight_bytes(bundle: Bundle) -> dict[str, int]:
    """How many bytes of the bundle each graph reads: its own file, and its parts of the weights that graphs may share."""
    return {graph.name: _read_bytes(bundle, graph) for graph in bundle.manifest.graphs}


def digest(path: Path) -> File:
    """The digest and size of ``path``."""
    with path.open("rb") as stream:
        return File(sha256=hashlib.file_digest(stream, "sha256").hexdigest(), size=path.stat().st_size)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into ``folder``: to a temporary name first, so that no reader sees half of it."""
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    temporary.replace(folder / MANIFEST)


class _Format(msgspec.Struct):
    format: int


def _check_files(folder: Path, manifest: Manifest, limits: Limits) -> None:
    if len(manifest.files) > limits.files:
        raise BundleError(f"bundle {folder}: {len(manifest.files)} files, at most {limits.files} are read")
    if (total := sum(file.size for file in manifest.files.values())) > limits.total_bytes:
        raise BundleError(f"bundle {folder}: {total} bytes, at most {limits.total_bytes} are read")
    for name, declared in manifest.files.items():
        path = folder / check_name("file", name)
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"bundle {folder}: {name} is missing or no plain file; copy the whole folder again")
        if (size := path.stat().st_size) != declared.size:
            raise BundleError(
                f"bundle {folder}: {name} has {size} bytes, the manifest says {declared.size}; copy the whole folder again"
            )
        if (found := digest(path)) != declared:
            raise BundleError(
                f"bundle {folder}: {name} has sha256 {found.sha256}, the manifest says {declared.sha256}; it is damaged or was changed"
            )


def _check_graph(folder: Path, graph: ExportedGraph, files: Mapping[str, File], limits: Limits) -> None:
    where = f"bundle {folder}: {graph.file}"
    if files[graph.file].size > limits.graph_bytes:
        raise BundleError(
            f"{where} has {files[graph.file].size} bytes, at most {limits.graph_bytes} are parsed; keep weights in an external file"
        )
    try:
        model = onnx.load(io.BytesIO((folder / graph.file).read_bytes()), load_external_data=False)
        _check_model(where, model, graph, files)
    except BundleError:
        raise
    except Exception as error:
        # Protobuf's error, whose type differs between its versions, or bytes where text should be.
        raise BundleError(f"{where} is not an ONNX file: {error}") from error


def _check_model(where: str, model: onnx.ModelProto, graph: ExportedGraph, files: Mapping[str, File]) -> None:
    if model.functions or model.training_info:
        raise BundleError(f"{where} defines functions or training of its own; export plain operators only")
    opsets = [(opset.domain or _STANDARD, opset.version) for opset in model.opset_import]
    if opsets != [(_STANDARD, graph.opset)]:
        found = ", ".join(f"{domain} {version}" for domain, version in opsets) or "no opset"
        raise BundleError(f"{where} uses operators {found}; the manifest says {_STANDARD} {graph.opset} alone")
    for node in _nodes(model.graph):
        if node.domain not in ("", _STANDARD):
            raise BundleError(f"{where} uses {node.op_type} of {node.domain!r}; only ONNX's own operators are run")
        if node.op_type.startswith("Random") or node.op_type == "Bernoulli":
            raise BundleError(f"{where} draws its own random numbers ({node.op_type}): noise must be an input")
    for tensor in _tensors(model.graph):
        _check_external(where, tensor, files)
    weights = {tensor.name for tensor in model.graph.initializer}
    _check_signature(where, "input", graph.inputs, [value for value in model.graph.input if value.name not in weights])
    _check_signature(where, "output", graph.outputs, list(model.graph.output))


def _check_external(where: str, tensor: onnx.TensorProto, files: Mapping[str, File]) -> None:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if location not in files:
        raise BundleError(
            f"{where}: weights {tensor.name!r} lie in {location!r}, which is not one of the bundle's files"
        )
    size = files[location].size
    place = [entries.get("offset", "0"), entries.get("length", str(size))]
    if not all(re.fullmatch("[0-9]{1,19}", number) for number in place):
        raise BundleError(f"{where}: weights {tensor.name!r} have no readable place in {location!r}: {place}")
    offset, length = map(int, place)
    if offset + length > size:
        raise BundleError(
            f"{where}: weights {tensor.name!r} lie outside {location!r} (offset {offset}, length {length})"
        )


def _read_bytes(bundle: Bundle, graph: ExportedGraph) -> int:
    files = bundle.manifest.files
    model = onnx.load(bundle.path(graph.file), load_external_data=False)
    places = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in _tensors(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    return files[graph.file].size + sum(int(place.get("length", files[place["location"]].size)) for place in places)


def _check_signature(where: str, side: str, declared: tuple[Tensor, ...], found: list[onnx.ValueInfoProto]) -> None:
    by_name = {value.name: value.type.tensor_type for value in found}
    if set(by_name) != {tensor.name for tensor in declared}:
        raise BundleError(
            f"{where} has {side}s {sorted(by_name)}, the manifest says {sorted(tensor.name for tensor in declared)}"
        )
    for tensor in declared:
        real = by_name[tensor.name]
        dims = real.shape.dim
        if real.elem_type != _ONNX_DTYPES[tensor.dtype]:
            name = _ONNX_NAMES.get(real.elem_type, f"of the unknown type {real.elem_type}")
            raise BundleError(f"{where}: {side} {tensor.name!r} is {name}, the manifest says {tensor.dtype}")
        if not dims or dims[0].HasField("dim_value"):
            raise BundleError(f"{where}: the first axis of {side} {tensor.name!r} must be free, for it counts rows")
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else "free" for dim in dims[1:])
        if shape != tuple(size if isinstance(size, int) else "free" for size in tensor.shape):
            raise BundleError(
                f"{where}: {side} {tensor.name!r} has row shape {list(shape)}, the manifest says {list(tensor.shape)}"
            )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in _subgraphs(node):
            yield from _nodes(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
        for inner in _subgraphs(node):
            yield from _tensors(inner)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs

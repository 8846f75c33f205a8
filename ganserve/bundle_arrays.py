"""The arrays of a bundle: golden rows and directions, each an ``.npz`` that is read within bounds, unpickled, and checked number by number."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ganserve.errors import BundleError
from ganserve.spec import tensors_of

if TYPE_CHECKING:
    from ganserve.bundle import Manifest


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` by name."""
    with np.load(path, allow_pickle=False) as arrays:
        # Members of another kind than .npy come as bytes; no array of a bundle is one.
        return {name: np.asarray(arrays[name]) for name in arrays.files}


def checked(path: Path, where: str, most: int) -> dict[str, np.ndarray]:
    """:func:`load` of an untrusted file of at most ``most`` bytes, packed and unpacked; :class:`BundleError` for what is none."""
    if (size := path.stat().st_size) > most:
        raise BundleError(f"{where} has {size} bytes, at most {most} are read")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > most:
            raise BundleError(f"{where} unpacks to {unpacked} bytes, at most {most} are read")
        return load(path)
    except BundleError:
        raise
    except Exception as error:  # zipfile and numpy raise a dozen types for a damaged archive
        raise BundleError(f"{where} is not a plain npz archive: {error}") from error


def check_golden(folder: Path, manifest: "Manifest", most: int) -> None:
    """:class:`BundleError` unless every graph has its golden rows, finite and of the declared types and shapes."""
    golden = manifest.golden
    where = f"bundle {folder}: {golden.file}"
    arrays = checked(folder / golden.file, where, most)
    for graph in manifest.graphs:
        drawn = golden.noise.get(graph.name, {})
        for tensor in (*(one for one in graph.inputs if one.name not in drawn), *graph.outputs):
            array = arrays.get(f"{graph.name}.{tensor.name}")
            if (
                array is None
                or array.dtype != tensor.dtype
                or array.shape[:1] != (golden.rows,)
                or not tensor.accepts(array.shape[1:])
            ):
                raise BundleError(
                    f"{where} has {_told(array)} for {graph.name}.{tensor.name}: expected {golden.rows} rows of {tensor.dtype}{list(tensor.shape)}"
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise BundleError(f"{where} has NaN or infinity in {graph.name}.{tensor.name}: export the bundle again")


def check_directions(folder: Path, manifest: "Manifest", most: int) -> None:
    """:class:`BundleError` unless every direction has its vector: finite float32 of the latent's shape."""
    shapes = latent_shapes(manifest)
    archives: dict[str, dict[str, np.ndarray]] = {}
    for name, direction in manifest.directions.items():
        where = f"bundle {folder}: {direction.file}"
        if direction.file not in archives:
            archives[direction.file] = checked(folder / direction.file, where, most)
        vector, (shape,) = archives[direction.file].get(name), shapes[direction.tensor]
        if vector is None or vector.dtype != np.float32 or vector.shape != shape:
            raise BundleError(f"{where} has {_told(vector)} for direction {name}: expected float32{list(shape)}")
        if not np.isfinite(vector).all():
            raise BundleError(f"{where} has NaN or infinity in direction {name}: find it again")


def latent_shapes(manifest: "Manifest") -> Mapping[str, set[tuple[int | str, ...]]]:
    """The shapes that the latents of the tasks of ``manifest`` have, by their tensors; a tensor may have another one in another task."""
    graphs = {graph.name: graph for graph in manifest.graphs}
    shapes: dict[str, set[tuple[int | str, ...]]] = {}
    for task in manifest.tasks:
        tensors = tensors_of(graphs, task)
        for latent in task.latents:
            shapes.setdefault(latent.tensor, set()).add(tensors[latent.tensor].shape)
    return shapes


def _told(array: np.ndarray | None) -> str:
    return "nothing" if array is None else f"{array.dtype}{list(array.shape)}"

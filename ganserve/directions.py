"""Directions of a bundle: written beside its graphs, and added to a bundle that is there, which stays whole at every moment."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from ganserve import bundle
from ganserve.bundle import Bundle
from ganserve.bundle_arrays import latent_shapes
from ganserve.errors import BundleError
from ganserve.names import check_name
from ganserve.spec import Direction


def write_vectors(path: Path, vectors: Mapping[str, np.ndarray]) -> None:
    """Write an ``.npz`` of the ``vectors`` by the names of their directions; to a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.savez(file, **dict(vectors))  # type: ignore[arg-type]
    temporary.replace(path)


def add_direction(
    found: Bundle, name: str, tensor: str, vector: np.ndarray, source: str, *, force: bool = False
) -> Bundle:
    """The bundle ``found`` with the direction ``name``, which moves the latent ``tensor`` along ``vector``, written to its folder and verified.

    Raises :class:`BundleError` where it has one of that name and ``force`` does not replace it, or where the vector is not a finite one
    of the latent's shape. Whoever reads the folder meanwhile reads the bundle as it was, or as it is.
    """
    check_new(found, name, force=force)
    manifest, folder = found.manifest, found.folder
    vector, shapes = np.ascontiguousarray(vector, np.float32), latent_shapes(manifest)
    if {vector.shape} != shapes.get(tensor) or not np.isfinite(vector).all():
        latents = (
            ", ".join(f"{latent} float32{list(shape)}" for latent, some in shapes.items() for shape in some) or "none"
        )
        raise BundleError(
            f"bundle {folder}: direction {name!r} of {tensor!r} is float32{list(vector.shape)}; expected finite numbers for one of its "
            f"latents: {latents}"
        )
    # Named by what it holds, so that no file is changed that a manifest speaks of.
    mark = hashlib.sha256(vector.tobytes()).hexdigest()[:8]
    file = f"direction-{name[:64]}-{mark}.npz"
    write_vectors(folder / file, {name: vector})
    directions = {**manifest.directions, name: Direction(tensor=tensor, file=file, source=source)}
    needed = {file, *(direction.file for direction in directions.values())}
    orphans = {direction.file for direction in manifest.directions.values()} - needed
    files = {**manifest.files, file: bundle.digest(folder / file)}
    changed = msgspec.structs.replace(
        manifest,
        directions=directions,
        files={one: digest for one, digest in files.items() if one not in orphans},
    )
    bundle.write_manifest(folder, changed)
    for orphan in orphans:
        (folder / orphan).unlink()
    return bundle.read(folder)


def check_new(found: Bundle, name: str, *, force: bool = False) -> None:
    """Raise what :func:`add_direction` would for ``name``: before the work of finding the direction, not after it."""
    check_name("direction", name)
    if name in found.manifest.directions and not force:
        raise BundleError(
            f"bundle {found.folder} has a direction {name!r}; choose another name, or replace it with --force"
        )

"""Edit directions that a family finds in its networks, and how they get into a bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ganserve import plugins
from ganserve.directions import write_vectors
from ganserve.errors import ExportError
from ganserve.names import check_name
from ganserve.spec import Direction, Family, Spec, tensors_of

DIRECTIONS_FILE = "directions.npz"


@dataclass(frozen=True, eq=False)
class Found:
    """A direction: one unit of strength adds ``vector``, float32 of its shape, to the latent ``tensor``. ``source`` says how it was found."""

    tensor: str
    vector: np.ndarray
    source: str


def sefa(weights: Sequence[Tensor], tensor: str, layers: int = 0, count: int = 10) -> dict[str, Found]:
    """Closed-form factorization (Shen & Zhou, 2021, section 3.2): the directions n of unit length that change A·n most.

    A stacks ``weights`` [out, in], the first affine maps that read the latent ``tensor`` [in]; the answers are the eigenvectors of
    AᵀA with the largest eigenvalues, orthonormal, named sefa-0 (the largest), sefa-1 … A latent with ``layers`` [layers, in] is moved
    alike in all of them. Their signs are arbitrary in the paper; here the largest number of each is positive.
    """
    stack = torch.cat([weight.detach().cpu().double() for weight in weights])
    values, vectors = torch.linalg.eigh(stack.T @ stack)
    order = torch.argsort(values, descending=True)[:count]
    found = {}
    for place, number in enumerate(order.tolist()):
        vector = vectors[:, number]
        vector = vector * torch.sign(vector[vector.abs().argmax()])
        whole = vector.expand(layers, -1) if layers else vector
        share = float(values[number] / values.sum())
        source = (
            f"closed-form factorization (Shen and Zhou, 2021) of {len(weights)} layers: {share:.1%} of the variance"
        )
        found[f"sefa-{place}"] = Found(tensor, whole.numpy().astype(np.float32), source)
    return found


def export_directions(
    family: Family, spec: Spec, config: Mapping[str, Any], networks: Mapping[str, nn.Module], folder: Path
) -> dict[str, Direction]:
    """Write what ``family`` finds in ``networks`` to ``directions.npz`` in ``folder``: the directions as a manifest names them.

    Nothing is written by a family without directions. Raises :class:`ExportError` for one that moves no latent of ``spec`` or has
    another shape than it, or is not finite.
    """
    if family.directions is None:
        return {}
    found: Mapping[str, Found] = plugins.resolve(family.directions)(config, networks)
    graphs = {graph.name: graph for graph in spec.graphs}
    shapes = {
        latent.tensor: tensors_of(graphs, task)[latent.tensor].shape for task in spec.tasks for latent in task.latents
    }
    for name, one in found.items():
        check_name("direction", name)
        if one.tensor not in shapes:
            raise ExportError(
                f"{family.directions}: direction {name!r} moves {one.tensor!r}, which is no latent of the spec; there are "
                f"{', '.join(shapes) or 'none'}"
            )
        if one.vector.shape != shapes[one.tensor] or one.vector.dtype != np.float32:
            raise ExportError(
                f"{family.directions}: direction {name!r} is {one.vector.dtype}{list(one.vector.shape)}, its latent "
                f"{one.tensor!r} float32{list(shapes[one.tensor])}; make them the same"
            )
        if not np.isfinite(one.vector).all():
            raise ExportError(f"{family.directions}: direction {name!r} has NaN or infinity; are the weights finite?")
    if not found:
        return {}
    write_vectors(folder / DIRECTIONS_FILE, {name: one.vector for name, one in found.items()})
    return {name: Direction(tensor=one.tensor, file=DIRECTIONS_FILE, source=one.source) for name, one in found.items()}

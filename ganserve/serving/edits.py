"""Edits: rows of a latent moved along named directions, between what makes the latent and what reads it."""

from collections.abc import Mapping

import msgspec
import numpy as np

from ganserve.spec import Direction


class LoadedDirection(msgspec.Struct, frozen=True, eq=False):
    """A direction of a model with its ``vector``, float32 of the latent's shape."""

    direction: Direction
    vector: np.ndarray


class EditSegment(msgspec.Struct, frozen=True, eq=False):
    """Moves each row of ``tensor`` along ``vectors`` as far as its row of the tensor ``strengths``, float32 [rows, vectors], says."""

    tensor: str
    vectors: tuple[np.ndarray, ...]

    @property
    def strengths(self) -> str:
        """The name under which the strengths travel with the rows; a space is in no tensor's own name."""
        return strengths_name(self.tensor)

    def moved(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The latent after the edit; a row whose strengths are 0 stays as it is, bit for bit."""
        latents, strengths = tensors[self.tensor].copy(), tensors[self.strengths]
        for number, vector in enumerate(self.vectors):
            rows = np.flatnonzero(strengths[:, number])
            if rows.size:
                along = strengths[rows, number].reshape(-1, *(1 for _ in vector.shape))
                latents[rows] += along * vector
        return {self.tensor: latents}


def strengths_name(tensor: str) -> str:
    """See :attr:`EditSegment.strengths`."""
    return f"{tensor} strengths"

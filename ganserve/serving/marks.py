"""What the files of results say of where they come from: the model always, the seed of a row that was drawn from nothing else."""

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ganserve.codecs import EncodeOptions, Origin

if TYPE_CHECKING:
    from ganserve.serving.call import Ask, Workers


def encoding(ask: "Ask", workers: "Workers") -> EncodeOptions:
    """How the results of ``ask`` are encoded; :class:`ganserve.errors.InvalidArgument` for a format that they cannot have."""
    origin = Origin(ask.model.name, ask.model.manifest.version) if workers.provenance else None
    return ask.task.encoder.check(msgspec.structs.replace(ask.encode, origin=origin, signer=workers.signer))


def marked(options: EncodeOptions, ask: "Ask", seeds: np.ndarray | None, row: int) -> EncodeOptions:
    """``options`` for one row of ``ask``; ``seeds`` are the (seed, index) of its rows, where it reads them.

    A picture made from another one, or at a point that was computed, is not had again by its seed alone.
    """
    if options.origin is None or seeds is None or not ask.draws or ask.task.pictures:
        return options
    seed, index = seeds[row].tolist()
    return options.drawn_from(seed, index)

"""Images of a bundle, drawn through a real server as any client would draw them."""

from pathlib import Path

import numpy as np

from ganserve import bundle
from ganserve.client import Client
from ganserve.testing.server import serving

ROWS = 64
"""Rows of one call."""


def sampled(folder: Path, seed: int, first: int, count: int) -> np.ndarray:
    """The images of (seed, first), (seed, first + 1), … of the bundle in ``folder``: uint8 ``[count, H, W, C]``."""
    name = bundle.read(folder).manifest.name
    with serving(folder) as server, Client(server.address) as client:
        return np.concatenate(
            [
                client.sample(
                    name, n=min(ROWS, first + count - start), seed=seed, first_index=start, format="raw"
                ).arrays()
                for start in range(first, first + count, ROWS)
            ]
        )

"""Images of a bundle, drawn through a real server as any client would draw them."""

from pathlib import Path

import numpy as np

from ganserve import bundle
from ganserve.client import Client
from ganserve.testing.server import serving

ROWS = 64
"""Rows of one call."""


def classes_of(folder: Path) -> tuple[str, ...]:
    """The names of the classes that samples of the bundle in ``folder`` may be asked for; none where it has none."""
    tasks = bundle.read(folder).manifest.tasks
    inputs = (source for task in tasks if task.kind == "sample" for source in task.inputs if source.codec == "label")
    return next((tuple(source.options.get("names", ())) for source in inputs), ())


def of_classes(folder: Path, seed: int, count: int) -> dict[str, np.ndarray]:
    """The images of (seed, 0), (seed, 1), … of each class of the bundle in ``folder``, by its name: uint8 ``[count, H, W, C]``."""
    name = bundle.read(folder).manifest.name
    with serving(folder) as server, Client(server.address) as client:
        return {
            label: client.sample(name, n=count, seed=seed, labels=label, format="raw").arrays()
            for label in classes_of(folder)
        }


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

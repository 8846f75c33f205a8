"""Hot reloads: a model is replaced in its folder and loaded again while callers never stop asking for it."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import numpy as np

from bench.chaos.load import Once, callers
from bench.chaos.scenario import Outcome, Scenario, sized
from bench.chaos.servers import Place, server
from ganserve import AsyncClient
from ganserve.client import Samples
from ganserve.testing.echo import image_of, write_bundle

CALLERS = 8
SHIFTS = (0.0, 2.5)
"""By how much each of the two versions moves w: their images differ everywhere."""


def run(scale: float) -> Outcome:
    """Replace a model under load."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_reloads(Path(folder), sized(30, scale, 4)))


async def _reloads(folder: Path, reloads: int) -> Outcome:
    root = folder / "models"
    root.mkdir()
    _replace(root / "echo", SHIFTS[0])
    place = Place.free(root, folder / "log")
    seen: set[float] = set()

    def right(samples: Samples) -> bool:
        """Whether the image and its w are those of one and the same version."""
        z, w = samples.tensor("z"), samples.tensor("w")
        shift = next((one for one in SHIFTS if (w == z + np.float32(one)).all()), None)
        seen.add(-1.0 if shift is None else shift)
        return shift is not None and (samples.arrays() == image_of(w)).all()

    with server(place):
        async with (
            Once(place.address) as client,
            AsyncClient(place.management) as manager,
            callers(client, CALLERS, right) as tally,
        ):
            for number in range(1, reloads + 1):
                await asyncio.to_thread(_replace, root / "echo", SHIFTS[number % 2])
                await manager.load_model("echo")
    return Outcome(tally.clean and seen == set(SHIFTS), f"{reloads} reloads; {tally}; versions seen: {len(seen)}")


def _replace(folder: Path, shift: float) -> None:
    """Another bundle in the place of that in ``folder``, whole when it appears."""
    made = write_bundle(folder.parent / ".new", shift=shift, tasks=("sample",))
    if folder.exists():
        shutil.rmtree(folder.rename(folder.parent / ".old"))
    made.rename(folder)


SCENARIO = Scenario(
    "hot reloads under load", "0 failed calls, none tried again; every image is one version's, bit for bit", run
)

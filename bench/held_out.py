"""How near searches come to real pictures that no network has seen, step by step, from every start that a bundle has.

    python bench/held_out.py bundles/dcgan-emoji PICTURES --out FOLDER --count 32 --steps 300

PICTURES is a data set beyond the training data of generator and encoder; evenly spaced pictures of it are taken. Prints the median
PSNR of the best picture so far (the one of least loss) after so many steps: in the row ``encoder``, column 1 is the encoder's guess
itself, and the others are what optimisation makes of it. Writes ``sheet.png``: each picture, then what each start found.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import torch

from ganserve import AsyncClient, bundle
from ganserve.client import Inversion, InvertOptions
from ganserve.errors import GanserveError
from ganserve.quality import psnr
from ganserve.spec import tensors_of
from ganserve.testing.server import serving
from ganserve_trainers.data import DataOptions, load
from ganserve_trainers.metrics.pictures import grid, save_png

SHOWN = 16
"""Pictures on the sheet."""


class Search:
    """A search for ``picture`` from ``start``: the PSNR of the best so far by its step, and what was found."""

    def __init__(self, picture: np.ndarray, start: str) -> None:
        self.picture, self.start = picture, start
        self.curve: dict[int, float] = {}
        self.found: Inversion | None = None

    async def run(self, client: AsyncClient, model: str, steps: int) -> None:
        """Search for so many steps."""
        options: InvertOptions = {"start": self.start, "steps": steps, "format": "raw"}
        options |= {"progress_every": 1, "previews": True}
        if self.start == "samples":
            options |= {"seed": 0}
        least = math.inf
        async for said in client.invert_stream(model, self.picture, **options):
            if isinstance(said, Inversion):
                self.found = said
            elif said.preview is not None and said.loss < least:
                least = said.loss
                self.curve[said.step] = psnr(said.preview.array(), self.picture)

    def reconstruction(self) -> np.ndarray:
        """What the model makes of the latent that was found."""
        assert self.found is not None
        return self.found.array()

    def after(self, step: int) -> float:
        """The PSNR after ``step`` steps."""
        return self.curve[max(told for told in self.curve if told <= step)]


async def searches(folder: Path, starts: Sequence[str], pictures: np.ndarray, steps: int) -> Mapping[str, list[Search]]:
    """A search for each of ``pictures`` from each of ``starts``, those from one start at once."""
    made = {start: [Search(picture, start) for picture in pictures] for start in starts}
    with serving(folder) as server:
        async with AsyncClient(server.address, timeout=3600) as client:
            for group in made.values():
                await asyncio.gather(*(one.run(client, bundle.read(folder).manifest.name, steps) for one in group))
    return made


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("pictures", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the sheet.")
@click.option("--count", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=300, show_default=True)
def main(folder: Path, pictures: Path, out: Path, count: int, steps: int) -> None:
    """Invert pictures of the data set PICTURES with the bundle in FOLDER."""
    try:
        manifest = bundle.read(folder).manifest
        task = next((task for task in manifest.tasks if task.inversion is not None), None)
        if task is None or task.inversion is None:
            raise click.ClickException(f"{folder} has no task of kind invert")
        height, width, channels = tensors_of({graph.name: graph for graph in manifest.graphs}, task)[
            task.output.tensor
        ].shape
        data = load(str(pictures), DataOptions(size=(height, width), channels=channels))
        every = torch.linspace(0, len(data) - 1, min(count, len(data))).long()
        chosen = next(data.feed([every]))["image"].permute(0, 2, 3, 1).contiguous().numpy()
        found = asyncio.run(searches(folder, [*task.inversion.starts], chosen, steps))
    except GanserveError as error:
        raise click.ClickException(str(error)) from error
    told = [*(number for number in (1, 3, 10, 30, 100, 300, 1000) if number < steps), steps]
    click.echo(f"Median PSNR in dB over {len(chosen)} pictures of {pictures.name}, after steps:\n")
    click.echo("\n".join(("| start | " + " | ".join(map(str, told)) + " |", "|---" * (len(told) + 1) + "|")))
    for start, group in found.items():
        medians = (np.median([one.after(step) for one in group]) for step in told)
        click.echo(f"| {start} | " + " | ".join(f"{median:.1f}" for median in medians) + " |")
    rows = [
        [chosen[row], *(group[row].reconstruction() for group in found.values())]
        for row in range(min(SHOWN, len(chosen)))
    ]
    out.mkdir(parents=True, exist_ok=True)
    save_png(out / "sheet.png", grid(np.stack([picture for row in rows for picture in row]), len(found) + 1), scale=2)


if __name__ == "__main__":
    main()

"""What classes have made of a run: whether its discriminator knows its images by heart, and which classes have collapsed.

    python bench/classes.py RUN --data TRAINING_IMAGES --held-out OTHER_IMAGES

Prints the share of training images, of held-out ones and of fakes that the discriminator takes for real (its logit is above 0): one that tells
training images from held-out ones has learnt them by heart, which is what ADA is for. And for each class of which there are enough, the standard
deviation among fakes (of the averaged generator) over that among real images, pixel by pixel: 0 is one image over and over.
For families whose network ``discriminator`` judges images ``[n, C, H, W]`` and labels ``[n]``.
"""

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from starter import Labelled, existing_folder, read_images
from torch import Tensor

from ganserve.errors import GanserveError
from ganserve.plugins import resolve
from ganserve_trainers.classes import CONFIG
from ganserve_trainers.data.labels import Classes
from ganserve_trainers.recipe import Batch, Source
from ganserve_trainers.run import load_run

ROWS = 32
LEAST = 8
"""Fakes of a class that a deviation is taken of."""


def spread(fakes: np.ndarray, labels: np.ndarray, real: Labelled) -> dict[int, float]:
    """Class → the mean deviation of the pixels of its ``fakes`` ``[n, ...]`` over that of its ``real`` images, where there are enough of both."""
    assert real.labels is not None
    found = {}
    for label in np.unique(labels):
        made, known = fakes[labels == label], real.images[real.labels == label]
        if min(len(made), len(known)) >= LEAST:
            found[int(label)] = float(made.std(0).mean() / known.std(0).mean())
    return found


def believed(judge: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    """The share of ``images`` ``[n, C, H, W]`` that ``judge`` takes for real."""
    pairs = zip(images.split(ROWS), labels.split(ROWS), strict=True)
    return float(np.mean(np.concatenate([(judge(*pair) > 0).numpy() for pair in pairs])))


def as_tensors(known: Labelled, count: int) -> tuple[Tensor, Tensor]:
    """``count`` images at random as float ``[n, C, H, W]`` in [-1, 1], and their labels."""
    if known.labels is None:
        raise click.ClickException("the images lack labels; expected a dataset.json beside them")
    chosen = np.random.default_rng(0).permutation(len(known.images))[: count // ROWS * ROWS]
    images = torch.from_numpy(known.images[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images, torch.from_numpy(known.labels[chosen])


@click.command()
@click.argument("folder", type=existing_folder)
@click.option("--data", required=True, type=existing_folder, help="The images that the run learnt.")
@click.option("--held-out", required=True, type=existing_folder, help="Others of the same classes.")
@click.option("--count", type=click.IntRange(min=ROWS), default=480, show_default=True, help="Images of each kind.")
def main(folder: Path, data: Path, held_out: Path, count: int) -> None:
    """Look at the newest checkpoint of the run in FOLDER."""
    try:
        run = load_run(folder)
        like = np.empty((0, *run.config["image"]), np.uint8)
        known = read_images(data, like)
        (images, labels), others = as_tensors(known, count), as_tensors(read_images(held_out, like), count)
        recipe = resolve(run.family.train)(run.config, run.networks)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            fakes = torch.cat(
                [
                    recipe.preview(run.networks, Batch({"image": image, "label": label}, Source(generator, len(image))))
                    for image, label in zip(images.split(ROWS), labels.split(ROWS), strict=True)
                ]
            )
            judge = run.networks["discriminator"]
            for name, pair in (("training", (images, labels)), ("held-out", others), ("made", (fakes, labels))):
                click.echo(f"{name} images taken for real: {believed(judge, *pair):.0%}")
    except GanserveError as error:
        raise click.ClickException(str(error)) from error
    bytes_ = ((fakes.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    names = run.config.get(CONFIG, Classes()).names
    for label, ratio in spread(bytes_, labels.numpy(), known).items():
        click.echo(f"{names[label] if names else label}: {ratio:.2f}")


if __name__ == "__main__":
    main()

"""``ganserve directions``."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganserve.commands.options import label_of, number_of
from ganserve.errors import DataError, InvalidArgument

if TYPE_CHECKING:
    import numpy as np

    from ganserve.serving.model import Model
    from ganserve.serving.task import LoadedTask
    from ganserve.spec import Latent

COLUMNS = ("seed", "index", "label")
"""The columns of a file of labelled samples; others are passed over."""

LABELS: Mapping[str, bool] = {"0": False, "1": True}


@dataclass(frozen=True)
class Labelled:
    """A line of the file: where a sample was drawn from, and whether it has what is looked for."""

    line: int
    seed: int
    index: int
    label: bool


@click.command(short_help="Learn an edit direction from labelled samples.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="What requests shall call the direction.")
@click.option(
    "--samples",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="CSV with the columns seed, index, label (1: the sample has it, 0: it has not).",
)
@click.option("--latent", help="The latent to move [the task's last].")
@click.option("--task", default="", help="The task, where the bundle has several for sampling.")
@click.option(
    "--class", "label", metavar="LABEL", help="The class, by number or name, that the samples were made with."
)
@click.option("--truncation", type=float, help="The truncation of the noise that they were made with.")
@click.option(
    "--number",
    "numbers",
    multiple=True,
    metavar="NAME=NUMBER",
    help="Another value that they were made with; repeatable.",
)
@click.option("--engine", default="onnxruntime", show_default=True, metavar="NAME", help="What computes the latents.")
@click.option("--force", is_flag=True, help="Replace a direction of that name.")
def command(
    bundle: Path,
    name: str,
    samples: Path,
    latent: str | None,
    task: str,
    label: str | None,
    truncation: float | None,
    numbers: tuple[str, ...],
    engine: str,
    force: bool,
) -> None:
    """Learn a direction from labelled samples of BUNDLE's model and add it to the bundle.

    The latents of the samples are computed from their seeds, and a plane is fitted between those with the label 1 and those with 0
    (InterFaceGAN); the direction is across it, one standard deviation of the latents long. A fifth of the samples is kept from the
    fit; the share of them on the right side is printed and stored with the direction. Requests then name it: --direction smiling=2.

    \b
    Examples:
      ganserve sample stylegan2-emoji --n 500 --seed 1 --out faces      draw samples, label them in a spreadsheet
      ganserve directions bundles/stylegan2-emoji --name smiling --samples labels.csv
      ganserve sample stylegan2-emoji --n 8 --seed 2 --direction smiling=2
    """
    from ganserve.boundary import learn_boundary
    from ganserve.bundle import read
    from ganserve.directions import add_direction, check_new
    from ganserve.plugins import installed
    from ganserve.serving.model import EngineChoice, Settings, load_model

    labelled = list(read_samples(samples))
    found = read(bundle)
    check_new(found, name, force=force)
    values = {
        **({} if label is None else {"label": label_of(label)}),
        **({} if truncation is None else {"truncation": truncation}),
        **dict(number_of(text) for text in numbers),
    }
    model = load_model(found, installed(), Settings(engines=(EngineChoice.parse(engine),)))
    try:
        chosen = model.task(task, "sample")
        where = _latent(chosen, latent)
        rows = _latents(model, chosen, where, labelled, values, samples)
    finally:
        model.close()
    learned = learn_boundary(rows, _labels(labelled))
    vector = learned.vector if not where.layers else _spread(learned.vector, chosen, where)
    share = f"{learned.accuracy:.1%} of {learned.held_out} held-out samples on the right side"
    add_direction(
        found,
        name,
        where.tensor,
        vector,
        f"linear boundary (InterFaceGAN, Shen et al., 2020) of {len(labelled)} labelled samples: {share}",
        force=force,
    )
    click.echo(f"direction {name} of {where.tensor} added to {bundle}: {share}")


def read_samples(path: Path) -> Iterator[Labelled]:
    """The labelled samples of a CSV file; :class:`DataError` names the line that is wrong."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
            have = ", ".join(reader.fieldnames or ()) or "nothing"
            raise DataError(
                f"{path}: no column {', '.join(missing)}; its first line has {have}; expected {', '.join(COLUMNS)}"
            )
        for row in reader:
            yield _labelled(path, reader.line_num, row)


def _labelled(path: Path, line: int, row: Mapping[str, Any]) -> Labelled:
    seed, index, label = ((row[column] or "").strip() for column in COLUMNS)
    for column, text in (("seed", seed), ("index", index)):
        if not (text.isdecimal() and int(text) < 2**64):
            raise DataError(f"{path}, line {line}: {column} is {text!r}; expected a whole number from 0 to 2**64 - 1")
    if label not in LABELS:
        raise DataError(f"{path}, line {line}: label is {label!r}; expected 1 or 0")
    return Labelled(line, int(seed), int(index), LABELS[label])


def _labels(labelled: Sequence[Labelled]) -> "np.ndarray":
    import numpy as np

    return np.array([one.label for one in labelled], bool)


def _latent(task: "LoadedTask", name: str | None) -> "Latent":
    latents = {latent.tensor: latent for latent in task.task.latents}
    if not latents or name not in (None, *latents):
        known = ", ".join(latents) or "none"
        raise click.BadParameter(
            f"task {task.task.name!r} has no latent {name or ''}; it has {known}", param_hint="--latent"
        )
    return latents[name] if name else list(latents.values())[-1]


def _latents(
    model: "Model",
    task: "LoadedTask",
    latent: "Latent",
    labelled: Sequence[Labelled],
    values: Mapping[str, Any],
    path: Path,
) -> "np.ndarray":
    """The latents of the samples [n, ...]; the mean of its layers where a latent has some, for a plane between styles, not between layers."""
    from ganserve.serving.compose import Source
    from ganserve.serving.offline import latents_of

    if not labelled:
        raise DataError(f"{path} has no samples: write a line with seed, index and label for each")

    def source(one: Labelled) -> Source:
        return Source(
            values={**values, "seed": (one.seed, one.index)}, field=lambda name: f"{path}, line {one.line}: {name}"
        )

    try:
        rows = latents_of(model, task, latent.tensor, [source(one) for one in labelled])
    except InvalidArgument as error:
        raise DataError(str(error)) from error
    return rows.mean(axis=1) if latent.layers else rows


def _spread(vector: "np.ndarray", task: "LoadedTask", latent: "Latent") -> "np.ndarray":
    """``vector`` for every layer."""
    import numpy as np

    layers = task.tensors[latent.tensor].shape[0]
    assert isinstance(layers, int), "latents have fixed shapes"
    return np.repeat(vector[None], layers, axis=0)

"""The Fréchet distance of runs to their training images, as a curve over the images they have seen.

    python bench/curve.py RUN... --data IMAGE_FOLDER --features NSFWJS_PACKAGE --out FOLDER

Every checkpoint that a run has kept, or those asked for (``--at``: each takes minutes), is exported and sampled through a real server.
Give runs of several families to see them side by side at equal images; those of a run that another began from count too. Writes
``curve.md`` and ``curve.json``; features are kept in ``--cache``, so that a longer run adds only what is new.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
import numpy as np
from page import write_text
from sampling import sampled
from starter import existing_folder, read_images, remembered

from ganserve.errors import GanserveError
from ganserve_trainers.checkpoint import list_checkpoints, load
from ganserve_trainers.export import Label, export_run
from ganserve_trainers.metrics import frechet
from ganserve_trainers.metrics.inception import FEATURE_NAME, PACKAGE, VERSION, FeatureExtractor
from ganserve_trainers.run import read_record

TOLERANCE = 0.05
"""A checkpoint stands for a number of images that it is so near to, as a share."""


def made_at(run: Path, kimg: float, count: int, seed: int) -> np.ndarray:
    """``count`` images of the checkpoint of ``run`` at ``kimg``: uint8 ``[count, H, W, C]``."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "curve"
        export_run(run, bundle, Label(name="curve"), kimg=kimg)
        return sampled(bundle, seed, 0, count)


def images_seen(run: Path) -> list[float]:
    """Thousands of images at which ``run`` has a checkpoint, in order."""
    return sorted(load(path).state.images / 1000 for path in list_checkpoints(run / "checkpoints"))


def chosen(seen: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """Those of ``seen`` that are nearest to the ``wanted``, each once, in order; all where nothing is wanted, none far from what is."""
    if not wanted:
        return list(seen)
    nearest = [(min(seen, key=lambda kimg: abs(kimg - one)), one) for one in wanted]
    return sorted({kimg for kimg, one in nearest if abs(kimg - one) <= TOLERANCE * one})


def images_before(run: Path) -> float:
    """Thousands of images that the run had seen from whose weights ``run`` began; 0 where they were drawn."""
    origin = read_record(run).begun_from
    return 0.0 if origin is None else origin.images / 1000


def table(names: Sequence[str], curves: Sequence[dict[int, float]]) -> str:
    """Markdown: one line for each number of images, one column for each run."""
    lines = [f"| kimg | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for kimg in sorted(set().union(*curves)):
        cells = [f"{curve[kimg]:.2f}" if kimg in curve else "" for curve in curves]
        lines.append(f"| {kimg} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=existing_folder)
@click.option("--data", required=True, type=existing_folder, help="Folder of the real images.")
@click.option("--features", required=True, type=existing_folder, help=f"Unpacked npm package {PACKAGE} {VERSION}.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Folder that keeps computed features.")
@click.option("--samples", type=click.IntRange(min=2), default=1893, show_default=True, help="Images in each set.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--at",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    help="Only the checkpoint nearest to so many thousand images; again for more.",
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write.")
def main(
    runs: tuple[Path, ...],
    data: Path,
    features: Path,
    cache: Path | None,
    samples: int,
    seed: int,
    at: tuple[float, ...],
    out: Path,
) -> None:
    """Measure every checkpoint of RUNS against the real images."""
    extract = remembered(FeatureExtractor(features), cache)
    curves: list[dict[int, float]] = []
    reference = None
    try:
        for run in runs:
            curves.append({})
            before = images_before(run)
            for kimg in chosen(images_seen(run), [wanted - before for wanted in at]):
                made = made_at(run, kimg, samples, seed)
                if reference is None:
                    real = read_images(data, made).images
                    # The half that bench/starter.py compares with, so that the figures are the same.
                    shuffled = real[np.random.default_rng(seed).permutation(len(real))]
                    reference = frechet.fit(extract(shuffled[: min(samples, len(real) // 2)]))
                seen = round(before + kimg)
                curves[-1][seen] = frechet.distance(frechet.fit(extract(made)), reference)
                click.echo(f"{run.name} at {seen} kimg: {curves[-1][seen]:.2f}")
    except GanserveError as error:
        raise click.ClickException(str(error)) from error
    names = [run.name for run in runs]
    out.mkdir(parents=True, exist_ok=True)
    text = (
        f"{table(names, curves)}\n\nFréchet distance of {samples:,} samples (seed {seed}) to as many real images in {FEATURE_NAME}"
        f" ({PACKAGE} {VERSION}); lower is better. It is not FID.\n"
    )
    write_text(out / "curve.md", text)
    write_text(out / "curve.json", msgspec.json.encode(dict(zip(names, curves, strict=True))).decode())
    click.echo(text)


if __name__ == "__main__":
    main()

"""Measure a starter bundle that translates pairs and write what it is worth into its folder: README.md, sheet.png and examples/.

    python bench/starter_translation.py --bundle BUNDLE --data PAIRS --source 'A FEW WORDS ON THE PICTURES AND THEIR LICENCES'

The held-out pictures in ``examples/`` are inputs as they are in the data, for whoever wants to see the bundle at work. The exit
status is 1 where an aim of ``bench/translation.py`` is missed.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import click
from page import training, write_text
from translation import (
    SHEET,
    Report,
    aims_table,
    existing_folder,
    existing_path,
    figures_table,
    run_pairs,
    save_sheet,
    spaced,
)

from ganserve import bundle
from ganserve.bundle import Bundle
from ganserve.errors import GanserveError
from ganserve_trainers.data.domains import open_pairs
from ganserve_trainers.run import DataSource, data_options

EXAMPLES = "examples"
SHEET_FILE = "sheet.png"


def write_examples(source: Bundle, data: str, chosen: Iterable[int]) -> None:
    """Write the ``chosen`` held-out inputs of the pairs at ``data`` into the bundle's folder ``examples``, in place of what is there."""
    options = data_options(source.manifest.config, DataSource(where=data))
    inputs = open_pairs(data, "test", options.direction).rows[0].images["a"]
    temporary = source.folder / f".{EXAMPLES}.{os.getpid()}"
    temporary.mkdir()
    for index in chosen:
        inputs.image(index).save(temporary / f"{PurePosixPath(inputs.names[index]).stem}.png", optimize=True)
    shutil.rmtree(source.folder / EXAMPLES, ignore_errors=True)
    temporary.rename(source.folder / EXAMPLES)


def write_page(source: Bundle, report: Report, trained: str, about: str, command: str, shown: int) -> None:
    """Write README.md into the bundle's folder; ``trained`` tells of the training, ``about`` whose pictures the data are."""
    manifest = source.manifest
    height, width, _ = manifest.config["image"]
    size = sum(file.size for file in manifest.files.values()) / 2**20
    counts = ", ".join(f"{name}: {count}" for name, count in report.pictures.items())
    write_text(
        source.folder / "README.md",
        f"""# {manifest.name}

{height}×{width} images translated by `{manifest.family}`, preset `{manifest.preset}`, version {manifest.version}; {size:.1f} MiB.

![{shown} held-out pictures: input, output, target]({SHEET_FILE})

Input, output and target of {shown} held-out pairs, evenly spaced by name, two to a line; none picked by hand. Their inputs, as files:
[{EXAMPLES}]({EXAMPLES}).

```
ganserve translate {manifest.name} {EXAMPLES}/*.png --out translated
```

## Data

{about}

Licence of this bundle: {manifest.licence}. {manifest.attribution}

## Training

{trained}

## Figures

Over pairs that training never saw ({counts}), by a running server; means with 95 % intervals, in which variants of one
thing are resampled together. L1 is the mean absolute difference on [-1, 1].

{figures_table(report)}

Differences to the baselines, picture by picture; an aim is met where the whole interval lies on the right side of 0.

{aims_table(report)}

Made by `{command}`.
""",
    )


@click.command()
@click.option("--bundle", "folder", required=True, type=existing_folder, help="The exported bundle.")
@click.option("--data", required=True, type=existing_path, help="The pairs that it was trained on, with a test split.")
@click.option("--source", "about", required=True, help="Whose pictures the data are, and under which licences.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the noise.")
@click.option("--variants", default="", help="See bench/translation.py.")
def main(folder: Path, data: str, about: str, seed: int, variants: str) -> None:
    """Measure a bundle that translates pairs and write its page, contact sheet and examples."""
    try:
        source = bundle.read(folder)
        trained = training(source.manifest)
        report, held_out, outputs = run_pairs(source, data, variants, seed)
        chosen = spaced(held_out.groups["a"], SHEET)
        save_sheet(folder / SHEET_FILE, [one[chosen] for one in (held_out.images["a"], outputs, held_out.images["b"])])
        write_examples(source, data, chosen)
        command = f"python bench/starter_translation.py --bundle BUNDLE --data PAIRS --source WORDS --seed {seed} --variants='{variants}'"
        write_page(source, report, trained, about, command, len(chosen))
    except GanserveError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{aims_table(report)}\n\n{'pass' if report.passed else 'FAIL'}: {folder / 'README.md'}")
    if not report.passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Picks the classes of emoji that are drawn alike out of the captioned ones: ``python -m tools.emoji_familiar``, run by ``make data``.

::

    google-familiar/train    what google-captions/train has of smileys, people, hands, hearts and flags, and their classes
    google-familiar/test     the same of google-captions/test

Two thirds of all drawings. What is left out has one drawing of most things: an animal, a dish, a tool.
"""

import shutil
from pathlib import Path

import click
import msgspec

from ganserve_trainers.data.labels import FILE
from tools.emoji import FOLDER, GOOGLE_DRAWINGS, building, is_there

FAMILIAR = (
    "body-parts",
    "country-flag",
    "face",
    "family",
    "hand",
    "hand-fingers-open",
    "hand-fingers-partial",
    "hand-single-finger",
    "hands",
    "heart",
    "person",
    "person-activity",
    "person-fantasy",
    "person-gesture",
    "person-role",
    "person-sport",
)
"""Unicode's subcategories, or several together (:mod:`tools.emoji_classes`)."""

WHAT = "Google's drawings of smileys, people, hands, hearts and flags of countries"


@click.command()
@click.option(
    "--captions",
    type=FOLDER,
    default=".data/google-captions",
    show_default=True,
    help="What tools.emoji_captions wrote.",
)
@click.option("--out", type=FOLDER, default=".data", show_default=True, help="Where the data set goes.")
def main(captions: Path, out: Path) -> None:
    """Build the data set, if it is not there yet."""
    folder = out / "google-familiar"
    if is_there(folder):
        return
    counts = {}
    with building(folder, (f"{WHAT}: {GOOGLE_DRAWINGS}",)) as whole:
        for split in ("train", "test"):
            (whole / split).mkdir()
            content = msgspec.json.decode((captions / split / FILE).read_bytes())
            named = ((name, content["names"][label]) for name, label in content["labels"])
            labels = [(name, FAMILIAR.index(kind)) for name, kind in named if kind in FAMILIAR]
            for name, _ in labels:
                shutil.copyfile(captions / split / name, whole / split / name)
            (whole / split / FILE).write_bytes(msgspec.json.encode({"labels": labels, "names": FAMILIAR}))
            counts[split] = len(labels)
    click.echo(f"{folder}: {', '.join(f'{split} {count}' for split, count in counts.items())}")


if __name__ == "__main__":
    main()

"""Picks the smileys and people of an emoji package: ``python -m tools.emoji_people``, run by ``make data``.

::

    google-people    Google's drawings of Unicode's categories "Smileys & Emotion" and "People & Body", 64×64 on white
    google-faces     those of them that show a face, a couple, a heart or a hand, and not fairies, people at sports or parts of a body
    google-portraits of those again the smileys, hearts, people and couples with a heart; no hands, no whole families

The first is two thirds of all drawings, and they have much in common; of most other things there is only one drawing each. In the
others even more is alike: what one learns of a face serves all the others, and a hand has as many shapes as it has drawings.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from tools.emoji import FOLDER, GOOGLE_DRAWINGS, building, images, is_there

SIDE = 64

CATEGORIES = ("Smileys & Emotion", "People & Body")

OTHERS = (
    "body-parts",
    "emotion",
    "person-activity",
    "person-fantasy",
    "person-resting",
    "person-sport",
    "person-symbol",
)
"""The subcategories of theirs whose drawings have no face, a tiny one, or wings, fins and smoke beside it."""

HANDS = (
    "hand-fingers-closed",
    "hand-fingers-open",
    "hand-fingers-partial",
    "hand-prop",
    "hand-single-finger",
    "hands",
)
"""The subcategories whose drawings show hands alone."""

FAMILY = "family"
"""The subcategory of couples with a heart, of small whole people hand in hand, and of signs for families."""

WHAT = "Google's drawings of Unicode's categories Smileys & Emotion and People & Body"


@click.command()
@click.option(
    "--google", type=FOLDER, default=".data/emoji", show_default=True, help="emoji-datasource-google, unpacked."
)
@click.option("--out", type=FOLDER, default=".data", show_default=True, help="Where the data set goes.")
def main(google: Path, out: Path) -> None:
    """Build the data sets that are not there yet."""
    entries = msgspec.json.decode((google / "emoji.json").read_bytes())
    people = [entry for entry in entries if entry["category"] in CATEGORIES]
    drawings = images(google / f"img/google/{SIDE}")
    faces = [entry for entry in people if entry["subcategory"] not in OTHERS]
    portraits = [entry for entry in faces if entry["subcategory"] not in HANDS and _has_faces(entry)]
    without = f"{WHAT}, without the subcategories {', '.join(OTHERS)}"
    bare = f"{without}, {', '.join(HANDS)}, and without families and couples that have no heart"
    for name, what, chosen in (
        ("google-people", WHAT, people),
        ("google-faces", without, faces),
        ("google-portraits", bare, portraits),
    ):
        folder = out / name
        if is_there(folder):
            continue
        with building(folder, (f"{what}: {GOOGLE_DRAWINGS}",)) as whole:
            for file in _files(chosen):
                if (drawing := drawings.get(file.removesuffix(".png").lower())) is not None:
                    drawing().save(whole / file)
        click.echo(f"{folder}: {len(list(folder.glob('*.png')))} drawings")


def _has_faces(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is no family, or one whose faces fill the drawing: a heart above them says so, and the name says the heart."""
    return entry["subcategory"] != FAMILY or any(word in entry["short_name"] for word in ("heart", "kiss"))


def _files(entries: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The names of the drawings of ``entries``, in all skin tones."""
    for entry in entries:
        for one in (entry, *entry.get("skin_variations", {}).values()):
            yield one["image"]


if __name__ == "__main__":
    main()

"""Picks the smileys and people of an emoji package: ``python -m tools.emoji_people``, run by ``make data``.

::

    google-people    Google's drawings of Unicode's categories "Smileys & Emotion" and "People & Body", 64×64 on white

That is two thirds of all drawings, and they have much in common; of most other things there is only one drawing each.
"""

from pathlib import Path

import click
import msgspec

from tools.emoji import FOLDER, GOOGLE_DRAWINGS, building, images, is_there

SIDE = 64

CATEGORIES = ("Smileys & Emotion", "People & Body")

WHAT = "Google's drawings of Unicode's categories Smileys & Emotion and People & Body"


@click.command()
@click.option(
    "--google", type=FOLDER, default=".data/emoji", show_default=True, help="emoji-datasource-google, unpacked."
)
@click.option("--out", type=FOLDER, default=".data", show_default=True, help="Where the data set goes.")
def main(google: Path, out: Path) -> None:
    """Build the data set, if it is not there yet."""
    folder = out / "google-people"
    if is_there(folder):
        return
    drawings = images(google / f"img/google/{SIDE}")
    with building(folder, (f"{WHAT}: {GOOGLE_DRAWINGS}",)) as whole:
        for entry in msgspec.json.decode((google / "emoji.json").read_bytes()):
            if entry["category"] not in CATEGORIES:
                continue
            for one in (entry, *entry.get("skin_variations", {}).values()):
                if (drawing := drawings.get(one["image"].removesuffix(".png").lower())) is not None:
                    drawing().save(whole / one["image"])
    click.echo(f"{folder}: {len(list(folder.glob('*.png')))} drawings")


if __name__ == "__main__":
    main()

"""Builds a captioned data set of an emoji package: ``python -m tools.emoji_captions``, run by ``make data``.

::

    google-captions/train    Google's drawings, 64×64 on white, metadata.jsonl with their names, dataset.json with their classes
    google-captions/test     the same of about a tenth of all base emoji, which no generator is to see

An emoji has up to three captions: its name in Unicode, and its short names where they say something else. The captions of a skin
tone end with it. All skin tones and genders of one emoji lie on one side, as they do in the data sets of :mod:`tools.emoji`.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from ganserve_trainers.data.labels import FILE
from tools.emoji import FOLDER, GOOGLE_DRAWINGS, Bases, building, images, is_there
from tools.emoji_classes import classes

SIDE = 64

MOST_CAPTIONS = 3

TONES = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium-light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium-dark skin tone",
    "1F3FF": "dark skin tone",
}
"""Code point of a modifier → its name in Unicode."""


def captions(entries: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """File name → captions, for every emoji of emoji.json and each of its skin variations."""
    for entry in entries:
        plain = phrases(entry)
        yield entry["image"], plain
        for tones, variation in entry.get("skin_variations", {}).items():
            names = " and ".join(dict.fromkeys(TONES[tone] for tone in tones.split("-")))
            yield variation["image"], tuple(f"{phrase}, {names}" for phrase in plain)


def phrases(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """What an entry of emoji.json says in words: its name and short names in small letters, none twice."""
    spoken = [entry["name"] or "", *(name.replace("_", " ").replace("-", " ") for name in entry["short_names"])]
    kept = dict.fromkeys(" ".join(phrase.lower().split()) for phrase in spoken)
    return tuple(phrase for phrase in kept if phrase)[:MOST_CAPTIONS]


@click.command()
@click.option(
    "--google", type=FOLDER, default=".data/emoji", show_default=True, help="emoji-datasource-google, unpacked."
)
@click.option("--out", type=FOLDER, default=".data", show_default=True, help="Where the data set goes.")
def main(google: Path, out: Path) -> None:
    """Build the captioned data set, if it is not there yet."""
    folder = out / "google-captions"
    if is_there(folder):
        return
    entries = msgspec.json.decode((google / "emoji.json").read_bytes())
    bases, drawings = Bases(entries), images(google / f"img/google/{SIDE}")
    lines: dict[str, list[bytes]] = {"train": [], "test": []}
    kinds = classes(entries)
    names = sorted(set(kinds.values()))
    labels: dict[str, list[tuple[str, int]]] = {split: [] for split in lines}
    with building(folder, (GOOGLE_DRAWINGS,)) as whole:
        for split in lines:
            (whole / split).mkdir()
        for name, texts in captions(entries):
            code = name.removesuffix(".png").lower()
            if code not in drawings:
                continue  # Google draws no such emoji
            split = bases.split(code)
            drawings[code]().save(whole / split / name)
            lines[split].append(msgspec.json.encode({"file_name": name, "text": texts}))
            labels[split].append((name, names.index(kinds[name])))
        for split, found in lines.items():
            (whole / split / "metadata.jsonl").write_bytes(b"\n".join([*found, b""]))
            (whole / split / FILE).write_bytes(msgspec.json.encode({"labels": labels[split], "names": names}))
    click.echo(f"{folder}: {', '.join(f'{split} {len(found)}' for split, found in lines.items())}")


if __name__ == "__main__":
    main()

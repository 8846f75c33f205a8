"""The data sets made of emoji: which are variants of one, on which side they lie, and what is written."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from PIL import Image

from tools.emoji import SVG, Bases, main, neutral, outlined, outlines, render, traced

DRAWING = """<svg id="emoji" viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg">
  <g id="color"><rect x="20" y="20" width="32" height="32" fill="#ff0000"/><g id="line-2"><path d="M1,1"/></g></g>
  <g id="line"><g><rect x="10" y="10" width="52" height="52" fill="none" stroke="#0000ff" stroke-width="4"/></g></g>
  <circle cx="36" cy="36" r="9"/>
</svg>"""

SETS = ("google-twitter", "google-lines", "openmoji-lines", "openmoji-google")

ENTRIES = [
    {"unified": "1F385", "skin_variations": {"1F3FB": {"unified": "1F385-1F3FB"}}},
    {"unified": "1F46D", "skin_variations": {"1F3FB-1F3FC": {"unified": "1F469-1F3FB-200D-1F91D-200D-1F469-1F3FC"}}},
    {"unified": "1F46B", "skin_variations": {"1F3FB-1F3FC": {"unified": "1F469-1F3FB-200D-1F91D-200D-1F468-1F3FC"}}},
    {"unified": "1F3C3-200D-2640-FE0F"},
    {"unified": "1F3C3"},
    {"unified": "2764-FE0F"},
]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1F468-1F3FB-200D-1F680", "1f469-200d-1f680"),  # astronauts
        ("1F3C3-1F3FF-200D-2640-FE0F", "1F3C3"),  # a woman running
        ("1F468-200D-1F469-200D-1F467", "1F469-200D-1F469-200D-1F466"),  # families
        ("2764-FE0F", "2764"),
    ],
)
def test_skin_tone_and_gender_are_left_out(one: str, other: str) -> None:
    assert neutral(one) == neutral(other)


def test_different_emoji_stay_different() -> None:
    codes = ("1F9D1-200D-1F680", "1F9D1", "1F680", "1F9D1-200D-2764-200D-1F9D1", "1F466", "2764")
    assert len({neutral(code) for code in codes}) == len(codes)


def test_variants_lie_on_one_side_however_they_are_spelled() -> None:
    bases = Bases(ENTRIES)
    assert bases.base("1f46d") == bases.base("1F46B") == bases.base("1f469-1f3fb-200d-1f91d-200d-1f469-1f3fc")
    assert bases.base("1f385-1f3fb") == bases.base("1F385") == "1F385"
    assert bases.base("1f3c3-200d-2640-fe0f") == bases.base("1f3c3")
    assert bases.base("2764") == bases.base("2764-FE0F")  # file names leave the variation selector out
    assert bases.base("e0c1") == "E0C1"


def test_a_tenth_is_for_tests_and_always_the_same() -> None:
    bases = Bases([])
    tests = [number for number in range(0x1F300, 0x1F700) if bases.split(f"{number:x}") == "test"]
    assert 0.07 < len(tests) / 0x400 < 0.13
    assert [bases.split(code) for code in ("1f600", "1f601", "1f602", "1f61c")] == ["train", "train", "train", "test"]


def test_outlines_are_what_lies_in_groups_of_lines() -> None:
    left = [element.tag.removeprefix(SVG) for element in ElementTree.fromstring(outlines(DRAWING)).iter()]
    assert left == ["svg", "g", "g", "path", "g", "g", "rect"]


def test_drawings_are_rendered_on_white_and_outlines_without_colour() -> None:
    pytest.importorskip("resvg_py", reason="`make data` installs it into .data/python")
    whole, lines = render(DRAWING), outlined(DRAWING)
    assert (whole.size, whole.mode, lines.size, lines.mode) == ((64, 64), "RGB", (64, 64), "RGB")
    assert (whole.getpixel((0, 0)), whole.getpixel((20, 20))) == ((255, 255, 255), (255, 0, 0))
    assert (lines.getpixel((0, 0)), lines.getpixel((20, 20))) == ((255, 255, 255), (255, 255, 255))
    red, green, blue = lines.getpixel((9, 32))  # type: ignore[misc]
    assert red == green == blue < 100


def test_a_drawing_is_traced_where_its_colour_jumps() -> None:
    drawing = Image.new("RGB", (64, 64), "white")
    drawing.paste((255, 0, 0), (16, 16, 48, 48))
    lines = traced(drawing)
    assert (lines.size, lines.mode) == ((64, 64), "RGB")
    assert lines.getpixel((4, 4)) == lines.getpixel((32, 32)) == (255, 255, 255)
    assert lines.getpixel((16, 32)) == (0, 0, 0)


def test_a_data_set_is_written_once_with_its_splits_and_sources(tmp_path: Path) -> None:
    for name, codes in (("google", ("1f600", "1f61c", "1f3c3")), ("twitter", ("1f600", "1f61c"))):
        folder = tmp_path / name / "img" / name / "64"
        folder.mkdir(parents=True)
        for code in codes:
            Image.new("RGBA", (64, 64), (9, 9, 9, 0)).save(folder / f"{code}.png")
    (tmp_path / "google" / "emoji.json").write_text(json.dumps(ENTRIES))
    (tmp_path / "svg").mkdir()
    (tmp_path / "out" / ".google-twitter.tmp" / "left").mkdir(parents=True)  # by a run that was stopped
    folders = {"google": "google", "twitter": "twitter", "openmoji": "svg", "out": "out"}
    arguments = [part for option, name in folders.items() for part in (f"--{option}", str(tmp_path / name))]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.output
    assert "google-twitter: trainA 1, trainB 1, testA 1, testB 1" in first.output
    made = tmp_path / "out" / "google-twitter"
    names = sorted(path.relative_to(made).as_posix() for path in made.rglob("*.*"))
    assert names == ["ATTRIBUTION.txt", *(f"{folder}/{code}.png" for folder, code in (
        ("testA", "1f61c"), ("testB", "1f61c"), ("trainA", "1f600"), ("trainB", "1f600")
    ))]  # fmt: skip
    assert Image.open(made / "trainA" / "1f600.png").getpixel((0, 0)) == (255, 255, 255)
    assert "CC BY 4.0" in (made / "ATTRIBUTION.txt").read_text()
    assert not list((tmp_path / "out").glob(".*"))
    again = CliRunner().invoke(main, arguments)
    assert again.output.splitlines() == [f"{made.with_name(name)} is there" for name in SETS]

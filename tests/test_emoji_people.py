"""The data sets of smileys and people."""

import json
from pathlib import Path

from click.testing import CliRunner
from PIL import Image

from ganserve_trainers.data import open_images
from tools.emoji_people import main


def emoji(name: str, category: str, subcategory: str, *tones: str, called: str = "") -> dict[str, object]:
    variations = {tone: {"image": f"{name}-{tone}.png"} for tone in tones}
    known = {"image": f"{name}.png", "short_name": called, "category": category, "subcategory": subcategory}
    return {**known, **({"skin_variations": variations} if tones else {})}


def test_smileys_and_people_of_all_skin_tones_are_taken_and_nothing_else(tmp_path: Path) -> None:
    package, drawings = tmp_path / "emoji", tmp_path / "emoji/img/google/64"
    drawings.mkdir(parents=True)
    entries = [
        emoji("1f600", "Smileys & Emotion", "face-smiling"),
        emoji("1f44b", "People & Body", "hand-fingers-open", "1f3fb", "1f3ff"),
        emoji("1f408", "Animals & Nature", "animal-mammal"),
        emoji("1f3c4", "People & Body", "person-sport"),
        emoji("1f46a", "People & Body", "family", called="man-woman-boy"),
        emoji("1f491", "People & Body", "family", called="couple_with_heart"),
        emoji("1f9ff", "People & Body", "person"),  # Google draws none
    ]
    (package / "emoji.json").write_text(json.dumps(entries))
    faces = ["1f44b-1f3fb.png", "1f44b-1f3ff.png", "1f44b.png", "1f46a.png", "1f491.png", "1f600.png"]
    people = sorted([*faces, "1f3c4.png"])
    for name in (*people, "1f408.png"):
        Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(drawings / name)
    for said in (
        ("google-people: 7 drawings", "google-faces: 6 drawings", "google-portraits: 2 drawings"),
        ("google-people is there", "google-faces is there", "google-portraits is there"),
    ):
        done = CliRunner().invoke(main, ["--google", str(package), "--out", str(tmp_path)])
        assert done.exit_code == 0, done.output
        assert all(words in done.output for words in said), done.output
    folder = tmp_path / "google-people"
    assert sorted(path.name for path in folder.glob("*.png")) == people
    assert sorted(path.name for path in (tmp_path / "google-faces").glob("*.png")) == faces, "no sports"
    portraits = sorted(path.name for path in (tmp_path / "google-portraits").glob("*.png"))
    assert portraits == ["1f491.png", "1f600.png"], "no hands, and no family without a heart"
    assert Image.open(folder / "1f600.png").getpixel((0, 0)) == (255, 255, 255), "on white"
    assert "Google LLC" in (folder / "ATTRIBUTION.txt").read_text()
    assert len(open_images(str(folder)).names) == 7

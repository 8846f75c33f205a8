"""``ganserve imagine``, the demo with a bundle that reads prompts, and policies from the command line."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from ganserve import Client
from ganserve.cli import cli
from ganserve.testing.echo_text import write_text_bundle
from ganserve.testing.server import serving
from tools.emoji_captions import main as write_captions

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    write_text_bundle(folder / "echo-text")
    return folder


def run(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="ganserve")
    assert result.exit_code == code, result.output
    return result


def test_imagine_writes_a_grid_of_prompts_by_seeds_and_a_file_each(bundles, tmp_path):
    with serving(bundles) as server:
        asked = ("imagine", "echo-text", "red", " ".join(["red"] * 40), "--n", 3, "--server", server.address)
        text = run(*asked, "--seed", 7, "--out", tmp_path / "files", "--grid", tmp_path / "grid.png").output
        again = run(*asked, "--seed", 7, "--out", tmp_path / "again").output
        refused = run(*asked, "--whole", code=1).stderr
    assert "6 images in" in text
    assert "6 files in" in text
    assert "prompt 2 was cut" in text
    assert "seed 7, from index 0" in again
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (3 * 6 - 2, 2 * 6 - 2)
    names = sorted(path.name for path in (tmp_path / "files").iterdir())
    assert names == [f"echo-text-{prompt:02}-{number:04}.png" for prompt in range(2) for number in range(3)]
    for name in names:
        assert (tmp_path / "files" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert "prompts[1]: has more than 32 tokens" in refused


def test_a_walk_passes_prompts_from_one_seed_or_seeds_under_one_prompt(bundles, tmp_path):
    prompts = ("--prompt", "red", "--prompt", "the left half")
    with serving(bundles) as server:
        asked = ("walk", "echo-text", "--frames", 2, "--server", server.address)
        run(*asked, *prompts, "--latent", "text", "--seeds", "7:3", "--out", tmp_path / "prompts")
        run(*asked, *prompts[:2], "--latent", "z", "--seeds", "7:3,8", "--out", tmp_path / "seeds")
        no_keys = run(*asked, "--out", tmp_path / "no", code=2).stderr
        both = run(*asked, *prompts, "--seeds", "1,2", "--out", tmp_path / "no", code=2).stderr
        with Client(server.address) as client:
            wanted = client.imagine("echo-text", ["red", "the left half"], seed=7, first_index=3).images()
    passed, drawn = (sorted((tmp_path / name).iterdir()) for name in ("prompts", "seeds"))
    assert len(passed) == len(drawn) == 3
    assert [Image.open(passed[end]).tobytes() for end in (0, -1)] == [image.tobytes() for image in wanted]
    assert Image.open(drawn[0]).tobytes() == wanted[0].tobytes()
    assert Image.open(drawn[-1]).tobytes() != wanted[0].tobytes()
    assert "nothing says what the walk passes: give --seeds, or --prompt more than once" in no_keys
    assert "a walk passes seeds or prompts, and got 2 and 2" in both
    assert not (tmp_path / "no").exists()


def test_demo_shows_prompts_by_seeds(bundles, tmp_path):
    text = run("demo", "--bundles", bundles, "--out", tmp_path, "--n", 16).output
    assert f"{tmp_path / 'echo-text.png'}: 16 images of echo-text" in text
    assert 'ganserve imagine echo-text "a red heart" --n 4' in text
    with Image.open(tmp_path / "echo-text.png") as grid:
        assert grid.size == (2 * 6 - 2, 8 * 6 - 2)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("block-list=/nowhere/words.txt", "the block list '/nowhere/words.txt' cannot be read"),
        ("blok-list=words.txt", "no plugin provides the prompt policy 'blok-list'; there are block-list"),
    ],
)
def test_a_policy_that_cannot_be_asked_ends_the_start(bundles, policy, message):
    found = run("serve", bundles, "--port", 0, "--metrics-port", -1, "--prompt-policy", policy, code=1)
    assert message in found.stderr


def test_a_block_list_without_words_is_refused(bundles, tmp_path):
    (tmp_path / "words.txt").write_text("# none yet\n")
    policy = f"block-list={tmp_path / 'words.txt'}"
    found = run("serve", bundles, "--port", 0, "--metrics-port", -1, "--prompt-policy", policy, code=1)
    assert "has no words" in found.stderr


def test_names_of_emoji_become_captions_with_their_skin_tones(tmp_path):
    entries = [
        {
            "name": "FATHER CHRISTMAS",
            "unified": "1F385",
            "image": "1f385.png",
            "category": "People",
            "subcategory": "person-fantasy",
            "short_names": ["santa", "father_christmas"],
            "skin_variations": {"1F3FB": {"unified": "1F385-1F3FB", "image": "1f385-1f3fb.png"}},
        },
        {"name": "Egypt Flag", "unified": "1F1EA-1F1EC", "image": "1f1ea-1f1ec.png", "short_names": ["flag-eg"]},
        {"name": "NOT DRAWN", "unified": "1F999", "image": "1f999.png", "short_names": ["not_drawn"]},
    ]
    for entry in entries[1:]:
        entry |= {"category": "Flags", "subcategory": "flag"}
    drawings = tmp_path / "google/img/google/64"
    drawings.mkdir(parents=True)
    for name in ("1f385", "1f385-1f3fb", "1f1ea-1f1ec"):
        Image.new("RGBA", (64, 64), (200, 0, 0, 128)).save(drawings / f"{name}.png")
    (tmp_path / "google/emoji.json").write_text(json.dumps(entries))
    arguments = ["--google", str(tmp_path / "google"), "--out", str(tmp_path)]
    first = CliRunner().invoke(write_captions, arguments)
    assert first.exit_code == 0, first.output
    found = {
        (path.parent.name, entry["file_name"]): entry["text"]
        for path in tmp_path.glob("google-captions/*/metadata.jsonl")
        for entry in map(json.loads, path.read_text().splitlines())
    }
    texts = {name: text for (_, name), text in found.items()}
    assert texts == {
        "1f385.png": ["father christmas", "santa"],
        "1f385-1f3fb.png": ["father christmas, light skin tone", "santa, light skin tone"],
        "1f1ea-1f1ec.png": ["egypt flag", "flag eg"],
    }
    assert len({split for split, name in found if name.startswith("1f385")}) == 1
    for path in tmp_path.glob("google-captions/*/dataset.json"):
        classes = json.loads(path.read_bytes())
        assert classes["names"] == ["other"]  # so few emoji have no class of their own
        assert sorted(classes["labels"]) == sorted([name, 0] for split, name in found if split == path.parent.name)
    for split, name in found:
        with Image.open(tmp_path / "google-captions" / split / name) as picture:
            assert (picture.mode, picture.size) == ("RGB", (64, 64))
    assert "is there" in CliRunner().invoke(write_captions, arguments).output

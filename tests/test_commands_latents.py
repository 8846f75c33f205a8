"""``ganserve walk``, ``mix``, ``directions`` and ``sample --direction``, for real: servers, bundles, files."""

import csv
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ganserve import Client
from ganserve.bundle import read
from ganserve.cli import cli
from ganserve.client import Point
from ganserve.codecs.seeds import draw
from ganserve.commands import video
from ganserve.serving.latents import frames_of, interpolate
from ganserve.testing.echo import SIZE, Z_NOISE
from ganserve.testing.echo_style import DIRECTIONS, LAYERS, picture_of, w_of, write_style_bundle
from ganserve.testing.server import serving

MODEL = "echo-style"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(write_style_bundle(tmp_path_factory.mktemp("bundles") / MODEL)) as found:
        yield found


def run(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="ganserve")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def z_of(*seeds):
    return draw(Z_NOISE, np.array(seeds, np.uint64), (SIZE,))


def walk(server, out, *options, seeds="1,2", code=0):
    command = ("walk", MODEL, "--seeds", seeds, "--task", "sample", "--server", server.address, "--out", out)
    return run(*command, *options, code=code)


def test_a_walk_is_a_folder_of_frames(server, tmp_path):
    output = walk(server, tmp_path / "frames", "--frames", "4", "--label", "0", seeds="1,7:3")
    assert f"5 frames in {tmp_path / 'frames'}, 0.2 s at 30 a second" in output
    w = interpolate(w_of(z_of((1, 0), (7, 3))), frames_of(2, 4, loop=False), "lerp")
    files = sorted((tmp_path / "frames").iterdir())
    assert [file.name for file in files] == [f"{number:05d}.png" for number in range(5)]
    np.testing.assert_array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), picture_of(w))


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_a_walk_is_a_picture_that_plays(server, tmp_path, suffix):
    path = tmp_path / "videos" / f"walk.{suffix}"
    walk(server, path, "--frames", "6", "--label", "circle", "--loop", "--fps", "20", "--latent", "w", seeds="1,2,3")
    w = interpolate(w_of(z_of((1, 0), (2, 0), (3, 0))), frames_of(3, 6, loop=True), "lerp")
    with Image.open(path) as image:
        assert image.n_frames == 18
        assert image.info["loop"] == 0
        for number, expected in enumerate(picture_of(w)):
            image.seek(number)
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), expected)
            image.load()
            assert image.info["duration"] == 50
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_walk_takes_all_that_makes_latents_and_images(server, tmp_path):
    options = [
        "--frames",
        "1",
        "--label",
        "star",
        "--truncation",
        "0.7",
        "--number",
        "psi=0.5",
        "--direction",
        "warmer=2",
    ]
    walk(server, tmp_path / "w", *options, "--image-number", "noise_seed=4", "--walk", "slerp", "--version", "1")
    key = Point(seed=1, label="star", truncation=0.7, numbers={"psi": 0.5}, directions={"warmer": 2})
    with Client(server.address) as client:
        expected = client.combine(MODEL, [(key, 1)], numbers={"noise_seed": 4}, task="sample").array()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "w" / "00000.png")), expected)
    walk(server, tmp_path / "z", "--frames", "1", "--latent", "z", "--image-label", "2")
    first = np.asarray(Image.open(tmp_path / "z" / "00000.png"))
    np.testing.assert_array_equal(first, picture_of(w_of(z_of((1, 0)), label=2))[0])


@pytest.mark.parametrize(
    ("options", "seeds", "message"),
    [
        (["--label", "9"], "1,2", "keys[0].label: 9 is no class of this model"),
        ([], "1,x", "'x' is no seed: write numbers such as 1,2,3, or 7:2"),
        ([], "1:", "'1:' is no seed"),
        (["--number", "psi"], "1,2", "'psi' is not NAME=NUMBER"),
        (["--direction", "warmer=much"], "1,2", "'warmer=much' is not NAME=NUMBER"),
        (["--label", "0"], "1", "keys: 1 points; expected 2 to 1024"),
    ],
)
def test_what_a_walk_cannot_have_is_one_line(server, tmp_path, options, seeds, message):
    output = walk(server, tmp_path / "frames", *options, seeds=seeds, code=2 if "keys" not in message else 1)
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "frames").exists()


def test_other_endings_are_refused_before_the_server_is_asked(tmp_path):
    output = run("walk", MODEL, "--seeds", "1,2", "--out", tmp_path / "walk.gif", "--server", "localhost:1", code=2)
    assert "walk.gif ends in none of .webp, .png, .mp4" in output


def test_without_an_encoder_an_mp4_says_what_to_install(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(video.importlib, "import_module", missing)
    with pytest.raises(video.click.BadParameter, match="needs FFmpeg, which is not here: pip install"):
        video.writer(tmp_path / "walk.mp4", 30)


def test_an_mp4_has_every_frame(tmp_path):
    frames = [Image.new("RGB", (15, 11), (grey, 0, 0)) for grey in range(0, 250, 10)]
    video.writer(tmp_path / "walk.mp4", 25)(frames)
    assert [found.name for found in tmp_path.iterdir()] == ["walk.mp4"]
    # imageio_ffmpeg's own reader forks, and what gRPC's threads say in the child at that moment would be taken for FFmpeg's.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "walk.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    read = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert (b"16x12" in read.stderr, b"25 fps" in read.stderr) == (True, True)
    played = np.frombuffer(read.stdout, np.uint8).reshape(25, 12, 16, 3)
    # Red grows from frame to frame, to the few levels that a lossy codec takes.
    assert np.abs(played[:, 0, 0, 0].astype(int) - np.arange(0, 250, 10)).max() < 6


def test_a_sheet_mixes_every_base_with_every_style(server, tmp_path):
    sheet = tmp_path / "sheet.png"
    command = [
        "mix",
        MODEL,
        "--bases",
        "1,2",
        "--styles",
        "3,4,5:1",
        "--layers",
        "0,2-2",
        "--label",
        "1",
        "--task",
        "sample",
    ]
    output = run(*command, "--out", sheet, "--server", server.address)
    assert f"6 mixtures in {sheet}" in output
    found = np.asarray(Image.open(sheet))
    step = SIZE + 2
    assert found.shape == (3 * step - 2, 4 * step - 2, LAYERS)
    bases, styles = w_of(z_of((1, 0), (2, 0)), label=1), w_of(z_of((3, 0), (4, 0), (5, 1)), label=1)
    for row, base in enumerate(bases):
        for column, style in enumerate(styles):
            w = base.copy()
            w[[0, 2]] = style[[0, 2]]
            top, left = (row + 1) * step, (column + 1) * step
            np.testing.assert_array_equal(found[top : top + SIZE, left : left + SIZE], picture_of(w[None])[0])
    np.testing.assert_array_equal(found[:SIZE, step : step + SIZE], picture_of(styles[:1])[0])
    output = run(*command, "--out", sheet, "--server", server.address, "--layers", "0-x", code=2)
    assert "'0-x' names no layers" in output


def test_sample_moves_images_along_directions(server, tmp_path):
    options = ["--task", "sample", "--label", "0", "--seed", "6", "--n", "2", "--direction", "brighter=1.5"]
    run("sample", MODEL, *options, "--out", tmp_path, "--server", server.address)
    w = w_of(z_of((6, 0), (6, 1))) + np.float32(1.5)
    for index, expected in enumerate(picture_of(w)):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"{MODEL}-6-{index}.png")), expected)


# Directions from labels


@pytest.fixture
def bundle(tmp_path):
    return write_style_bundle(tmp_path / "bundles" / MODEL)


def label(path, kind, seeds=range(200), **changed):
    """A CSV of samples that have it where ``kind`` of their z is true."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "seed", "index", "label"])
        for seed in seeds:
            writer.writerow(["", seed, 3, int(kind(z_of((seed, 3))[0]))])
    return path


def learn(bundle, samples, *options, code=0):
    command = ("directions", bundle, "--name", "smiling", "--samples", samples, "--task", "sample")
    return run(*command, *options, code=code)


def test_a_direction_is_learned_from_labels_and_served(bundle, tmp_path):
    samples = label(tmp_path / "labels.csv", lambda z: z[1] > 0.2)
    output = learn(bundle, samples, "--class", "circle", "--number", "psi=0.5")
    found = read(bundle)
    direction, vector = found.manifest.directions["smiling"], found.directions()["smiling"]
    assert direction.tensor == "w"
    assert "held-out samples on the right side" in output
    share = float(output.split("bundles")[-1].split(": ")[1].split("%")[0])
    assert share > 85
    assert f"{share}% of 4" in direction.source
    assert "linear boundary (InterFaceGAN, Shen et al., 2020) of 200 labelled samples" in direction.source
    assert (vector == vector[0]).all(), "all layers alike"
    assert vector[0, 1] / np.linalg.norm(vector[0]) > 0.97
    assert np.linalg.norm(vector[0]) == pytest.approx(0.5, rel=0.25), "one standard deviation of w at psi 0.5"
    with serving(bundle) as server, Client(server.address) as client:
        samples = client.sample(MODEL, labels=0, seed=5, task="sample", directions={"smiling": [0, 1]}, returns=["w"])
    moved = samples.tensor("w")[1] - w_of(z_of((5, 1)))[0]
    np.testing.assert_allclose(moved, vector, atol=1e-6)


def test_a_direction_of_z_keeps_its_shape_and_is_replaced_when_told(bundle, tmp_path):
    samples = label(tmp_path / "labels.csv", lambda z: z[0] + z[3] > 0)
    learn(bundle, samples, "--latent", "z")
    vector = read(bundle).directions()["smiling"]
    assert vector.shape == (SIZE,)
    normal = np.array([1, 0, 0, 1]) / np.sqrt(2)
    assert vector @ normal / np.linalg.norm(vector) > 0.97
    assert "has a direction 'smiling'" in learn(bundle, samples, "--latent", "z", code=1)
    learn(bundle, label(tmp_path / "others.csv", lambda z: z[1] > 0), "--latent", "z", "--truncation", "1", "--force")
    assert read(bundle).directions()["smiling"].argmax() == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["seed,label", "1,1"], "no column index; its first line has seed, label; expected seed, index, label"),
        ([], "no column seed, index, label; its first line has nothing"),
        (["seed,index,label"], "has no samples"),
        (["seed,index,label", "1,0,1", "x,0,1"], "line 3: seed is 'x'; expected a whole number"),
        (["seed,index,label", f"{2**64},0,1"], "line 2: seed is '18446744073709551616'"),
        (["seed,index,label", "1,,1"], "line 2: index is ''"),
        (["seed,index,label", "1,0,yes"], "line 2: label is 'yes'; expected 1 or 0"),
        (["seed,index,label", "1"], "line 2: index is ''"),
        (["seed,index,label", *(f"{seed},0,1" for seed in range(20))], "0 samples are labelled without it"),
    ],
)
def test_a_file_that_is_wrong_is_one_line_and_changes_nothing(bundle, tmp_path, lines, message):
    samples = tmp_path / "labels.csv"
    samples.write_text("\n".join(lines))
    before = sorted(bundle.iterdir())
    output = learn(bundle, samples, "--class", "0", code=1)
    assert message in output
    assert len(output.strip().splitlines()) == 1
    assert sorted(bundle.iterdir()) == before


def test_values_that_fit_no_sample_are_told_with_their_line(bundle, tmp_path):
    samples = label(tmp_path / "labels.csv", lambda z: z[0] > 0)
    assert "labels.csv, line 2: label: 9 is no class" in learn(bundle, samples, "--class", "9", code=1)
    assert "needs label" in learn(bundle, samples, code=1)
    assert "not used" in learn(bundle, samples, "--class", "0", "--number", "noise_seed=1", code=1)
    assert "it has z, w" in learn(bundle, samples, "--latent", "y", code=2)


def test_inspect_and_models_tell_latents_and_directions(server, bundle):
    text = run("inspect", bundle)
    assert "latents of task sample" in text
    assert "may be mixed" in text
    for name in DIRECTIONS:
        assert name in text
    assert "sample(seed, truncation, label, psi, noise_seed) in z, w" in run("models", "--server", server.address)
    assert '"walk": "slerp"' in run("models", "--json", "--server", server.address)

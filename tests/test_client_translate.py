"""Both clients' translations, and ``ganserve translate``, against a real server."""

import asyncio
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageCms

from ganserve import AsyncClient, Client, errors
from ganserve.cli import cli
from ganserve.client.translation import SIZES
from ganserve.codecs import SIZES as CODEC_SIZES
from ganserve.codecs.seeds import draw
from ganserve.testing.echo import write_bundle
from ganserve.testing.echo_pictures import TINT_NOISE, blend_of, global_of, negative_of, noisy_of
from ganserve.testing.server import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "echo")
    with serving(folder) as found:
        yield found


def blocking(address, method, *args, **options):
    with Client(address) as client:
        found = getattr(client, method)(*args, **options)
        return list(found) if method == "translate_stream" else found


def awaiting(address, method, *args, **options):
    async def call():
        async with AsyncClient(address) as client:
            found = getattr(client, method)(*args, **options)
            return [one async for one in found] if method == "translate_stream" else await found

    return asyncio.run(call())


@pytest.fixture(params=[blocking, awaiting])
def call(request, server):
    return lambda *args, **options: request.param(server.address, *args, **options)


def pixels(height=8, width=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def file_of(array, name="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, name, **options)
    return buffer.getvalue()


def test_a_picture_may_be_an_array_an_image_bytes_or_a_path(call, tmp_path):
    picture = pixels()
    path = tmp_path / "picture.png"
    path.write_bytes(file_of(picture))
    for given in (picture, Image.fromarray(picture), file_of(picture), path, str(path)):
        result = call("translate", "echo", given, task="negative")
        np.testing.assert_array_equal(result.array(), negative_of(picture[None])[0])
        assert (result.images["image"].width, result.images["image"].height) == (12, 8)
        assert result.images["image"].pictures == 1
        assert result.served.model == "echo"
        assert {"decode", "engine", "encode", "total"} <= result.served.seconds.keys()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_of_pillow_arrives(call, mode):
    grey = Image.fromarray(pixels()).convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    result = call("translate", "echo", image, task="double").array()[::2, ::2].astype(int)
    expected = np.asarray(grey.convert("1") if mode == "1" else grey, int)[:, :, None] * (255 if mode == "1" else 1)
    tolerance = 6 if mode == "CMYK" else 0  # JPEG is what carries it
    assert np.abs(result - expected).mean() <= tolerance


def test_orientation_and_profile_of_an_image_count(call):
    picture = pixels(8, 12)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter clockwise
    with Image.open(io.BytesIO(file_of(picture, exif=exif))) as image:
        turned = call("translate", "echo", image, task="double").array()[::2, ::2]
    np.testing.assert_array_equal(turned, np.rot90(picture, -1))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = Image.fromarray(picture)
    image.info["icc_profile"] = profile  # of another colour space: told to the server, which ignores what does not fit
    np.testing.assert_array_equal(call("translate", "echo", image, task="double").array()[::2, ::2], picture)


def test_other_pictures_numbers_seeds_and_formats(call):
    picture, reference = pixels(seed=1), pixels(seed=2)
    mixed = call("translate", "echo", picture, task="blend", images={"reference": reference}, numbers={"weight": 0.25})
    weight = np.array([0.25])
    np.testing.assert_array_equal(mixed.array(), blend_of(picture[None], reference[None], weight)[0])
    assert mixed.images.keys() == {"image", "reference"}
    noisy = call("translate", "echo", picture, task="noisy", seed=5, index=9, format="raw", returns=("tint",))
    tint = draw(TINT_NOISE, np.array([[5, 9]], np.uint64), (3,))
    np.testing.assert_array_equal(noisy.array(), noisy_of(picture[None], tint)[0])
    np.testing.assert_array_equal(noisy.tensors["tint"], tint[0])
    assert (noisy.seed, noisy.index, noisy.format) == (5, 9, "raw")


def test_sizes_are_the_servers():
    assert tuple(SIZES) == CODEC_SIZES


def test_size_restore_and_background(call):
    picture = pixels(30, 20)
    assert call("translate", "echo", picture, task="fixed").shape == (16, 16, 3)
    assert call("translate", "echo", picture, task="fixed", restore=True).shape == (30, 20, 3)
    assert call("translate", "echo", picture, task="fixed", size="letterbox", restore=True).shape == (30, 20, 3)
    assert call("translate", "echo", picture, task="negative").shape == (30, 20, 3)  # not multiples of 4
    clear = np.zeros((8, 8, 4), np.uint8)
    red = call("translate", "echo", clear, task="double", background=(255, 0, 0)).array()
    assert (red == (255, 0, 0)).all()
    with pytest.raises(errors.InvalidArgument, match="16") as caught:
        call("translate", "echo", picture, task="fixed", size="exact")
    assert [one.field for one in caught.value.violations] == ["images[image]"]


@pytest.mark.parametrize(
    ("image", "options", "field"),
    [
        (np.zeros((4, 4), np.float32), {}, "images[image]"),
        (np.zeros((4, 4, 2), np.uint8), {}, "images[image]"),
        (pixels(), {"size": "huge"}, "size"),
        (pixels(), {"background": (0, 0, -1)}, "background.blue"),
        (pixels(), {"background": (0, 256, 0)}, "background.green"),
        (pixels(), {"seed": -1}, "seed"),
        (pixels(), {"images": {"mask": pixels()}}, "images[mask]"),
        (None, {}, "images"),
        (b"no picture", {}, "images[image]"),
        (file_of(pixels())[:100], {}, "images[image]"),
        (pixels(), {"format": "gif"}, "output.image_format"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field(call, image, options, field):
    with pytest.raises(errors.InvalidArgument) as caught:
        call("translate", "echo", image, task="negative", **options)
    assert field in [one.field for one in caught.value.violations]


def test_a_missing_file_is_an_os_error(call):
    with pytest.raises(FileNotFoundError):
        call("translate", "echo", "nowhere.png", task="negative")


def test_frames_come_back_in_order(call):
    frames = [pixels(8 + 4 * (number % 3), seed=number) for number in range(40)]
    results = call("translate_stream", "echo", frames, task="negative", format="raw")
    assert len(results) == len(frames)
    for frame, result in zip(frames, results, strict=True):
        np.testing.assert_array_equal(result.array(), negative_of(frame[None])[0])


def test_frames_may_be_awaited_and_share_a_picture_and_a_seed(server):
    reference, frames = pixels(seed=50), [pixels(seed=number) for number in range(5)]

    async def awaited():
        for frame in frames:
            await asyncio.sleep(0)
            yield frame

    async def call():
        async with AsyncClient(server.address) as client:
            blended = client.translate_stream("echo", awaited(), task="blend", images={"reference": reference})
            noisy = client.translate_stream("echo", awaited(), task="noisy")
            return [one async for one in blended], [one async for one in noisy]

    blended, noisy = asyncio.run(call())
    for frame, result in zip(frames, blended, strict=True):
        np.testing.assert_array_equal(result.array(), blend_of(frame[None], reference[None], np.array([0.5]))[0])
    assert len({(one.seed, one.index) for one in noisy}) == 1


def test_an_endless_stream_is_read_only_as_far_as_it_is_answered(server):
    read = itertools.count()
    with Client(server.address) as client:
        stream = client.translate_stream(
            "echo", ((next(read), pixels(64, 64))[1] for _ in itertools.count()), task="global"
        )
        first = next(stream)
        np.testing.assert_array_equal(first.array(), global_of(pixels(64, 64)[None])[0])
        stream.close()
    assert next(read) < 2000  # what fits the window and the buffers of the connection


def test_what_the_frames_raise_reaches_the_caller(call):
    def frames():
        yield pixels()
        raise ZeroDivisionError("the camera broke")

    with pytest.raises(ZeroDivisionError, match="camera"):
        call("translate_stream", "echo", frames(), task="negative")


def test_a_broken_frame_is_named_after_those_before_it(server):
    frames = [pixels(), pixels(), b"no picture", pixels()]
    with Client(server.address) as client:
        stream = client.translate_stream("echo", frames, task="negative")
        for frame in frames[:2]:
            np.testing.assert_array_equal(next(stream).array(), negative_of(frame[None])[0])
        with pytest.raises(errors.InvalidArgument) as caught:
            next(stream)
    assert [one.field for one in caught.value.violations] == ["frames[2].images[image]"]
    with pytest.raises(errors.InvalidArgument, match=r"frames\[1\]"):
        blocking(server.address, "translate_stream", "echo", [pixels(), np.zeros(3)], task="negative")


def translate(server, *arguments, code=0):
    arguments = ("translate", "echo", *arguments, "--server", server.address)
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="ganserve")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def photos(tmp_path):
    for number, name in enumerate(["a.png", "b.jpg", "deep/c.webp", "deep/d.png"]):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed=number)).save(file, lossless=True)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    return tmp_path / "photos"


def results(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_command_translates_files_globs_and_folders(server, photos, tmp_path):
    out = tmp_path / "out"
    assert "4 of 4" in translate(server, photos, "--direction", "negative", "--out", out)
    assert results(out) == ["a.png", "b.png", "deep/c.png", "deep/d.png"]
    with Image.open(out / "deep" / "d.png") as image:
        np.testing.assert_array_equal(np.asarray(image), negative_of(pixels(seed=3)[None])[0])
    assert "2 of 2" in translate(server, f"{photos}/**/*.png", "--task", "double", "--out", tmp_path / "some")
    assert results(tmp_path / "some") == ["a.png", "d.png"]
    one = tmp_path / "one"
    translate(server, photos / "a.png", "--task", "double", "--restore", "--format", "npy", "--out", one)
    assert np.load(one / "a.npy").shape == (8, 12, 3)


def test_the_command_goes_on_where_it_stopped(server, photos, tmp_path):
    out = tmp_path / "out"
    translate(server, photos / "a.png", "--task", "negative", "--out", out)
    before = (out / "a.png").stat().st_mtime_ns
    assert "1 were there already" in translate(server, photos, "--task", "negative", "--out", out)
    assert len(results(out)) == 4
    assert (out / "a.png").stat().st_mtime_ns == before
    translate(server, photos, "--task", "negative", "--overwrite", "--out", out)
    assert (out / "a.png").stat().st_mtime_ns > before


def test_the_command_names_what_failed_and_does_the_rest(server, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"no picture")
    output = translate(server, photos, "--task", "negative", "--out", tmp_path / "out", code=1)
    assert "4 of 5" in output
    assert "broken.png" in output
    assert len(results(tmp_path / "out")) == 4


def test_the_command_passes_options_on(server, photos, tmp_path):
    out = tmp_path / "out"
    reference = ("--image", f"reference={photos / 'deep' / 'd.png'}")
    translate(server, photos / "a.png", "--task", "blend", *reference, "--number", "weight=1", "--out", out)
    with Image.open(out / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels(seed=3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.png",), "nowhere.png"),
        (("{photos}/a.png", "--image", "reference"), "NAME=FILE"),
        (("{photos}/a.png", "--number", "weight"), "NAME=NUMBER"),
        (("{photos}/a.png", "--background", "invisible"), "no colour"),
        (("{photos}", "{photos}/deep/../a.png"), "would both become"),
    ],
)
def test_the_command_explains_what_it_was_told_wrong(server, photos, tmp_path, arguments, message):
    told = [argument.format(photos=photos) for argument in arguments]
    output = translate(server, *told, "--task", "negative", "--out", tmp_path / "out", code=2)
    assert message in " ".join(output.split())
    assert not (tmp_path / "out").exists()


def test_nobody_listening_ends_the_command_at_once(photos, tmp_path):
    nobody = type("Nobody", (), {"address": "localhost:1"})
    output = translate(nobody, photos, "--task", "negative", "--out", tmp_path / "out", code=1)
    assert "unavailable" in output
    assert Path(tmp_path / "out").exists() is False

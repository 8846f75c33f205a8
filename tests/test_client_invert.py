"""Both clients' inversions, and ``ganserve invert``, against a real server."""

import asyncio
import json
import math
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ganserve import AsyncClient, Client, errors
from ganserve.cli import cli
from ganserve.client import Inversion, InvertProgress
from ganserve.client.inversion import EVERY, STARTS
from ganserve.codecs.seeds import draw
from ganserve.quality import psnr, ssim
from ganserve.testing.echo_inversion import NOISE, STEPS, image_of, write_inversion_bundle
from ganserve.testing.echo_inversion_graphs import SHAPE
from ganserve.testing.server import serving

MODEL = "echo-inversion"


def latents(seed, count=1):
    return draw(NOISE, np.array([(seed, index) for index in range(count)], np.uint64), (4,))


Z = latents(3)[0]
TARGET = image_of(Z[None])[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    write_inversion_bundle(folder / MODEL)
    with serving(folder) as found:
        yield found


def blocking(address, method, *args, **options):
    with Client(address) as client:
        found = getattr(client, method)(*args, **options)
        return list(found) if method == "invert_stream" else found


def awaiting(address, method, *args, **options):
    async def call():
        async with AsyncClient(address) as client:
            found = getattr(client, method)(*args, **options)
            return [one async for one in found] if method == "invert_stream" else await found

    return asyncio.run(call())


@pytest.fixture(params=[blocking, awaiting])
def call(request, server):
    return lambda *args, **options: request.param(server.address, *args, **options)


def test_a_latent_is_found_and_all_that_is_told_of_it_arrives(call, server):
    found = call("invert", MODEL, TARGET, start="average", format="raw")
    assert np.abs(found.latent - Z).max() < 0.05
    assert found.latents.keys() == {"z"}
    made = found.array()
    np.testing.assert_array_equal(made, image_of(found.latent[None])[0])
    assert found.image().size == SHAPE[1::-1]
    assert found.quality.psnr > 50
    assert found.quality.psnr == pytest.approx(psnr(made, TARGET))
    assert found.quality.ssim == pytest.approx(ssim(made, TARGET))
    assert found.quality.ms_ssim is None
    assert 0 < found.quality.perceptual < 0.01
    assert 0 < found.loss < 1e-4
    assert (found.steps, found.stopped_early, found.start) == (STEPS, False, "average")
    assert (found.seed, found.index) == (None, None)
    assert (found.read.width, found.read.height, found.read.pictures) == (16, 16, 1)
    assert (found.served.model, found.served.determinism) == (MODEL, "bit-exact")
    again = call("sample", MODEL, tensors=found.tensors, format="raw")
    np.testing.assert_array_equal(again.arrays()[0], made)


def test_progress_is_heard(call):
    heard = []
    found = call("invert", MODEL, TARGET, start="average", steps=45, progress=heard.append)
    assert heard
    assert all(one.step % EVERY == 0 and one.steps == 45 and one.preview is one.latent is None for one in heard)
    assert heard[0].loss > heard[-1].loss > found.loss
    heard.clear()
    options = {"progress_every": 1, "previews": True, "progress_latents": True, "format": "png"}
    call("invert", MODEL, TARGET, start="average", steps=45, progress=heard.append, **options)
    assert heard[-1].preview.array().shape == SHAPE
    assert heard[-1].latent.shape == (4,)
    assert 0 < heard[0].seconds <= heard[-1].seconds


def test_a_search_as_a_stream_ends_with_the_result(call):
    *progress, found = call("invert_stream", MODEL, TARGET, start="samples", seed=7, samples=4, progress_every=20)
    assert isinstance(found, Inversion)
    assert progress
    assert all(isinstance(one, InvertProgress) for one in progress)
    assert (found.start, found.seed) == ("samples", 7)
    assert 0 <= found.index < 4
    np.testing.assert_array_equal(
        call("invert", MODEL, TARGET, start="samples", seed=7, samples=4).latent, found.latent
    )


def test_a_search_goes_on_from_a_latent(call):
    first = call("invert", MODEL, TARGET, start="average", steps=30)
    on = call("invert", MODEL, TARGET, latent=first.latent, steps=1)
    assert (on.start, on.steps) == ("given", 1)
    np.testing.assert_array_equal(on.latent, first.latent)


def test_what_progress_raises_ends_the_search_and_is_raised(call, server):
    def full(_):
        raise ZeroDivisionError("disk full")

    with pytest.raises(ZeroDivisionError, match="disk full"):
        call("invert", MODEL, TARGET, start="average", steps=2000, progress=full)
    idle(server)


def test_a_stream_that_is_left_is_cancelled(server):
    with Client(server.address) as client:
        stream = client.invert_stream(MODEL, TARGET, start="average", steps=2000, progress_every=1)
        next(stream)
        stream.close()
        idle(server)


def idle(server):
    value = server.server.metrics.registry.get_sample_value
    until = time.monotonic() + 30
    while value("ganserve_in_flight_requests") or value("ganserve_queue_rows", {"device": "cpu"}):
        assert time.monotonic() < until
        time.sleep(0.005)


def test_time_ends_a_search_with_the_best_so_far(call):
    for limit in ({"seconds": 0.3}, {"timeout": 0.6}):
        began = time.monotonic()
        found = call("invert", MODEL, TARGET, start="average", steps=2000, **limit)
        assert found.stopped_early == (found.steps < 2000)
        assert time.monotonic() - began < 2
        assert found.quality.psnr > 10


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"start": "middle"}, "start"),
        ({"start": "given"}, "latent"),
        ({"start": "average", "seed": 1}, "seed"),
        ({"latent": np.zeros(3)}, "latent"),
        ({"latent": np.array(["z"])}, "latent"),
        ({"size": "fit"}, "size"),
        ({"size": "native", "image": np.zeros((4, 4, 3), np.uint8)}, "image"),
        ({"steps": 2**40}, "steps"),
        ({"steps": -1}, "steps"),
        ({"seconds": math.nan}, "seconds"),
        ({"format": "gif"}, "output.image_format"),
        ({"image": np.zeros(3)}, "image"),
        ({"image": b"no picture"}, "image"),
        ({"background": (0, 0, 2**33)}, "background.blue"),
        ({"previews": True}, "previews"),
    ],
)
def test_what_cannot_be_asked_is_an_error_about_its_field(call, options, field):
    with pytest.raises(errors.InvalidArgument) as caught:
        call("invert", MODEL, **{"image": TARGET, **options})
    assert [one.field for one in caught.value.violations] == [field]


def test_a_model_tells_where_searches_may_start(call):
    tasks = {task.name: task for task in call("model", MODEL).tasks}
    assert tasks["invert"].starts == ("encoder", "samples", "average")
    assert tasks["sample"].starts == ()


def test_starts_are_those_of_the_protocol():
    assert set(STARTS) == {"average", "samples", "encoder", "given"}


# The command.


def invert(server, *arguments, code=0):
    arguments = ("invert", MODEL, *arguments, "--server", server.address)
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="ganserve")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def photos(tmp_path):
    for picture, name in zip(image_of(latents(5, 3)), ["a.png", "b.webp", "deep/c.png"], strict=True):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file, lossless=True)
    return tmp_path / "photos"


def results(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_command_writes_reconstruction_latent_and_quality(server, photos, tmp_path):
    out = tmp_path / "out"
    output = invert(server, photos, "--out", out, "--start", "average")
    assert "3 of 3 pictures inverted" in output
    assert "PSNR" in output
    assert results(out) == [
        f"{name}{suffix}" for name in ("a", "b", "deep/c") for suffix in (".json", ".png", ".z.npy")
    ]
    for number, name in enumerate(["a", "b", "deep/c"]):
        latent = np.load(out / f"{name}.z.npy")
        assert np.abs(latent - latents(5, 3)[number]).max() < 0.05
        with Image.open(out / f"{name}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), image_of(latent[None])[0])
        facts = json.loads((out / f"{name}.json").read_text())
        assert facts["quality"]["psnr"] > 50
        assert facts["quality"]["ms_ssim"] is None
        assert (facts["model"], facts["start"], facts["steps"], facts["stopped_early"]) == (
            MODEL,
            "average",
            STEPS,
            False,
        )
        assert facts["seconds"]["total"] > 0


def test_the_command_goes_on_where_it_stopped(server, photos, tmp_path):
    out = tmp_path / "out"
    invert(server, photos / "a.png", "--steps", 2, "--out", out)
    before = (out / "a.json").stat().st_mtime_ns
    (out / "b.png").write_bytes(b"half of what b gets")
    assert "2 of 3 pictures inverted" in (output := invert(server, photos, "--steps", 2, "--out", out))
    assert "1 were there already" in output
    assert (out / "a.json").stat().st_mtime_ns == before
    assert len(results(out)) == 9
    assert "0 of 3" in invert(server, photos, "--steps", 2, "--out", out)
    invert(server, photos, "--steps", 2, "--overwrite", "--out", out)
    assert (out / "a.json").stat().st_mtime_ns > before


def test_the_command_starts_from_a_latent_and_passes_options_on(server, photos, tmp_path):
    latent = tmp_path / "latent.npy"
    np.save(latent, latents(5)[0])
    out = tmp_path / "out"
    options = ("--steps", 1, "--number", "rate=0.5", "--format", "npy", "--size", "letterbox", "--seconds", 30)
    invert(server, photos / "a.png", "--latent", latent, *options, "--out", out)
    assert results(out) == ["a.json", "a.npy", "a.z.npy"]
    np.testing.assert_array_equal(np.load(out / "a.z.npy"), latents(5)[0])
    facts = json.loads((out / "a.json").read_text())
    assert (facts["start"], facts["steps"]) == ("given", 1)
    invert(server, photos / "a.png", "--start", "samples", "--seed", 9, "--samples", 3, "--out", tmp_path / "drawn")
    assert json.loads((tmp_path / "drawn" / "a.json").read_text())["seed"] == 9


def test_the_command_names_what_failed_and_does_the_rest(server, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"no picture")
    output = invert(server, photos, "--steps", 2, "--out", tmp_path / "out", code=1)
    assert "3 of 4" in output
    assert "broken.png" in output
    assert len(results(tmp_path / "out")) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.png",), "nowhere.png"),
        (("{photos}/a.png", "--start", "middle"), "'middle' is not one of"),
        (("{photos}/a.png", "--latent", "{photos}/a.png"), "is no .npy file of numbers"),
        (("{photos}/a.png", "--number", "rate"), "NAME=NUMBER"),
        (("{photos}", "{photos}/deep/../a.png"), "would both become"),
    ],
)
def test_the_command_explains_what_it_was_told_wrong(server, photos, tmp_path, arguments, message):
    told = [argument.format(photos=photos) for argument in arguments]
    output = invert(server, *told, "--out", tmp_path / "out", code=2)
    assert message in " ".join(output.split())
    assert not (tmp_path / "out").exists()

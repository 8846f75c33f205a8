"""What files of generated pictures say of themselves, read back with Pillow and an XML parser."""

import io
import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tritonclient.grpc as triton
from click.testing import CliRunner
from PIL import Image

import ganserve
from ganserve import Client
from ganserve.cli import cli
from ganserve.client import InvertProgress, Point
from ganserve.codecs import EncodeOptions, Origin
from ganserve.codecs.image import FORMATS, ImageEncoder
from ganserve.codecs.provenance import NAMESPACE, SOURCE_TYPE
from ganserve.spec import Output, Tensor
from ganserve.testing.echo import write_bundle
from ganserve.testing.echo_inversion import write_inversion_bundle
from ganserve.testing.echo_style import write_style_bundle
from ganserve.testing.echo_text import write_text_bundle
from ganserve.testing.server import Serving, serving

IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
MODEL = {
    f"{{{IPTC}}}DigitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
    f"{{{IPTC}}}AISystemUsed": "echo",
    f"{{{IPTC}}}AISystemVersionUsed": "1",
    "{http://ns.adobe.com/xap/1.0/}CreatorTool": f"ganserve {ganserve.__version__}",
}
TELLING = ("png", "jpeg", "webp")
SUFFIXES = (".png", ".jpg", ".webp")


def told(data: bytes) -> dict[str, str]:
    """The properties of a file's XMP packet; empty without one."""
    with Image.open(io.BytesIO(data)) as image:
        packet = image.info.get("xmp")
    if packet is None:
        return {}
    packets = ElementTree.fromstring(packet)
    (description,) = packets.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return {name: value for name, value in description.attrib.items() if not name.endswith("about")}


def made_by(model: str, version: int = 1) -> dict[str, str]:
    """What a file tells of its model."""
    return {**MODEL, f"{{{IPTC}}}AISystemUsed": model, f"{{{IPTC}}}AISystemVersionUsed": str(version)}


def drawn(seed: int, index: int) -> dict[str, str]:
    return {f"{{{NAMESPACE}}}Seed": str(seed), f"{{{NAMESPACE}}}Index": str(index)}


@pytest.fixture(scope="module")
def server(echo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("provenance")
    others = write_inversion_bundle(folder / "echo-inversion"), write_style_bundle(folder / "echo-style")
    with serving(echo, *others) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[Client]:
    with Client(server.address) as found:
        yield found


def encoder(channels: int) -> ImageEncoder:
    tensor = Tensor(name="image", dtype="uint8", shape=("h", "w", channels))
    return ImageEncoder(Output(tensor="image", codec="image"), tensor)


@pytest.mark.parametrize(
    ("name", "channels"), [pair for pair in itertools.product(FORMATS, (1, 3, 4)) if pair != ("jpeg", 4)]
)
def test_a_file_tells_its_origin_and_has_the_same_pixels(name: str, channels: int) -> None:
    codec = encoder(channels)
    pixels = np.random.default_rng(0).integers(0, 256, (17, 23, channels), dtype=np.uint8)
    plain = codec.check(EncodeOptions(format=name))
    telling = codec.check(EncodeOptions(format=name, origin=Origin("echo", 1)))
    for options in (telling, telling.drawn_from(2**64 - 1, 2**64 - 1)):
        data = codec.encode(pixels, options).data
        assert len(data) <= codec.most_bytes(pixels.shape, options)
        if name not in TELLING:
            assert data == codec.encode(pixels, plain).data
            continue
        seed = {} if options.origin == telling.origin else drawn(2**64 - 1, 2**64 - 1)
        assert told(data) == {**MODEL, **seed}
        assert told(codec.encode(pixels, plain).data) == {}
        with Image.open(io.BytesIO(data)) as one, Image.open(io.BytesIO(codec.encode(pixels, plain).data)) as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))


def test_names_cannot_break_out_of_the_packet() -> None:
    codec = encoder(3)
    hostile = 'a"/><b c="&'
    options = codec.check(EncodeOptions(origin=Origin(hostile, 3)))
    assert told(codec.encode(np.zeros((4, 4, 3), np.uint8), options).data)[f"{{{IPTC}}}AISystemUsed"] == hostile


@pytest.mark.parametrize("name", TELLING)
def test_samples_tell_model_version_and_seed(server: Serving, name: str) -> None:
    assert MODEL[f"{{{IPTC}}}DigitalSourceType"] == SOURCE_TYPE
    with Client(server.address) as client:
        samples = client.sample("echo", task="sample", n=3, seed=7, first_index=5, format=name)
        again = client.sample("echo", task="sample", seed=7, first_index=6, format=name)
    assert [told(sample.data) for sample in samples] == [{**MODEL, **drawn(7, index)} for index in (5, 6, 7)]
    assert samples[1].data == again[0].data, "the same seed is the same file"


@pytest.mark.parametrize("name", TELLING)
def test_pictures_made_from_pictures_tell_the_model_and_no_seed(client: Client, name: str) -> None:
    """The seed alone would not bring them back, not even where there is one."""
    picture = Image.new("RGB", (8, 8), (1, 2, 3))
    made = [client.translate("echo", picture, task=task, format=name) for task in ("negative", "double")]
    made.append(client.translate("echo", picture, task="noisy", seed=3, format=name))
    made += client.translate_stream("echo", [picture, picture], task="negative", format=name)
    assert [told(one.data) for one in made] == 5 * [MODEL]


@pytest.mark.parametrize("name", TELLING)
def test_pictures_of_computed_points_tell_the_model_and_no_seed(client: Client, name: str) -> None:
    points = [Point(seed=seed, label=0) for seed in (1, 2)]
    options = {"task": "sample", "format": name}
    made = [*client.interpolate("echo-style", points, 2, **options)]
    made += client.mix("echo-style", points, points, range(1), grid=True, **options)
    made.append(client.combine("echo-style", [(point, 0.5) for point in points], **options))
    assert [told(one.data) for one in made] == (3 + 4 + 1) * [made_by("echo-style")]


@pytest.mark.parametrize("name", TELLING)
def test_reconstructions_and_their_previews_tell_the_model_and_no_seed(client: Client, name: str) -> None:
    target = client.sample("echo-inversion", seed=3, format="raw").arrays()[0]
    options = {"steps": 4, "start": "samples", "samples": 2, "seed": 1, "progress_every": 2, "previews": True}
    found = list(client.invert_stream("echo-inversion", target, format=name, **options))
    pictures = [one.preview if isinstance(one, InvertProgress) else one for one in found]
    assert len(pictures) > 1
    assert [told(one.data) for one in pictures if one] == len(pictures) * [made_by("echo-inversion")]


@pytest.mark.parametrize("name", TELLING)
def test_pictures_of_prompts_tell_model_version_and_seed(tmp_path: Path, name: str) -> None:
    pytest.importorskip("tokenizers")
    bundle = write_text_bundle(tmp_path / "echo-text")
    with serving(bundle) as server, Client(server.address) as client:
        made = client.imagine("echo-text", ["red", "the left half"], 2, seed=7, format=name)
    assert [told(one.data) for one in made] == 2 * [{**made_by("echo-text"), **drawn(7, index)} for index in (0, 1)]


@pytest.mark.parametrize("name", TELLING)
def test_files_of_the_open_inference_protocol_tell_it_too(server: Serving, name: str) -> None:
    def given(tensor: str, values: np.ndarray, datatype: str) -> triton.InferInput:
        found = triton.InferInput(tensor, list(values.shape), datatype)
        found.set_data_from_numpy(values)
        return found

    seed, image = given("seed", np.array([3]), "INT64"), given("image", np.zeros((2, 8, 8, 3), np.uint8), "UINT8")
    with triton.InferenceServerClient(server.address) as client:
        drawing = {"task": "sample", "count": 2, "format": name}
        sampled = client.infer("echo", [seed], parameters=drawing).as_numpy("image")
        translated = client.infer("echo", [image], parameters={"task": "negative", "format": name}).as_numpy("result")
    assert [told(data) for (data,) in sampled] == [{**MODEL, **drawn(3, index)} for index in (0, 1)]
    assert [told(data) for (data,) in translated] == 2 * [MODEL]


@pytest.mark.parametrize("name", TELLING)
def test_files_made_in_bulk_tell_model_version_and_seed(tmp_path: Path, name: str) -> None:
    bundle = write_bundle(tmp_path / "echo", version=3)
    for out, options in (("folder", ()), ("tar", ("--tar",)), ("untold", ("--no-provenance",))):
        command = ["generate", str(bundle), "--task", "sample", "--count", "3", "--seed", "7", "--threads", "1"]
        result = CliRunner().invoke(cli, [*command, "--format", name, "--out", str(tmp_path / out), *options])
        assert result.exit_code == 0, result.output
    (archive,) = (tmp_path / "tar").glob("*.tar")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    for out in ("folder", "unpacked", "untold"):
        pictures = sorted(path for path in (tmp_path / out).rglob("*") if path.suffix in SUFFIXES)
        expected = [{} if out == "untold" else {**made_by("echo", 3), **drawn(7, index)} for index in range(3)]
        assert [told(path.read_bytes()) for path in pictures] == expected


def test_an_operator_may_turn_it_off(echo: Path) -> None:
    with serving(echo, provenance=False) as server, Client(server.address) as client:
        samples = {name: client.sample("echo", task="sample", seed=7, format=name)[0].data for name in TELLING}
    assert {name: told(data) for name, data in samples.items()} == {name: {} for name in TELLING}

"""What files of generated pictures say of themselves, read back with Pillow and an XML parser."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import ganserve
from ganserve import Client
from ganserve.codecs import EncodeOptions, Origin
from ganserve.codecs.image import FORMATS, ImageEncoder
from ganserve.codecs.provenance import NAMESPACE, SOURCE_TYPE
from ganserve.spec import Output, Tensor
from ganserve.testing.server import Serving, serving

IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
MODEL = {
    f"{{{IPTC}}}DigitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
    f"{{{IPTC}}}AISystemUsed": "echo",
    f"{{{IPTC}}}AISystemVersionUsed": "1",
    "{http://ns.adobe.com/xap/1.0/}CreatorTool": f"ganserve {ganserve.__version__}",
}
TELLING = ("png", "jpeg", "webp")


def told(data: bytes) -> dict[str, str]:
    """The properties of a file's XMP packet; empty without one."""
    with Image.open(io.BytesIO(data)) as image:
        packet = image.info.get("xmp")
    if packet is None:
        return {}
    packets = ElementTree.fromstring(packet)
    (description,) = packets.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return {name: value for name, value in description.attrib.items() if not name.endswith("about")}


def drawn(seed: int, index: int) -> dict[str, str]:
    return {f"{{{NAMESPACE}}}Seed": str(seed), f"{{{NAMESPACE}}}Index": str(index)}


@pytest.fixture(scope="module")
def server(echo: Path) -> Iterator[Serving]:
    with serving(echo) as found:
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


def test_a_picture_that_its_seed_alone_does_not_bring_back_tells_none(server: Serving) -> None:
    with Client(server.address) as client:
        picture = Image.new("RGB", (8, 8), (1, 2, 3))
        translated = client.translate("echo", picture, task="noisy", seed=3)
    assert told(translated.data) == MODEL


def test_an_operator_may_turn_it_off(echo: Path) -> None:
    with serving(echo, provenance=False) as server, Client(server.address) as client:
        samples = {name: client.sample("echo", task="sample", seed=7, format=name)[0].data for name in TELLING}
    assert {name: told(data) for name, data in samples.items()} == {name: {} for name in TELLING}

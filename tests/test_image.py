import io
import itertools
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from ganserve.codecs import EncodeOptions
from ganserve.codecs.image import FORMATS, ImageEncoder
from ganserve.codecs.png import encode_png, most_png_bytes
from ganserve.errors import InvalidArgument, SpecError
from ganserve.spec import Output, Tensor

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
SHAPES = [(1, 1), (1, 7), (9, 1), (2, 3), (16, 16), (33, 65), (64, 64), (150, 160)]


def encoder(channels: int = 3) -> ImageEncoder:
    tensor = Tensor(name="image", dtype="uint8", shape=("h", "w", channels))
    return ImageEncoder(Output(tensor="image", codec="image"), tensor)


def noise(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def speckle(height: int, width: int, channels: int) -> np.ndarray:
    """Black and white noise, the image that costs a lossy format most."""
    return (np.random.default_rng(1).integers(0, 2, (height, width, channels)) * 255).astype(np.uint8)


def slope(height: int, width: int, channels: int) -> np.ndarray:
    rows, columns, planes = np.mgrid[0:height, 0:width, 0:channels]
    return (255 * (rows / height + columns / width + planes / 4) / 3).astype(np.uint8)


def encode(pixels: np.ndarray, name: str, quality: int = 0) -> bytes:
    codec = encoder(pixels.shape[2])
    return codec.encode(pixels, codec.check(EncodeOptions(format=name, quality=quality))).data


def decode(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


# PNG


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("size", SHAPES)
def test_pillow_reads_our_png(size: tuple[int, int], channels: int) -> None:
    for pixels in (noise(*size, channels), slope(*size, channels), np.full((*size, channels), 255, np.uint8)):
        data = encode_png(pixels)
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
            assert (image.format, image.mode, image.size) == ("PNG", MODES[channels], size[::-1])
        assert np.array_equal(decode(data), pixels)
        assert len(data) <= most_png_bytes(*pixels.shape)


@settings(max_examples=60)
@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3, 4])),
        elements=st.integers(0, 255),
    )
)
def test_any_image_comes_back(pixels: np.ndarray) -> None:
    assert np.array_equal(decode(encode_png(pixels)), pixels)


def test_every_chunk_has_its_length_and_checksum() -> None:
    data = encode_png(slope(5, 6, 3))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    kinds, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kinds.append(data[at + 4 : at + 8])
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        assert checksum == zlib.crc32(data[at + 4 : at + 8 + length])
        at += 12 + length
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    filtered = zlib.decompress(data[8 + 25 + 8 : -12 - 4])
    assert [filtered[row * 19] for row in range(5)] == [2] * 5


def test_noise_is_stored_once_deflate_would_make_it_grow() -> None:
    pixels = noise(300, 300, 4)
    data = encode_png(pixels)
    assert len(data) == most_png_bytes(300, 300, 4)
    assert np.array_equal(decode(data), pixels)


def test_rows_of_a_batch_that_are_not_contiguous_encode_the_same() -> None:
    batch = noise(8, 40, 3)
    assert encode_png(batch[:, ::2]) == encode_png(batch[:, ::2].copy())
    assert np.array_equal(decode(encode_png(batch.transpose(1, 0, 2))), batch.transpose(1, 0, 2))


def test_encoding_in_threads_at_once_gives_the_same_files() -> None:
    images = [noise(64, 64, 3, seed) // 8 for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encode_png, images)) == [encode_png(image) for image in images]


# igzip's one-shot compression failed this: one tiny picture of some thousands came out otherwise in about every second process.
ENCODE = """
import hashlib, numpy
from ganserve.codecs.png import encode_png
colours = numpy.random.default_rng(0).integers(0, 256, (10_000, 2, 2, 3), dtype=numpy.uint8)
pictures = colours.repeat(2, axis=1).repeat(2, axis=2)
print(hashlib.sha256(b"".join(encode_png(picture) for picture in pictures)).hexdigest())
"""


def test_every_process_writes_the_same_files() -> None:
    made = {subprocess.run([sys.executable, "-c", ENCODE], capture_output=True, check=True).stdout for _ in range(6)}
    assert len(made) == 1


def test_png_of_smooth_pixels_is_about_as_small_as_pillows() -> None:
    pixels = np.clip(slope(128, 128, 3) + noise(128, 128, 3) // 64, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    assert len(encode_png(pixels)) < 1.1 * len(buffer.getvalue())


# The encoder


@pytest.mark.parametrize("channels", MODES)
def test_exact_formats_come_back_exactly(channels: int) -> None:
    pixels = noise(9, 11, channels)
    assert np.array_equal(decode(encode(pixels, "png")), pixels)
    assert np.array_equal(np.frombuffer(encode(pixels, "raw"), np.uint8).reshape(pixels.shape), pixels)
    loaded = np.load(io.BytesIO(encode(pixels, "npy")), allow_pickle=False)
    assert loaded.dtype == np.uint8
    assert np.array_equal(loaded, pixels)


def test_npy_float_spans_minus_one_to_one() -> None:
    pixels = np.array([0, 51, 255], np.uint8).reshape(1, 1, 3)
    loaded = np.load(io.BytesIO(encode(pixels, "npy-float")), allow_pickle=False)
    assert (loaded.dtype, loaded.shape) == (np.float32, (1, 1, 3))
    assert loaded.ravel().tolist() == [-1.0, float(np.float32(-0.6)), 1.0]
    everything = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    floats = np.load(io.BytesIO(encode(everything, "npy-float")), allow_pickle=False)
    assert np.array_equal(np.rint((floats + 1) * 127.5).astype(np.uint8), everything)


@pytest.mark.parametrize(("name", "channels"), [("jpeg", 1), ("jpeg", 3), ("webp", 1), ("webp", 3), ("webp", 4)])
def test_lossy_formats_come_back_nearly_and_obey_quality(name: str, channels: int) -> None:
    pixels = slope(48, 64, channels)
    if channels == 4:
        pixels[:, :, 3] = 255 - pixels[:, :, 3] // 2
    best, usual, worst = (encode(pixels, name, quality) for quality in (100, 0, 5))
    assert len(best) > len(usual) > len(worst)
    back = decode(usual)
    if name == "webp" and channels == 1:
        back = back[:, :, :1]
    assert back.shape == pixels.shape
    assert np.abs(back.astype(int) - pixels).mean() < 3


@pytest.mark.parametrize(
    ("name", "channels"), [pair for pair in itertools.product(FORMATS, MODES) if pair != ("jpeg", 4)]
)
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (17, 33), (64, 64), (129, 130)])
def test_no_image_outgrows_the_bound(name: str, channels: int, size: tuple[int, int]) -> None:
    codec = encoder(channels)
    for quality in (100, 0) if FORMATS[name].quality else (0,):
        options = codec.check(EncodeOptions(format=name, quality=quality))
        for pixels in (noise(*size, channels), speckle(*size, channels), slope(*size, channels)):
            assert len(codec.encode(pixels, options).data) <= codec.most_bytes(pixels.shape, options)


def test_the_bound_of_exact_sizes_is_exact() -> None:
    codec, pixels = encoder(), noise(20, 30, 3)
    for name in ("raw", "npy", "npy-float"):
        options = codec.check(EncodeOptions(format=name))
        assert len(codec.encode(pixels, options).data) == codec.most_bytes(pixels.shape, options)


def test_media_says_what_it_is() -> None:
    codec = encoder(4)
    media = codec.encode(noise(5, 6, 4), codec.check(EncodeOptions()))
    assert (media.kind, media.format) == ("image", "png")
    assert media.attributes == {"width": 6, "height": 5, "channels": 4}


def test_only_raw_is_cheap() -> None:
    assert [name for name in FORMATS if encoder().cheap(EncodeOptions(format=name))] == ["raw"]


def test_defaults_are_filled_in() -> None:
    assert encoder().check(EncodeOptions()) == EncodeOptions(format="png")
    assert encoder().check(EncodeOptions(format="jpeg")) == EncodeOptions(format="jpeg", quality=90)
    assert encoder().check(EncodeOptions(format="webp")) == EncodeOptions(format="webp", quality=80)
    assert encoder().check(EncodeOptions(format="webp", quality=1)).quality == 1


@pytest.mark.parametrize(
    ("options", "channels", "field", "text"),
    [
        (EncodeOptions(format="gif"), 3, "format", "'gif' is unknown here: expected one of png, jpeg, webp, raw, npy"),
        (EncodeOptions(format="jpeg"), 4, "format", "alpha channel, which jpeg cannot hold: ask for png or webp"),
        (
            EncodeOptions(format="jpeg", quality=101),
            3,
            "quality",
            "101 is out of range: expected 1 to 100, or 0 for 90",
        ),
        (EncodeOptions(format="webp", quality=-1), 3, "quality", "-1 is out of range"),
        (EncodeOptions(quality=50), 3, "quality", "png is exact and takes no quality"),
    ],
)
def test_what_cannot_be_encoded_is_refused(options: EncodeOptions, channels: int, field: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        encoder(channels).check(options)
    (violation,) = caught.value.violations
    assert violation.field == field
    assert text in violation.description


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor(name="image", dtype="float32", shape=(8, 8, 3)),
        Tensor(name="image", dtype="uint8", shape=(3, 8, 8)),
        Tensor(name="image", dtype="uint8", shape=(8, 8, 2)),
        Tensor(name="image", dtype="uint8", shape=(8, 8, "c")),
        Tensor(name="image", dtype="uint8", shape=(8, 8)),
    ],
)
def test_tensors_that_are_no_images_are_refused(tensor: Tensor) -> None:
    with pytest.raises(SpecError, match=r"expected uint8 \[H, W, C\]"):
        ImageEncoder(Output(tensor="image", codec="image"), tensor)


def test_options_are_refused() -> None:
    with pytest.raises(SpecError, match="takes no options"):
        ImageEncoder(
            Output(tensor="image", codec="image", options={"level": 9}),
            Tensor(name="image", dtype="uint8", shape=(2, 2, 3)),
        )

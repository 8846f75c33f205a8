import hashlib
import io
import itertools
import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageCms

from ganserve.codecs import GivenImage, Picture, PictureDecoder, PictureLimits
from ganserve.codecs.colours import rounded
from ganserve.codecs.picture import ImageDecoder, ImageOptions
from ganserve.errors import InvalidArgument, SpecError
from ganserve.spec import Input, Tensor

LIMITS = PictureLimits()
FREE = ("height", "width", 3)


def decoder(shape: tuple[int | str, ...] = FREE, multiple: int = 1, **options: Any) -> ImageDecoder:
    source = Input(tensor="image", codec="image", reads=("image",), options=options)
    return ImageDecoder(source, Tensor(name="image", dtype="uint8", shape=shape, multiple=multiple), Path())


def read(data: bytes, codec: ImageDecoder | None = None, limits: PictureLimits = LIMITS, **given: Any) -> Picture:
    return (codec or decoder()).picture(GivenImage(data=data, **given), limits)


def pixels(data: bytes, wanted: int = 3, **given: Any) -> np.ndarray:
    return read(data, decoder(("height", "width", wanted)), **given).pixels


def fault(data: bytes, codec: ImageDecoder | None = None, limits: PictureLimits = LIMITS, **given: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        read(data, codec, limits, **given)
    ((field, text),) = caught.value.violations
    assert field == "images[image]"
    return text


def photo(height: int = 40, width: int = 60, channels: int = 3, seed: int = 0) -> np.ndarray:
    """A smooth picture."""
    rows, columns, planes = np.mgrid[0:height, 0:width, 0:channels]
    waves = np.sin(rows / 9 + seed) + np.cos(columns / 13 + planes) + np.sin((rows + columns) / 17 + planes)
    return np.rint(127.5 + 40 * waves).astype(np.uint8)


def speckle(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def saved(image: Image.Image | np.ndarray, name: str = "PNG", **options: Any) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG file of unfiltered ``rows``, with chunks ``before`` and ``after`` its pixels."""
    size = len(rows) // max(1, height) or 1
    packed = zlib.compress(b"".join(b"\0" + rows[at : at + size] for at in range(0, len(rows), size)))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", packed) + after + chunk(b"IEND")


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def profile(red: tuple[float, float], gamma: float, space: bytes = b"RGB ") -> bytes:
    """A small ICC profile of version 2: matrix of primaries and a gamma, or for grey the gamma alone."""

    def fixed(number: float) -> bytes:
        return struct.pack(">i", round(number * 65536))

    def xyz(x: float, y: float, z: float) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(x) + fixed(y) + fixed(z)

    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(gamma * 256), 0)
    white = np.array([0.9642, 1.0, 0.8249])
    tags = {b"wtpt": xyz(*white)}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        primaries = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (red, (0.32, 0.6), (0.155, 0.07))]).T
        columns = primaries * np.linalg.solve(primaries, white)
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True):
            tags[name] = xyz(*column)
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value
    header = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02400000, b"mntr", space, b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28)
    return header + xyz(*white)[8:] + bytes(48) + struct.pack(">I", len(tags)) + table + body


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WIDE = profile((0.735, 0.265), 1.8)


# Files


@pytest.mark.parametrize(("name", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_file_without_loss_gives_its_pixels(name: str, options: dict[str, Any], channels: int) -> None:
    image = photo(channels=channels)
    assert np.array_equal(pixels(saved(image, name, **options), channels), image)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_jpeg_gives_what_pil_makes_of_it(options: dict[str, Any]) -> None:
    data = saved(photo(), "JPEG", quality=90, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(pixels(data), np.asarray(image))


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_a_format_may_be_said_and_must_then_be_right(name: str) -> None:
    data = saved(photo(), name)
    assert np.array_equal(pixels(data, format=name.lower()), pixels(data))
    other = "png" if name != "PNG" else "jpeg"
    assert fault(data, format=other) == f"is said to be {other} but is {name.lower()}: say what it is, or nothing"


def test_sizes_that_are_said_must_be_the_files_own() -> None:
    data = saved(photo(40, 60))
    assert read(data, width=60, height=40).frame.sent == (60, 40)
    assert fault(data, width=61) == "is 60x40, not 61x0 as the request says: leave both out"
    turned = saved(photo(40, 60), "JPEG", exif=exif(6))
    assert read(turned, width=60, height=40).frame.sent == read(turned, width=40, height=60).frame.sent == (40, 60)


@pytest.mark.parametrize("name", ["GIF", "BMP", "TIFF", "ICO", "PPM", "AVIF"])
def test_other_formats_are_refused_by_their_first_bytes(name: str) -> None:
    assert "is no PNG, JPEG or WebP file: it begins with" in fault(saved(photo(), name))


def test_formats_that_are_no_uint8_pictures_are_refused() -> None:
    assert fault(b"x", format="npy-float") == (
        "has format 'npy-float': expected png, jpeg, webp, raw, npy (uint8), or none for a file"
    )
    assert fault(b"") == "is empty: expected the bytes of a PNG, JPEG or WebP file"


# Raw bytes and NPY


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_raw_and_npy_are_the_pixels(channels: int) -> None:
    image = speckle(5, 7, channels)
    sizes = {"width": 7, "height": 5, "channels": channels}
    assert np.array_equal(pixels(image.tobytes(), channels, format="raw", **sizes), image)
    assert np.array_equal(pixels(npy(image), channels, format="npy"), image)
    assert np.array_equal(pixels(npy(np.asfortranarray(image)), channels, format="npy"), image)
    if channels == 1:
        assert np.array_equal(pixels(npy(image[:, :, 0]), 1, format="npy"), image)


def test_raw_and_npy_change_channels_as_files_do() -> None:
    grey, colour = speckle(5, 7, 1), speckle(5, 7, 3)
    sizes = {"width": 7, "height": 5}
    assert np.array_equal(pixels(grey.tobytes(), format="raw", channels=1, **sizes), np.repeat(grey, 3, axis=2))
    assert np.array_equal(pixels(npy(colour), 1, format="npy"), pixels(saved(colour), 1))


def test_npy_headers_of_other_writers_are_read() -> None:
    image = speckle(2, 3, 3)
    for header in (
        b"{'descr':'|u1','fortran_order':False,'shape':(2,3,3)}",
        b'{"shape": (2, 3, 3,), "fortran_order": False, "descr": "<u1"}\n',
    ):
        for version, size in ((b"\1\0", "<H"), (b"\2\0", "<I"), (b"\3\0", "<I")):
            data = b"\x93NUMPY" + version + struct.pack(size, len(header)) + header + image.tobytes()
            assert np.array_equal(pixels(data, format="npy"), image)


def test_raw_and_npy_of_a_wrong_size_or_type_are_refused() -> None:
    data = npy(speckle(2, 3, 3))
    raw = {"format": "raw", "width": 3, "height": 2, "channels": 3}
    told = {
        fault(bytes(17), **raw): "is raw and has 17 bytes: 3x2 with 3 channels are 18",
        fault(bytes(19), **raw): "is raw and has 19 bytes: 3x2 with 3 channels are 18",
        fault(bytes(18), format="raw"): "is raw and 0x0 with 0 channels: expected its width, height and channels (1, 3 or 4)",
        fault(bytes(12), **raw | {"channels": 2}): "is raw and 3x2 with 2 channels: expected its width, height and channels (1, 3 or 4)",
        fault(bytes(18), **raw | {"width": -3, "height": -2}): "is raw and -3x-2 with 3 channels: expected its width, height and channels (1, 3 or 4)",
        fault(data[:-1], format="npy"): "has 17 values: its header says 2x3x3",
        fault(data, format="npy", width=2): "is 3x2, not 2x0 as the request says: leave both out",
        fault(npy(np.zeros((2, 3, 3), "<f4")), format="npy"): "holds numbers of type '<f4': expected uint8 from 0 to 255; of floats x in [-1, 1] send numpy.rint((x + 1) * 127.5).astype('uint8')",
        fault(npy(np.zeros((2, 3, 3), "O")), format="npy"): "holds numbers of type '|O': expected uint8 from 0 to 255; of floats x in [-1, 1] send numpy.rint((x + 1) * 127.5).astype('uint8')",
        fault(npy(speckle(2, 3, 2)), format="npy"): "has shape [2, 3, 2]: expected [height, width, channels] with 1, 3 or 4 channels, or [height, width]",
        fault(npy(speckle(1, 2, 3, 3)), format="npy"): "has shape [1, 2, 3, 3]: expected [height, width, channels] with 1, 3 or 4 channels, or [height, width]",
        fault(npy(np.zeros((0, 3), np.uint8)), format="npy"): "has shape [0, 3, 1]: expected [height, width, channels] with 1, 3 or 4 channels, or [height, width]",
        fault(saved(photo()), format="npy"): "is no NPY file: it begins with b'\\x89PNG\\r\\n\\x1a\\n'; send what numpy.save writes",
    }  # fmt: skip
    assert list(told) == list(told.values())


def test_a_npy_header_is_neither_evaluated_nor_trusted() -> None:
    for header in (
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"9" * 5000 + b", 1)}",
        b"(" * 4000,
        b"{'descr': '|u1'}",
    ):
        data = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + b"\0"
        assert "is no NPY file of a picture: its header" in fault(data, format="npy")
    assert "holds numbers of type '|V" in fault(npy(np.zeros((2, 2), [("a", "u1")]).view("V1")), format="npy")


# Which way up


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(orientation: int, name: str) -> None:
    image = photo(24, 40)
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}, "PNG": {}}[name]
    # The stored picture is what a camera held in that orientation saw of the upright one (EXIF 2.3, 4.6.4, A).
    stored = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: np.rot90(image),
        7: np.rot90(image, 2).transpose(1, 0, 2),
        8: np.rot90(image, -1),
    }[orientation]
    picture = read(saved(np.ascontiguousarray(stored), name, exif=exif(orientation), **options))
    assert picture.frame.sent == (40, 24)
    assert np.abs(picture.pixels.astype(int) - image).max() <= (6 if name == "JPEG" else 0)


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_in_both_byte_orders_and_never_fails(order: str) -> None:
    head = b"II*\0" if order == "<" else b"MM\0*"
    tags = struct.pack(order + "IHHHIHHHHIHH", 8, 2, 0x100, 3, 1, 9, 0, 0x112, 3, 1, 6, 0)
    good = b"Exif\0\0" + head + tags
    assert read(saved(photo(20, 30), "JPEG", exif=good)).frame.sent == (20, 30)
    for end in range(len(good)):
        read(saved(photo(20, 30), "JPEG", exif=good[:end]))
    for value in (0, 9, 65535):
        bad = good[:-4] + struct.pack(order + "HH", value, 0)
        assert read(saved(photo(20, 30), "JPEG", exif=bad)).frame.sent == (30, 20)


# Colours


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 77)])
def test_transparency_is_flattened_on_the_background(background: tuple[int, int, int]) -> None:
    image = speckle(64, 64, 4)
    alpha = image[..., 3:] / 255.0
    expected = np.rint(alpha * image[..., :3] + (1 - alpha) * background)
    given = {"background": background}
    assert np.abs(pixels(saved(image), **given) - expected).max() <= 0.5
    assert np.abs(pixels(saved(image, "WEBP", lossless=True, exact=True), **given) - expected).max() <= 0.5
    assert (
        np.abs(pixels(image.tobytes(), format="raw", width=64, height=64, channels=4, **given) - expected).max() <= 0.5
    )
    grey = image[..., [0, 3]]
    expected = np.rint(alpha * grey[..., :1] + (1 - alpha) * background)
    assert np.abs(pixels(saved(grey), **given) - expected).max() <= 0.5


def test_an_rgba_model_gets_the_transparency_itself() -> None:
    image = speckle(8, 8, 4)
    assert np.array_equal(pixels(saved(image), 4, background=(1, 2, 3)), image)
    assert np.array_equal(pixels(saved(image[..., :3].copy()), 4)[..., 3], np.full((8, 8), 255))


def test_scaling_keeps_the_colour_of_what_is_transparent_out() -> None:
    image = np.zeros((32, 32, 4), np.uint8)
    image[:, :16] = (200, 10, 10, 255)
    image[:, 16:] = (0, 255, 0, 0)
    scaled = read(saved(image), decoder((8, 8, 4))).pixels
    assert scaled[..., 3].min() == 0
    visible = scaled[..., 3] > 32
    assert np.abs(scaled[visible][:, :3].astype(int) - (200, 10, 10)).max() <= 4


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_and_their_transparency(depth: int) -> None:
    colours, most = speckle(1 << depth, 3), (1 << depth) - 1
    samples = np.arange(32, dtype=np.uint8).reshape(4, 8) & most
    bits = np.unpackbits(samples.reshape(4, 8, 1), axis=2)[..., 8 - depth :]
    rows = np.packbits(bits.reshape(4, -1), axis=1).tobytes()
    table = chunk(b"PLTE", colours.tobytes())
    assert np.array_equal(pixels(png(8, 4, depth, 3, rows, table)), colours[samples])
    # One colour of two alphas, as PIL keeps it in two ways; the rest are opaque.
    for alphas in (b"\0", b"\x80\xff"):
        alpha = np.full(most + 1, 255.0)
        alpha[: len(alphas)] = list(alphas)
        weight = alpha[samples][..., None] / 255
        expected = np.rint(weight * colours[samples] + (1 - weight) * (9, 8, 7))
        flat = pixels(png(8, 4, depth, 3, rows, table + chunk(b"tRNS", alphas)), background=(9, 8, 7))
        assert np.array_equal(flat, expected)


def test_a_palette_that_is_missing_or_too_short_is_refused() -> None:
    assert fault(png(2, 1, 8, 3, b"\0\1")) == "is a damaged PNG file: its palette is missing or incomplete"
    assert (
        fault(png(2, 1, 8, 3, b"\0\1", chunk(b"PLTE", b"abcd")))
        == "is a damaged PNG file: its palette is missing or incomplete"
    )
    assert (
        fault(png(2, 1, 8, 3, b"\0\1", chunk(b"PLTE", b"abc")))
        == "is a damaged PNG file: a pixel has colour 1 of a palette of 1"
    )


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_of_every_depth_spans_black_to_white_and_may_have_a_transparent_grey(depth: int) -> None:
    most = (1 << depth) - 1
    samples = np.linspace(0, most, 16).astype(np.uint16).reshape(2, 8)
    bits = np.unpackbits(samples.astype(">u2").view(np.uint8).reshape(2, 8, 2), axis=2)[..., 16 - depth :]
    rows = np.packbits(bits.reshape(2, -1), axis=1).tobytes()
    expected = np.rint(samples / most * 255).astype(np.uint8)[..., None]
    assert np.array_equal(pixels(png(8, 2, depth, 0, rows), 1), expected)
    clear = samples[1, 2]
    flat = pixels(png(8, 2, depth, 0, rows, chunk(b"tRNS", struct.pack(">H", clear))), 3, background=(1, 2, 3))
    assert np.array_equal(flat, np.where((samples == clear)[..., None], (1, 2, 3), np.repeat(expected, 3, axis=2)))


def test_sixteen_bits_are_rounded_to_the_nearest_of_eight() -> None:
    every = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(rounded(every.copy()), np.rint(every / 257).astype(np.uint8))


@pytest.mark.parametrize(("colour", "planes"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_in_every_kind_of_png(colour: int, planes: int) -> None:
    samples = np.random.default_rng(2).integers(0, 65536, (9, 11, planes)).astype(np.uint16)
    data = png(11, 9, 16, colour, samples.astype(">u2").tobytes())
    expected = np.rint(samples / 257).astype(np.uint8)
    if planes <= 2:
        expected = np.concatenate([expected[..., [0, 0, 0]], expected[..., 1:]], axis=2)
    if planes in (1, 3):
        assert np.array_equal(pixels(data), expected)
    else:
        assert np.array_equal(pixels(data, 4), expected)


def test_the_transparent_colour_of_an_rgb_picture_is_compared_in_full() -> None:
    eight = np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8)
    data = png(2, 1, 8, 2, eight.tobytes(), chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)))
    assert pixels(data, background=(9, 9, 9)).tolist() == [[[9, 9, 9], [1, 2, 4]]]
    assert pixels(data, 4).tolist() == [[[1, 2, 3, 0], [1, 2, 4, 255]]]
    sixteen = np.array([[[256, 512, 771], [256, 512, 772]]], ">u2")
    data = png(2, 1, 16, 2, sixteen.tobytes(), chunk(b"tRNS", struct.pack(">3H", 256, 512, 771)))
    assert pixels(data, background=(9, 9, 9)).tolist() == [[[9, 9, 9], [1, 2, 3]]]
    short = chunk(b"tRNS", b"\0\1")
    assert fault(png(2, 1, 8, 2, eight.tobytes(), short)) == "is a damaged PNG file: its transparent colour has 2 bytes"


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (230, 40, 10), (20, 90, 200)])
def test_cmyk_and_ycck_jpegs_have_their_colours(colour: tuple[int, int, int]) -> None:
    inks = Image.new("RGB", (16, 16), colour).convert("CMYK")
    data = saved(inks, "JPEG", quality=100)
    assert b"Adobe" in data
    assert np.abs(pixels(data).astype(int) - colour).max() <= 2
    at = data.index(b"Adobe")
    assert data[at + 11] == 0
    # YCCK: cyan, magenta and yellow as if they were red, green and blue, in YCbCr; PIL inverts every plane that it saves.
    ink = np.asarray(inks)
    ycc = 255 - np.asarray(Image.fromarray(ink[..., :3].copy()).convert("YCbCr"))
    planes = Image.frombytes("CMYK", (16, 16), np.concatenate([ycc, ink[..., 3:]], axis=2).tobytes())
    ycck = bytearray(saved(planes, "JPEG", quality=100))
    ycck[ycck.index(b"Adobe") + 11] = 2
    assert np.abs(pixels(bytes(ycck)).astype(int) - colour).max() <= 4


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_a_colour_profile_is_applied(name: str) -> None:
    image = photo()
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}, "PNG": {}}[name]
    data = saved(image, name, icc_profile=WIDE, **options)
    with Image.open(io.BytesIO(data)) as opened:
        source = ImageCms.ImageCmsProfile(io.BytesIO(WIDE))
        expected = ImageCms.profileToProfile(opened, source, ImageCms.createProfile("sRGB"))
    difference = np.abs(pixels(data).astype(int) - np.asarray(expected))
    assert difference.max() <= 1
    assert np.abs(pixels(data).astype(int) - image).mean() > 5


def test_a_profile_of_a_wide_gamut_maps_its_primaries_as_colorimetry_says() -> None:
    # A grey of gamma 1.8 in sRGB, by the formulas of IEC 61966-2-1.
    levels = np.arange(0, 256, 5)
    image = np.repeat(levels.astype(np.uint8)[None, :, None], 3, axis=2)
    linear = (levels / 255) ** (round(1.8 * 256) / 256)
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert np.abs(pixels(saved(image, icc_profile=WIDE)) - expected[None, :, None]).max() <= 1.5


def test_profiles_of_grey_and_of_colour_in_grey_pictures() -> None:
    levels = np.arange(256, dtype=np.uint8)[None, :]
    linear = (levels / 255.0) ** 3
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    for icc in (profile((0.64, 0.33), 3, b"GRAY"), profile((0.64, 0.33), 3)):
        data = saved(levels, icc_profile=icc)
        assert np.abs(pixels(data, 1)[..., 0] - expected).max() <= 1.5
        assert np.abs(pixels(data) - expected[..., None]).max() <= 1.5


def test_alpha_and_profile_together() -> None:
    image = photo(channels=4)
    colours = pixels(saved(np.ascontiguousarray(image[..., :3]), icc_profile=WIDE))
    data = saved(image, icc_profile=WIDE)
    assert np.array_equal(pixels(data, 4), np.concatenate([colours, image[..., 3:]], axis=2))
    alpha = image[..., 3:] / 255
    assert np.abs(pixels(data, background=(5, 6, 7)) - (alpha * colours + (1 - alpha) * (5, 6, 7))).max() <= 0.51


def test_srgb_and_damaged_or_foreign_profiles_change_nothing() -> None:
    image = photo()
    for icc in (SRGB, b"", b"nonsense", WIDE[:100], WIDE[:200], profile((0.64, 0.33), 3, b"GRAY"), b"\0" * 4096):
        assert np.array_equal(pixels(saved(image, icc_profile=icc)), image)
    for body in (b"", b"name", b"name\0", b"name\0\1" + zlib.compress(WIDE), b"name\0\0" + zlib.compress(WIDE)[:-9]):
        data = png(60, 40, 8, 2, image.tobytes(), chunk(b"iCCP", body))
        assert np.array_equal(pixels(data), image)


# Class numbers


def test_class_numbers_are_palette_indices_or_grey_samples() -> None:
    codec = decoder((4, 8, 1), ids=True, classes=35)
    numbers = np.arange(32, dtype=np.uint8).reshape(4, 8)
    indexed = Image.fromarray(numbers)
    indexed.putpalette(speckle(256, 3).tobytes())
    assert indexed.mode == "P"
    for data, given in [
        (saved(indexed), {}),
        (saved(indexed, transparency=3, icc_profile=WIDE), {}),
        (saved(numbers), {}),
        (png(8, 4, 16, 0, numbers.astype(">u2").tobytes()), {}),
        (npy(numbers), {"format": "npy"}),
        (numbers.tobytes(), {"format": "raw", "width": 8, "height": 4, "channels": 1}),
    ]:
        assert np.array_equal(read(data, codec, **given).pixels[..., 0], numbers)
    few = numbers % 16
    packed = (few[:, 0::2] << 4 | few[:, 1::2]).astype(np.uint8).tobytes()
    assert np.array_equal(read(png(8, 4, 4, 0, packed), codec).pixels[..., 0], few)
    assert read(png(8, 4, 1, 0, b"\x81" * 4), codec).pixels[0, :, 0].tolist() == [1, 0, 0, 0, 0, 0, 0, 1]


def test_class_numbers_are_scaled_to_the_nearest_and_never_mixed() -> None:
    codec = decoder((4, 4, 1), ids=True, classes=35)
    numbers = np.repeat(np.repeat(np.array([[0, 34], [7, 1]], np.uint8), 8, 0), 8, 1)
    assert read(saved(numbers), codec).pixels[..., 0].tolist() == [[0, 0, 34, 34]] * 2 + [[7, 7, 1, 1]] * 2
    bars = read(saved(np.full((8, 4), 5, np.uint8)), codec, size="letterbox", background=(200, 0, 0)).pixels[..., 0]
    assert bars.tolist() == [[0, 5, 5, 0]] * 4


def test_what_holds_no_class_numbers_of_the_model_is_refused() -> None:
    codec = decoder((4, 4, 1), ids=True, classes=35)
    text = "is no picture of class numbers: expected a PNG file with a palette, or in grey without alpha"
    grey = np.zeros((4, 4), np.uint8)
    for data in (saved(photo()), saved(grey, "JPEG"), saved(grey, "WEBP"), saved(speckle(4, 4, 2))):
        assert fault(data, codec) == text
    assert fault(npy(speckle(4, 4, 3)), codec, format="npy") == "has 3 channels: expected one, of class numbers"
    assert fault(saved(grey + 35), codec) == "holds class number 35: this model knows 0 to 34"
    sixteen = png(2, 1, 16, 0, np.array([0, 300], ">u2").tobytes())
    assert fault(sixteen, codec) == "holds class number 300: expected 0 to 255"


# Animations


@pytest.mark.parametrize("name", ["PNG", "WEBP"])
def test_of_an_animation_the_first_picture_is_used_and_all_are_counted(name: str) -> None:
    images = [Image.fromarray(photo(seed=seed)) for seed in range(5)]
    options: dict[str, Any] = {"lossless": True} if name == "WEBP" else {}
    picture = read(saved(images[0], name, save_all=True, append_images=images[1:], duration=40, **options))
    assert picture.frame.pictures == 5
    assert np.array_equal(picture.pixels, photo(seed=0))
    assert read(saved(images[0], name)).frame.pictures == 1


def test_an_animated_png_whose_pixels_are_no_frame_counts_them_too() -> None:
    images = [Image.fromarray(photo(seed=seed)) for seed in range(3)]
    data = saved(images[0], save_all=True, append_images=images[1:], default_image=True)
    picture = read(data)
    assert picture.frame.pictures == 3
    assert np.array_equal(picture.pixels, photo(seed=0))


def test_an_animation_that_lies_is_a_picture_all_the_same() -> None:
    image = speckle(2, 2, 3)
    for control in (b"", b"\0\0", struct.pack(">II", 0, 0), struct.pack(">II", 1 << 31, 0)):
        assert read(png(2, 2, 8, 2, image.tobytes(), chunk(b"acTL", control) * 2)).frame.pictures == 1
    frames = b"".join(chunk(b"fcTL", bytes(26)) for _ in range(4))
    data = png(2, 2, 8, 2, image.tobytes(), chunk(b"acTL", struct.pack(">II", 9, 0)), frames)
    assert (read(data).frame.pictures, read(data).pixels.tolist()) == (5, image.tolist())


# Sizes


def test_native_takes_any_size_and_mirrors_it_outwards() -> None:
    image = speckle(5, 7, 3)
    picture = read(saved(image), decoder(multiple=4))
    assert picture.pixels.shape == (8, 8, 3)
    assert np.array_equal(picture.pixels, image[[0, 1, 2, 3, 4, 3, 2, 1]][:, [0, 1, 2, 3, 4, 5, 6, 5]])
    frame = picture.frame
    assert (frame.canvas, frame.box, frame.cut, frame.size, frame.sent) == ((8, 8), (0, 0, 7, 5), True, None, (7, 5))
    whole = read(saved(image), decoder())
    assert (whole.frame.canvas, whole.frame.cut) == ((7, 5), False)


def test_a_picture_smaller_than_its_border_repeats_its_edge() -> None:
    image = speckle(3, 1, 3)
    padded = read(saved(image), decoder(multiple=8)).pixels
    assert np.array_equal(padded, image[[0, 1, 2, 2, 2, 2, 2, 2]][:, [0] * 8])


def test_resize_scales_to_the_size_of_the_graph() -> None:
    image = photo(80, 120)
    picture = read(saved(image), decoder((20, 40, 3)))
    assert picture.frame.canvas == (40, 20)
    assert picture.frame.box == (0, 0, 40, 20)
    assert (picture.frame.cut, picture.frame.size) == (False, None)
    expected = np.asarray(Image.fromarray(image).resize((40, 20), Image.Resampling.LANCZOS))
    assert np.abs(picture.pixels.astype(int) - expected).max() <= 2
    assert read(saved(image), decoder((20, 40, 3)), restore=True).frame.size == (120, 80)
    blocky = read(saved(image), decoder((20, 40, 3), filter="nearest")).pixels
    assert np.array_equal(blocky, image[2::4, 1::3])


def test_resize_of_a_graph_with_free_sizes_goes_to_the_nearest_it_takes() -> None:
    codec = decoder(multiple=16)
    assert read(saved(photo(41, 55)), codec, size="resize").pixels.shape == (48, 48, 3)
    assert read(saved(photo(3, 3)), codec, size="resize").pixels.shape == (16, 16, 3)


def test_a_large_jpeg_that_is_decoded_smaller_looks_the_same() -> None:
    image = photo(900, 1200)
    data = saved(image, "JPEG", quality=95, exif=exif(6))
    small = read(data, decoder((64, 48, 3))).pixels
    expected = Image.fromarray(np.rot90(image, -1)).resize((48, 64), Image.Resampling.LANCZOS)
    assert np.abs(small.astype(int) - np.asarray(expected)).mean() < 1
    assert read(data, decoder((64, 48, 3))).frame.sent == (900, 1200)


def test_letterbox_keeps_the_proportions() -> None:
    picture = read(saved(photo(20, 40)), decoder((32, 32, 3)), size="letterbox", background=(9, 8, 7))
    assert picture.frame.box == (0, 8, 32, 24)
    assert picture.pixels[:8].reshape(-1, 3).tolist() == [[9, 8, 7]] * 256
    assert picture.pixels[24:].reshape(-1, 3).tolist() == [[9, 8, 7]] * 256
    assert np.array_equal(picture.pixels[8:24], read(saved(photo(20, 40)), decoder((16, 32, 3))).pixels)
    assert (picture.frame.cut, picture.frame.size) == (False, None)
    restored = read(saved(photo(20, 40)), decoder((32, 32, 3)), size="letterbox", restore=True).frame
    assert (restored.cut, restored.size) == (True, (40, 20))
    thin = read(saved(photo(1, 500)), decoder((32, 32, 3)), size="letterbox").frame
    assert thin.box == (0, 15, 32, 16)


@pytest.mark.parametrize(("channels", "bar"), [(1, [90]), (3, [9, 130, 70]), (4, [9, 130, 70, 255])])
def test_letterbox_of_a_free_graph_fills_up_to_the_multiple(channels: int, bar: list[int]) -> None:
    codec = decoder(("height", "width", channels), multiple=8)
    image = photo(6, 8, 3)
    picture = read(saved(image), codec, size="letterbox", background=(9, 130, 70))
    assert (picture.frame.canvas, picture.frame.box) == ((8, 8), (0, 1, 8, 7))
    # ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B.
    assert picture.pixels[0].tolist() == picture.pixels[7].tolist() == [bar] * 8 if channels > 1 else [[87]] * 8


def test_exact_and_native_refuse_other_sizes_by_name() -> None:
    data = saved(photo(20, 40))
    expected = "is 40x20: size policy {} of this model expects {}; ask for resize or letterbox"
    assert fault(data, decoder((20, 30, 3)), size="exact") == expected.format("exact", "30x20")
    assert fault(data, decoder((20, 30, 3)), size="native") == expected.format("native", "30x20")
    assert fault(data, decoder(multiple=16), size="exact") == expected.format("exact", "multiples of 16")
    for policy in ("exact", "native"):
        assert np.array_equal(read(data, decoder((20, 40, 3)), size=policy).pixels, photo(20, 40))
    assert np.array_equal(read(data, decoder(multiple=20), size="exact").pixels, photo(20, 40))
    assert fault(data, size="squeeze") == (
        "has the unknown size policy 'squeeze': expected one of exact, resize, letterbox, native"
    )


# Limits


def test_bytes_and_pixels_beyond_the_limits_are_refused_before_any_pixel_is_decoded() -> None:
    data = saved(photo(20, 40))
    assert fault(data, limits=PictureLimits(bytes=len(data) - 1)).endswith(
        f"bytes: this server takes at most {len(data) - 1}; send a smaller file"
    )
    assert fault(data, limits=PictureLimits(pixels=799)) == (
        "is 40x20, 800 pixels: this server takes at most 799; send a smaller picture"
    )
    assert read(data, limits=PictureLimits(pixels=800, bytes=len(data))).frame.sent == (40, 20)
    # Pixels that cannot be decoded would be told of, were they looked at.
    broken = png(60000, 60000, 8, 2, b"x")
    assert (
        fault(broken) == "is 60000x60000, 3600000000 pixels: this server takes at most 67108864; send a smaller picture"
    )
    assert fault(saved(photo(1, 1000)), decoder(multiple=4096), PictureLimits(pixels=1 << 20)) == (
        "would be run at 4096x4096, 16777216 pixels: this server takes at most 1048576; send a smaller picture"
    )


def test_huge_sizes_are_seen_in_every_format() -> None:
    webp = bytearray(saved(photo(), "WEBP", lossless=True))
    webp[21:25] = struct.pack("<I", 16383 | 16383 << 14)
    assert fault(bytes(webp)).startswith("is 16384x16384, 268435456 pixels")
    lossy = bytearray(saved(photo(), "WEBP"))
    lossy[26:30] = struct.pack("<HH", 16383, 16383)
    assert fault(bytes(lossy)).startswith("is 16383x16383")
    animated = bytearray(
        saved(Image.fromarray(photo()), "WEBP", save_all=True, append_images=[Image.fromarray(photo(seed=2))])
    )
    animated[24:30] = b"\xff" * 6
    assert fault(bytes(animated)).startswith("is 16777216x16777216")
    jpeg = bytearray(saved(photo(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    assert fault(bytes(jpeg)).startswith("is 65535x65535")
    jpeg[at + 5 : at + 9] = b"\0\0\0\x40"
    assert fault(bytes(jpeg)) == "says that it is 64x0 pixels: expected at least one"
    assert fault(png(0, 1, 8, 0, b"x")) == "says that it is 0x1 pixels: expected at least one"


def test_a_picture_that_pil_would_warn_of_is_decoded_without_a_word() -> None:
    rows = zlib.compress(bytes(96_000_000 // 8 + 10000), 1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9600, 10000, 1, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND")
    assert (Image.MAX_IMAGE_PIXELS or 0) < 9600 * 10000
    picture = read(data, decoder((8, 8, 1)), PictureLimits(pixels=100_000_000))
    assert picture.pixels.max() == 0


def test_compressed_metadata_cannot_fill_the_memory() -> None:
    image = speckle(2, 2, 3)
    zeros = zlib.compress(bytes(50_000_000))
    before = (
        chunk(b"iCCP", b"x\0\0" + zeros) + chunk(b"zTXt", b"x\0\0" + zeros) * 8 + chunk(b"iTXt", b"x\0\1\0\0\0" + zeros)
    )
    assert np.array_equal(pixels(png(2, 2, 8, 2, image.tobytes(), before)), image)


def test_files_of_countless_parts_are_refused_at_once() -> None:
    image = speckle(2, 2, 3)
    many = chunk(b"tEXt") * 100_000
    assert (
        fault(png(2, 2, 8, 2, image.tobytes(), many))
        == "has more than 100000 chunks: save the PNG file again with larger ones"
    )
    jpeg = saved(photo(), "JPEG")
    assert (
        fault(jpeg[:2] + b"\xff\xfe\0\2" * 100_000 + jpeg[2:])
        == "has more than 100000 segments: save the JPEG file again"
    )
    slow = saved(photo(), "JPEG", progressive=True)
    last = slow[slow.rindex(b"\xff\xda") : -2]
    assert fault(slow[:-2] + last * 40 + slow[-2:]) == "has 50 scans: at most 32 are taken; save the JPEG file again"
    webp = saved(photo(), "WEBP")
    many = webp[8:] + b"abcd\0\0\0\0" * 100_000
    assert (
        fault(b"RIFF" + struct.pack("<I", len(many)) + many) == "has more than 100000 chunks: save the WebP file again"
    )
    for filling in (b"\xff" * 1_000_000, b"\xff\0" * 1_000_000, b"x" * 1_000_000):
        assert "is cut off or damaged" in fault(b"\xff\xd8\xff" + filling)


# Damage


@pytest.mark.parametrize(
    ("name", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("WEBP", {"lossless": True})],
)
def test_a_file_that_is_cut_off_anywhere_is_refused(name: str, options: dict[str, Any]) -> None:
    data = saved(photo(), name, icc_profile=WIDE, exif=exif(6), **options)
    # A JPEG file is whole without its last marker, if a decoder has no need of it.
    for end in range(0, len(data) - 2, 7):
        text = fault(data[:end])
        assert "cut off" in text or "damaged" in text or "is no" in text or "is empty" in text


def test_a_png_with_one_wrong_bit_where_it_matters_is_refused() -> None:
    data = saved(photo(8, 8))
    for at in range(8, len(data) - 12):
        assert fault(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])


def test_pngs_that_contradict_themselves_are_refused() -> None:
    good = png(2, 2, 8, 0, bytes(4))
    header, rest = good[8:33], good[33:]
    start = good[:8]
    told = [
        (start + rest, "chunk 0 is called 'IDAT'"),
        (start + header + header + rest, "it has two chunks 'IHDR'"),
        (start + header + chunk(b"IEND"), "it holds no pixels"),
        (start + chunk(b"IHDR", bytes(12)) + rest, "its header has 12 bytes instead of 13"),
        (start + chunk(b"CgBI", b"P\0 \2") + header + rest, "chunk 0 is called 'CgBI'"),
        (start + header + chunk(b"CgBI", b"P\0 \2") + rest, "it needs the extension 'CgBI'"),
        (start + header + chunk(b"a1b2") + rest, "chunk 1 is called 'a1b2'"),
        (png(2, 2, 3, 0, bytes(4)), "its header says colour type 0, 3 bits"),
        (png(2, 2, 8, 5, bytes(4)), "its header says colour type 5, 8 bits"),
        (png(2, 2, 8, 0, bytes(2)), "pixels cannot be decoded: it is cut off"),
        (start + header + chunk(b"IDAT", b"no zlib at all") + chunk(b"IEND"), "pixels cannot be decoded"),
    ]
    for data, text in told:
        assert text in fault(data)


def test_jpegs_that_cannot_be_read_are_told_apart() -> None:
    data = saved(photo(), "JPEG")
    at = data.index(b"\xff\xc0")
    frame = data[at : data.index(b"\xff\xc4")]
    twelve = data[: at + 4] + b"\x0c" + data[at + 5 :]
    assert (
        fault(twelve)
        == "has 3 components of 12 bits: expected a JPEG file of 1, 3 or 4 components of 8 bits; convert it"
    )
    assert "of the frame is repeated" in fault(data[:at] + frame + data[at:])
    assert fault(data.replace(frame, b"")) == "is a damaged JPEG file: its pixels begin before their size is told"
    assert fault(b"\xff\xd8\xff\xd9") == "is a damaged JPEG file: it ends before its pixels"
    rubbish = data[:20] + b"rubbish" + data[20:]
    assert np.array_equal(pixels(rubbish), pixels(data))


def test_webps_that_contradict_themselves_are_refused() -> None:
    data = saved(photo(), "WEBP")
    for end in (12, 16, 30):
        cut = data[:end]
        assert "WebP" in fault(cut[:4] + struct.pack("<I", end - 8) + cut[8:])
    assert "its first chunk is 'EXIF'" in fault(
        b"RIFF" + struct.pack("<I", 14) + b"WEBPEXIF" + struct.pack("<I", 2) + b"ab"
    )


# The codec


def test_the_decoder_is_what_serving_calls() -> None:
    codec = decoder((8, 8, 3), max_pixels=1000)
    assert isinstance(codec, PictureDecoder)
    assert (codec.value, codec.max_pixels) == ("image", 1000)


def test_decode_stacks_pictures_of_one_size() -> None:
    codec = decoder()
    images = [GivenImage(data=saved(photo(seed=seed))) for seed in range(3)]
    stacked = codec.decode({"image": images}, 3)
    assert np.array_equal(stacked, np.stack([photo(seed=seed) for seed in range(3)]))
    with pytest.raises(InvalidArgument, match=r"images\[image\]: differ in size"):
        codec.decode({"image": [*images, GivenImage(data=saved(photo(8, 8)))]}, 4)
    with pytest.raises(InvalidArgument, match=r"images\[image\]: is missing: expected a picture"):
        codec.decode({}, 1)


def test_examples_are_smooth_coloured_and_each_pairs_own() -> None:
    pairs = np.array([[seed, index] for seed in (1, 2) for index in (0, 1)], np.uint64)
    codec = decoder((48, 64, 3))
    examples = codec.example(pairs)
    assert (examples.dtype, examples.shape) == (np.uint8, (4, 48, 64, 3))
    assert np.array_equal(examples[[2]], codec.example(pairs[[2]]))
    for one, two in itertools.combinations(examples.astype(int), 2):
        assert np.abs(one - two).mean() > 10
    steps = np.abs(np.diff(examples.astype(int), axis=2))
    assert steps.mean() < 6
    assert examples.std(axis=(1, 2)).min() > 5
    assert np.abs(examples[..., 0].astype(int) - examples[..., 2]).mean() > 5
    assert len(zlib.compress(np.diff(examples, axis=2).tobytes())) < 0.6 * examples.size
    other = ImageDecoder(
        Input(tensor="reference", codec="image", reads=("image",)),
        Tensor(name="reference", dtype="uint8", shape=(48, 64, 3)),
        Path(),
    )
    assert np.abs(other.example(pairs).astype(int) - examples).mean() > 10


def test_examples_of_free_sizes_and_of_class_numbers() -> None:
    pairs = np.array([[0, 0], [0, 1]], np.uint64)
    assert decoder().example(pairs).shape == (2, 64, 64, 3)
    assert decoder(multiple=48).example(pairs).shape == (2, 96, 96, 3)
    assert decoder(multiple=4, example=(8, 12)).example(pairs).shape == (2, 8, 12, 3)
    numbers = decoder((10, 16, 1), ids=True, classes=5).example(pairs)
    assert numbers.shape == (2, 10, 16, 1)
    assert set(np.unique(numbers)) == {0, 1, 2, 3, 4}
    assert all(len(np.unique(numbers[0, :, 4 * at : 4 * at + 4], axis=1)[0]) == 1 for at in range(4))


def test_description() -> None:
    formats, sizes = ["png", "jpeg", "webp", "raw", "npy"], ["exact", "resize", "letterbox", "native"]
    assert decoder((8, 16, 3)).describe() == {
        "image": {"formats": formats, "channels": 3, "sizes": sizes, "size": "resize", "width": 16, "height": 8}
    }
    assert decoder(multiple=4, max_pixels=99).describe() == {
        "image": {"formats": formats, "channels": 3, "sizes": sizes, "size": "native", "multiple": 4, "max_pixels": 99}
    }
    assert (
        decoder((8, 8, 1), ids=True, classes=7).describe()["image"] | {"classes": 7, "formats": ["png", "raw", "npy"]}
        == (decoder((8, 8, 1), ids=True, classes=7).describe()["image"])
    )


@pytest.mark.parametrize(
    ("tensor", "source", "text"),
    [
        ({"dtype": "float32"}, {}, "expected uint8"),
        ({"shape": (8, 8)}, {}, "expected uint8"),
        ({"shape": (8, 8, 2)}, {}, "1, 3 or 4 channels"),
        ({"shape": (8, 8, "c")}, {}, "1, 3 or 4 channels"),
        ({"shape": (8, "w", 3)}, {}, "H and W both fixed or both free"),
        ({}, {"reads": ("image", "mask")}, "expected the name of one picture"),
        ({}, {"options": {"filter": "cubic"}}, "filter"),
        ({}, {"options": {"size": 3}}, "size"),
        ({}, {"options": {"max_pixels": 0}}, "max_pixels"),
        ({}, {"options": {"ids": True}}, "ids are class numbers"),
        ({}, {"options": {"classes": 5}}, "set ids too"),
        ({}, {"options": {"example": (8, 8)}}, "option example is for graphs that take any size"),
        ({"shape": FREE, "multiple": 16}, {"options": {"example": (16, 24)}}, "expected multiples of 16"),
    ],
)
def test_what_cannot_be_a_picture_is_refused_when_loaded(tensor: Any, source: Any, text: str) -> None:
    declared = Tensor(**({"name": "image", "dtype": "uint8", "shape": (8, 8, 3)} | tensor))
    with pytest.raises(SpecError, match=text):
        ImageDecoder(Input(**({"tensor": "image", "codec": "image", "reads": ("image",)} | source)), declared, Path())


def test_threads_decode_the_same_pictures() -> None:
    codec = decoder((32, 32, 3))
    files = [saved(photo(seed=seed), name, icc_profile=WIDE) for seed in range(6) for name in ("PNG", "JPEG", "WEBP")]
    alone = [hashlib.sha256(read(data, codec).pixels).digest() for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: hashlib.sha256(read(data, codec).pixels).digest(), files * 10))
    assert together == alone * 10


def test_the_documented_options_are_those_there_are() -> None:
    page = Path(__file__).parents[1].joinpath("docs", "bundles.md").read_text()
    _, _, section = page.partition("### Pictures\n")
    rows = [line.split("|") for line in section.partition("### Output\n")[0].splitlines() if line.startswith("| `")]
    told = {row[1].strip(" `"): json.loads(row[3].strip(" `")) for row in rows}
    assert told == {field.name: field.default for field in msgspec.structs.fields(ImageOptions)}

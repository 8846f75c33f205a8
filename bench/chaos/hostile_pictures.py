"""Sound pictures of every kind, and the damage that is done to them: what :mod:`bench.chaos.fuzz_pictures` decodes."""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from ganserve.codecs import GivenImage

SIDE = 24


class Seed(NamedTuple):
    """A sound file, and how a request describes it."""

    name: str
    data: bytes
    given: dict[str, Any]


class Case(NamedTuple):
    """A file to be decoded: which of several decoders reads it, and what the request says."""

    decoder: int
    given: GivenImage


# Sound files


def sound() -> list[Seed]:
    """A small file of every format, kind of colour and feature."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    planes = np.stack([rows * 10, columns * 10, (rows + columns) * 5, rows * columns // 3], axis=-1).astype(np.uint8)
    rgba, rgb, grey = Image.fromarray(planes), Image.fromarray(planes[..., :3].copy()), Image.fromarray(planes[..., 0])
    palette, grey_alpha = rgb.quantize(16), Image.fromarray(planes[..., :2].copy())
    wide = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 113
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # A gamma of 1.8 in place of sRGB's, so that the profile has something to do.
    gamma = icc.replace(b"para\0\0\0\0\0\3\0\0", b"para\0\0\0\0\0\0\0\0")
    turned = Image.Exif()
    turned[0x0112] = 6
    text = {"exif": turned, "icc_profile": gamma}
    more = [rgb.rotate(90), rgb.rotate(180)]
    animated = {"save_all": True, "append_images": more, "duration": 40}
    files = [
        *((f"png-{image.mode}", _saved(image, "PNG")) for image in (rgb, rgba, grey, grey_alpha, palette)),
        ("png-1", _saved(grey.convert("1"), "PNG")),
        ("png-4", _saved(palette, "PNG", bits=4)),
        ("png-clear", _saved(rgb, "PNG", transparency=(0, 0, 0))),
        ("png-clear-grey", _saved(grey, "PNG", transparency=10)),
        ("png-clear-palette", _saved(palette, "PNG", transparency=bytes(range(0, 160, 10)))),
        ("png-text", _saved(rgb, "PNG", **text)),
        ("png-grey-profile", _saved(grey, "PNG", icc_profile=gamma)),
        ("png-animated", _saved(rgb, "PNG", **animated)),
        ("png-animated-default", _saved(rgba, "PNG", default_image=True, **animated)),
        ("png-16-grey", _saved(Image.fromarray(wide), "PNG")),
        ("png-16-rgb", _png(16, 2, np.stack([wide] * 3, axis=-1), b"\0\0\0\x71\0\xe2")),
        ("png-16-grey-alpha", _png(16, 4, np.stack([wide] * 2, axis=-1))),
        ("png-16-rgba", _png(16, 6, np.stack([wide] * 4, axis=-1))),
        ("png-interlaced", _png(8, 0, planes[:, :1, 0], interlace=1)),
        *((f"jpeg-{image.mode}", _saved(image, "JPEG")) for image in (rgb, grey, rgb.convert("CMYK"))),
        ("jpeg-progressive", _saved(rgb, "JPEG", progressive=True)),
        ("jpeg-progressive-cmyk", _saved(rgb.convert("CMYK"), "JPEG", progressive=True)),
        ("jpeg-ink-profile", _saved(rgb.convert("CMYK"), "JPEG", icc_profile=ink_profile())),
        ("jpeg-text", _saved(rgb, "JPEG", comment=b"hello", **text)),
        ("jpeg-restart", _saved(rgb, "JPEG", restart_marker_blocks=1, subsampling=0)),
        ("jpeg-large", _saved(rgb.resize((96, 128)), "JPEG", exif=turned)),
        *((f"webp-{image.mode}", _saved(image, "WEBP")) for image in (rgb, rgba)),
        *((f"webp-lossless-{image.mode}", _saved(image, "WEBP", lossless=True)) for image in (rgb, rgba, palette)),
        ("webp-text", _saved(rgb, "WEBP", **text)),
        ("webp-animated", _saved(rgb, "WEBP", **animated)),
        ("webp-animated-alpha", _saved(rgba, "WEBP", minimize_size=True, **animated)),
    ]
    buffer = io.BytesIO()
    np.save(buffer, planes[..., :3])
    sizes = {"width": SIDE, "height": SIDE}
    return [
        *(Seed(name, data, {}) for name, data in files),
        Seed("npy", buffer.getvalue(), {"format": "npy"}),
        Seed("raw", planes.tobytes(), {"format": "raw", "channels": 4, **sizes}),
        Seed("said", _saved(rgb, "PNG"), {"format": "png", **sizes}),
    ]


def ink_profile() -> bytes:
    """An ICC profile of CMYK (ICC.1:2001, lut8Type) by which black ink alone is seen: L* is 100 without it and 0 with all of it."""
    identity = bytes(range(256))
    # Two points a side; the first channel, cyan, varies slowest, the last, black, fastest.
    colours = b"\xff\x80\x80\0\x80\x80" * 8
    matrix = struct.pack(">9i", *(65536 * (row == column) for row in range(3) for column in range(3)))
    table = b"mft1\0\0\0\0\4\3\2\0" + matrix + identity * 4 + colours + identity * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"A2B0", 176, len(table))
    header = struct.pack(">I4sI4s4s4s", 176 + len(table), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    return header + bytes(12) + b"acsp" + bytes(28) + white[8:] + bytes(48) + tags + white + table


def _saved(image: Image.Image, name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _png(depth: int, colour: int, samples: np.ndarray, clear: bytes = b"", interlace: int = 0) -> bytes:
    height, width = samples.shape[:2]
    rows = samples.astype(f">u{depth // 8}").reshape(height, -1)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows) + bytes(64 * interlace))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))]
    return _joined_png([*chunks, *([(b"tRNS", clear)] if clear else []), (b"IDAT", pixels), (b"IEND", b"")])


# Damage


Mutator = Callable[[random.Random, bytes, list[Seed]], bytes]
INTERESTING = (0, 1, 2, 3, 7, 8, 16, 32, 64, 127, 128, 255, 256, 4096, 16383, 16384, 32767, 32768, 65535, 65536,
               1 << 20, (1 << 24) - 1, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)  # fmt: skip


def damaged(dice: random.Random, given: GivenImage, seeds: list[Seed], decoders: int) -> Case:
    """The picture ``given`` after one to five kinds of damage, some of it with pieces of ``seeds``; for one of so many decoders."""
    data = given.data
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 5))):
        data = dice.choice(MUTATORS)(dice, data, seeds)
    said: dict[str, Any] = {name: getattr(given, name) for name in ("format", "width", "height", "channels")}
    if dice.random() < 0.05:
        said |= {dice.choice(("width", "height", "channels")): dice.choice((*INTERESTING, -1))}
    if dice.random() < 0.05:
        said["format"] = dice.choice(("", "png", "jpeg", "webp", "raw", "npy"))
    said["size"] = dice.choice(("", "", "", "", "resize", "letterbox", "native", "exact"))
    made = GivenImage(data=data, restore=dice.random() < 0.5, background=(dice.randrange(256), 0, 255), **said)
    return Case(dice.randrange(decoders), made)


def _flip_bits(dice: random.Random, data: bytes, seeds: list[Seed]) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4, 16, 64))):
        if changed:
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _set_bytes(dice: random.Random, data: bytes, seeds: list[Seed]) -> bytes:
    at, count = _place(dice, data), dice.choice((1, 2, 4, 8, 32))
    return (
        data[:at] + dice.choice((b"\0", b"\xff", dice.randbytes(1))) * min(count, len(data) - at) + data[at + count :]
    )


def _set_number(dice: random.Random, data: bytes, seeds: list[Seed]) -> bytes:
    size, order = dice.choice((1, 2, 3, 4)), dice.choice(("big", "little"))
    at = _place(dice, data[: dice.choice((40, 200, len(data)))])
    value = dice.choice(INTERESTING) + dice.choice((-1, 0, 0, 1))
    number = (value % (1 << 8 * size)).to_bytes(size, "big" if order == "big" else "little")
    return data[:at] + number + data[at + size :]


def _cut_off(dice: random.Random, data: bytes, seeds: list[Seed]) -> bytes:
    return data[: _place(dice, data)]


def _take_out(dice: random.Random, data: bytes, seeds: list[Seed]) -> bytes:
    at = _place(dice, data)
    return data[:at] + data[at + dice.choice((1, 2, 4, 13, 64)) :]


def _put_in(dice: random.Random, data: bytes, seeds: list[Seed]) -> bytes:
    at = _place(dice, data)
    return data[:at] + dice.randbytes(dice.choice((1, 2, 4, 13, 64, 1000))) + data[at:]


def _repeat(dice: random.Random, data: bytes, seeds: list[Seed]) -> bytes:
    at = _place(dice, data)
    return data[:at] + data[at : at + dice.choice((2, 8, 64, 300))] * dice.choice((2, 3, 20)) + data[at:]


def _splice(dice: random.Random, data: bytes, seeds: list[Seed]) -> bytes:
    other = dice.choice(seeds).data
    at, start = _place(dice, data), _place(dice, other)
    return data[:at] + other[start : start + dice.choice((4, 16, 100, 5000))] + data[at + dice.choice((0, 16, 5000)) :]


def _swap_head(dice: random.Random, data: bytes, seeds: list[Seed]) -> bytes:
    other, at = dice.choice(seeds).data, dice.choice((3, 4, 8, 12, 16, 20, 26, 33, 60))
    return other[:at] + data[at:]


def _change_part(dice: random.Random, data: bytes, seeds: list[Seed]) -> bytes:
    """Change a chunk or segment inside, and put lengths and checksums right, so that what reads its contents sees the change."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _joined_png(_changed_parts(dice, list(_parts(data, 8, ">I4s", 8, 4)), _change_png_part))
    if data[:4] == b"RIFF":
        return _joined_webp(_changed_parts(dice, list(_parts(data, 12, "<4sI", 8, 0)), _change_webp_part))
    if data[:2] == b"\xff\xd8":
        return _changed_jpeg(dice, data)
    return _set_number(dice, data, seeds)


MUTATORS: tuple[Mutator, ...] = (
    _flip_bits, _set_bytes, _set_number, _cut_off, _take_out, _put_in, _repeat, _splice, _swap_head,
    _change_part, _change_part, _change_part, _change_part, _change_part, _change_part,
)  # fmt: skip

Part = tuple[bytes, bytes]


def _parts(data: bytes, at: int, layout: str, head: int, tail: int) -> Iterator[Part]:
    """(type, body) of each chunk of a PNG or WebP file, as far as they can be read."""
    while at + head <= len(data):
        one, two = struct.unpack_from(layout, data, at)
        kind, length = (two, one) if isinstance(one, int) else (one, two)
        yield kind, data[at + head : at + head + length]
        at += head + length + tail + (length % 2 if not tail else 0)


def _joined_png(parts: list[Part]) -> bytes:
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _joined_webp(parts: list[Part]) -> bytes:
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2) for kind, body in parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _changed_parts(
    dice: random.Random, parts: list[Part], change: Callable[[random.Random, bytes, bytes], bytes]
) -> list[Part]:
    if not parts:
        return parts
    at = dice.randrange(len(parts))
    kind, body = parts[at]
    deed = dice.random()
    if deed < 0.7:
        parts[at] = (kind, change(dice, kind, body))
    elif deed < 0.8:
        parts.insert(dice.randrange(len(parts)), parts[at])
    elif deed < 0.9:
        del parts[at]
    elif deed < 0.95:
        dice.shuffle(parts)
    else:
        parts[at] = (dice.choice([kind for kind, _ in parts]), body)
    return parts


def _change_png_part(dice: random.Random, kind: bytes, body: bytes) -> bytes:
    name, found, packed = body.partition(b"\0\0") if kind == b"iCCP" else (b"", b"", body)
    if kind in (b"IDAT", b"iCCP") and dice.random() < 0.8:
        try:
            return name + found + zlib.compress(_changed(dice, zlib.decompress(packed)), 1)
        except zlib.error:
            return body
    return _changed(dice, body)


def _change_webp_part(dice: random.Random, kind: bytes, body: bytes) -> bytes:
    return _changed(dice, body)


def _changed_jpeg(dice: random.Random, data: bytes) -> bytes:
    """A JPEG file with one segment before its pixels changed inside, taken out or doubled."""
    starts, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        starts.append(at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if not starts:
        return data
    start = dice.choice(starts)
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    segment, deed = data[start:end], dice.random()
    if deed < 0.8:
        body = _changed(dice, segment[4:])[:65000]
        segment = segment[:2] + struct.pack(">H", len(body) + 2) + body
    else:
        segment = segment * dice.choice((0, 2, 3))
    return data[:start] + segment + data[end:]


def _changed(dice: random.Random, body: bytes) -> bytes:
    return dice.choice((_flip_bits, _flip_bits, _set_number, _set_number, _set_bytes, _cut_off, _put_in, _take_out))(
        dice, body, []
    )


def _place(dice: random.Random, data: bytes) -> int:
    return dice.randrange(len(data) + 1)

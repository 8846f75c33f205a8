"""Pictures as a target: damaged and hostile files, through every kind of picture decoder."""

import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.chaos.hostile_pictures import Case, damaged, sound
from bench.chaos.mutation import Target
from ganserve.codecs import GivenImage, PictureLimits
from ganserve.codecs.picture import ImageDecoder
from ganserve.errors import InvalidArgument
from ganserve.spec import Input, Tensor

LIMITS = PictureLimits(pixels=1 << 20, bytes=1 << 20)
MEMORY = 256 << 20
"""Bytes that decoding may take: much more than the limits' pixels, much less than a file may claim."""

MAGIC = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"RIFF": "webp", b"\x93NUMPY": "npy"}


class Pictures:
    """An input is a line of JSON, which decoder reads the picture and what the request says of it, and then the file."""

    def __init__(self, folder: Path) -> None:
        self.decoders, self.sound = decoders(), sound()

    def target(self) -> Target:
        """The target."""
        seeds = [written(Case(0, GivenImage(data=seed.data, **seed.given))) for seed in self.sound]
        return Target(seeds, self.judge, damage=self.damage, memory=MEMORY)

    def judge(self, data: bytes) -> str:
        """What comes of the picture, by the kind of file that it begins as."""
        case = read(data)
        kind = next((name for magic, name in MAGIC.items() if case.given.data.startswith(magic)), "other")
        return f"{kind} {outcome(case.given, self.decoders[case.decoder])}"

    def damage(self, dice: random.Random, data: bytes) -> bytes:
        """The picture of ``data`` damaged, for any of the decoders."""
        return written(damaged(dice, read(data).given, self.sound, len(self.decoders)))


def decoders() -> list[ImageDecoder]:
    """One for every kind of tensor."""
    kinds: list[tuple[tuple[int | str, ...], int, dict[str, Any]]] = [
        ((16, 20, 3), 1, {}),
        (("h", "w", 3), 8, {}),
        (("h", "w", 4), 1, {}),
        ((32, 32, 1), 1, {"filter": "nearest"}),
        (("h", "w", 1), 4, {"ids": True, "classes": 200}),
    ]
    return [
        ImageDecoder(
            Input(tensor="image", codec="image", reads=("image",), options=options),
            Tensor(name="image", dtype="uint8", shape=shape, multiple=multiple),
            Path(),
        )
        for shape, multiple, options in kinds
    ]


def outcome(given: GivenImage, decoder: ImageDecoder) -> str:
    """What comes of a file: ``decoded``, or ``refused: …`` with the beginning of the reason. Anything else is raised."""
    try:
        picture = decoder.picture(given, LIMITS)
    except InvalidArgument as error:
        (violation,) = error.violations
        if violation.field != "images[image]" or not violation.description:
            raise AssertionError(f"a refusal that names no field: {error}") from error
        return "refused: " + " ".join(word for word in violation.description.split()[:5] if word.isalpha())
    pixels, frame = picture.pixels, picture.frame
    left, top, right, bottom = frame.box
    if pixels.dtype != np.uint8 or pixels.shape[1::-1] != frame.canvas or frame.pictures < 1:
        raise AssertionError(f"{pixels.dtype} {pixels.shape} for {frame}")
    if not (0 <= left < right <= frame.canvas[0] and 0 <= top < bottom <= frame.canvas[1]):
        raise AssertionError(f"a box outside of the canvas: {frame}")
    return "decoded"


def written(case: Case) -> bytes:
    """``case`` as an input."""
    plain = GivenImage(data=b"")
    fields = {name: getattr(case.given, name) for name in GivenImage.__struct_fields__ if name != "data"}
    said = {name: value for name, value in fields.items() if value != getattr(plain, name)}
    return msgspec.json.encode({"decoder": case.decoder, **said}) + b"\n" + case.given.data


def read(data: bytes) -> Case:
    """The case that :func:`written` made ``data`` of."""
    line, _, file = data.partition(b"\n")
    said = msgspec.json.decode(line)
    return Case(said.pop("decoder"), msgspec.convert({**said, "data": file}, GivenImage))

"""Pictures that a request brings → uint8 pixels of the size and colours that a graph takes."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from PIL import Image

from ganserve.codecs import SIZES, GivenImage, Picture, PictureLimits
from ganserve.codecs.colours import MODES, in_srgb
from ganserve.codecs.files import read_header, read_numbers, read_picture
from ganserve.codecs.fitting import Fit, Target, frame, place, scaled
from ganserve.codecs.headers import Fault
from ganserve.codecs.npy import npy_pixels, raw_pixels
from ganserve.codecs.orientation import upright_size
from ganserve.codecs.seeds import draw
from ganserve.errors import InvalidArgument, SpecError
from ganserve.spec import Input, Noise, Tensor

FORMATS = ("png", "jpeg", "webp", "raw", "npy")
"""The formats of pictures in requests."""

_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}
_Side = Annotated[int, msgspec.Meta(ge=1, le=16384)]

_EXAMPLE_SIDE = 64
_BLOCKS = 4
_WAVES = 6
"""How many cosines along each side an example picture is made of."""


class ImageOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of codec ``image`` as a decoder.

    ``max_pixels`` is the most that a graph with free sizes is run at in one piece. ``filter`` scales pictures. ``ids`` says that a
    pixel is a class number, below ``classes``: palette pictures give their indices, nothing converts colours, and the filter is
    ``nearest``. ``example`` is (height, width) of example rows where sizes
    are free, by default 64 rounded up to the multiple.
    """

    max_pixels: Annotated[int, msgspec.Meta(ge=1)] = 1 << 22
    filter: Literal["lanczos", "nearest"] = "lanczos"
    ids: bool = False
    classes: Annotated[int, msgspec.Meta(ge=1, le=256)] = 256
    example: tuple[_Side, _Side] | None = None


class ImageDecoder:
    """Codec ``image``: the one request value that the input reads, pictures, → uint8 ``[n, H, W, C]``.

    Raises :class:`SpecError` when made for any other tensor (C: 1 grey or class numbers, 3 RGB, 4 RGBA; H and W both fixed or
    both free), or with options that contradict it.
    """

    def __init__(self, source: Input, tensor: Tensor, folder: Path) -> None:
        where = f"input {source.tensor!r}, codec image"
        try:
            self._options = msgspec.convert(dict(source.options), ImageOptions)
        except msgspec.ValidationError as error:
            raise SpecError(f"{where}: options {dict(source.options)}: {error}") from error
        if len(source.reads) != 1:
            raise SpecError(f"{where}: reads {list(source.reads)}; expected the name of one picture")
        fixed = [size for size in tensor.shape[:2] if isinstance(size, int)]
        if tensor.dtype != "uint8" or len(tensor.shape) != 3 or tensor.shape[2] not in (1, 3, 4) or len(fixed) == 1:
            raise SpecError(
                f"{where}: tensor is {tensor.dtype}{list(tensor.shape)}; expected uint8 [H, W, C] with 1, 3 or 4 channels, last, and H and W both fixed or both free"
            )
        if self._options.ids and tensor.shape[2] != 1:
            raise SpecError(f"{where}: ids are class numbers, one a pixel; the tensor has {tensor.shape[2]} channels")
        if self._options.classes != 256 and not self._options.ids:
            raise SpecError(f"{where}: option classes is for pictures of class numbers; set ids too, or remove it")
        self.value = source.reads[0]
        self.max_pixels = self._options.max_pixels
        self._field = f"images[{self.value}]"
        self._channels = int(tensor.shape[2])
        self._target = Target((fixed[1], fixed[0]) if fixed else None, tensor.multiple)
        self._resample = _FILTERS["nearest" if self._options.ids else self._options.filter]
        self._example = self._example_size(where)
        # Keeps the examples of two pictures of one task apart.
        self._stream = zlib.crc32(source.tensor.encode())

    def picture(self, given: GivenImage, limits: PictureLimits) -> Picture:
        """``given`` decoded and fitted; :class:`InvalidArgument` names the fault, with field ``images[VALUE]``."""
        try:
            if given.format not in ("", *FORMATS):
                raise Fault(f"has format {given.format!r}: expected {', '.join(FORMATS)} (uint8), or none for a file")
            if len(given.data) > limits.bytes:
                raise Fault(
                    f"has {len(given.data)} bytes: this server takes at most {limits.bytes}; send a smaller file"
                )
            if given.format in ("raw", "npy"):
                return self._of_numbers(given, limits)
            return self._of_file(given, limits)
        except Fault as fault:
            raise InvalidArgument.of(self._field, str(fault)) from fault

    def decode(self, values: Mapping[str, Sequence[Any]], rows: int) -> np.ndarray:
        """The pixels of ``rows`` pictures, which must all be fitted to one size; limits are those of :class:`PictureLimits`."""
        if self.value not in values:
            raise InvalidArgument.of(self._field, f"is missing: expected a picture, {', '.join(FORMATS)}")
        pictures = [self.picture(given, PictureLimits()).pixels for given in values[self.value]]
        if len({pixels.shape for pixels in pictures}) > 1:
            raise InvalidArgument.of(self._field, "differ in size: expected pictures of one size in one request")
        return np.stack(pictures)

    def example(self, pairs: np.ndarray) -> np.ndarray:
        """Pictures as smooth as photographs, sums of slow waves; of class numbers, blocks."""
        width, height = self._example
        if self._options.ids:
            noise = Noise(distribution="uniform", low=0.0, high=1.0, stream=self._stream)
            classes = (draw(noise, pairs, (_BLOCKS, _BLOCKS, 1)) * self._options.classes).astype(np.uint8)
            down, across = (np.arange(side) * _BLOCKS // side for side in (height, width))
            blocks: np.ndarray = classes[:, down][:, :, across]
            return blocks
        # One wave more than channels, which all share: a picture's channels resemble each other.
        drawn = draw(Noise(stream=self._stream), pairs, (_WAVES, _WAVES, self._channels + 1)).astype(np.float64)
        number = np.arange(_WAVES)
        weights = 1.0 / (1.0 + number[:, None] + number)
        weights[0, 0] = 0.5
        amplitudes = (drawn[..., :1] + 0.5 * drawn[..., 1:]) * weights[:, :, None]
        down, across = (np.cos(np.pi * np.outer(np.arange(side) + 0.5, number) / side) for side in (height, width))
        waves = np.einsum("yk,nkxc->nyxc", down, np.einsum("xl,nklc->nkxc", across, amplitudes))
        pixels: np.ndarray = np.rint(127.5 * (1.0 + np.tanh(waves))).astype(np.uint8)
        return pixels

    def describe(self) -> Mapping[str, Any]:
        """The formats, the size or what it must be a multiple of, the policies, and what a pixel is."""
        size = self._target.size
        facts: dict[str, Any] = {
            "formats": list(FORMATS[:1] + FORMATS[3:] if self._options.ids else FORMATS),
            "channels": self._channels,
            "sizes": list(SIZES),
            "size": self._target.policy,
        }
        if size is None:
            facts |= {"multiple": self._target.multiple, "max_pixels": self.max_pixels}
        else:
            facts |= {"width": size[0], "height": size[1]}
        if self._options.ids:
            facts["classes"] = self._options.classes
        return {self.value: facts}

    def _of_file(self, given: GivenImage, limits: PictureLimits) -> Picture:
        header = read_header(given.data)
        if given.format not in ("", header.format):
            raise Fault(f"is said to be {given.format} but is {header.format}: say what it is, or nothing")
        sent = upright_size(header.size, header.orientation)
        _check_declared(given, sent, header.size)
        fit = self._fit(sent, given, limits)
        if self._options.ids:
            image = read_numbers(header)
        else:
            reduces = fit.scaled != sent and self._resample == Image.Resampling.LANCZOS
            image = read_picture(header, fit.scaled if reduces else None)
            image = in_srgb(image, header.profile, self._channels, given.background)
        return self._placed(scaled(image, fit.scaled, self._resample), sent, fit, given, header.pictures)

    def _of_numbers(self, given: GivenImage, limits: PictureLimits) -> Picture:
        if given.format == "raw":
            pixels = raw_pixels(given.data, given.width, given.height, given.channels)
        else:
            pixels = npy_pixels(given.data)
        height, width, channels = pixels.shape
        _check_declared(given, (width, height))
        fit = self._fit((width, height), given, limits)
        if self._options.ids and channels != 1:
            raise Fault(f"has {channels} channels: expected one, of class numbers")
        if channels != self._channels or fit.scaled != (width, height):
            image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
            if channels != self._channels:
                image = in_srgb(image, None, self._channels, given.background)
            pixels = scaled(image, fit.scaled, self._resample)
        return self._placed(pixels, (width, height), fit, given)

    def _fit(self, sent: tuple[int, int], given: GivenImage, limits: PictureLimits) -> Fit:
        """How a picture of the size ``sent`` is fitted; :class:`Fault` if it or its canvas is too large."""
        _check_pixels("is", sent, limits)
        fit = self._target.fit(sent, given.size or self._target.policy)
        _check_pixels("would be run at", fit.canvas, limits)
        return fit

    def _placed(
        self, pixels: np.ndarray, sent: tuple[int, int], fit: Fit, given: GivenImage, pictures: int = 1
    ) -> Picture:
        ground = Image.new("RGB", (1, 1), 0 if self._options.ids else given.background).convert(MODES[self._channels])
        pixels = place(pixels, fit, np.asarray(ground).reshape(-1))
        if self._options.ids and (most := pixels.max()) >= self._options.classes:
            raise Fault(f"holds class number {most}: this model knows 0 to {self._options.classes - 1}")
        return Picture(pixels=pixels, frame=frame(sent, fit, given.restore, pictures))

    def _example_size(self, where: str) -> tuple[int, int]:
        """(width, height) of example rows."""
        size, multiple = self._options.example, self._target.multiple
        if self._target.size is not None:
            if size is not None:
                raise SpecError(f"{where}: option example is for graphs that take any size; remove it")
            return self._target.size
        if size is None:
            side = -(-_EXAMPLE_SIDE // multiple) * multiple
            return side, side
        if size[0] % multiple or size[1] % multiple:
            raise SpecError(f"{where}: option example is {list(size)}; expected multiples of {multiple}")
        return size[1], size[0]


def _check_declared(given: GivenImage, *sizes: tuple[int, int]) -> None:
    """Refuse a width or height in the request that is not the picture's, as stored or upright."""
    said = (given.width, given.height)
    if not any(all(one in (0, other) for one, other in zip(said, size, strict=True)) for size in sizes):
        width, height = sizes[0]
        raise Fault(f"is {width}x{height}, not {said[0]}x{said[1]} as the request says: leave both out")


def _check_pixels(what: str, size: tuple[int, int], limits: PictureLimits) -> None:
    width, height = size
    if width * height > limits.pixels:
        raise Fault(
            f"{what} {width}x{height}, {width * height} pixels: this server takes at most {limits.pixels}; send a smaller picture"
        )

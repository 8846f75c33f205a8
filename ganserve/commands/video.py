"""Frames as a file that plays, or as a folder of pictures."""

import importlib
import io
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganserve.commands.output import write_file, write_png

if TYPE_CHECKING:
    from PIL.Image import Image

ANIMATIONS = (".webp", ".png")
"""Endings of pictures that play."""

NO_ENCODER = "an .mp4 file needs FFmpeg, which is not here: pip install 'ganserve[video]', or write .webp, .png or a folder instead"


def writer(path: Path, fps: float) -> Callable[[Iterable["Image"]], None]:
    """What writes pictures of one size to ``path``, so many a second: an animated .webp or .png, an .mp4, or a folder of PNG files.

    Raises :class:`click.BadParameter` for another ending, or for .mp4 where nothing encodes it: before any picture is made.
    """
    suffix = path.suffix.lower()
    if suffix in ANIMATIONS:
        return lambda images: _animation(path, list(images), fps)
    if suffix == ".mp4":
        ffmpeg = _encoder()
        return lambda images: _mp4(path, images, fps, ffmpeg)
    if suffix:
        raise click.BadParameter(
            f"{path} ends in none of .webp, .png, .mp4; without an ending it is a folder", param_hint="--out"
        )
    return lambda images: _folder(path, images)


def _folder(path: Path, images: Iterable["Image"]) -> None:
    for number, image in enumerate(images):
        write_png(path / f"{number:05d}.png", image)


def _animation(path: Path, images: Sequence["Image"], fps: float) -> None:
    buffer = io.BytesIO()
    kind = path.suffix[1:].upper()
    options = {"lossless": True} if kind == "WEBP" else {"default_image": False}
    images[0].save(buffer, kind, save_all=True, append_images=images[1:], duration=1000 / fps, loop=0, **options)
    write_file(path, buffer.getvalue())


def _mp4(path: Path, images: Iterable["Image"], fps: float, ffmpeg: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    frames = iter(images)
    first = next(frames)
    # H.264 of 4:2:0, which every player shows, has even sides.
    file = ffmpeg.write_frames(
        temporary,
        first.size,
        fps=fps,
        codec="libx264",
        quality=None,
        output_params=["-crf", "16", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"],
        macro_block_size=1,
    )
    try:
        file.send(None)
        for image in itertools.chain([first], frames):
            file.send(image.convert("RGB").tobytes())
        file.close()
        temporary.replace(path)
    except OSError as error:
        raise click.ClickException(f"FFmpeg could not write {path}: {error}") from error
    finally:
        file.close()
        temporary.unlink(missing_ok=True)


def _encoder() -> Any:
    """The package that brings FFmpeg."""
    try:
        return importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise click.BadParameter(NO_ENCODER, param_hint="--out") from error

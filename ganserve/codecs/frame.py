"""A graph's result → a picture that lies where the one lay that was sent."""

import numpy as np
from PIL import Image

from ganserve.codecs import Frame


def put_back(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    """``pixels`` uint8 ``[H, W, C]``, what a graph made of a canvas, cut and scaled as ``frame`` says.

    The result may have another size than the canvas (super-resolution): the frame's box is scaled with it.
    """
    height, width, channels = pixels.shape
    if frame.cut:
        across, down = width / frame.canvas[0], height / frame.canvas[1]
        left, right = _span(frame.box[0] * across, frame.box[2] * across, width)
        top, bottom = _span(frame.box[1] * down, frame.box[3] * down, height)
        pixels = pixels[top:bottom, left:right]
    if frame.size is None or frame.size == pixels.shape[1::-1]:
        return pixels
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else np.ascontiguousarray(pixels))
    scaled = np.asarray(image.resize(frame.size, Image.Resampling.LANCZOS))
    return scaled.reshape(*scaled.shape[:2], channels)


def _span(first: float, last: float, most: int) -> tuple[int, int]:
    """The whole pixels nearest to [first, last), at least one, of ``most``."""
    start = min(round(first), most - 1)
    return start, max(start + 1, min(round(last), most))

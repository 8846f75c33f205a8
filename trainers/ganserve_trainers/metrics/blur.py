"""Blurred images: the plainest thing that is like an image and no better, against which a measure can be checked."""

import numpy as np
from PIL import Image, ImageFilter


def blur(images: np.ndarray, sigma: float | np.ndarray) -> np.ndarray:
    """``images`` uint8 ``[n, H, W, C]`` under a Gaussian blur of ``sigma`` pixels: one number, or one for each image ``[n]``."""
    sigmas = np.broadcast_to(sigma, len(images)).tolist()
    flat = images[..., 0] if images.shape[-1] == 1 else images
    blurred = [
        np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(one)))
        for image, one in zip(flat, sigmas, strict=True)
    ]
    return np.stack(blurred).reshape(images.shape)

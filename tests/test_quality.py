"""PSNR, SSIM and MS-SSIM, against their definitions and against the trainers' torch ones."""

import math

import numpy as np
import pytest

from ganserve.quality import LEAST_SIDE, WINDOW, ms_ssim, psnr, quality_of, ssim


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth, like a photograph, with some noise."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[0:height, 0:width] / 9
    waves = np.stack([np.sin(down + channel) * np.cos(across - channel) for channel in range(channels)], axis=2)
    return np.clip(127 + 90 * waves + random.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)


def test_psnr_is_ten_times_the_logarithm_of_the_ratio_of_peak_and_error() -> None:
    black = np.zeros((4, 5, 3), np.uint8)
    assert psnr(black, black) == math.inf
    assert psnr(black, np.full_like(black, 255)) == 0.0
    assert psnr(black, np.full_like(black, 1)) == pytest.approx(48.1308, abs=1e-4)
    one = black.copy()
    one[0, 0, 0] = 60
    assert psnr(one, black) == pytest.approx(10 * math.log10(255**2 / (3600 / 60)))


@pytest.mark.parametrize("shape", [(WINDOW, WINDOW, 1), (31, 18, 3), (40, 64, 4)])
def test_ssim_is_that_of_the_trainers(shape: tuple[int, int, int]) -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("ganserve_trainers.metrics.ssim")
    torch.set_num_threads(1)
    x, y = picture(*shape), picture(*shape, seed=1)
    for other in (y, 255 - x, x):
        planes = [torch.from_numpy(one.transpose(2, 0, 1).copy())[None] for one in (x, other)]
        assert ssim(x, other) == pytest.approx(float(metrics.ssim(*planes, 255)), abs=1e-12)
    assert ssim(x, x) == 1.0
    assert ssim(x, 255 - x) < ssim(x, y) < 1


@pytest.mark.parametrize("shape", [(LEAST_SIDE, LEAST_SIDE, 1), (200, 179, 3)])
def test_ms_ssim_is_that_of_the_trainers(shape: tuple[int, int, int]) -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("ganserve_trainers.metrics.ssim")
    torch.set_num_threads(1)
    x, y = picture(*shape), picture(*shape, seed=1)
    for other in (y, 255 - x, x):
        planes = [torch.from_numpy(one.transpose(2, 0, 1).copy())[None] for one in (x, other)]
        assert ms_ssim(x, other) == pytest.approx(float(metrics.ms_ssim(*planes, 255)), abs=1e-12)
    assert ms_ssim(x, x) == pytest.approx(1.0)


def test_what_is_too_small_for_a_window_is_left_out() -> None:
    for side, measured in ((WINDOW - 1, (False, False)), (WINDOW, (True, False)), (LEAST_SIDE, (True, True))):
        found = quality_of(picture(side, side + 3), picture(side, side + 3, seed=1))
        assert (found.ssim is not None, found.ms_ssim is not None) == measured
        assert 10 < found.psnr < 40


def test_pictures_that_cannot_be_compared_are_refused() -> None:
    whole = picture(20, 20)
    with pytest.raises(ValueError, match=r"expected two uint8 \[H, W, C\] of one shape"):
        psnr(whole, whole[:10])
    with pytest.raises(ValueError, match=r"float32\[20, 20, 3\]"):
        ssim(whole, whole.astype(np.float32))
    with pytest.raises(ValueError, match="10x20 pixels: expected at least 11 a side"):
        ssim(whole[:10], whole[:10])
    with pytest.raises(ValueError, match="20x20 pixels: expected at least 176 a side"):
        ms_ssim(whole, whole)

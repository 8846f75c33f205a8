"""The metrics of translated images: SSIM, MS-SSIM, L1, bootstrap intervals, the judge of domains."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images

from ganserve.errors import DataError
from ganserve_trainers.metrics.blur import blur
from ganserve_trainers.metrics.bootstrap import estimate
from ganserve_trainers.metrics.distance import mean_l1, random_pairs_l1
from ganserve_trainers.metrics.domains import train_domain_judge
from ganserve_trainers.metrics.ssim import EXPONENTS, ms_ssim, ssim


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Two photographs, uint8 [2, 3, 192, 256]."""
    pictures = [image[100:292, 100:356] for image in load_sample_images().images]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def noisy(images: torch.Tensor, deviation: float) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (images + deviation * noise).clamp(0, 255)


def by_loops(x: np.ndarray, y: np.ndarray, data_range: float) -> tuple[float, float]:
    """Mean SSIM and mean contrast-structure of two planes, window by window and pixel by pixel."""
    weights = [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)]
    total = sum(map(sum, weights))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity, structure = [], []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            window = [
                (weights[i][j] / total, float(x[top + i, left + j]), float(y[top + i, left + j]))
                for i in range(11)
                for j in range(11)
            ]
            mx, my = sum(w * a for w, a, _ in window), sum(w * b for w, _, b in window)
            vx, vy = sum(w * (a - mx) ** 2 for w, a, _ in window), sum(w * (b - my) ** 2 for w, _, b in window)
            cov = sum(w * (a - mx) * (b - my) for w, a, b in window)
            structure.append((2 * cov + c2) / (vx + vy + c2))
            similarity.append((2 * mx * my + c1) / (mx * mx + my * my + c1) * structure[-1])
    return float(np.mean(similarity)), float(np.mean(structure))


def test_ssim_equals_a_sum_by_hand():
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (1, 2, 13, 15), np.uint8)
    y = np.clip(x + random.normal(0, 20, x.shape), 0, 255).astype(np.uint8)
    expected = np.mean([by_loops(x[0, channel], y[0, channel], 255)[0] for channel in range(2)])
    found = ssim(torch.from_numpy(x), torch.from_numpy(y), 255)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_constant_images_differ_by_luminance_alone():
    means = torch.tensor([[0.0, 255.0], [100.0, 110.0], [7.0, 7.0]], dtype=torch.float64)
    x, y = (means[:, side, None, None, None].expand(3, 3, 16, 12) for side in (0, 1))
    c1 = (0.01 * 255) ** 2
    expected = [(2 * a * b + c1) / (a * a + b * b + c1) for a, b in means.tolist()]
    np.testing.assert_allclose(ssim(x, y, 255).numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(ssim(x / 127.5, y / 127.5, 2).numpy(), expected, rtol=1e-9)


def test_equal_images_are_1_and_order_does_not_matter(photos: torch.Tensor):
    other = noisy(photos, 25)
    for measure in (ssim, ms_ssim):
        np.testing.assert_allclose(measure(photos, photos, 255).numpy(), 1.0, rtol=1e-12)
        np.testing.assert_array_equal(measure(photos, other, 255).numpy(), measure(other, photos, 255).numpy())


def test_similarity_falls_with_noise_and_an_image_is_alone_in_its_batch(photos: torch.Tensor):
    for measure in (ssim, ms_ssim):
        levels = [measure(photos, noisy(photos, deviation), 255) for deviation in (5, 25, 100)]
        assert (levels[0] > levels[1]).all()
        assert (levels[1] > levels[2]).all()
        alone = measure(photos[1:], noisy(photos, 25)[1:], 255)
        np.testing.assert_allclose(alone.numpy(), levels[1][1:].numpy(), rtol=1e-12)
    negative = 255 - photos.double()
    assert (ssim(photos, negative, 255) < 0).all()
    assert (ms_ssim(photos, negative, 255) >= 0).all()


def test_ms_ssim_is_the_product_of_its_scales(photos: torch.Tensor):
    x, y = photos[:1, :1, :176, :180].double(), noisy(photos, 40)[:1, :1, :176, :180]
    expected = 1.0
    for scale, exponent in enumerate(EXPONENTS):
        if scale:
            # 180 → 90 → 45 → 22: a last odd column is left out.
            x, y = (
                plane[..., : plane.shape[2] // 2 * 2, : plane.shape[3] // 2 * 2].unfold(2, 2, 2).unfold(3, 2, 2)
                for plane in (x, y)
            )
            x, y = x.mean(dim=(-1, -2)), y.mean(dim=(-1, -2))
        if min(x.shape[2:]) > 50:
            # by_loops is too slow for large planes: identical formulas, whole windows at once.
            expected *= whole_windows(x[0, 0].numpy(), y[0, 0].numpy()) ** exponent
        else:
            similarity, structure = by_loops(x[0, 0].numpy(), y[0, 0].numpy(), 255)
            expected *= (similarity if scale == 4 else structure) ** exponent
    found = ms_ssim(photos[:1, :1, :176, :180], noisy(photos, 40)[:1, :1, :176, :180], 255)
    assert found.item() == pytest.approx(expected, rel=1e-9)
    assert sum(EXPONENTS) == pytest.approx(1.0, abs=1e-3)


def whole_windows(x: np.ndarray, y: np.ndarray) -> float:
    """The mean contrast-structure of two planes, by numpy's sliding windows."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / 4.5)
    weights /= weights.sum()
    a, b = (np.lib.stride_tricks.sliding_window_view(plane, (11, 11)) for plane in (x, y))
    ma, mb = ((plane * weights).sum((-1, -2), keepdims=True) for plane in (a, b))
    va, vb = (((plane - mean) ** 2 * weights).sum((-1, -2)) for plane, mean in ((a, ma), (b, mb)))
    cov = ((a - ma) * (b - mb) * weights).sum((-1, -2))
    c2 = (0.03 * 255) ** 2
    return float(((2 * cov + c2) / (va + vb + c2)).mean())


def test_ms_ssim_wants_176_pixels_a_side(photos: torch.Tensor):
    ms_ssim(photos[..., :176, :176], photos[..., :176, :176], 255)
    with pytest.raises(DataError, match=r"192×175 pixels.*at least 176; use SSIM"):
        ms_ssim(photos[..., :175], photos[..., :175], 255)


def test_ssim_says_what_it_cannot_measure(photos: torch.Tensor):
    with pytest.raises(DataError, match="10×20 pixels: the window of SSIM has 11×11"):
        ssim(photos[..., :10, :20], photos[..., :10, :20], 255)
    with pytest.raises(DataError, match="expected two batches of one shape"):
        ssim(photos, photos[:1], 255)
    with pytest.raises(DataError, match="data range 0"):
        ssim(photos, photos, 0)


def test_l1_is_on_minus_1_to_1():
    x = np.zeros((3, 4, 4, 3), np.uint8)
    y = x.copy()
    y[1] = 255
    y[2, :2] = 51
    np.testing.assert_allclose(mean_l1(x, y), [0.0, 2.0, 0.2])
    np.testing.assert_array_equal(mean_l1(x, y), mean_l1(y, x))
    with pytest.raises(DataError, match="expected two batches uint8"):
        mean_l1(x, y.astype(np.float32))


def test_random_pairs_never_pair_an_image_with_itself():
    images = (np.arange(2, dtype=np.uint8) * 255)[:, None, None, None].repeat(3, axis=3)
    np.testing.assert_array_equal(random_pairs_l1(images, pairs=50), np.full(50, 2.0))
    levels = np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None]
    exact = np.abs(np.arange(5)[:, None] - np.arange(5)).sum() * 50 / 127.5 / 20
    assert random_pairs_l1(levels, pairs=5000).mean() == pytest.approx(exact, rel=0.03)
    with pytest.raises(DataError, match="two or more"):
        random_pairs_l1(images[:1])


def test_the_interval_is_that_of_a_normal_mean():
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    found = estimate(values)
    margin = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - margin, abs=0.03)
    assert found.high == pytest.approx(values.mean() + margin, abs=0.03)
    assert found == estimate(values)


def test_variants_count_as_one_picture():
    values = np.random.default_rng(3).normal(5.0, 2.0, 100)
    plain = estimate(values)
    repeated = estimate(np.repeat(values, 6), [f"base{number // 6}" for number in range(600)])
    naive = estimate(np.repeat(values, 6))
    assert repeated.mean == pytest.approx(plain.mean)
    assert repeated.high - repeated.low == pytest.approx(plain.high - plain.low, rel=0.1)
    assert naive.high - naive.low < 0.6 * (plain.high - plain.low)
    with pytest.raises(DataError, match="expected one each"):
        estimate(values, ["a"])


def test_the_judge_knows_two_domains_and_not_one_twice():
    digits = (load_digits().images * 15.9375).astype(np.uint8)[..., None]
    a, b = digits[0::2], 255 - digits[1::2]
    judge = train_domain_judge((a[:500], b[:700]), (a[500:], b[700:]))
    assert judge.trusted
    assert judge.taken_for(1, 255 - a[500:]).mean() > 0.95
    assert judge.taken_for(1, a[500:]).mean() == pytest.approx(1 - judge.accuracy[0])
    same = train_domain_judge((a[:400], a[400:700]), (a[700:], digits[1:400:2]))
    assert not same.trusted
    with pytest.raises(DataError, match="some of each domain"):
        train_domain_judge((a, b), (a[:0], b))


def test_a_blur_is_no_change_of_domain():
    lines = np.full((400, 24, 24, 1), 255, np.uint8)
    shades = lines.copy()
    for number in range(400):
        top, left = divmod(number % 100, 10)
        lines[number, top : top + 12, left : left + 12] = 0
        lines[number, top + 1 : top + 11, left + 1 : left + 11] = 255
        shades[number, top : top + 12, left : left + 12] = 128
    judge = train_domain_judge((lines[:300], shades[:300]), (lines[300:], shades[300:]))
    assert judge.trusted
    assert judge.taken_for(1, blur(lines[300:], 0.7)).mean() < 0.05
    np.testing.assert_array_equal(blur(lines[:3], np.array([0.0, 0.0, 0.0])), lines[:3])
    assert np.ptp(blur(lines[:1], 5.0)) < np.ptp(lines[:1])

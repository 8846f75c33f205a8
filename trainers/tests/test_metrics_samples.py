from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ganserve.errors import DataError
from ganserve_trainers.metrics.classifier import train_classifier
from ganserve_trainers.metrics.diversity import diversity_ratio, mean_pairwise_distance
from ganserve_trainers.metrics.neighbours import nearest
from ganserve_trainers.metrics.pictures import beside_neighbours, grid, save_png


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return (data.images * 15.9375).astype(np.uint8)[..., None], data.target


def test_the_classifier_reads_digits_and_repeats_itself(digits: tuple[np.ndarray, np.ndarray]):
    images, labels = digits
    trained = [train_classifier(images[:1400], labels[:1400], epochs=6, rows=50, seed=3) for _ in range(2)]
    assert trained[0].accuracy(images[1400:], labels[1400:]) > 0.9
    one, two = (classifier.judge(images[1400:]) for classifier in trained)
    np.testing.assert_array_equal(one.confidence, two.confidence)
    assert one.confidence.min() > 0.1
    assert one.confidence.max() <= 1.0
    np.testing.assert_allclose(one.shares(10), np.bincount(labels[1400:], minlength=10) / 397, atol=0.03)
    assert trained[0].judge(images[labels == 4][:50]).shares(10)[4] > 0.9


def test_a_classifier_wants_a_label_for_each_image(digits: tuple[np.ndarray, np.ndarray]):
    images, labels = digits
    with pytest.raises(DataError, match="labels"):
        train_classifier(images, labels[:-1])
    with pytest.raises(DataError, match="cannot fill a batch of 128"):
        train_classifier(images[:100], labels[:100])


def test_nearest_finds_what_a_plain_search_finds(digits: tuple[np.ndarray, np.ndarray]):
    images, _ = digits
    queries, references = images[:40], images[40:]
    differences = queries.astype(float).reshape(40, 1, -1) - references.astype(float).reshape(1, len(references), -1)
    plain = np.sqrt((differences**2).sum(-1))
    found = nearest(queries, references, rows=300)
    np.testing.assert_array_equal(found.index, plain.argmin(axis=1))
    np.testing.assert_allclose(found.distance, plain.min(axis=1))


def test_a_copied_training_image_is_at_distance_zero(digits: tuple[np.ndarray, np.ndarray]):
    images, _ = digits
    found = nearest(images[[700, 3]], images, rows=256)
    np.testing.assert_array_equal(found.index, [700, 3])
    np.testing.assert_array_equal(found.distance, [0.0, 0.0])


def test_a_data_set_can_be_compared_with_the_rest_of_itself(digits: tuple[np.ndarray, np.ndarray]):
    images = digits[0][:100]
    found = nearest(images, images, skip_self=True, rows=30)
    assert (found.index != np.arange(100)).all()
    for row in (0, 29, 30, 99):
        rest = np.delete(images, row, axis=0)
        assert found.distance[row] == pytest.approx(nearest(images[[row]], rest).distance[0])
    some = nearest(images[:10], images, skip_self=True, rows=30)
    np.testing.assert_array_equal(some.index, found.index[:10])
    with pytest.raises(DataError, match="enough references"):
        nearest(images[:1], images[:1], skip_self=True)


def test_diversity_is_a_mean_over_pairs():
    rows = np.array([[0, 0], [3, 4], [0, 8]], np.uint8)
    assert mean_pairwise_distance(rows) == pytest.approx((5 + 8 + 5) / 3)
    assert mean_pairwise_distance(rows, most=2) == pytest.approx(5)
    with pytest.raises(DataError, match="no pair"):
        mean_pairwise_distance(rows[:1])


def test_diversity_falls_as_a_generator_collapses(digits: tuple[np.ndarray, np.ndarray]):
    images, labels = digits
    half = len(images) // 2
    assert diversity_ratio(images[:half], images[half:]) == pytest.approx(1.0, abs=0.02)
    assert diversity_ratio(images[labels == 1], images) < 0.9
    assert diversity_ratio(np.repeat(images[:1], 50, axis=0), images) == 0.0


def test_a_grid_places_images_row_by_row():
    images = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    sheet = grid(images, columns=3, gap=1, background=9)
    assert sheet.shape == (1 + 2 * 3, 1 + 3 * 4, 1)
    np.testing.assert_array_equal(sheet[1, :, 0], [9, 1, 1, 1, 9, 2, 2, 2, 9, 3, 3, 3, 9])
    np.testing.assert_array_equal(sheet[5, :, 0], [9, 4, 4, 4, 9, 5, 5, 5, 9, 9, 9, 9, 9])
    np.testing.assert_array_equal(sheet[3, :, 0], [9] * 13)


def test_neighbours_stand_below_their_samples(tmp_path: Path):
    samples = np.full((4, 2, 2, 3), 10, np.uint8) * np.arange(1, 5, dtype=np.uint8)[:, None, None, None]
    sheet = beside_neighbours(samples, samples + 1, columns=2)
    shown = sorted(
        set(np.unique(sheet[:, :, 0])) - {255}, key=lambda value: np.argwhere(sheet[:, :, 0] == value)[0].tolist()
    )
    assert shown == [10, 20, 11, 21, 30, 40, 31, 41]
    save_png(tmp_path / "picture.png", sheet, scale=2)
    with Image.open(tmp_path / "picture.png") as image:
        np.testing.assert_array_equal(np.asarray(image)[::2, ::2], sheet)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    with pytest.raises(DataError, match="expected one for each"):
        beside_neighbours(samples, samples[:3])
    with pytest.raises(DataError, match="do not fill rows of 3"):
        beside_neighbours(samples, samples, columns=3)

import numpy as np
import pytest

from ganserve.errors import DataError
from ganserve_trainers.metrics import frechet
from ganserve_trainers.metrics.frechet import Gaussian


def random_covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    factor = rng.normal(size=(size, size))
    return factor @ factor.T


def test_one_dimension_is_the_difference_of_means_and_deviations():
    one = Gaussian(np.array([1.0]), np.array([[4.0]]))
    two = Gaussian(np.array([-2.0]), np.array([[25.0]]))
    assert frechet.distance(one, two) == pytest.approx((1 + 2) ** 2 + (2 - 5) ** 2)


def test_diagonal_covariances_add_up_over_dimensions():
    rng = np.random.default_rng(0)
    means, deviations = rng.normal(size=(2, 6)), rng.uniform(0.1, 3.0, size=(2, 6))
    one, two = (Gaussian(mean, np.diag(deviation**2)) for mean, deviation in zip(means, deviations, strict=True))
    expected = ((means[0] - means[1]) ** 2 + (deviations[0] - deviations[1]) ** 2).sum()
    assert frechet.distance(one, two) == pytest.approx(expected, rel=1e-12)


def test_equal_covariances_leave_the_distance_of_the_means():
    rng = np.random.default_rng(1)
    covariance, means = random_covariance(rng, 40), rng.normal(size=(2, 40))
    one, two = (Gaussian(mean, covariance) for mean in means)
    assert frechet.distance(one, two) == pytest.approx(((means[0] - means[1]) ** 2).sum(), rel=1e-10)


def test_covariances_that_do_not_commute_match_the_closed_form_of_two_dimensions():
    # The trace of the root of a 2x2 matrix M with non-negative eigenvalues is sqrt(tr M + 2 sqrt(det M)).
    one, two = np.array([[2.0, 1.2], [1.2, 1.0]]), np.array([[1.0, -0.7], [-0.7, 3.0]])
    product = one @ two
    assert not np.allclose(product, two @ one)
    expected = np.trace(one + two) - 2 * np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    assert frechet.distance(Gaussian(np.zeros(2), one), Gaussian(np.zeros(2), two)) == pytest.approx(expected)


def test_singular_covariances_stay_exact():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(20, 100)) * 50
    fitted = frechet.fit(features)
    assert np.linalg.matrix_rank(fitted.covariance) == 19
    assert frechet.distance(fitted, fitted) < 1e-6
    assert frechet.distance(fitted, frechet.fit(features + 3.0)) == pytest.approx(100 * 9.0, rel=1e-9)


def test_distance_is_symmetric_and_blind_to_rotation():
    rng = np.random.default_rng(3)
    one, two = rng.normal(size=(200, 8)) * np.arange(1, 9), rng.normal(size=(200, 8)) + 0.5
    rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    there = frechet.distance(frechet.fit(one), frechet.fit(two))
    assert there == pytest.approx(frechet.distance(frechet.fit(two), frechet.fit(one)), rel=1e-10)
    assert there == pytest.approx(frechet.distance(frechet.fit(one @ rotation), frechet.fit(two @ rotation)), rel=1e-10)


def test_fit_takes_the_mean_and_the_unbiased_covariance():
    fitted = frechet.fit(np.array([[0, 0], [2, 4], [4, 2]], np.uint8))
    np.testing.assert_allclose(fitted.mean, [2, 2])
    np.testing.assert_allclose(fitted.covariance, [[4, 2], [2, 4]])
    np.testing.assert_allclose(frechet.fit(np.array([[1.0], [3.0]])).covariance, [[2.0]])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((1, 3)), "at least 2 rows"),
        (np.zeros(3), r"shape \[3\]"),
        (np.array([[0.0, np.nan], [1.0, 2.0]]), "NaN"),
    ],
)
def test_features_that_fit_no_gaussian_are_refused(features: np.ndarray, message: str):
    with pytest.raises(DataError, match=message):
        frechet.fit(features)


def test_features_of_two_networks_are_refused():
    with pytest.raises(DataError, match="3 and of 4 dimensions"):
        frechet.distance(frechet.fit(np.eye(3)), frechet.fit(np.eye(4)))

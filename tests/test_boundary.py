"""Learned directions: they find the normal that made the labels, say honestly how well, and are the same every time."""

import numpy as np
import pytest

from ganserve.boundary import learn_boundary
from ganserve.errors import DataError

RNG = np.random.default_rng(1)


def labelled(normal, rows=400, noise=0.0, offset=0.0):
    latents = RNG.standard_normal((rows, len(normal))).astype(np.float32)
    labels = latents @ normal + offset + noise * RNG.standard_normal(rows) > 0
    return latents, labels


def cosine(a, b):
    return float(a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_normal_that_made_the_labels_is_found():
    normal = RNG.standard_normal(16)
    latents, labels = labelled(normal, 2000)
    found = learn_boundary(latents, labels)
    assert cosine(found.vector, normal) > 0.99
    assert found.accuracy > 0.97
    assert found.held_out == pytest.approx(400, abs=2)
    assert found.vector.dtype == np.float32


def test_it_is_one_standard_deviation_of_the_latents_long():
    normal = np.eye(3)[0]
    latents, labels = labelled(normal, 3000)
    latents *= np.float32([5, 1, 0.2])
    found = learn_boundary(latents, labels)
    unit = found.vector / np.linalg.norm(found.vector)
    assert np.linalg.norm(found.vector) == pytest.approx((latents @ unit).std(), rel=1e-5)
    assert np.linalg.norm(found.vector) == pytest.approx(5, rel=0.1)


def test_the_accuracy_is_that_of_samples_the_fit_has_not_seen():
    """Labels by chance: in as many dimensions as samples every plane parts those it was fitted to, and no other."""
    latents = RNG.standard_normal((300, 400)).astype(np.float32)
    labels = RNG.random(300) < 0.5
    found = learn_boundary(latents, labels)
    assert 0.25 < found.accuracy < 0.75


def test_noisy_and_lopsided_labels_still_give_the_normal():
    normal = RNG.standard_normal(8)
    normal /= np.linalg.norm(normal)
    latents, labels = labelled(normal, 4000, noise=0.5, offset=-1.0)
    assert 0.1 < labels.mean() < 0.3
    found = learn_boundary(latents, labels)
    assert cosine(found.vector, normal) > 0.97
    assert found.accuracy > 0.85


def test_the_fit_is_at_the_least_of_its_loss():
    """No small step from what was found lowers the penalised logistic loss of the samples that were fitted."""
    from ganserve.boundary import _SHRINKAGE, _fit

    latents, labels = labelled(np.ones(5), 200, noise=1.0)
    normal, offset = _fit(latents.astype(float), labels)

    def loss(weights, shift):
        sides = np.where(labels, 1, -1) * (latents @ weights + shift)
        return np.logaddexp(0, -sides).mean() + _SHRINKAGE * (weights**2).sum() / 2

    least = loss(normal, offset)
    for _ in range(50):
        step = RNG.standard_normal(6) * 1e-3
        assert loss(normal + step[:5], offset + step[5]) > least


def test_more_dimensions_than_samples_are_no_trouble_and_shapes_are_kept():
    normal = RNG.standard_normal((6, 512))
    latents = RNG.standard_normal((120, 6, 512)).astype(np.float32)
    labels = np.einsum("nij,ij->n", latents, normal) > 0
    found = learn_boundary(latents, labels)
    assert found.vector.shape == (6, 512)
    assert cosine(found.vector, normal) > 0.1


def test_the_same_samples_give_the_same_bits():
    latents, labels = labelled(np.ones(8), 100, noise=0.3)
    one, two = learn_boundary(latents, labels), learn_boundary(latents, labels)
    assert one.vector.tobytes() == two.vector.tobytes()
    assert one.accuracy == two.accuracy


def test_too_few_or_equal_samples_are_refused():
    latents, labels = labelled(np.ones(4), 50)
    with pytest.raises(DataError, match="0 samples are labelled with it, at least 5 are needed"):
        learn_boundary(latents, np.zeros(50, bool))
    with pytest.raises(DataError, match="4 samples are labelled without it"):
        learn_boundary(latents, np.arange(50) >= 4)
    with pytest.raises(DataError, match="all latents are equal"):
        learn_boundary(np.ones_like(latents), labels)

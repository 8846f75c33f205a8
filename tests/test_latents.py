"""The arithmetic of latents: walks, mixtures and sums, by their formulas and at their edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ganserve.serving.latents import combine, frames_of, interpolate, mix

Z = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
W = np.random.default_rng(2).standard_normal((4, 6, 8)).astype(np.float32)

FINITE = st.floats(-1e6, 1e6, width=32)


def between(a, b, part, walk="slerp", layers=False):
    return interpolate(np.stack([a, b]).astype(np.float32), [(0, part)], walk, layers=layers)[0]


def test_a_walk_has_frames_from_each_key_up_to_the_next_and_ends_on_the_last():
    assert frames_of(3, 2, loop=False) == [(0, 0.0), (0, 0.5), (1, 0.0), (1, 0.5), (2, 0.0)]
    assert frames_of(2, 1, loop=False) == [(0, 0.0), (1, 0.0)]


def test_a_loop_goes_on_to_the_first_key_without_repeating_it():
    assert frames_of(2, 2, loop=True) == [(0, 0.0), (0, 0.5), (1, 0.0), (1, 0.5)]
    walked = interpolate(Z[:2], frames_of(2, 4, loop=True), "lerp")
    np.testing.assert_array_equal(walked[5], between(Z[1], Z[0], 0.25, "lerp"))


@pytest.mark.parametrize("walk", ["lerp", "slerp"])
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize(("points", "layers"), [(Z, False), (W, True), (W, False)])
def test_the_frame_at_a_key_is_the_key_bit_for_bit(walk, loop, points, layers):
    walked = interpolate(points, frames_of(len(points), 7, loop=loop), walk, layers=layers)
    for number, point in enumerate(points):
        assert walked[7 * number].tobytes() == point.tobytes()
    assert walked.dtype == np.float32
    assert len(walked) == (7 * len(points) if loop else 7 * (len(points) - 1) + 1)


def test_lerp_is_a_straight_line():
    for part in (0.125, 0.5, 0.75):
        expected = (1 - part) * Z[0].astype(float) + part * Z[1].astype(float)
        np.testing.assert_allclose(between(Z[0], Z[1], part, "lerp"), expected, rtol=1e-6, atol=1e-7)


def angle(a, b):
    a, b = a.astype(float).ravel(), b.astype(float).ravel()
    return math.acos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))


def test_slerp_turns_evenly_and_its_length_goes_straight():
    whole = angle(Z[0], Z[1])
    lengths = np.linalg.norm(Z[0]), np.linalg.norm(Z[1])
    for part in np.linspace(0.05, 0.95, 19):
        found = between(Z[0], Z[1], part)
        assert angle(Z[0], found) == pytest.approx(part * whole, abs=1e-6)
        assert angle(found, Z[1]) == pytest.approx((1 - part) * whole, abs=1e-6)
        assert np.linalg.norm(found) == pytest.approx((1 - part) * lengths[0] + part * lengths[1], rel=1e-6)


def test_slerp_of_a_quarter_circle_is_known():
    found = between(np.array([2, 0]), np.array([0, 2]), 1 / 3)
    np.testing.assert_allclose(found, [2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)], rtol=1e-6)


def test_a_latent_with_layers_turns_layer_by_layer():
    layered = between(W[0], W[1], 0.3, layers=True)
    for layer in range(6):
        np.testing.assert_array_equal(layered[layer], between(W[0, layer], W[1, layer], 0.3))
    whole = between(W[0], W[1], 0.3)
    np.testing.assert_array_equal(whole.ravel(), between(W[0].ravel(), W[1].ravel(), 0.3))
    assert np.abs(whole - layered).max() > 1e-3


def test_layers_that_are_equal_stay_equal():
    one, two = (np.repeat(w[:1], 6, axis=0) for w in W[:2])
    found = between(one, two, 0.7, layers=True)
    assert (found == found[0]).all()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Z[0], Z[0]),
        (Z[0], 3 * Z[0]),
        (Z[0], Z[0] * np.float32(1 + 1e-7)),
        (Z[0], np.zeros(64)),
        (np.zeros(64), Z[0]),
        (np.zeros(64), np.zeros(64)),
        (np.array([2.0]), np.array([-3.0])),
    ],
)
def test_where_there_is_no_circle_slerp_is_straight(a, b):
    for part in (0.25, 0.5):
        np.testing.assert_allclose(between(a, b, part), between(a, b, part, "lerp"), rtol=1e-6, atol=1e-7)


def test_opposite_vectors_are_passed_at_full_length():
    for a, b in ((Z[0], -Z[0]), (Z[0], -2 * Z[0]), (np.array([1, 0]), np.array([-1, 0])), (Z[0], -Z[0] + 1e-9)):
        b = np.float32(b)
        path = [between(a, b, part) for part in (0.25, 0.5, 0.75)]
        for part, found in zip((0.25, 0.5, 0.75), path, strict=True):
            assert angle(np.float32(a), found) == pytest.approx(part * math.pi, abs=1e-5)
            length = (1 - part) * np.linalg.norm(a) + part * np.linalg.norm(b)
            assert np.linalg.norm(found) == pytest.approx(length, rel=1e-5)
        assert np.linalg.norm(path[2] - b) < 0.8 * np.linalg.norm(b - a)


def test_a_frame_does_not_depend_on_the_frames_beside_it():
    many = interpolate(Z, frames_of(5, 12, loop=True), "slerp")
    few = interpolate(Z, frames_of(5, 3, loop=True), "slerp")
    np.testing.assert_array_equal(many[::4], few)


@settings(max_examples=300, deadline=None)
@given(a=arrays(np.float32, 5, elements=FINITE), b=arrays(np.float32, 5, elements=FINITE), part=st.floats(0.01, 0.99))
def test_any_two_vectors_have_a_finite_way_between_them_no_longer_than_the_longer(a, b, part):
    for walk in ("lerp", "slerp"):
        found = between(a, b, part, walk).astype(float)
        assert np.isfinite(found).all()
        longest = max(np.linalg.norm(a.astype(float)), np.linalg.norm(b.astype(float)))
        assert np.linalg.norm(found) <= longest * (1 + 1e-5) + 1e-30


def test_a_mixture_has_the_layers_of_the_style_and_the_rest_of_the_base():
    found = mix(W, [0, 0, 1], [2, 3, 3], [1, 4])
    for row, (base, style) in enumerate([(0, 2), (0, 3), (1, 3)]):
        for layer in range(6):
            np.testing.assert_array_equal(found[row, layer], W[style if layer in (1, 4) else base, layer])


def test_all_layers_of_one_source_are_that_source():
    before = W.copy()
    assert mix(W, [0, 1], [2, 3], range(6)).tobytes() == W[2:].tobytes()
    assert mix(W, [0, 1], [0, 1], [3]).tobytes() == W[:2].tobytes()
    np.testing.assert_array_equal(W, before)


def test_a_sum_is_weighted():
    found = combine(Z[:3], [1, -1, 0.5])
    np.testing.assert_allclose(found[0], Z[0] - Z[1] + 0.5 * Z[2], rtol=1e-5, atol=1e-6)
    assert found.shape == (1, 64)
    assert combine(Z[:1], [1]).tobytes() == Z[0].tobytes()
    assert combine(W[:2], [0, 1]).tobytes() == W[1].tobytes()


def test_a_mean_is_divided_by_the_sum_of_the_weights():
    np.testing.assert_allclose(combine(Z[:2], [1, 3], "mean")[0], 0.25 * Z[0] + 0.75 * Z[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="add up to 0"):
        combine(Z[:2], [0.1 + 0.2, -0.3 - 5.551115123125783e-17], "mean")


def test_a_length_is_the_mean_of_the_points_lengths():
    found = combine(Z[:3], [1, -1, 1], "length")[0]
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(Z[:3], axis=1).mean(), rel=1e-6)
    assert angle(found, combine(Z[:3], [1, -1, 1])[0]) < 1e-6
    layered = combine(W[:2], [1, 1], "length", layers=True)[0]
    np.testing.assert_allclose(np.linalg.norm(layered, axis=1), np.linalg.norm(W[:2], axis=2).mean(axis=0), rtol=1e-5)


def test_a_sum_that_is_0_or_too_large_is_refused():
    with pytest.raises(ValueError, match="has no direction"):
        combine(Z[:1].repeat(2, axis=0), [1, -1], "length")
    with pytest.raises(ValueError, match="too large for float32"):
        combine(1e34 * Z[:2], [1e6, 1e6])

import numpy as np
import pytest
from PIL import Image

from ganserve.codecs import Frame
from ganserve.codecs.frame import put_back


def speckle(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def test_without_cut_and_size_a_result_is_left_as_it_is() -> None:
    result = speckle(16, 24, 3)
    assert put_back(result, Frame(canvas=(24, 16), box=(2, 2, 20, 10), sent=(9, 4))) is result
    whole = Frame(canvas=(24, 16), box=(0, 0, 24, 16), size=(24, 16), sent=(24, 16))
    assert put_back(result, whole) is result


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_border_is_cut_away(channels: int) -> None:
    result = speckle(16, 24, channels)
    frame = Frame(canvas=(24, 16), box=(0, 0, 23, 13), cut=True, sent=(23, 13))
    assert np.array_equal(put_back(result, frame), result[:13, :23])


@pytest.mark.parametrize(("scale", "shape"), [(4, (52, 92)), (2, (26, 46)), (0.5, (6, 12))])
def test_the_box_scales_with_a_result_that_is_larger_or_smaller_than_the_canvas(
    scale: float, shape: tuple[int, int]
) -> None:
    result = speckle(int(16 * scale), int(24 * scale), 3)
    frame = Frame(canvas=(24, 16), box=(0, 0, 23, 13), cut=True, sent=(23, 13))
    assert put_back(result, frame).shape[:2] == shape
    assert np.array_equal(put_back(result, frame), result[: shape[0], : shape[1]])


def test_of_a_tiny_result_one_pixel_is_left() -> None:
    frame = Frame(canvas=(64, 64), box=(60, 0, 63, 1), cut=True, sent=(3, 1))
    result = speckle(4, 4, 3)
    assert np.array_equal(put_back(result, frame), result[:1, 3:])


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_result_is_restored_to_the_size_that_was_sent(channels: int, mode: str) -> None:
    result = speckle(32, 32, channels)
    frame = Frame(canvas=(32, 32), box=(0, 8, 32, 24), cut=True, size=(50, 25), sent=(50, 25))
    restored = put_back(result, frame)
    assert restored.shape == (25, 50, channels)
    inside = np.ascontiguousarray(result[8:24])
    image = Image.fromarray(inside[:, :, 0] if channels == 1 else inside)
    assert image.mode == mode
    expected = np.asarray(image.resize((50, 25), Image.Resampling.LANCZOS)).reshape(25, 50, channels)
    assert np.array_equal(restored, expected)


def test_bars_leave_no_trace_in_what_is_restored() -> None:
    result = np.zeros((32, 32, 3), np.uint8)
    result[8:24] = 200
    frame = Frame(canvas=(32, 32), box=(0, 8, 32, 24), cut=True, size=(64, 32), sent=(64, 32))
    assert put_back(result, frame).min() == put_back(result, frame).max() == 200

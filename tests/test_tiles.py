"""Tiles: how a grid is laid, and that what is put together from tiles equals what is made of the whole."""

import random

import numpy as np
import pytest

from ganserve.errors import EngineError
from ganserve.serving.runner import Piece
from ganserve.serving.tiles import Grid, Tiling, lay


def mosaic(images: np.ndarray, radius: int, multiple: int) -> np.ndarray:
    """A network in numpy: each pixel the sum of those up to ``radius`` away, zeros outside, and of the cell of ``multiple`` that it is in."""
    padded = np.pad(images.astype(np.int64), ((0, 0), (radius, radius), (radius, radius), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1, 2 * radius + 1), (1, 2))
    count, height, width, channels = images.shape
    cells = images.reshape(count, height // multiple, multiple, width // multiple, multiple, channels)
    means = cells.sum((2, 4), dtype=np.int64).repeat(multiple, 1).repeat(multiple, 2)
    return windows.sum((-2, -1)) + means


def run(tiling: Tiling, image: np.ndarray, radius: int, multiple: int, rng: random.Random) -> np.ndarray:
    """``image`` [1, H, W, C] through :func:`mosaic` in tiles, which come back in any order and grouping."""
    tiles = tiling.rows({"image": image})["image"]
    order = list(range(len(tiles)))
    rng.shuffle(order)
    whole = None
    while order:
        rows = np.array([order.pop() for _ in range(min(len(order), rng.randint(1, 3)))])
        assert whole is None
        whole = tiling.add(Piece(rows, {"result": mosaic(tiles[rows], radius, multiple)}), {"image": image})
    assert whole is not None
    assert whole.rows.tolist() == [0]
    assert whole.tensors["image"] is image
    return whole.tensors["result"]


def check(grid: Grid, height: int, width: int, radius: int, multiple: int, most_pixels: int) -> None:
    """Every promise of a grid, pixel by pixel."""
    assert grid.down.size * grid.across.size <= most_pixels
    covered = np.zeros((height, width), np.int64)
    for tile in range(grid.tiles):
        spans = []
        for axis, number in grid.axes(tile):
            start, (low, high) = axis.start(number), axis.kept(number)
            assert axis.size % multiple == start % multiple == 0
            assert start >= 0
            assert start + axis.size <= axis.whole
            assert low == 0 if number == 0 else low - start >= radius
            assert high == axis.whole if number == axis.count - 1 else start + axis.size - high >= radius
            spans.append(slice(low, high))
        covered[tuple(spans)] += 1
    assert (covered == 1).all()


def test_tiles_keep_every_promise_and_give_what_the_whole_gives() -> None:
    rng = random.Random(5)
    laid = 0
    for _ in range(150):
        multiple, radius = rng.choice([1, 2, 3, 4, 8]), rng.randint(0, 5)
        height, width = (multiple * rng.randint(1, 64 // multiple) for _ in range(2))
        # A pixel sees its whole cell, so the network's radius is at least the cell's.
        reach = max(radius, multiple - 1)
        most = rng.randint(multiple**2, height * width + 10)
        grid = lay(height, width, radius=reach, multiple=multiple, most_pixels=most)
        if grid is None:
            continue
        laid += 1
        check(grid, height, width, reach, multiple, most)
        image = np.random.default_rng(laid).integers(0, 256, (1, height, width, 2), dtype=np.uint8)
        tiling = Tiling(grid, frozenset({"image"}), ("result",))
        assert (run(tiling, image, radius, multiple, rng) == mosaic(image, radius, multiple)).all()
    assert laid > 60


def test_too_little_overlap_would_show() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 1), dtype=np.uint8)
    grid = lay(32, 32, radius=1, multiple=1, most_pixels=200)
    assert grid is not None
    made = run(Tiling(grid, frozenset({"image"}), ("result",)), image, 2, 1, random.Random(0))
    assert (made != mosaic(image, 2, 1)).any()


@pytest.mark.parametrize(
    ("height", "width", "radius", "multiple", "most", "overhead"),
    [
        (2160, 3840, 8, 4, 1 << 22, 1.02),
        (2160, 3840, 30, 4, 1 << 20, 1.15),
        (4000, 6000, 96, 32, 1 << 22, 1.25),
        (64, 100_000, 8, 4, 1 << 20, 1.02),
    ],
)
def test_little_is_computed_twice(
    height: int, width: int, radius: int, multiple: int, most: int, overhead: float
) -> None:
    grid = lay(height, width, radius=radius, multiple=multiple, most_pixels=most)
    assert grid is not None
    assert grid.tiles * grid.down.size * grid.across.size <= overhead * height * width


def test_a_picture_that_fits_is_one_tile_and_a_radius_that_no_tile_holds_has_no_grid() -> None:
    grid = lay(40, 60, radius=9, multiple=4, most_pixels=2400)
    assert grid is not None
    assert (grid.tiles, grid.down.size, grid.across.size) == (1, 40, 60)
    assert lay(400, 600, radius=9, multiple=4, most_pixels=500) is None


def test_a_result_of_another_scale_lies_where_it_belongs() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 24, 36, 3), dtype=np.uint8)
    grid = lay(24, 36, radius=1, multiple=4, most_pixels=300)
    assert grid is not None
    for scale in (2, 4):
        tiling = Tiling(grid, frozenset({"image"}), ("larger", "smaller"))
        tiles = tiling.rows({"image": image})["image"]
        made = {"larger": tiles.repeat(scale, 1).repeat(scale, 2), "smaller": tiles[:, ::scale, ::scale]}
        whole = tiling.add(Piece(np.arange(grid.tiles), made), {})
        assert whole is not None
        assert (whole.tensors["larger"] == image.repeat(scale, 1).repeat(scale, 2)).all()
        assert (whole.tensors["smaller"] == image[:, ::scale, ::scale]).all()


def test_a_graph_whose_result_is_no_picture_of_its_input_is_an_engines_fault() -> None:
    grid = lay(24, 36, radius=1, multiple=4, most_pixels=300)
    assert grid is not None
    tiling = Tiling(grid, frozenset({"image"}), ("result",))
    with pytest.raises(EngineError, match="'result' ends between two pixels"):
        tiling.add(Piece(np.arange(1), {"result": np.zeros((1, 7, 5, 3), np.uint8)}), {})


def test_other_tensors_go_to_every_tile() -> None:
    grid = lay(24, 36, radius=1, multiple=4, most_pixels=300)
    assert grid is not None
    rows = Tiling(grid, frozenset({"image"}), ("result",)).rows(
        {"image": np.zeros((1, 24, 36, 3), np.uint8), "weight": np.array([0.25], np.float32)}
    )
    assert rows["weight"].tolist() == [0.25] * grid.tiles
    assert len(rows["image"]) == grid.tiles

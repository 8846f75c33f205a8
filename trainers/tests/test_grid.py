from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ganserve_trainers.grid import as_grid, save_grid, to_uint8


def test_minus_one_is_black_and_one_is_white() -> None:
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).reshape(5, 1, 1, 1)
    assert to_uint8(images).flatten().tolist() == [0, 0, 128, 255, 255]


def test_images_lie_row_by_row() -> None:
    images = torch.linspace(-1, 1, 5).reshape(5, 1, 1, 1).expand(5, 3, 2, 2)
    grid = np.asarray(as_grid(images))
    assert grid.shape == (4, 6, 3)
    assert grid[::2, ::2, 0].tolist() == [[0, 64, 128], [191, 255, 0]]


def test_groups_of_images_stay_side_by_side() -> None:
    images = torch.linspace(-1, 1, 12).reshape(12, 1, 1, 1)
    assert np.asarray(as_grid(images, group=3)).shape == (2, 6)
    assert np.asarray(as_grid(images[:9], group=3)).tolist() == [[0, 23, 46], [70, 93, 116], [139, 162, 185]]


def test_a_grey_grid_is_saved_whole(tmp_path: Path) -> None:
    save_grid(torch.zeros(4, 1, 3, 3), tmp_path / "samples" / "a.png")
    with Image.open(tmp_path / "samples" / "a.png") as image:
        assert (image.mode, image.size) == ("L", (6, 6))
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["a.png"]

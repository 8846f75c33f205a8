"""DiffAugment: what each augmentation keeps, that rows differ, that gradients pass."""

import pytest
import torch
from torch import Tensor

from ganserve.errors import TrainingError
from ganserve_trainers.augment import AUGMENTATIONS, augment, brightness, contrast, cutout, saturation, translation
from ganserve_trainers.recipe import Source


def source(rows: int, rank: int = 0, world: int = 1) -> Source:
    return Source(torch.Generator().manual_seed(7), rows, rank, world)


def images(rows: int, channels: int = 3, size: int = 16) -> Tensor:
    return torch.rand(rows, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_an_empty_policy_changes_nothing() -> None:
    assert augment(images(2), source(2), ()).equal(images(2))


def test_policies_are_applied_in_order() -> None:
    both = source(4)
    expected = cutout(translation(images(4), both), both)
    assert augment(images(4), source(4), ("translation", "cutout")).equal(expected)


def test_an_unknown_augmentation_names_the_known_ones() -> None:
    with pytest.raises(
        TrainingError, match="there is no augmentation 'flip': choose one of color, cutout, translation"
    ):
        augment(images(1), source(1), ("flip",))


def test_brightness_adds_one_number_to_an_image() -> None:
    added = brightness(images(64), source(64)) - images(64)
    each = added.mean((1, 2, 3))
    torch.testing.assert_close(added, each.view(-1, 1, 1, 1).expand_as(added), rtol=0, atol=1e-6)
    assert each.min() >= -0.5
    assert each.max() < 0.5
    assert each.unique().numel() == 64


def test_saturation_keeps_grey_and_scales_colour() -> None:
    grey = images(4, channels=1).expand(-1, 3, -1, -1)
    torch.testing.assert_close(saturation(grey, source(4)), grey)
    changed = saturation(images(4), source(4))
    torch.testing.assert_close(changed.mean(1), images(4).mean(1))
    factor = (changed - changed.mean(1, keepdim=True)).flatten(1).norm(dim=1) / (
        images(4) - images(4).mean(1, keepdim=True)
    ).flatten(1).norm(dim=1)
    torch.testing.assert_close(factor, source(4).uniform(low=0, high=2))


def test_contrast_keeps_the_mean_and_scales_the_spread() -> None:
    changed = contrast(images(4), source(4))
    torch.testing.assert_close(changed.mean((1, 2, 3)), images(4).mean((1, 2, 3)))
    factor = changed.std((1, 2, 3)) / images(4).std((1, 2, 3))
    torch.testing.assert_close(factor, source(4).uniform(low=0.5, high=1.5))


def test_translation_moves_whole_images_by_up_to_an_eighth() -> None:
    """Every moved image is found again by the one shift that explains it, with grey where nothing came in."""
    original, moved = images(200), translation(images(200), source(200))
    shifts = set()
    for before, after in zip(original, moved, strict=True):
        padded = torch.nn.functional.pad(before, (2, 2, 2, 2))
        found = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if padded[:, 2 - down : 18 - down, 2 - right : 18 - right].equal(after)
        ]
        assert len(found) == 1
        shifts.update(found)
    assert len(shifts) == 25  # every shift from -2 to 2 in both directions occurs


def test_cutout_hides_one_window_of_half_the_size() -> None:
    hidden = cutout(torch.ones(500, 2, 16, 16), source(500)) == 0
    assert (hidden[:, 0] == hidden[:, 1]).all()
    for mask in hidden[:, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.equal(rows[:, None] & columns[None, :])
        for line in (rows, columns):
            places = line.nonzero().flatten()
            assert 4 <= len(places) <= 8  # cut by the edge at most to its half
            assert places[-1] - places[0] == len(places) - 1
    assert hidden[:, 0].any(0).all()  # no pixel is always spared


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_augmentations_are_differentiable(name: str) -> None:
    """The generator learns through them: all but what was cut away has a gradient that finite differences confirm."""
    start = images(2, size=8).double().requires_grad_()
    weight = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(
        lambda values: (AUGMENTATIONS[name](values, source(2)) * weight).sum(), start, atol=1e-6
    )
    (gradient,) = torch.autograd.grad((AUGMENTATIONS[name](start, source(2)) * weight).sum(), start)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_two_processes_see_what_one_with_twice_the_batch_sees(name: str) -> None:
    whole = AUGMENTATIONS[name](images(8), source(8))
    halves = [AUGMENTATIONS[name](images(8)[rank * 4 : rank * 4 + 4], source(4, rank, 2)) for rank in (0, 1)]
    assert torch.cat(halves).equal(whole)

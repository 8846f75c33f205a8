"""ADA: every transformation against its equation, exact identities, gradients of gradients, and the way p follows overfitting."""

import math
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganserve.errors import TrainingError
from ganserve_trainers import ada_color, ada_geometry
from ganserve_trainers.ada import CLASSES, AdaptiveAugmentation
from ganserve_trainers.ada_color import recolor
from ganserve_trainers.ada_draws import Draws
from ganserve_trainers.ada_geometry import Transformation, rotate, scale, translate
from ganserve_trainers.ada_resample import SYM6, copy, resample, transform
from ganserve_trainers.losses import LOSSES
from ganserve_trainers.recipe import Source


def source(rows: int, rank: int = 0, world: int = 1) -> Source:
    return Source(torch.Generator().manual_seed(7), rows, rank, world)


def images(rows: int, channels: int = 3, height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(rows, channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def moved(pictures: Tensor, transformation: Transformation, p: float = 1.0) -> Tensor:
    height, width = pictures.shape[2:]
    return transform(pictures, transformation(Draws(source(len(pictures)), p), (height, width)))


def recolored(pictures: Tensor, transformation: Transformation) -> Tensor:
    return recolor(pictures, transformation(Draws(source(len(pictures)), 1.0), (16, 16)))


def each(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1)


# --- Pixel blitting ---------------------------------------------------------------------------------------------------


def test_without_augmentation_images_are_untouched() -> None:
    for classes in (("blit", "geometry", "color"), ()):
        assert AdaptiveAugmentation(classes)(images(4), source(4)).equal(images(4))


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (9, 5)])
def test_x_flip_mirrors_half_of_the_images_exactly(size: tuple[int, int]) -> None:
    before = images(20, 3, *size)
    flipped = source(20).uniform(high=2).floor() == 1
    assert 0 < flipped.sum() < 20
    expected = np.where(flipped[:, None, None, None], before.numpy()[..., ::-1], before.numpy())
    assert np.array_equal(moved(before, ada_geometry.x_flip).numpy(), expected)


def test_quarter_turns_are_exact() -> None:
    before = images(20)
    turns = source(20).uniform(high=4).floor()
    expected = [np.rot90(image, int(turn), axes=(1, 2)) for image, turn in zip(before.numpy(), turns, strict=True)]
    assert set(turns.tolist()) == {0, 1, 2, 3}
    assert np.array_equal(moved(before, ada_geometry.quarter_turns).numpy(), np.stack(expected))


@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
def test_whole_translation_reflects_at_the_edges(size: tuple[int, int]) -> None:
    before = images(20, 3, *size)
    shifts = (source(20).uniform(2, low=-0.125, high=0.125) * torch.tensor(size[::-1])).round().int()
    for image, (right, down), result in zip(
        before.numpy(), shifts.tolist(), moved(before, ada_geometry.whole_translation).numpy(), strict=True
    ):
        margin = 5
        padded = np.pad(image, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
        top, left = margin - down, margin - right
        assert np.array_equal(result, padded[:, top : top + size[0], left : left + size[1]])
    assert len(shifts.unique(dim=0)) > 5


def test_angles_turn_from_x_to_y() -> None:
    quarter = rotate(torch.tensor([math.pi / 2], dtype=torch.float64))[0]
    torch.testing.assert_close(quarter @ torch.tensor([1.0, 0, 1]).double(), torch.tensor([0.0, 1, 1]).double())


# --- Resampling -------------------------------------------------------------------------------------------------------


def test_the_filter_is_sym6() -> None:
    """Orthonormal to its even shifts, with six vanishing moments: what defines the wavelets of this length."""
    taps = np.array(SYM6)
    assert taps.sum() == pytest.approx(math.sqrt(2), abs=1e-12)
    for shift in range(6):
        assert taps[2 * shift :] @ taps[: 12 - 2 * shift] == pytest.approx(float(shift == 0), abs=1e-11)
    for moment in range(6):
        assert (taps * (-1.0) ** np.arange(12) * (np.arange(12) - 5.5) ** moment).sum() == pytest.approx(0, abs=1e-8)
    # Of those it is the least asymmetric: reversed, it nearly falls on itself (0.965; the next best 0.958).
    assert np.correlate(taps, taps[::-1], "full").max() > 0.96


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-40, 75), (1000, -1001)])
def test_resampling_by_whole_pixels_is_exact_however_far(shift: tuple[int, int]) -> None:
    before = images(2, 3, 12, 20).double()
    right, down = torch.tensor(shift, dtype=torch.float64).expand(2, 2).unbind(1)
    lookups = translate(right, down)
    torch.testing.assert_close(resample(before, lookups), copy(before, lookups), rtol=0, atol=1e-10)
    torch.testing.assert_close(resample(before.float(), lookups), copy(before, lookups).float(), rtol=0, atol=2e-4)


HEIGHT, WIDTH = 48, 56


def waves(y: Tensor, x: Tensor) -> Tensor:
    """A smooth picture whose endless reflection is the same function; x and y in pixels from the centre."""
    x, y = (x + (WIDTH - 1) / 2) * math.pi / (WIDTH - 1), (y + (HEIGHT - 1) / 2) * math.pi / (HEIGHT - 1)
    return 0.5 * x.cos() * (2 * y).cos() + 0.3 * (3 * x).cos() + 0.2 * y.cos()


def seen(lookups: Tensor) -> Tensor:
    """:func:`waves` seen through ``lookups`` [n, 3, 3], which map from where it is shown to where it is taken."""
    y, x = (torch.arange(size).double() - (size - 1) / 2 for size in (HEIGHT, WIDTH))
    y, x = torch.meshgrid(y, x, indexing="ij")
    places = lookups @ torch.stack((x, y, torch.ones_like(x))).flatten(1)
    return waves(places[:, 1], places[:, 0]).view(-1, 1, HEIGHT, WIDTH)


def parameters(transformation: Transformation, numbers: Source) -> Tensor:
    """The inverse of what ``transformation`` does at p = 1, written by hand from figure 10 and the next numbers."""
    rows, octave = numbers.rows, math.log(2)
    inverse = torch.eye(3, dtype=torch.float64).repeat(rows, 1, 1)
    if transformation is ada_geometry.isotropic_scaling:
        inverse[:, 0, 0] = inverse[:, 1, 1] = torch.exp(-0.2 * octave * numbers.normal().double())
    elif transformation is ada_geometry.anisotropic_scaling:
        s = torch.exp(0.2 * octave * numbers.normal().double())
        inverse[:, 0, 0], inverse[:, 1, 1] = 1 / s, s
    elif transformation is ada_geometry.rotation:
        theta = -numbers.uniform(low=-math.pi, high=math.pi).double()
        inverse[:, 0, 0], inverse[:, 0, 1] = theta.cos(), theta.sin()
        inverse[:, 1, 0], inverse[:, 1, 1] = -theta.sin(), theta.cos()
    else:
        assert transformation is ada_geometry.fractional_translation
        inverse[:, :2, 2] = -0.125 * torch.tensor([WIDTH, HEIGHT]) * numbers.normal(2)
    return inverse


@pytest.mark.parametrize("transformation", list(dict.fromkeys(ada_geometry.GEOMETRY)))
def test_general_transformations_of_a_smooth_picture_are_the_transformed_function(
    transformation: Transformation,
) -> None:
    """Everywhere: what comes in over the edges is the reflection."""
    before = seen(torch.eye(3, dtype=torch.float64).repeat(16, 1, 1))
    expected = seen(parameters(transformation, source(16)))
    assert (before - expected).abs().amax((1, 2, 3)).median() > 0.1  # it does something
    torch.testing.assert_close(moved(before, transformation), expected, rtol=0, atol=3e-3)


def test_reflection_has_no_end() -> None:
    small = torch.tensor([0.3], dtype=torch.float64)
    matrices = translate(200 * small, -300 * small) @ scale(small, 1.5 * small) @ rotate(small)
    before = seen(torch.eye(3, dtype=torch.float64)[None])
    torch.testing.assert_close(transform(before, matrices), seen(matrices.inverse()), rtol=0, atol=2e-2)


def test_transformations_are_applied_in_the_paper_s_order() -> None:
    order = (
        ada_geometry.x_flip,
        ada_geometry.quarter_turns,
        ada_geometry.whole_translation,
        ada_geometry.isotropic_scaling,
        ada_geometry.rotation,
        ada_geometry.anisotropic_scaling,
        ada_geometry.rotation,
        ada_geometry.fractional_translation,
    )
    draws = Draws(source(6), 1.0)
    matrices = [transformation(draws, (HEIGHT, WIDTH)) for transformation in order]
    before = seen(torch.eye(3, dtype=torch.float64).repeat(6, 1, 1))
    expected = seen(
        torch.stack([torch.linalg.multi_dot(list(reversed(row))) for row in zip(*matrices, strict=True)]).inverse()
    )
    for classes in (("blit", "geometry"), ("geometry", "blit")):
        after = AdaptiveAugmentation(classes, initial=1.0)(before, source(6))
        torch.testing.assert_close(after, expected, rtol=0, atol=5e-3)


def test_shift_is_blitting_that_leaves_pictures_upright() -> None:
    """Every picture is moved by whole pixels, up to an eighth of its sides, and neither turned nor mirrored."""
    before = torch.zeros(64, 1, 16, 16)
    before[:, :, 8, 8], before[:, :, 8, 9] = 1.0, 0.5
    after = AdaptiveAugmentation(("shift",), initial=1.0)(before, source(64))
    places = after.flatten(1).argmax(1)
    x, y = places % 16 - 8, places // 16 - 8
    assert x.abs().max() == y.abs().max() == 2
    expected = torch.stack(
        [row.roll((int(down), int(right)), (1, 2)) for row, right, down in zip(before, x, y, strict=True)]
    )
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-3)


def test_stretch_leaves_pictures_upright_and_in_their_places() -> None:
    """A bar in the middle stays symmetric left and right, up and down; it becomes longer or shorter, thicker or thinner."""
    before = torch.zeros(64, 1, 32, 32)
    before[:, :, 12:20, 8:24] = 1.0
    after = AdaptiveAugmentation(("stretch",), initial=1.0)(before, source(64))
    for side in (2, 3):  # the wavelet is not quite symmetric; of a bar that was turned or moved, pixels differ by 1
        torch.testing.assert_close(after, after.flip(side), rtol=0, atol=0.2)
    lengths, widths = after[:, 0, 16].sum(1), after[:, 0, :, 16].sum(1)
    for sizes, size in ((lengths, 16), (widths, 8)):
        assert sizes.min() < 0.85 * size
        assert sizes.max() > 1.15 * size
    # Both kinds of scaling: the area changes, and the ratio of the sides.
    for relative in (lengths * widths / 128, lengths / widths / 2):
        assert relative.log().std() > 0.1


# --- Colour -----------------------------------------------------------------------------------------------------------


def test_brightness_adds() -> None:
    added = each(source(8).normal() * 0.2)
    torch.testing.assert_close(recolored(images(8), ada_color.brightness), images(8) + added)
    torch.testing.assert_close(recolored(images(8, 1), ada_color.brightness), images(8, 1) + added)


def test_contrast_multiplies() -> None:
    factor = each((source(8).normal() * 0.5 * math.log(2)).exp())
    torch.testing.assert_close(recolored(images(8), ada_color.contrast), images(8) * factor)
    torch.testing.assert_close(recolored(images(8, 1), ada_color.contrast), images(8, 1) * factor)


def test_luma_flip_negates_the_mean_and_keeps_the_rest() -> None:
    flips = each(source(8).uniform(high=2).floor())
    assert 0 < flips.sum() < 8
    expected = images(8) - 2 * flips * images(8).mean(1, keepdim=True)
    torch.testing.assert_close(recolored(images(8), ada_color.luma_flip), expected)
    torch.testing.assert_close(recolored(images(8, 1), ada_color.luma_flip), images(8, 1) * (1 - 2 * flips))


def test_hue_rotation_turns_about_the_grey_axis() -> None:
    theta = each(source(8).uniform(low=-math.pi, high=math.pi))
    red, green, blue = images(8).split(1, dim=1)
    a = theta.cos() + (1 - theta.cos()) / 3
    b = (1 - theta.cos()) / 3 - theta.sin() / math.sqrt(3)
    c = (1 - theta.cos()) / 3 + theta.sin() / math.sqrt(3)
    rows = (a * red + b * green + c * blue, c * red + a * green + b * blue, b * red + c * green + a * blue)
    torch.testing.assert_close(recolored(images(8), ada_color.hue_rotation), torch.cat(rows, dim=1))
    torch.testing.assert_close(recolored(images(8, 1), ada_color.hue_rotation), images(8, 1))


def test_saturation_scales_the_distance_from_grey() -> None:
    factor = each((source(8).normal() * math.log(2)).exp())
    grey = images(8).mean(1, keepdim=True)
    torch.testing.assert_close(recolored(images(8), ada_color.saturation), grey + factor * (images(8) - grey))
    torch.testing.assert_close(recolored(images(8, 1), ada_color.saturation), images(8, 1))


def test_grey_images_are_augmented_as_color_images_of_equal_channels() -> None:
    augment = AdaptiveAugmentation(initial=0.8)
    grey = augment(images(16, 1), source(16))
    color = augment(images(16, 1).expand(-1, 3, -1, -1), source(16))
    torch.testing.assert_close(grey.expand(-1, 3, -1, -1), color, rtol=0, atol=1e-5)


# --- Probability ------------------------------------------------------------------------------------------------------

SHARES = {
    ada_geometry.x_flip: 1 / 2,
    ada_geometry.quarter_turns: 3 / 4,
    ada_geometry.whole_translation: 255 / 256,  # of 64 pixels: rounds to 0 in a sixteenth of the cases, in x and y
    ada_color.luma_flip: 1 / 2,
}
"""How often a transformation that is applied is not the identity, where that is not always."""


@pytest.mark.parametrize("p", [0.1, 0.6, 1.0])
@pytest.mark.parametrize("name", sorted(CLASSES))
def test_each_transformation_is_applied_with_probability_p(name: str, p: float) -> None:
    rows = 20_000
    numbers = source(rows)
    for transformation in dict.fromkeys(CLASSES[name]):
        expected = SHARES.get(transformation, 1.0) * p
        matrices = transformation(Draws(numbers, p), (64, 64))
        if transformation is ada_geometry.rotation:  # before or after the anisotropic scaling
            matrices = torch.cat((matrices, transformation(Draws(numbers, p), (64, 64))), dim=2)
        plain = torch.eye(len(matrices[0]), dtype=torch.float64).repeat(1, matrices.shape[2] // matrices.shape[1])
        count = ((matrices - plain).abs().amax((1, 2)) > 1e-9).sum().item()
        # The squared deviation over its variance is chi-square distributed: beyond 16 once in 16,000 cases.
        assert (count - rows * expected) ** 2 <= 16 * max(rows * expected * (1 - expected), 1e-6)


def test_each_row_draws_its_own_numbers() -> None:
    same = images(1).expand(32, -1, -1, -1)
    assert len(AdaptiveAugmentation(initial=1.0)(same, source(32)).flatten(1).unique(dim=0)) == 32


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_two_processes_see_what_one_with_twice_the_batch_sees(p: float, channels: int) -> None:
    augment = AdaptiveAugmentation(initial=p)
    whole = augment(images(8, channels), source(8))
    parts = images(8, channels).split(4)
    halves = [augment(part, source(4, rank, 2)) for rank, part in enumerate(parts)]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=0, atol=1e-6)
    assert not whole.equal(images(8, channels))


# --- Gradients and precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_augmentations_are_differentiable_twice(name: str) -> None:
    """Generators learn through them, and gradient penalties differentiate that gradient again."""
    augment = AdaptiveAugmentation((name,), initial=1.0)
    start = images(2, 3, 4, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: augment(values, source(2)), start)
    assert torch.autograd.gradgradcheck(lambda values: augment(values, source(2)).pow(3), start, fast_mode=True)
    (gradient,) = torch.autograd.grad(augment(start, source(2)).square().sum(), start)
    assert (gradient.abs().sum((1, 2, 3)) > 0).all()


def test_autocast_changes_nothing() -> None:
    augment = AdaptiveAugmentation(initial=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = augment(images(4), source(4))
    outside = augment(images(4), source(4))
    assert inside.equal(outside)
    reduced = augment(images(4).bfloat16(), source(4))
    assert reduced.dtype == torch.bfloat16
    torch.testing.assert_close(reduced.float(), augment(images(4).bfloat16().float(), source(4)), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_smallest_images_and_every_memory_layout_are_augmented(layout: torch.memory_format) -> None:
    for size in ((2, 2), (2, 9), (8, 8)):
        before = images(8, 3, *size)
        augmented = AdaptiveAugmentation(initial=1.0)(before.contiguous(memory_format=layout), source(8))
        assert augmented.shape == before.shape
        assert augmented.isfinite().all()
        torch.testing.assert_close(augmented, AdaptiveAugmentation(initial=1.0)(before, source(8)))


# --- Adaptation -------------------------------------------------------------------------------------------------------


def test_p_moves_by_the_images_seen_at_every_fourth_update() -> None:
    augment = AdaptiveAugmentation(kimg=10)
    for update in range(1, 13):
        augment.adapt(torch.ones(16, 1))
        assert augment.p.item() == pytest.approx(update // 4 * 64 / 10_000, rel=1e-6)
    for update in range(1, 9):
        augment.adapt(torch.full((8,), -0.1))
        assert augment.p.item() == pytest.approx((3 * 64 - update // 4 * 32) / 10_000, rel=1e-6)


def test_p_stays_in_its_range() -> None:
    augment = AdaptiveAugmentation(kimg=0.05, every=1, initial=0.9)
    augment.adapt(torch.ones(16))
    assert augment.p.item() == 1
    for _ in range(10):
        augment.adapt(-torch.ones(16))
    assert augment.p.item() == 0


@pytest.mark.parametrize(("positive", "direction"), [(15, 0), (14, -1), (16, 1)])
def test_p_is_steered_by_the_share_of_positive_logits_to_the_target(positive: int, direction: int) -> None:
    """15 of 20 positive logits are r_t = 0.5, however large they are, and however they spread over the updates."""
    logits = torch.cat((torch.linspace(1, 2, positive), torch.linspace(-900, -1, 20 - positive)))
    augment = AdaptiveAugmentation(target=0.5, kimg=1, every=4, initial=0.5)
    for part in logits.split(5):
        augment.adapt(part)
    assert augment.p.item() == pytest.approx(0.5 + direction * 0.02, rel=1e-6)


def test_an_image_with_many_logits_counts_once() -> None:
    """A discriminator of patches says many logits of an image: r_t is their mean, and p moves no faster."""
    augment = AdaptiveAugmentation(kimg=1, every=1)
    augment.adapt(torch.ones(10, 1, 6, 6, requires_grad=True))
    assert augment.p.item() == pytest.approx(0.01)


def test_without_a_speed_p_is_fixed() -> None:
    augment = AdaptiveAugmentation(kimg=math.inf, every=1, initial=0.25)
    augment.adapt(torch.ones(16))
    assert augment.p.item() == 0.25


def test_p_rises_where_a_discriminator_overfits_and_stays_low_where_it_cannot() -> None:
    """Real and generated images are the same noise: a discriminator can only know the real ones by heart, if there are few."""

    def final(few: bool) -> float:
        torch.manual_seed(0)
        numbers = torch.Generator().manual_seed(3)
        discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1))
        optimizer = torch.optim.Adam(discriminator.parameters(), 5e-3)
        augment = AdaptiveAugmentation(("blit",), kimg=3)
        known = torch.randn(16, 1, 8, 8, generator=numbers)
        for step in range(160):
            real = known if few else torch.randn(16, 1, 8, 8, generator=numbers)
            fake = torch.randn(16, 1, 8, 8, generator=numbers)
            draws = Source(torch.Generator().manual_seed(step), 16)
            real_logits = discriminator(augment(real, draws))
            loss = LOSSES["non_saturating"].discriminator(real_logits, discriminator(augment(fake, draws)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            augment.adapt(real_logits)
        return float(augment.p)

    assert final(few=True) > 0.1
    assert final(few=False) < 0.01


def test_a_saved_state_goes_on_as_if_it_had_not_stopped() -> None:
    whole, stopped = AdaptiveAugmentation(kimg=1), AdaptiveAugmentation(kimg=1)
    logits = torch.randn(10, 16, generator=torch.Generator().manual_seed(5)) + 2
    for each_update in logits:
        whole.adapt(each_update)
    for each_update in logits[:6]:
        stopped.adapt(each_update)
    resumed = AdaptiveAugmentation(kimg=1)
    resumed.load_state_dict(stopped.state_dict())
    for each_update in logits[6:]:
        resumed.adapt(each_update)
    assert resumed.p > 0
    assert list(resumed.parameters()) == []
    for name, buffer in whole.state_dict().items():
        assert buffer.equal(resumed.state_dict()[name]), name
    assert resumed(images(4), source(4)).equal(whole(images(4), source(4)))


OTHER_PROCESS = """
import sys, torch, torch.distributed as dist
from ganserve_trainers.ada import AdaptiveAugmentation
dist.init_process_group("gloo", init_method=sys.argv[1], rank=1, world_size=2)
augment = AdaptiveAugmentation(target=0.2, kimg=1)
for update in range(6):
    augment.adapt(torch.ones(5))
dist.destroy_process_group()
print(augment.p.item(), augment.signs.item(), augment.images.item(), augment.updates.item())
"""


def test_processes_adapt_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process alone would lower p (r_t = -0.2) and the other raise it; together they see 0.4."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    meeting = f"file://{tmp_path / 'meet'}"
    command = [sys.executable, "-c", OTHER_PROCESS, meeting]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=2, timeout=timedelta(seconds=100))
        try:
            augment = AdaptiveAugmentation(target=0.2, kimg=1)
            for _ in range(6):
                augment.adapt(torch.tensor([1.0, -1, -1, 1, -1]))
        finally:
            dist.destroy_process_group()
        said = other.communicate(timeout=100)[0]
    state = [float(buffer) for buffer in (augment.p, augment.signs, augment.images, augment.updates)]
    assert list(map(float, said.split())) == state
    assert state == [pytest.approx(4 * 10 / 1000, rel=1e-6), 2 * 4, 2 * 10, 2]


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_an_unknown_class_names_the_known_ones() -> None:
    with pytest.raises(TrainingError, match=r"no class of augmentations 'flip': choose one of blit, color, .*geometry"):
        AdaptiveAugmentation(("blit", "flip"))


@pytest.mark.parametrize(
    ("name", "value"), [("target", 1.5), ("kimg", 0.0), ("every", 0), ("initial", -0.1), ("initial", math.nan)]
)
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(TrainingError, match=f"ADA's {name} is {value}: choose a number from"):
        AdaptiveAugmentation(**{name: value})


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 3, 1, 8)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError, match=f"{shape[1]} channels and {shape[2]}×8 pixels: ADA takes 1 or 3 channels"):
        AdaptiveAugmentation()(torch.zeros(shape), source(2))


def test_images_that_the_source_has_no_rows_for_are_refused() -> None:
    with pytest.raises(TrainingError, match="cannot augment 4 images with the random numbers of 2: augment real and"):
        AdaptiveAugmentation()(images(4), source(2))

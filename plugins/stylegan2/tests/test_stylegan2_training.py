"""How a StyleGAN2 is trained: its phases and losses by hand, style mixing, lazy regularization, augmentation, and that it learns."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve.errors import TrainingError
from ganserve_stylegan2 import PRESETS, layers, pixels
from ganserve_stylegan2.mapping import normalized
from ganserve_stylegan2.network import build
from ganserve_stylegan2.train import PATH_EVERY, R1_EVERY, train
from ganserve_trainers.ema import Averages
from ganserve_trainers.recipe import Batch, Phase, Recipe, Source
from ganserve_trainers.regularizers import diversity


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def tiny(**changes: Any) -> dict[str, Any]:
    return {**PRESETS["tiny"], **changes}


def source(rows: int, seed: int = 0) -> Source:
    return Source(torch.Generator().manual_seed(seed), rows)


def digits() -> tuple[Tensor, Tensor]:
    """1,797 handwritten digits, 8x8, in [-1, 1], and which they are."""
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(data.target)


def batch(rows: int = 8, seed: int = 0) -> Batch:
    images, labels = digits()
    return Batch({"image": images[:rows], "label": labels[:rows]}, source(rows, seed))


def phase(recipe: Recipe, name: str) -> Phase:
    (found,) = [phase for phase in recipe.phases if phase.name == name]
    return found


def run(recipe: Recipe, networks: Mapping[str, nn.Module], rows: int, steps: int) -> Mapping[str, nn.Module]:
    """The phases of ``recipe``, step by step, on random digits; the averaged networks."""
    generator = torch.Generator().manual_seed(0)
    images, labels = digits()
    averages = Averages(networks, recipe.averaged)
    for step in range(steps):
        chosen = torch.randint(len(images), (rows,), generator=generator)
        for phase in recipe.phases:
            if step % phase.every:
                continue
            for name, network in networks.items():
                network.requires_grad_(name in phase.networks)
            loss, _ = phase.loss(Batch({"image": images[chosen], "label": labels[chosen]}, Source(generator, rows)))
            phase.optimizer.zero_grad()
            loss.backward()
            phase.optimizer.step()
        averages.update(rows, (step + 1) * rows)
    return averages.networks


# --- phases -----------------------------------------------------------------------------------------------------------


def test_the_phases_of_the_paper() -> None:
    recipe = train(tiny(), build(tiny()))
    assert [(phase.name, phase.networks, phase.every) for phase in recipe.phases] == [
        ("generator", ("mapping", "synthesis"), 1),
        ("path", ("mapping", "synthesis"), 8),
        ("discriminator", ("discriminator",), 1),
        ("r1", ("discriminator",), 16),
    ]
    assert phase(recipe, "generator").optimizer is phase(recipe, "path").optimizer
    assert phase(recipe, "discriminator").optimizer is phase(recipe, "r1").optimizer
    assert recipe.averaged == {"mapping": 1.0, "synthesis": 1.0}


def test_regularizers_can_be_left_out() -> None:
    """As in ADA's CIFAR-10 setting, which has no path length regularization."""
    recipe = train(tiny(path=0.0, r1=0.0), build(tiny()))
    assert [phase.name for phase in recipe.phases] == ["generator", "discriminator"]


@pytest.mark.parametrize(("path", "share"), [(2.0, 8 / 9), (0.0, 1.0)])
def test_lazy_regularization_takes_its_share_of_adam(path: float, share: float) -> None:
    """Karras et al., 2020, appendix B: lr c, beta^c with c = k / (k + 1)."""
    recipe = train(tiny(path=path), build(tiny()))
    (group,) = phase(recipe, "generator").optimizer.param_groups
    assert group["lr"] == pytest.approx(5e-3 * share)
    assert group["betas"] == pytest.approx((0.0, 0.99**share))
    (group,) = phase(recipe, "discriminator").optimizer.param_groups
    assert group["lr"] == pytest.approx(5e-3 * 16 / 17)
    assert group["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)))


def test_an_optimizer_moves_its_networks_and_nothing_else() -> None:
    networks = build(tiny())
    for phase in train(tiny(), networks).phases:
        moved = {id(p) for group in phase.optimizer.param_groups for p in group["params"]}
        assert moved == {id(p) for name in phase.networks for p in networks[name].parameters()}


def test_the_losses_by_hand() -> None:
    """Non-saturating logistic; each phase judges images of its own."""
    config = tiny(augment=())
    networks = build(config)
    seen: list[Tensor] = []
    networks["discriminator"].register_forward_hook(lambda _, inputs, logits: seen.extend((inputs[0], logits)))
    recipe = train(config, networks)
    loss, _ = phase(recipe, "generator").loss(batch())
    fakes, logits = seen
    assert loss.item() == pytest.approx(F.softplus(-logits).mean().item())
    seen.clear()
    loss, logs = phase(recipe, "discriminator").loss(batch(seed=1))
    reals, real, others, fake = seen
    assert torch.equal(reals, batch().images)
    assert not torch.equal(others, fakes)
    assert not others.requires_grad
    assert loss.item() == pytest.approx((F.softplus(-real).mean() + F.softplus(fake).mean()).item())
    assert logs["real"].item() == pytest.approx(real.mean().item())


def test_the_discriminator_of_sngan_brings_its_loss_and_its_optimizer() -> None:
    """Hinge (Miyato et al., 2018, eq. 16 and 17) and DCGAN's betas; the generator's optimizer is the paper's."""
    config = tiny(discriminator="sngan", augment=(), classes=10, r1=0.0, path=0.0)
    networks = build(config)
    seen: list[Tensor] = []
    networks["sngan"].register_forward_hook(lambda _, inputs, logits: seen.append(logits))
    recipe = train(config, networks)
    loss, _ = phase(recipe, "generator").loss(batch())
    assert loss.item() == pytest.approx(-seen[0].mean().item())
    loss, _ = phase(recipe, "discriminator").loss(batch(seed=1))
    _, real, fake = seen
    assert loss.item() == pytest.approx((F.relu(1 - real).mean() + F.relu(1 + fake).mean()).item())
    assert phase(recipe, "discriminator").optimizer.param_groups[0]["betas"] == (0.5, 0.999)
    assert phase(recipe, "generator").optimizer.param_groups[0]["betas"] == (0.0, 0.99)


def test_an_unknown_discriminator_is_refused_with_those_there_are() -> None:
    with pytest.raises(TrainingError, match="no discriminator 'dcgan': choose one of sngan, stylegan2"):
        build(tiny(discriminator="dcgan"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"base": 6}, "base is 6, with 16 feature maps at most: that leaves none at 8x8; give a base of 8 or more"),
        ({"most": 0}, "base is 128, with 0 feature maps at most: that leaves none at 4x4; give a most of 1 or more"),
        (
            {"discriminator": "sngan", "d_base": 2},
            "d_base is 2, with 512 feature maps at most: that leaves none at 4x4",
        ),
    ],
)
def test_a_network_without_feature_maps_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(TrainingError, match=told):
        build(tiny(**changes))


def test_diversity_compares_two_images_of_each_label() -> None:
    """Of half the labels, each twice: the loss is the adversarial one less the weighted diversity of the pairs."""
    config = tiny(augment=(), classes=10, diversity=3.0, rgb=0.1)  # so quiet that images are not different enough
    networks = build(config)
    seen: list[Tensor] = []
    latents: list[Tensor] = []
    networks["discriminator"].register_forward_hook(lambda _, inputs, logits: seen.extend((*inputs, logits)))
    networks["mapping"].register_forward_hook(lambda _, inputs, __: latents.extend(inputs))
    made = batch()
    loss, logs = phase(train({**config, "mixing": 0.0}, networks), "generator").loss(made)
    images, labels, logits = seen
    z, same = latents
    assert torch.equal(labels, made.labels[:4].repeat(2))
    assert torch.equal(same, labels)
    apart = diversity(images[:4], images[4:], normalized(z[:4]), normalized(z[4:]))
    assert 0 < apart < 0.2
    assert logs["diversity"].item() == pytest.approx(apart.item())
    assert loss.item() == pytest.approx(F.softplus(-logits).mean().item() - 3 * apart.item(), rel=1e-5)


def test_diversity_needs_pairs() -> None:
    config = tiny(augment=(), diversity=3.0)
    with pytest.raises(TrainingError, match="--batch must be even, not 7"):
        phase(train(config, build(config)), "generator").loss(batch(7))


def test_a_configuration_that_says_less_than_today_is_read() -> None:
    config = {
        key: value for key, value in tiny(augment=()).items() if key not in ("alike", "discriminator", "diversity")
    }
    _, logs = phase(train(config, build(config)), "generator").loss(batch())
    assert logs == {}


def test_r1_by_hand() -> None:
    config = tiny(augment=(), r1=0.5)
    networks = build(config)
    images = batch().images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(networks["discriminator"](images).sum(), images)
    expected = 0.5 / 2 * gradient.square().sum((1, 2, 3)).mean().item()
    loss, logs = phase(train(config, networks), "r1").loss(batch())
    assert logs["penalty"].item() == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(R1_EVERY * expected, rel=1e-5)


def test_r1_is_taken_at_the_image_before_it_is_augmented() -> None:
    config = tiny(r1=0.5)
    networks = build(config)
    networks["ada"].p.fill_(0.7)
    images = batch().images.clone().requires_grad_()
    logits = networks["discriminator"](networks["ada"](images, batch().source))
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    expected = 0.5 / 2 * gradient.square().sum((1, 2, 3)).mean().item()
    loss, _ = phase(train(config, networks), "r1").loss(batch())
    assert loss.item() == pytest.approx(R1_EVERY * expected, rel=1e-4)


def test_the_path_length_phase() -> None:
    """It looks at half of the rows, is weighted by what it is left out, and moves both networks and the average."""
    networks = build(tiny())
    rows: list[int] = []
    networks["synthesis"].register_forward_hook(lambda _, __, images: rows.append(len(images)))
    loss, logs = phase(train(tiny(), networks), "path").loss(batch(8))
    assert rows == [4]
    assert loss.item() == pytest.approx(2.0 * PATH_EVERY * logs["penalty"].item())
    assert networks["synthesis"].path_length.item() == pytest.approx(0.01 * logs["length"].item(), rel=1e-5)
    loss.backward()
    for name in ("mapping", "synthesis"):
        assert any(p.grad is not None and p.grad.any() for p in networks[name].parameters()), name


def test_the_path_lengths_gradient_through_the_synthesis_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Along a random direction in all weights, against a finite difference of the whole phase.

    With linear activations: lengths jump where a leaky ReLU bends, which a difference sees and a gradient does not.
    """
    monkeypatch.setattr("ganserve_stylegan2.synthesis.SLOPE", 1.0)
    networks = build(tiny(mixing=0.0))
    recipe = train(tiny(mixing=0.0), networks)
    synthesis = networks["synthesis"]
    average = synthesis.path_length
    parameters = list(synthesis.parameters())
    starts, directions = [p.detach().clone() for p in parameters], [torch.randn_like(p) for p in parameters]

    def at(place: float) -> Tensor:
        with torch.no_grad():
            average.fill_(0.1)
            for parameter, start, direction in zip(parameters, starts, directions, strict=True):
                parameter.copy_(start + place * direction)
        loss, _ = phase(recipe, "path").loss(batch(8))
        return loss

    at(0.0).backward()
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True) if p.grad is not None)
    step = 2e-3
    moved = (at(step) - at(-step)).item() / (2 * step)
    # The average moves with the lengths by a hundredth, and the gradient takes it for a constant.
    assert slope == pytest.approx(moved, rel=0.03)


# --- style mixing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mixing", "lowest", "highest"), [(0.0, 0.0, 0.0), (0.9, 0.85, 0.95), (1.0, 1.0, 1.0)])
def test_nine_in_ten_images_mix_two_styles_at_a_random_layer(mixing: float, lowest: float, highest: float) -> None:
    config = tiny(mixing=mixing, augment=(), group=1, image=(32, 32, 1))
    networks = build(config)
    styles: list[Tensor] = []
    networks["synthesis"].register_forward_pre_hook(lambda _, inputs: styles.append(inputs[0]))
    images = torch.zeros(512, 1, 32, 32)
    with torch.no_grad():
        phase(train(config, networks), "generator").loss(Batch({"image": images}, source(512)))
    (w,) = styles
    assert w.shape == (512, layers(config), 16)
    changes = (w[:, 1:] != w[:, :-1]).any(2)
    assert changes.sum(1).max() <= 1, "one crossover at most"
    assert lowest <= changes.any(1).float().mean().item() <= highest
    if mixing:
        # Every crossover from 1 to the last layer is as likely as the others.
        share = changes.float().mean(0) / changes.any(1).float().mean()
        assert (share - 1 / (layers(config) - 1)).abs().max() < 0.06


def test_the_average_of_w_moves_in_training_alone() -> None:
    networks = build(tiny())
    recipe = train(tiny(), networks)
    recipe.preview({name: network.eval() for name, network in networks.items()}, batch())
    assert not networks["mapping"].w_avg.any()
    phase(recipe, "generator").loss(batch())
    assert networks["mapping"].w_avg.any()


# --- classes and augmentation -----------------------------------------------------------------------------------------


def test_labels_reach_the_mapping_network_and_the_discriminator() -> None:
    config = tiny(classes=10)
    networks = build(config)
    seen: dict[str, list[Tensor]] = {"mapping": [], "discriminator": []}
    for name, found in seen.items():
        networks[name].register_forward_pre_hook(lambda _, inputs, found=found: found.append(inputs[1]))
    for each in train(config, networks).phases:
        loss, _ = each.loss(batch(8))
        loss.backward()
    labels = batch(8).labels
    assert labels is not None
    assert [len(found) for found in seen["mapping"]] == [8, 8, 4, 4, 8, 8], (
        "generator, path, discriminator; two styles each, to mix"
    )
    assert all(torch.equal(found, labels[: len(found)]) for name in seen for found in seen[name])
    assert networks["mapping"].embedding.weight.grad.any()
    assert networks["discriminator"].embedding.weight.grad.any()


def test_labels_in_the_data_are_ignored_without_classes() -> None:
    networks = build(tiny())
    loss, _ = phase(train(tiny(), networks), "generator").loss(batch(8))
    assert loss.isfinite()


def test_all_that_the_discriminator_sees_is_augmented_and_p_follows() -> None:
    config = tiny(p_kimg=0.05)
    networks = build(config)
    networks["ada"].p.fill_(0.5)
    judged: list[Tensor] = []
    networks["discriminator"].register_forward_pre_hook(lambda _, inputs: judged.append(inputs[0].detach()))
    recipe = train(config, networks)
    for each in recipe.phases:
        each.loss(batch(8))
    images = batch(8).images
    _, reals, _, in_r1 = judged
    assert not torch.equal(reals, images)
    assert not torch.equal(in_r1, images)
    assert (reals - images).flatten(1).any(1).float().mean() > 0.5
    nn.init.constant_(networks["discriminator"].logit.bias, 100)  # overfitted: all that is real looks real
    before = networks["ada"].p.item()
    for _ in range(4):
        phase(recipe, "generator").loss(batch(8))
        phase(recipe, "discriminator").loss(batch(8))
    assert networks["ada"].p.item() > before


# --- learning ---------------------------------------------------------------------------------------------------------


def test_previews_are_what_the_spec_declares() -> None:
    networks = build(tiny())
    images = train(tiny(), networks).preview(networks, batch(5))
    assert images.shape == (5, 1, 8, 8)
    again = train(tiny(), networks).preview(networks, batch(5))
    assert torch.equal(images, again)


def sliced_wasserstein(one: Tensor, two: Tensor) -> float:
    """The mean distance of sorted projections of two equally large sets of images on 64 random directions."""
    directions = F.normalize(torch.randn(one[0].numel(), 64, generator=torch.Generator().manual_seed(0)), dim=0)
    return ((one.flatten(1) @ directions).sort(0)[0] - (two.flatten(1) @ directions).sort(0)[0]).abs().mean().item()


def sample(networks: Mapping[str, nn.Module]) -> Tensor:
    draws = source(512, seed=9)
    with torch.no_grad():
        w = networks["mapping"](draws.normal(16))
        images: Tensor = networks["synthesis"](w[:, None].expand(-1, layers(tiny()), -1), draws.normal(pixels(tiny())))
    return images


@pytest.mark.parametrize("changes", [{}, {"discriminator": "sngan", "d_lr": 1e-3, "r1": 0.0, "augment": ("shift",)}])
def test_it_learns_digits(changes: dict[str, Any]) -> None:
    """In a few steps, against either discriminator, its images come nearer to handwritten digits and stay varied."""
    config = tiny(**changes)
    networks = build(config)
    images, _ = digits()
    before = sliced_wasserstein(sample(networks), images[:512])
    averaged = run(train(config, networks), networks, rows=16, steps=160)
    made = sample(averaged)
    assert sliced_wasserstein(made, images[:512]) < before / 2
    assert made.std(0).mean() > images.std(0).mean() / 2

"""The 2014 GAN: counts that follow from its layers, maxout and dropout, its algorithm, and that it learns."""

from collections.abc import Mapping

import msgspec
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from ganserve.spec import Noise
from ganserve_gan import PRESETS, ganserve_families, spec
from ganserve_gan.network import Maxout, build, export
from ganserve_gan.train import train
from ganserve_trainers.recipe import Batch, Recipe, Source


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def digits() -> Tensor:
    """1,797 handwritten digits, 8x8, in [-1, 1]."""
    return torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1


def run(recipe: Recipe, networks: Mapping[str, nn.Module], images: Tensor, rows: int, steps: int) -> None:
    """The phases of ``recipe``, step by step, on random rows of ``images``."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for phase in recipe.phases:
            for name, network in networks.items():
                network.requires_grad_(name in phase.networks)
            chosen = torch.randint(len(images), (rows,), generator=generator)
            loss, _ = phase.loss(Batch({"image": images[chosen]}, Source(generator, rows)))
            phase.optimizer.zero_grad()
            loss.backward()
            phase.optimizer.step()


def sliced_wasserstein(one: Tensor, two: Tensor) -> float:
    """The mean distance of sorted projections of two equally large sets of images on 64 random directions."""
    directions = nn.functional.normalize(
        torch.randn(one[0].numel(), 64, generator=torch.Generator().manual_seed(0)), dim=0
    )
    return ((one.flatten(1) @ directions).sort(0)[0] - (two.flatten(1) @ directions).sort(0)[0]).abs().mean().item()


@pytest.mark.parametrize("preset", ["mnist-28", "fashion-28"])
def test_the_full_networks_have_the_count_of_their_layers(preset: str) -> None:
    networks = build(PRESETS[preset])
    assert count(networks["generator"]) == (
        100 * 1200 + 1200 + 1200 * 1200 + 1200 + 1200 * 784 + 784
    ) == 2_503_984  # fmt: skip
    assert count(networks["discriminator"]) == (
        784 * 240 * 5 + 240 * 5 + 240 * 240 * 5 + 240 * 5 + 240 + 1
    ) == 1_231_441  # fmt: skip


def test_the_tiny_networks_are_tiny() -> None:
    networks = build(PRESETS["tiny"])
    assert count(networks["generator"]) == 16 * 32 + 32 + 32 * 64 + 64
    assert count(networks["discriminator"]) == 64 * 16 * 2 + 16 * 2 + 16 + 1


def test_a_maxout_unit_is_the_largest_of_its_pieces() -> None:
    """Two units of two pieces on one input: |x| is max(x, -x), and max(2x, 1) has a corner at 1/2."""
    layer = Maxout(1, 2, 2)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([[1.0], [-1.0], [2.0], [0.0]]))
        layer.linear.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    values = layer(torch.tensor([[-3.0], [0.25], [2.0]]))
    assert values.tolist() == [[3.0, 1.0], [0.25, 1.0], [2.0, 4.0]]


def test_dropout_hides_pixels_and_hidden_units_of_the_discriminator_only() -> None:
    networks = build(PRESETS["mnist-28"])
    dropouts = [module.p for module in networks["discriminator"].modules() if isinstance(module, nn.Dropout)]
    assert dropouts == [0.2, 0.5, 0.5]
    assert not any(isinstance(module, nn.Dropout) for module in networks["generator"].modules())
    images = torch.zeros(4, 1, 28, 28)
    discriminator = networks["discriminator"]
    assert not discriminator(images).equal(discriminator(images))
    discriminator.eval()
    assert discriminator(images).equal(discriminator(images))


def test_a_dropped_pixel_is_a_black_one() -> None:
    """The paper's images are intensities from 0 to 1: black input is zero input, whatever is dropped."""
    discriminator = build({**PRESETS["mnist-28"], "dropout": (0.9, 0.0)})["discriminator"]
    black = torch.full((3, 1, 28, 28), -1.0)
    assert discriminator(black).equal(discriminator(black))
    white = -black
    assert not discriminator(white).equal(discriminator(white))


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_networks_and_the_export_have_the_declared_shapes(preset: str) -> None:
    config = PRESETS[preset]
    networks = build(config)
    height, width, channels = config["image"]
    z = torch.randn(3, config["z"])
    images = networks["generator"](z)
    assert images.shape == (3, channels, height, width)
    assert images.min() >= -1
    assert images.max() <= 1
    assert networks["discriminator"](images).shape == (3,)
    made = export(config, networks)["generator"](z)
    declared = spec(config).graph("generator")
    assert declared.input("z").accepts(z.shape[1:])
    assert declared.output("image").accepts(made.shape[1:])
    assert made.dtype == torch.uint8
    torch.testing.assert_close(made.permute(0, 3, 1, 2).float() / 127.5 - 1, images, rtol=0, atol=0.5 / 127.5 + 1e-6)


def test_z_is_normal_and_may_be_truncated() -> None:
    for config in PRESETS.values():
        (source,) = spec(config).tasks[0].inputs
        assert msgspec.convert(dict(source.options), Noise) == Noise(distribution="normal")
        assert source.reads == ("seed", "truncation")
        assert msgspec.json.decode(msgspec.json.encode(spec(config)), type=type(spec(config))) == spec(config)


def test_algorithm_1_trains_the_discriminator_first_each_with_its_own_optimizer() -> None:
    config = PRESETS["mnist-28"]
    networks = build(config)
    phases = train(config, networks).phases
    assert [phase.name for phase in phases] == ["discriminator", "generator"]
    for phase in phases:
        (name,) = phase.networks
        assert isinstance(phase.optimizer, torch.optim.SGD)
        group = phase.optimizer.param_groups[0]
        assert (group["lr"], group["momentum"]) == (0.1, 0.5)
        assert {id(p) for p in group["params"]} == {id(p) for p in networks[name].parameters()}


def test_the_discriminators_loss_leaves_the_generator_without_gradient() -> None:
    networks = build(PRESETS["tiny"])
    discriminator, generator = train(PRESETS["tiny"], networks).phases
    batch = Batch({"image": digits()[:8]}, Source(torch.Generator().manual_seed(0), 8))
    discriminator.loss(batch)[0].backward()
    assert all(p.grad is None for p in networks["generator"].parameters())
    generator.loss(batch)[0].backward()
    assert all(p.grad is not None for p in networks["generator"].parameters())


def test_it_learns_real_digits() -> None:
    """Samples come much nearer to real digits than those of the start."""
    config = PRESETS["tiny"]
    networks = build(config)
    recipe = train(config, networks)
    images = digits()

    def distance() -> float:
        batch = Batch({"image": images[:500]}, Source(torch.Generator().manual_seed(1), 500))
        with torch.no_grad():
            return sliced_wasserstein(recipe.preview(networks, batch), images[:500])

    start = distance()
    run(recipe, networks, images, 32, 600)
    assert distance() < 0.5 * start


def test_a_preset_of_28x28_pixels_learns_digits_of_most_kinds() -> None:
    """The objective, the optimizer and the dropout of ``fashion-28``, with narrower layers and a higher rate, in ten seconds of one core:
    samples come nearer to real digits, and a classifier that has seen only real ones takes them for digits, of six kinds at least."""
    narrow = {"generator": (128, 128), "discriminator": ((48, 5), (48, 5)), "rate": 2e-3}
    config = {**PRESETS["fashion-28"], **narrow}
    networks = build(config)
    recipe = train(config, networks)
    images = nn.functional.interpolate(digits(), config["image"][:2], mode="bilinear")
    classifier = LogisticRegression(max_iter=1000).fit(images.flatten(1).numpy(), load_digits().target)

    def measured() -> tuple[float, float, int]:
        """The distance to real digits, how sure the classifier is, and of how many kinds it sees a hundredth at least."""
        batch = Batch({"image": images[:500]}, Source(torch.Generator().manual_seed(1), 500))
        with torch.no_grad():
            samples = recipe.preview(networks, batch)
        found = torch.from_numpy(classifier.predict_proba(samples.flatten(1).numpy()))
        kinds = found.argmax(1).bincount(minlength=10)
        distance = sliced_wasserstein(samples, images[:500])
        return distance, found.max(1).values.mean().item(), int((kinds >= 5).sum())

    start, unsure, _ = measured()
    assert unsure < 0.3
    run(recipe, networks, images, 32, 1000)
    distance, sure, kinds = measured()
    assert distance < 0.5 * start
    assert sure > 0.7
    assert kinds >= 6


def test_the_family_is_registered() -> None:
    (family,) = ganserve_families()
    assert family.name == "gan"
    assert sorted(family.presets) == ["fashion-28", "mnist-28", "tiny"]

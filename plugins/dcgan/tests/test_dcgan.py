"""DCGAN: sizes and counts that follow from the papers' tables, what each preset trains, and that it learns."""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import ganserve_dcgan
from ganserve.errors import TrainingError
from ganserve.spec import Noise
from ganserve_dcgan import NETWORKS, PRESETS, ganserve_families, spec
from ganserve_dcgan.network import build, export
from ganserve_dcgan.train import R1_EVERY, train
from ganserve_trainers.layers.spectral import SpectralNorm, StableRankNorm
from ganserve_trainers.recipe import Batch, Recipe, Source

NAMES = [
    "paper-64",
    "cifar10-32",
    "lsgan",
    "wgan",
    "wgan-gp",
    "sn-dcgan",
    "srn-dcgan",
    "fashion-32",
    "emoji-64",
    "tiny",
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def kinds(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


def digits() -> Tensor:
    """1,797 handwritten digits, 8x8, in [-1, 1]."""
    return torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1


def run(recipe: Recipe, networks: Mapping[str, nn.Module], images: Tensor, rows: int, steps: int) -> None:
    """The phases of ``recipe``, step by step, on random rows of ``images``."""
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        for phase in recipe.phases:
            if step % phase.every:
                continue
            for name, network in networks.items():
                network.requires_grad_(name in phase.networks)
            for _ in range(phase.repeats):
                chosen = torch.randint(len(images), (rows,), generator=generator)
                loss, _ = phase.loss(Batch({"image": images[chosen]}, Source(generator, rows)))
                phase.optimizer.zero_grad()
                loss.backward()
                phase.optimizer.step()
                if phase.after is not None:
                    phase.after()


def sliced_wasserstein(one: Tensor, two: Tensor) -> float:
    """The mean distance of sorted projections of two equally large sets of images on 64 random directions."""
    directions = nn.functional.normalize(
        torch.randn(one[0].numel(), 64, generator=torch.Generator().manual_seed(0)), dim=0
    )
    return ((one.flatten(1) @ directions).sort(0)[0] - (two.flatten(1) @ directions).sort(0)[0]).abs().mean().item()


# --- tables -----------------------------------------------------------------------------------------------------------


def test_the_presets() -> None:
    assert sorted(PRESETS) == sorted(NAMES)


def test_paper_64_has_the_count_of_figure_1() -> None:
    networks = build(PRESETS["paper-64"])
    # 100 → 1024 at 4x4 → 512 → 256 → 128 → 3, 5x5 kernels; gain and shift of batch normalization behind all but the last.
    assert count(networks["generator"]) == (
        100 * 1024 * 16 + 2 * 1024
        + 1024 * 512 * 25 + 2 * 512
        + 512 * 256 * 25 + 2 * 256
        + 256 * 128 * 25 + 2 * 128
        + 128 * 3 * 25 + 3
    ) == 18_855_043  # fmt: skip
    assert count(networks["discriminator"]) == (
        3 * 128 * 25 + 128
        + 128 * 256 * 25 + 2 * 256
        + 256 * 512 * 25 + 2 * 512
        + 512 * 1024 * 25 + 2 * 1024
        + 1024 * 16 + 1
    )  # fmt: skip


def test_cifar10_32_has_the_count_of_its_table() -> None:
    networks = build(PRESETS["cifar10-32"])
    assert count(networks["generator"]) == (
        100 * 512 * 16 + 2 * 512 + 512 * 256 * 16 + 2 * 256 + 256 * 128 * 16 + 2 * 128 + 128 * 3 * 16 + 3
    ) == 3_448_579  # fmt: skip
    assert count(networks["discriminator"]) == (
        3 * 64 * 16 + 64 + 64 * 128 * 16 + 2 * 128 + 128 * 256 * 16 + 2 * 256 + 256 * 1 * 16 + 1
    )


def test_sn_dcgan_has_the_count_of_table_3() -> None:
    """Miyato et al., 2018, table 3: no batch normalization in the discriminator, so every layer there has a bias."""
    networks = build(PRESETS["sn-dcgan"])
    assert count(networks["generator"]) == (
        128 * 512 * 16 + 2 * 512
        + 512 * 256 * 16 + 2 * 256
        + 256 * 128 * 16 + 2 * 128
        + 128 * 64 * 16 + 2 * 64
        + 64 * 3 * 9 + 3
    )  # fmt: skip
    assert count(networks["discriminator"]) == (
        3 * 64 * 9 + 64
        + 64 * 128 * 16 + 128
        + 128 * 128 * 9 + 128
        + 128 * 256 * 16 + 256
        + 256 * 256 * 9 + 256
        + 256 * 512 * 16 + 512
        + 512 * 512 * 9 + 512
        + 4 * 4 * 512 + 1
    )  # fmt: skip


def test_starter_generators_fit_into_six_megabytes_at_two_bytes_a_weight() -> None:
    for preset in ("fashion-32", "emoji-64"):
        assert 2 * count(build(PRESETS[preset])["generator"]) < 6e6 * 0.75


@pytest.mark.parametrize("preset", NAMES)
def test_every_layer_has_the_size_of_its_table(preset: str) -> None:
    """The generator doubles from 4x4, the discriminator mirrors it, and the exported bytes are what the spec declares."""
    config = PRESETS[preset]
    networks = build(config)
    height, width, channels = config["image"]
    z = torch.randn(2, config["z"])
    images = networks["generator"].eval()(z)
    assert images.shape == (2, channels, height, width)
    assert networks["discriminator"](images).shape == (2,)
    declared = spec(config).graph("generator")
    assert declared.input("z").accepts(z.shape[1:])
    made = export(config, networks)["generator"](z)
    assert made.dtype == torch.uint8
    assert declared.output("image").accepts(made.shape[1:])
    torch.testing.assert_close(made.permute(0, 3, 1, 2).float() / 127.5 - 1, images, rtol=0, atol=0.5 / 127.5 + 1e-6)


def test_initial_weights_are_normal_with_the_papers_spread() -> None:
    networks = build(PRESETS["cifar10-32"])
    for network in networks.values():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
                assert layer.weight.mean().item() == pytest.approx(0, abs=2e-3)


# --- what the presets say ---------------------------------------------------------------------------------------------


def test_batch_normalization_is_where_the_paper_has_it() -> None:
    networks = build(PRESETS["paper-64"])
    generator, discriminator = (list(networks[name].layers) for name in ("generator", "discriminator"))
    assert [type(layer).__name__ for layer in generator] == [
        *["ConvTranspose2d", "BatchNorm2d", "ReLU"] * 4,
        "ConvTranspose2d",
        "Tanh",
    ]
    assert [type(layer).__name__ for layer in discriminator] == [
        *["Conv2d", "LeakyReLU"],
        *["Conv2d", "BatchNorm2d", "LeakyReLU"] * 3,
        "Conv2d",
    ]
    assert {layer.negative_slope for layer in discriminator if isinstance(layer, nn.LeakyReLU)} == {0.2}


def test_no_critic_ends_in_a_sigmoid() -> None:
    """Losses take logits; a Wasserstein critic is linear at its end."""
    for config in PRESETS.values():
        discriminator = build({**config, **NETWORKS["tiny"]})["discriminator"]
        assert kinds(discriminator, nn.Sigmoid) == 0
        assert isinstance(list(discriminator.layers)[-1], nn.Conv2d)


@pytest.mark.parametrize(
    ("preset", "batch", "spectral", "stable_rank"),
    [("cifar10-32", 2, 0, 0), ("wgan-gp", 0, 0, 0), ("sn-dcgan", 0, 8, 0), ("srn-dcgan", 0, 8, 8)],
)
def test_discriminators_are_normalized_as_the_preset_says(
    preset: str, batch: int, spectral: int, stable_rank: int
) -> None:
    discriminator = build(PRESETS[preset])["discriminator"]
    assert kinds(discriminator, nn.BatchNorm2d) == batch
    assert kinds(discriminator, SpectralNorm) == spectral
    assert kinds(discriminator, StableRankNorm) == stable_rank


class Constant(nn.Module):
    """A critic that says 0.7 of every image."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(0.7))

    def forward(self, images: Tensor) -> Tensor:
        return self.logit + 0 * images.flatten(1).sum(1)


# The critic's and the generator's loss where every logit is 0.7.
OBJECTIVES = {
    "non-saturating": (math.log1p(math.exp(-0.7)) + math.log1p(math.exp(0.7)), math.log1p(math.exp(-0.7))),
    "least squares": ((0.7 - 1) ** 2 / 2 + 0.7**2 / 2, (0.7 - 1) ** 2 / 2),
    "wasserstein": (0.7 - 0.7, -0.7),
    "hinge": ((1 - 0.7) + (1 + 0.7), -0.7),
}

ADAM, DCGAN = torch.optim.Adam, {"betas": (0.5, 0.999)}


# fmt: off
COLUMNS = ("preset", "noise", "objective", "penalty", "clips", "optimizer", "rate", "options", "d_steps")
PAPERS = [
    ("paper-64",   "uniform", "non-saturating", None, False, ADAM,                2e-4, DCGAN,                 1),
    ("cifar10-32", "uniform", "non-saturating", None, False, ADAM,                2e-4, DCGAN,                 1),
    ("lsgan",      "uniform", "least squares",  None, False, ADAM,                2e-4, DCGAN,                 1),
    ("wgan",       "normal",  "wasserstein",    None, True,  torch.optim.RMSprop, 5e-5, {},                    5),
    ("wgan-gp",    "normal",  "wasserstein",    10.0, False, ADAM,                1e-4, {"betas": (0.0, 0.9)}, 5),
    ("sn-dcgan",   "normal",  "hinge",          None, False, ADAM,                2e-4, DCGAN,                 1),
    ("srn-dcgan",  "normal",  "hinge",          None, False, ADAM,                2e-4, DCGAN,                 1),
]
# fmt: on


@pytest.mark.parametrize(COLUMNS, PAPERS)
def test_presets_train_as_the_papers_do(
    preset: str,
    noise: str,
    objective: str,
    penalty: float | None,
    clips: bool,
    optimizer: type[torch.optim.Optimizer],
    rate: float,
    options: dict[str, Any],
    d_steps: int,
) -> None:
    config = {**PRESETS[preset], **NETWORKS["tiny"]}
    assert config["noise"] == noise
    critic, generator = train(config, {**build(config), "discriminator": Constant()}).phases
    assert (critic.name, generator.name) == ("discriminator", "generator")
    assert (critic.repeats, generator.repeats) == (d_steps, 1)
    assert (critic.after is not None, generator.after) == (clips, None)
    for phase in (critic, generator):
        assert type(phase.optimizer) is optimizer
        group = phase.optimizer.param_groups[0]
        assert group["lr"] == rate
        assert {key: group[key] for key in options} == options
    batch = Batch({"image": digits()[:4]}, Source(torch.Generator().manual_seed(0), 4))
    (d_loss, logs), (g_loss, _) = critic.loss(batch), generator.loss(batch)
    # A constant has no gradient, which is 1 away from what the penalty asks for.
    assert logs.get("penalty") == (None if penalty is None else pytest.approx(penalty, abs=1e-3))
    expected = OBJECTIVES[objective]
    assert (d_loss.item() - (penalty or 0), g_loss.item()) == pytest.approx(expected, abs=1e-3)


def test_srn_dcgan_allows_seven_tenths_of_the_full_rank() -> None:
    """Its layers have 27, 128, 256 and 512 inputs or outputs, whichever are fewer; the last has one output."""
    discriminator = build(PRESETS["srn-dcgan"])["discriminator"]
    bounds = [module.bound for module in discriminator.modules() if isinstance(module, StableRankNorm)]
    assert bounds == pytest.approx([18.9, 89.6, 89.6, 179.2, 179.2, 358.4, 358.4, 1.0])


def test_an_optimizer_moves_all_of_its_network_and_nothing_else() -> None:
    config = PRESETS["tiny"]
    networks = build(config)
    for phase in train(config, networks).phases:
        (network,) = (networks[name] for name in phase.networks)
        moved = {id(p) for group in phase.optimizer.param_groups for p in group["params"]}
        assert moved == {id(p) for p in network.parameters()}


def test_wgan_clips_its_critic_after_each_step() -> None:
    config = {**PRESETS["wgan"], **NETWORKS["tiny"]}
    networks = build(config)
    before = [parameter.clone() for parameter in networks["generator"].parameters()]
    assert max(p.abs().max().item() for p in networks["discriminator"].parameters()) > 0.01
    recipe = train(config, networks)
    assert recipe.phases[0].after is not None
    recipe.phases[0].after()
    assert max(p.abs().max().item() for p in networks["discriminator"].parameters()) == pytest.approx(0.01)
    assert all(one.equal(two) for one, two in zip(before, networks["generator"].parameters(), strict=True))


def test_the_gradient_penalty_is_part_of_the_critics_loss() -> None:
    config = {**PRESETS["wgan-gp"], **NETWORKS["tiny"]}
    networks = build(config)
    batch = Batch({"image": digits()[:16]}, Source(torch.Generator().manual_seed(0), 16))
    loss, logs = train(config, networks).phases[0].loss(batch)
    assert logs["penalty"] > 0
    torch.testing.assert_close(loss.detach(), logs["fake"] - logs["real"] + logs["penalty"])


def test_r1_is_a_lazy_phase_of_the_discriminators_optimizer() -> None:
    config = {**PRESETS["tiny"], "d_norm": "none", "r1": 2.0}
    networks = build(config)
    phases = {phase.name: phase for phase in train(config, networks).phases}
    assert list(phases) == ["discriminator", "r1", "generator"]
    assert phases["r1"].every == R1_EVERY
    assert phases["r1"].optimizer is phases["discriminator"].optimizer
    loss, logs = phases["r1"].loss(Batch({"image": digits()[:4]}, Source(torch.Generator(), 4)))
    assert logs["r1"] > 0
    torch.testing.assert_close(loss.detach(), logs["r1"] * R1_EVERY)


def test_stated_distributions_reach_both_training_and_serving() -> None:
    for preset, config in PRESETS.items():
        (source,) = spec(config).tasks[0].inputs
        noise = msgspec.convert(dict(source.options), Noise)
        assert noise.distribution == config["noise"], preset
        assert source.reads == (("seed", "truncation") if noise.distribution == "normal" else ("seed",))


def test_the_spec_survives_json() -> None:
    for config in PRESETS.values():
        assert msgspec.json.decode(msgspec.json.encode(spec(config)), type=type(spec(config))) == spec(config)


def test_unknown_names_in_a_configuration_are_refused() -> None:
    with pytest.raises(TrainingError, match="there is no normalization 'group'"):
        build({**PRESETS["tiny"], "d_norm": "group"})
    with pytest.raises(TrainingError, match="there is no optimizer 'adamw': choose one of adam, rmsprop"):
        train({**PRESETS["tiny"], "optimizer": "adamw"}, build(PRESETS["tiny"]))


def test_the_family_is_registered_with_resolvable_references() -> None:
    (family,) = ganserve_families()
    assert family.name == "dcgan"
    assert (family.build, family.train, family.export) == (
        "ganserve_dcgan.network:build",
        "ganserve_dcgan.train:train",
        "ganserve_dcgan.network:export",
    )
    assert ganserve_dcgan.__doc__


# --- learning ---------------------------------------------------------------------------------------------------------


def test_the_exported_generator_has_constant_weights_and_ignores_its_neighbours() -> None:
    """In eval mode rows do not meet in batch normalization, and the discriminator's normalization stays behind."""
    config = PRESETS["tiny"]
    networks = build(config)
    run(train(config, networks), networks, digits(), 8, 3)
    graph = export(config, networks)["generator"]
    assert not any(module.training for module in graph.modules())
    z = torch.randn(5, config["z"])
    assert torch.equal(torch.cat([graph(row[None]) for row in z]), graph(z))
    assert kinds(graph, SpectralNorm) == 0


# Objective → (learning rate, steps) that let the tiny networks get far in a second or two.
LEARNING = {
    "paper-64": (2e-3, 150),
    "lsgan": (2e-3, 150),
    "wgan": (1e-3, 50),
    "wgan-gp": (2e-3, 50),
    "sn-dcgan": (2e-3, 150),
    "srn-dcgan": (2e-3, 150),
    "emoji-64": (2e-3, 150),
}


@pytest.mark.parametrize("preset", LEARNING)
def test_every_objective_learns_real_digits(preset: str) -> None:
    """The preset's objective on the tiny networks: samples come much nearer to real digits than those of the start."""
    rate, steps = LEARNING[preset]
    config = {**PRESETS[preset], **NETWORKS["tiny"], "g_lr": rate, "d_lr": rate}
    networks = build(config)
    images = digits()
    recipe = train(config, networks)

    def distance() -> float:
        networks["generator"].eval()
        batch = Batch({"image": images[:500]}, Source(torch.Generator().manual_seed(1), 500))
        with torch.no_grad():
            result = sliced_wasserstein(recipe.preview(networks, batch), images[:500])
        networks["generator"].train()
        return result

    start = distance()
    run(recipe, networks, images, 32, steps)
    assert distance() < 0.5 * start

"""CycleGAN: counts and receptive fields that follow from the paper, its losses, its history, its schedule, and that it learns."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve_cyclegan import DIRECTIONS, NETWORKS, PRESETS, ganserve_families, spec
from ganserve_cyclegan.history import History
from ganserve_cyclegan.network import ResidualBlock, build, export
from ganserve_cyclegan.train import decay, train
from ganserve_trainers.recipe import Batch, Recipe, Source

PAPER = ("paper-256", "resnet6-128")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def source(rows: int, seed: int = 0) -> Source:
    return Source(torch.Generator().manual_seed(seed), rows)


def tiny(**changes: Any) -> dict[str, Any]:
    return {**PRESETS["tiny"], **changes}


# --- tables -----------------------------------------------------------------------------------------------------------


def test_the_presets() -> None:
    assert sorted(PRESETS) == ["emoji-64", "paper-256", "resnet6-128", "tiny"]


@pytest.mark.parametrize(("preset", "blocks"), [("paper-256", 9), ("resnet6-128", 6)])
def test_generators_have_the_count_of_appendix_7_2(preset: str, blocks: int) -> None:
    """c7s1-64, d128, d256, R256 times 9 or 6, u128, u64, c7s1-3: 11.38 million parameters, or 7.84."""
    found = count(build(PRESETS[preset])["a2b"])
    assert found == (
        3 * 64 * 49 + 64
        + 64 * 128 * 9 + 128
        + 128 * 256 * 9 + 256
        + blocks * 2 * (256 * 256 * 9 + 256)
        + 256 * 128 * 9 + 128
        + 128 * 64 * 9 + 64
        + 64 * 3 * 49 + 3
    )  # fmt: skip
    assert found == {9: 11_378_179, 6: 7_837_699}[blocks]


def test_discriminators_have_the_count_of_appendix_7_2() -> None:
    """C64-C128-C256-C512 and the layer of the logits, all 4x4."""
    assert count(build(PRESETS["paper-256"])["discriminator_a"]) == (
        3 * 64 * 16 + 64
        + 64 * 128 * 16 + 128
        + 128 * 256 * 16 + 256
        + 256 * 512 * 16 + 512
        + 512 * 16 + 1
    ) == 2_764_737  # fmt: skip


@pytest.mark.parametrize(("preset", "patch"), [("paper-256", 70), ("resnet6-128", 70), ("emoji-64", 34), ("tiny", 16)])
def test_a_logit_sees_a_patch_of(preset: str, patch: int) -> None:
    """Where the gradient of one logit is not zero, once instance normalization, which sees everything, is taken out."""
    discriminator = build(PRESETS[preset])["discriminator_a"]
    for name, module in list(discriminator.layers.named_children()):
        if isinstance(module, nn.InstanceNorm2d):
            setattr(discriminator.layers, name, nn.Identity())
    images = torch.randn(1, 3, 128, 128, requires_grad=True)
    logits = discriminator(images)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    assert images.grad is not None
    rows, columns = images.grad[0].abs().sum(0).nonzero().unbind(1)
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (patch, patch)


def test_the_layers_are_those_of_appendix_7_2() -> None:
    networks = build(PRESETS["paper-256"])
    names = [type(layer).__name__ for layer in networks["a2b"].layers]
    assert names == [
        *["ReflectionPad", "Conv2d", "InstanceNorm2d", "ReLU"],
        *["Conv2d", "InstanceNorm2d", "ReLU"] * 2,
        *["ResidualBlock"] * 9,
        *["ConvTranspose2d", "InstanceNorm2d", "ReLU"] * 2,
        *["ReflectionPad", "Conv2d", "Tanh"],
    ]
    (block, *_) = [layer for layer in networks["a2b"].layers if isinstance(layer, ResidualBlock)]
    names = [type(layer).__name__ for layer in block.layers]
    assert names == [
        *["ReflectionPad", "Conv2d", "InstanceNorm2d"],
        "ReLU",
        *["ReflectionPad", "Conv2d", "InstanceNorm2d"],
    ]
    names = [type(layer).__name__ for layer in networks["discriminator_b"].layers]
    assert names == [*["Conv2d", "LeakyReLU"], *["Conv2d", "InstanceNorm2d", "LeakyReLU"] * 3, "Logits"]
    layers = [layer for network in networks.values() for layer in network.modules()]
    assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.2}
    assert not any(
        layer.affine or layer.track_running_stats for layer in layers if isinstance(layer, nn.InstanceNorm2d)
    )


def test_initial_weights_are_normal_with_the_papers_spread() -> None:
    for name, network in build(PRESETS["emoji-64"]).items():
        weights = torch.cat([p.flatten() for p in network.parameters() if p.ndim == 4] or [torch.zeros(0)])
        if len(weights):
            assert weights.std().item() == pytest.approx(0.02, rel=0.02), name
            assert weights.mean().item() == pytest.approx(0, abs=2e-4), name


@pytest.mark.parametrize("preset", PAPER)
def test_the_papers_training(preset: str) -> None:
    config = PRESETS[preset]
    assert (config["cycle"], config["identity"], config["history"], config["batch"]) == (10.0, 0.5, 50, 1)
    small = {**config, **NETWORKS["tiny"]}
    for phase in train(small, build(small)).phases:
        (group,) = phase.optimizer.param_groups
        assert type(phase.optimizer) is torch.optim.Adam
        assert (group["lr"], group["betas"]) == (2e-4, (0.5, 0.999))
        assert phase.rate is decay


# --- what the spec says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_each_direction_is_a_task_and_a_graph_of_any_size(preset: str) -> None:
    declared = spec(PRESETS[preset])
    assert msgspec.json.decode(msgspec.json.encode(declared), type=type(declared)) == declared
    assert [task.name for task in declared.tasks] == [graph.name for graph in declared.graphs] == ["a2b", "b2a"]
    halvings = sum(kind == "d" for kind, _ in PRESETS[preset]["generator"])
    for graph in declared.graphs:
        (image,), (result,) = graph.inputs, graph.outputs
        assert (image.dtype, image.shape, image.multiple) == ("uint8", ("height", "width", 3), 2 ** (halvings + 1))
        assert (result.dtype, result.shape) == ("uint8", ("height", "width", 3))
        assert graph.batchable
        assert graph.radius is None, "instance normalization looks at the whole image"
    for task in declared.tasks:
        assert task.kind == "translate"
        assert tuple(task.inputs[0].options["example"]) == PRESETS[preset]["image"][:2]


@pytest.mark.parametrize("preset", ["emoji-64", "tiny"])
def test_the_smallest_size_is_the_multiple(preset: str) -> None:
    config = PRESETS[preset]
    side = spec(config).graphs[0].inputs[0].multiple
    graph = export(config, build(config))["a2b"]
    assert graph(torch.zeros(1, side, side, 3, dtype=torch.uint8)).shape == (1, side, side, 3)
    with pytest.raises((ValueError, RuntimeError), match=r"more than 1 spatial element|Padding size should be less"):
        graph(torch.zeros(1, side // 2, side // 2, 3, dtype=torch.uint8))


@pytest.mark.parametrize("size", [(64, 64), (40, 72)])
def test_rows_do_not_meet(size: tuple[int, int]) -> None:
    config = PRESETS["emoji-64"]
    graphs = export(config, build(config))
    images = torch.randint(0, 256, (8, *size, 3), dtype=torch.uint8)
    for name in DIRECTIONS:
        singles = torch.cat([graphs[name](image[None]) for image in images])
        assert singles.shape == images.shape
        assert singles.dtype == torch.uint8
        assert singles.float().std() > 1
        for rows in (1, 2, 3, 8):
            apart = (graphs[name](images[:rows]).int() - singles[:rows].int()).abs()
            assert apart.max() <= 1
            assert apart.float().mean() < 1e-3


def test_the_family_is_registered() -> None:
    (family,) = ganserve_families()
    assert (family.name, family.presets) == ("cyclegan", PRESETS)
    assert "ICCV 2017" in family.paper


# --- losses, by hand --------------------------------------------------------------------------------------------------


class Shift(nn.Module):
    """Adds a constant."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, images: Tensor) -> Tensor:
        return images + self.by


class Mean(nn.Module):
    """Says of each image its mean, in a map of logits, plus a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(1, keepdim=True) + self.constant


def by_hand(**changes: Any) -> tuple[Recipe, Batch, dict[str, nn.Module]]:
    """a2b adds 1/2, b2a takes 1/4 away; real images are 0 in a and 1 in b."""
    networks: dict[str, nn.Module] = {"a2b": Shift(0.5), "b2a": Shift(-0.25)}
    networks |= {f"discriminator_{domain}": Mean() for domain in "ab"}
    networks |= {f"history_{domain}": History(50, (3, 4, 4)) for domain in "ab"}
    batch = Batch({"a": torch.zeros(2, 3, 4, 4), "b": torch.ones(2, 3, 4, 4)}, source(2))
    return train(tiny(**changes), networks), batch, networks


def test_the_generators_loss() -> None:
    """Zhu et al., 2017, eq. 3 with the least squares of section 4, and the identity loss of section 5.2."""
    recipe, batch, _ = by_hand()
    loss, logs = recipe.phases[0].loss(batch)
    adversarial = (0.5 - 1) ** 2 + (0.75 - 1) ** 2  # of a2b(0) = 0.5 and b2a(1) = 0.75
    cycle = abs(0.5 - 0.25 - 0) + abs(0.75 + 0.5 - 1)
    identity = abs(0 - 0.25 - 0) + abs(1 + 0.5 - 1)
    assert {name: value.item() for name, value in logs.items()} == pytest.approx(
        {"adversarial": adversarial, "cycle": cycle, "identity": identity}
    )
    assert loss.item() == pytest.approx(adversarial + 10 * cycle + 0.5 * 10 * identity)
    loss.backward()


def test_without_the_identity_loss() -> None:
    recipe, batch, _ = by_hand(identity=0.0, cycle=3.0)
    loss, logs = recipe.phases[0].loss(batch)
    assert set(logs) == {"adversarial", "cycle"}
    assert loss.item() == pytest.approx(0.3125 + 3 * 0.5)


def test_the_discriminators_loss_is_halved() -> None:
    """Half of E[(D(real) - 1)^2] + E[D(fake)^2] for each domain; the fakes are those that the generators moved for."""
    recipe, batch, networks = by_hand()
    recipe.phases[0].loss(batch)
    with torch.no_grad():
        networks["a2b"].by.fill_(9.0)  # a later generator is not asked again
    loss, logs = recipe.phases[1].loss(batch)
    of_a = ((0 - 1) ** 2 + 0.75**2) / 2
    of_b = ((1 - 1) ** 2 + 0.5**2) / 2
    assert loss.item() == pytest.approx(of_a + of_b)
    assert logs["fake_a"].item() == pytest.approx(0.75)
    assert logs["real_b"].item() == pytest.approx(1)
    loss.backward()
    assert networks["a2b"].by.grad is None


def test_an_optimizer_moves_its_networks_and_nothing_else() -> None:
    networks = build(tiny())
    for phase, names in zip(
        train(tiny(), networks).phases, [("a2b", "b2a"), ("discriminator_a", "discriminator_b")], strict=True
    ):
        assert set(phase.networks) == set(names)
        moved = {id(p) for group in phase.optimizer.param_groups for p in group["params"]}
        assert moved == {id(p) for name in names for p in networks[name].parameters()}


def test_averages_are_kept_where_the_preset_asks_for_them() -> None:
    networks = build(tiny())
    assert train(tiny(), networks).averaged == {}
    assert train(tiny(ema=2.0), networks).averaged == {"a2b": 2.0, "b2a": 2.0}


@pytest.mark.parametrize(
    ("progress", "factor"), [(0.0, 1.0), (0.25, 1.0), (0.5, 1.0), (0.75, 0.5), (0.9, 0.2), (1.0, 0.0)]
)
def test_the_learning_rate_is_constant_then_falls_to_zero(progress: float, factor: float) -> None:
    assert decay(progress) == pytest.approx(factor)


def test_previews_show_both_cycles() -> None:
    recipe, batch, networks = by_hand()
    previews = recipe.preview(networks, batch)
    assert recipe.shows is not None
    columns = recipe.shows(networks, batch, previews)
    assert [column.mean().item() for column in columns] == pytest.approx([0, 0.5, 0.25, 1, 0.75, 1.25])
    assert recipe.compares == "b"


# --- the history ------------------------------------------------------------------------------------------------------


def numbered(first: int, rows: int) -> Tensor:
    """Images of one value each: their number."""
    return torch.arange(first, first + rows, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 2, 2)


def numbers(images: Tensor) -> list[int]:
    assert torch.equal(images, images[:, :, :1, :1].expand_as(images))
    return [int(value) for value in images[:, 0, 0, 0]]


def test_the_first_fifty_images_pass_through_and_are_kept() -> None:
    history = History(50, (1, 2, 2))
    draws = source(10)
    for first in range(0, 50, 10):
        assert numbers(history(numbered(first, 10), draws)) == list(range(first, first + 10))
    assert numbers(history.images) == list(range(50))
    assert history.filled.item() == 50


def test_half_of_the_later_images_are_replaced_by_older_ones() -> None:
    history = History(50, (1, 2, 2))
    draws = source(4, seed=1)
    kept = set(range(48))
    for first in range(0, 48, 4):
        history(numbered(first, 4), draws)
    older = 0
    ages = []
    for first in range(48, 2048, 4):
        returned = numbers(history(numbered(first, 4), draws))
        for place, number in enumerate(returned):
            new = first + place
            if len(kept) < 50:
                assert number == new
                kept.add(new)
            elif number != new:
                assert number in kept, "only an image that is kept can be returned instead"
                kept = kept - {number} | {new}
                older += 1
                ages.append(new - number)
        assert set(numbers(history.images)) == kept
    assert older / 2000 == pytest.approx(0.5, abs=0.045)  # four standard deviations
    # An image is swapped in every second time and leaves each time with probability 1/50: 100 images later on average.
    assert sum(ages) / len(ages) == pytest.approx(100, rel=0.2)


def test_a_history_of_none_returns_what_it_gets() -> None:
    images = numbered(7, 3)
    assert History(0, (1, 2, 2))(images, source(3)) is images


def test_a_history_goes_on_from_its_state() -> None:
    """What a checkpoint holds is enough to return the same images again."""
    history, other = History(4, (1, 2, 2)), History(4, (1, 2, 2))
    draws = source(3)
    for first in range(0, 9, 3):
        history(numbered(first, 3), draws)
    state = history.state_dict()
    assert set(state) == {"images", "filled"}
    other.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    for first in range(9, 60, 3):
        one = history(numbered(first, 3), source(3, seed=first))
        assert torch.equal(one, other(numbered(first, 3), source(3, seed=first)))
    assert torch.equal(history.images, other.images)


def test_returned_images_are_no_views_of_the_history() -> None:
    history = History(1, (1, 2, 2))
    returned = [history(numbered(number, 1), source(1, seed=number)) for number in range(20)]
    before = [images.clone() for images in returned]
    history.images.fill_(-1)
    assert all(torch.equal(one, two) for one, two in zip(before, returned, strict=True))


# --- learning ---------------------------------------------------------------------------------------------------------


def run(
    recipe: Recipe, networks: Mapping[str, nn.Module], domains: Mapping[str, Tensor], rows: int, steps: int
) -> None:
    """The phases of ``recipe``, step by step, on random rows of each of ``domains``."""
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        chosen = {
            name: images[torch.randint(len(images), (rows,), generator=generator)] for name, images in domains.items()
        }
        batch = Batch(chosen, Source(generator, rows))
        for phase in recipe.phases:
            for name, network in networks.items():
                network.requires_grad_(name in phase.networks)
            assert phase.rate is not None
            for group in phase.optimizer.param_groups:
                group["lr"] = tiny()["g_lr"] * phase.rate(step / steps)
            loss, _ = phase.loss(batch)
            phase.optimizer.zero_grad()
            loss.backward()
            phase.optimizer.step()


def distance(one: Tensor, two: Tensor) -> float:
    return (one - two).abs().mean().item()


def test_it_learns_to_translate_there_and_back() -> None:
    """From handwritten digits to white paper and back, on the inverse of other digits; judged on digits that it never saw."""
    digits = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    digits = F.interpolate(digits, (16, 16)).expand(-1, 3, -1, -1)
    unseen = digits[1600:]
    networks = build(tiny())
    run(train(tiny(), networks), networks, {"a": digits[:800], "b": -digits[800:1600]}, rows=tiny()["batch"], steps=250)
    with torch.no_grad():
        for there, back, images in (("a2b", "b2a", unseen), ("b2a", "a2b", -unseen)):
            translated = networks[there](images)
            apart = distance(images, images.roll(1, 0))
            assert distance(networks[back](translated), images) < apart / 4
            assert distance(translated, images) > 0.05
            # As bright as the domain that they should belong to, which is the inverse of their own.
            assert translated.mean().item() == pytest.approx(-images.mean().item(), abs=0.1)

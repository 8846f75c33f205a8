"""DF-GAN's own numerics: fusion, the matching-aware penalty, mismatched pairs, captions, and that the text comes to matter."""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ganserve.errors import ExportError
from ganserve.plugins import installed
from ganserve_dfgan import NETWORKS, PADDING, PRESETS, spec
from ganserve_dfgan.network import Affine, Discriminator, Generator, OfSentences, build, export
from ganserve_dfgan.train import captions, matching_penalty, train
from ganserve_trainers.export import Label, export_bundle
from ganserve_trainers.recipe import Batch, Source
from ganserve_trainers.text.bert import Layout

TINY: dict[str, Any] = dict(PRESETS["tiny"])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def batch(rows: int = 8, captions_each: int = 3, seed: int = 1) -> Batch:
    """Pictures of one colour a row; the caption's vector says which."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(rows, 3, generator=generator).mul(2).sub(1)
    images = colours[:, :, None, None].expand(-1, -1, *TINY["image"][:2]).contiguous()
    text = F.normalize(F.pad(colours, (0, TINY["text"] - 3)), dim=1)[:, None].repeat(1, captions_each, 1)
    tensors = {"image": images, "text": text, "texts": torch.full((rows,), captions_each)}
    return Batch(tensors, Source(torch.Generator().manual_seed(seed), rows))


# Networks.


@pytest.mark.parametrize("preset", PRESETS)
def test_the_tables_fit_the_images(preset: str) -> None:
    config = PRESETS[preset]
    with torch.device("meta"):
        networks = build(config)
        z, text = torch.empty(2, config["z"]), torch.empty(2, config["text"])
        images = networks["generator"](z, text)
        assert images.shape == (2, 3, *config["image"][:2])
        assert networks["discriminator"](images, text).shape == (2,)
    assert config["tokens"] % PADDING == 0
    task = spec(config).tasks[0]
    assert task.kind == "text_to_image"
    assert [latent.tensor for latent in task.latents] == ["text", "z"]


def test_the_papers_vector_has_256_numbers_and_minilms_384() -> None:
    assert {name: PRESETS[name]["text"] for name in ("paper-256", "minilm-256")} == {
        "paper-256": 256,
        "minilm-256": 384,
    }
    paper = PRESETS["paper-256"]
    assert (paper["k"], paper["p"], paper["every"], paper["g_lr"], paper["d_lr"]) == (2.0, 6.0, 1, 1e-4, 4e-4)


def test_an_affine_begins_as_the_identity_and_modulates_channel_by_channel() -> None:
    affine = Affine(5, 4)
    features, condition = torch.randn(2, 4, 3, 3), torch.randn(2, 5)
    torch.testing.assert_close(affine(features, condition), features)
    with torch.no_grad():
        for parameter in affine.parameters():
            parameter.normal_()
    scale, shift = affine.scale(condition), affine.shift(condition)
    changed = affine(features, condition)
    torch.testing.assert_close(changed[1, 2], features[1, 2] * scale[1, 2] + shift[1, 2])


def test_noise_and_text_both_reach_every_fusion() -> None:
    generator = Generator(3, 2, (8, 8, 8))
    affines = [module for module in generator.modules() if isinstance(module, Affine)]
    assert len(affines) == 2 * 2 * 2, "two affines in each of two fusions of each of two blocks"
    assert {affine.scale[0].in_features for affine in affines} == {3 + 2}  # type: ignore[union-attr]


def test_the_exported_generator_scales_vectors_as_training_does() -> None:
    config = {**TINY, "gain": 3.0}
    generator = build(config)["generator"].eval()
    made = export(config, {"generator": generator})["generator"]
    z, text = torch.randn(4, config["z"]), torch.randn(4, config["text"])
    torch.testing.assert_close(OfSentences(generator, 3.0)(z, text), generator(z, 3 * text))
    assert made(z, text).dtype == torch.uint8


# The matching-aware gradient penalty.


def test_the_penalty_is_that_of_a_known_gradient() -> None:
    images, text = torch.randn(3, 2, 2, 2, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    logits = 3 * images.flatten(1).sum(1) + 4 * text.sum(1)
    norms = 3 * math.sqrt(8) + 4 * math.sqrt(4)
    assert matching_penalty(logits, (images, text), 2.0, 6.0).item() == pytest.approx(2 * norms**6, rel=1e-5)


def test_the_penalty_equals_one_of_finite_differences_and_so_does_its_own_gradient() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        network = Discriminator(3, (4, 4))
        images, text = torch.randn(2, 3, 8, 8), torch.randn(2, 3)

        def penalty() -> Tensor:
            pair = images.clone().requires_grad_(), text.clone().requires_grad_()
            return matching_penalty(network(*pair), pair, 2.0, 6.0)

        def slopes(values: Tensor, judge: Any, step: float = 1e-6) -> Tensor:
            found = torch.zeros_like(values)
            for place in range(values.numel()):
                moved = values.flatten().clone()
                moved[place] += step
                up = judge(moved.view_as(values))
                moved[place] -= 2 * step
                found.view(-1)[place] = (up - judge(moved.view_as(values))) / (2 * step)
            return found

        with torch.no_grad():
            by_image = slopes(images, lambda moved: network(moved, text).sum()).flatten(1).norm(dim=1)
            by_text = slopes(text, lambda moved: network(images, moved).sum()).norm(dim=1)
        wanted = 2 * (by_image + by_text).pow(6).mean()
        # The norms are computed in single precision.
        assert penalty().item() == pytest.approx(wanted.item(), rel=1e-4)

        weight = network.judge[2].weight  # type: ignore[union-attr]
        (slope,) = torch.autograd.grad(penalty(), weight)
        place = slope.abs().argmax()
        step = 1e-3 * weight.abs().mean().item()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.view(-1)[place] += sign * step
            ends.append(penalty().item())
            with torch.no_grad():
                weight.view(-1)[place] -= sign * step
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope.view(-1)[place].item(), rel=1e-2)
    finally:
        torch.set_default_dtype(torch.float32)


# Training.


def test_a_caption_is_drawn_among_those_that_an_image_has() -> None:
    vectors = torch.arange(24.0).reshape(4, 3, 2)
    tensors = {"text": vectors, "texts": torch.tensor([1, 3, 2, 3])}
    seen = set()
    for seed in range(50):
        chosen = captions(Batch(tensors, Source(torch.Generator().manual_seed(seed), 4)), 2.0)
        for row, vector in enumerate(chosen):
            matches = (vectors[row] * 2 == vector).all(1).nonzero()
            seen.add((row, int(matches[0, 0])))
    assert seen == {(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)}


def test_the_discriminators_loss_is_that_of_the_paper() -> None:
    config = {**TINY, "every": 1, "augment": ()}
    networks = build(config)
    discriminator = networks["discriminator"]
    one = batch()
    recipe = train(config, networks)
    assert [phase.name for phase in recipe.phases] == ["discriminator", "generator"]
    loss, logs = recipe.phases[0].loss(one)
    source = Source(torch.Generator().manual_seed(1), 8)
    text = captions(Batch(one.tensors, source), config["gain"])
    with torch.no_grad():
        generated = networks["generator"](source.normal(config["z"]), text)
        real, fake = discriminator(one.images, text), discriminator(generated, text)
        other = discriminator(one.images, text.roll(1, 0))
    hinge = F.relu(1 - real).mean() + (F.relu(1 + fake).mean() + F.relu(1 + other).mean()) / 2
    torch.testing.assert_close(loss.detach(), hinge + logs["penalty"])
    assert logs["penalty"] > 0


def test_a_lazy_penalty_is_a_phase_of_its_own_as_much_stronger_as_it_is_rarer() -> None:
    config = {**TINY, "every": 4, "augment": ()}
    networks = build(config)
    phases = {phase.name: phase for phase in train(config, networks).phases}
    assert list(phases) == ["discriminator", "matching", "generator"]
    assert phases["matching"].every == 4
    assert phases["matching"].optimizer is phases["discriminator"].optimizer
    loss, logs = phases["matching"].loss(batch())
    torch.testing.assert_close(loss.detach(), 4 * logs["penalty"])


def test_text_comes_to_matter() -> None:
    """Pictures of one colour, captions that say which: generated ones come to have the caption's colour, not another's."""
    config = {**TINY, "augment": ()}
    networks = build(config)
    recipe = train(config, networks)
    for step in range(100):
        one = batch(16, seed=step)
        for phase in recipe.phases:
            if step % phase.every:
                continue
            for name, network in networks.items():
                network.requires_grad_(name in phase.networks)
            phase.optimizer.zero_grad()
            loss, _ = phase.loss(Batch(one.tensors, Source(torch.Generator().manual_seed(step), 16)))
            loss.backward()  # type: ignore[no-untyped-call]
            phase.optimizer.step()
    test = batch(64, seed=99_999)
    with torch.no_grad():
        made = recipe.preview(networks, test).mean((2, 3))
    directions = F.normalize(made, dim=1)
    wanted = test.tensors["text"][:, 0, :3]
    own, other = (directions * wanted).sum(1).mean(), (directions * wanted.roll(1, 0)).sum(1).mean()
    assert own > other + 0.3, f"{own:.2f} like the own caption, {other:.2f} like another's"


def test_a_tokenizer_that_is_not_given_is_missed_at_export(tmp_path: Path) -> None:
    layout = Layout(
        model_type="bert",
        vocab_size=9,
        hidden_size=TINY["text"],
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=64,
    )
    config = {**TINY, "text_encoder": msgspec.to_builtins(layout)}
    with pytest.raises(ExportError, match=r"reads 'tokenizer.json' by codec 'tokens', which is not there"):
        export_bundle(installed().family("dfgan"), "tiny", config, build(config), tmp_path / "out", Label("none"))
    assert not list(tmp_path.iterdir())


def test_networks_named_in_presets_are_those_of_the_tables() -> None:
    assert {config["networks"] for config in PRESETS.values()} == set(NETWORKS)
    assert (Path(__file__).parents[1] / "README.md").is_file()

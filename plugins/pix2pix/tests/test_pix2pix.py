"""pix2pix: sizes, counts and receptive fields that follow from the paper's tables, its losses, its noise, and that it learns."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

import ganserve_pix2pix
from ganserve.codecs.seeds import NoiseDecoder
from ganserve.errors import TrainingError
from ganserve.spec import Spec
from ganserve_pix2pix import DISCRIMINATORS, PRESETS, dropped, ganserve_families, noise_size, spec
from ganserve_pix2pix.network import Discriminator, InstanceNorm, build, export
from ganserve_pix2pix.train import jitter, train
from ganserve_trainers.recipe import Batch, Recipe, Source

NAMES = ["paper-256", "unet-128", "emoji-64", "edges-64", "tiny"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def source(rows: int, seed: int = 0) -> Source:
    return Source(torch.Generator().manual_seed(seed), rows)


def pairs(config: Mapping[str, Any], rows: int, seed: int = 0) -> Batch:
    height, width, channels = config["image"]
    a, b = torch.rand(2, rows, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return Batch({"a": a, "b": b}, source(rows, seed))


def noise(config: Mapping[str, Any], rows: int, seed: int = 0) -> Tensor:
    return source(rows, seed).uniform(noise_size(config))


# --- tables -----------------------------------------------------------------------------------------------------------


def test_the_presets() -> None:
    assert list(PRESETS) == NAMES
    assert all(config["data"] == "pairs" for config in PRESETS.values())


def test_paper_256_has_the_counts_of_the_appendix() -> None:
    """Section 6.1: 4x4 kernels; a gain and a shift for each normalized channel; a bias only where no normalization is to follow
    the outermost layers of G (its last) and of D (its first and last)."""
    networks = build(PRESETS["paper-256"])
    encoder = 3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 4 * 512 * 512
    # The decoder's inputs: CD512-CD1024-CD1024-C1024-C1024-C512-C256-C128, as the appendix lists them for the U-Net.
    decoder = (
        512 * 512 + 1024 * 512 + 1024 * 512 + 1024 * 512 + 1024 * 256 + 512 * 128 + 256 * 64 + 128 * 3
    )  # fmt: skip
    normalized = (128 + 256 + 4 * 512) + (4 * 512 + 256 + 128 + 64)
    assert count(networks["generator"]) == 16 * (encoder + decoder) + 2 * normalized + 3 == 54_413_955
    patch = 6 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512
    assert count(networks["discriminator"]) == 16 * patch + 2 * (128 + 256 + 512) + 64 + 1 == 2_768_705


def test_starter_generators_fit_into_six_megabytes_at_two_bytes_a_weight() -> None:
    for preset in ("emoji-64", "edges-64"):
        assert 2 * count(build(PRESETS[preset])["generator"]) < 5.5e6


@pytest.mark.parametrize("preset", NAMES)
def test_every_layer_has_the_size_of_its_table(preset: str) -> None:
    """The encoder halves down to 1x1, the decoder doubles, and the exported bytes are what the spec declares."""
    config = PRESETS[preset]
    networks = build(config)
    generator = networks["generator"]
    height, width, channels = config["image"]
    seen: list[tuple[int, ...]] = []
    for layer in (*generator.encoder, *generator.decoder):
        layer.register_forward_hook(lambda _, __, made: seen.append(tuple(made.shape[1:])))
    a = pairs(config, 1).tensors["a"]
    made = generator(a, noise(config, 1))
    levels = len(config["encoder"])
    down = [(width_, height >> level, width >> level) for level, width_ in enumerate(config["encoder"], 1)]
    up = [
        (width_, height >> level, width >> level)
        for level, (width_, _) in zip(range(levels - 1, 0, -1), config["decoder"], strict=True)
    ]
    assert seen == down + up
    assert seen[levels - 1][1:] == (1, 1)
    assert made.shape == (1, channels, height, width)
    assert made.abs().max() < 1
    declared = spec(config).graph("generator")
    pixels = torch.randint(0, 256, (1, height, width, channels), dtype=torch.uint8)
    assert declared.input("image").accepts(pixels.shape[1:])
    assert declared.input("noise").accepts(noise(config, 1).shape[1:])
    given = export(config, networks)["generator"](pixels, noise(config, 1))
    assert given.dtype == torch.uint8
    assert declared.output("result").accepts(given.shape[1:])
    expected = generator(pixels.permute(0, 3, 1, 2) / 127.5 - 1, noise(config, 1))
    torch.testing.assert_close(given.permute(0, 3, 1, 2).float() / 127.5 - 1, expected, rtol=0, atol=0.5 / 127.5 + 1e-5)


def test_layers_are_made_as_the_appendix_says() -> None:
    networks = build(PRESETS["paper-256"])
    generator = networks["generator"]
    plain, normalized = ["Conv2d", "LeakyReLU"], ["Conv2d", "InstanceNorm", "LeakyReLU"]
    assert [[type(layer).__name__ for layer in down] for down in generator.encoder] == [
        plain,
        *[normalized] * 6,
        plain,  # the innermost, whose 1x1 activations a batch of one would normalize to zeros
    ]
    assert [[type(layer).__name__ for layer in up] for up in generator.decoder] == [
        ["ConvTranspose2d", "InstanceNorm"]
    ] * 7
    assert generator.rates == (0.5, 0.5, 0.5, 0, 0, 0, 0)
    assert [type(layer).__name__ for layer in networks["discriminator"].layers] == [
        *plain,
        *normalized * 3,
        "Conv2d",
    ]
    for network in networks.values():
        slopes = {layer.negative_slope for layer in network.modules() if isinstance(layer, nn.LeakyReLU)}
        assert slopes == {0.2}
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.weight.numel() > 5000:
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
                assert layer.weight.mean().item() == pytest.approx(0, abs=1e-3)


def test_dropouts_noise_has_a_number_for_each_activation_of_the_layers_that_have_it() -> None:
    assert dropped(PRESETS["paper-256"]) == [(512, 2, 2), (512, 4, 4), (512, 8, 8)]
    assert noise_size(PRESETS["paper-256"]) == 512 * (4 + 16 + 64)
    assert dropped({**PRESETS["tiny"], "image": (16, 32, 3)}) == [(32, 2, 4)]


@pytest.mark.parametrize("training", [True, False])
def test_instance_norm_is_that_of_torch_whatever_the_layout_and_precision(training: bool) -> None:
    norm, own = InstanceNorm(5).train(training), nn.InstanceNorm2d(5, affine=True)
    for module in (norm, own):
        nn.init.constant_(module.weight, 1.5)
        nn.init.constant_(module.bias, -0.25)
    x = torch.randn(3, 5, 6, 4) * 3 + 1
    torch.testing.assert_close(norm(x), own(x))
    torch.testing.assert_close(norm(x.contiguous(memory_format=torch.channels_last)), own(x))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(norm(x.bfloat16()).float(), own(x), rtol=0.05, atol=0.05)


# --- receptive fields -------------------------------------------------------------------------------------------------

FIELDS = {"pixel": 1, "patch-16": 16, "patch-34": 34, "patch-70": 70, "image-286": 286, "tiny": 16}


@pytest.mark.parametrize("name", FIELDS)
def test_receptive_fields(name: str) -> None:
    """From the table: backwards from one logit, r = (r - 1) stride + kernel. And from the gradient of one logit, where the norms,
    whose statistics see the whole image, are taken out."""
    layers = DISCRIMINATORS[name]
    field = 1
    for _, kernel, stride, _ in reversed(layers):
        field = (field - 1) * stride + kernel
    assert field == FIELDS[name]

    narrow = [(min(channels, 3), *geometry) for channels, *geometry in layers]
    discriminator = Discriminator(2, narrow).double()
    discriminator.layers = nn.Sequential(
        *(layer for layer in discriminator.layers if not isinstance(layer, InstanceNorm))
    )
    for layer in discriminator.layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.uniform_(layer.weight, 0.1, 1.0)  # so that nothing cancels
    size = field + 2 * 64
    inputs, results = (torch.rand(1, 1, size, size, dtype=torch.float64, requires_grad=True) for _ in range(2))
    logits = discriminator(inputs, results)
    middle = logits.shape[2] // 2
    for gradient in torch.autograd.grad(logits[0, 0, middle, middle], (inputs, results)):
        for axis in (0, 1):
            touched = gradient[0, 0].abs().sum(1 - axis).nonzero()
            assert int(touched.max() - touched.min()) + 1 == field
            assert len(touched) == field


def test_patch_gan_gives_a_logit_a_patch() -> None:
    images = torch.zeros(1, 3, 256, 256)
    for name, side in (("pixel", 256), ("patch-70", 30), ("image-286", 6)):
        narrow = [(min(channels, 2), *geometry) for channels, *geometry in DISCRIMINATORS[name]]
        assert Discriminator(6, narrow)(images, images).shape == (1, 1, side, side)


# --- training ---------------------------------------------------------------------------------------------------------


def test_losses_are_those_of_the_paper() -> None:
    """Eq. 1 halved for D (section 3.3), -log D plus 100 L1 for G (eq. 4), on networks whose outputs are known beforehand."""
    config = {**PRESETS["tiny"], "jitter": 0}
    networks = build(config)
    with torch.no_grad():
        for parameter in networks["generator"].image.parameters():
            parameter.zero_()  # so that G gives tanh(0) = 0
        logit = networks["discriminator"].layers[-1]
        logit.weight.zero_()
        logit.bias.fill_(2.0)  # so that D says sigmoid(2) = 0.8808 of everything
    a = torch.rand(4, 3, 16, 16)
    batch = Batch({"a": a, "b": torch.full_like(a, -0.25)}, source(4))
    d_phase, g_phase = train(config, networks).phases
    d_loss, _ = d_phase.loss(batch)
    assert d_loss.item() == pytest.approx(-(math.log(0.880797) + math.log(1 - 0.880797)) / 2, abs=1e-5)
    g_loss, logs = g_phase.loss(batch)
    assert logs["l1"].item() == pytest.approx(0.25)
    assert g_loss.item() == pytest.approx(-math.log(0.880797) + 100 * 0.25, abs=1e-4)


def test_the_discriminator_sees_the_input_and_the_generator_the_discriminator() -> None:
    """A conditional GAN: with another input picture D's verdict on the same result changes."""
    config = PRESETS["tiny"]
    networks = build(config)
    batch = pairs(config, 2)
    a, b = batch.tensors["a"], batch.tensors["b"]
    discriminator = networks["discriminator"]
    assert not torch.allclose(discriminator(a, b), discriminator(-a, b))
    _, g_phase = train({**config, "l1": 0.0}, networks).phases
    loss, _ = g_phase.loss(batch)
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in networks["generator"].parameters())


@pytest.mark.parametrize("name", ["pixel", "patch-16", "patch-70", "image-286"])
def test_any_discriminator_can_be_chosen(name: str) -> None:
    """The paper's ablation: ``--set discriminator=NAME`` trains, on any image that it leaves a logit of."""
    config = {**PRESETS["tiny"], "discriminator": name, "image": (128, 128, 3) if name == "image-286" else (32, 32, 3)}
    networks = build(config)
    for phase in train(config, networks).phases:
        loss, _ = phase.loss(pairs(config, 1))
        loss.backward()
        (network,) = phase.networks
        assert loss.isfinite()
        assert all(parameter.grad.isfinite().all() for parameter in networks[network].parameters())
        assert all(parameter.grad.any() for parameter in networks[network].parameters())


def test_the_discriminators_phase_leaves_the_generator_alone() -> None:
    networks = build(PRESETS["tiny"])
    d_phase, _ = train(PRESETS["tiny"], networks).phases
    loss, _ = d_phase.loss(pairs(PRESETS["tiny"], 2))
    loss.backward()
    assert all(parameter.grad is None for parameter in networks["generator"].parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in networks["discriminator"].parameters())


def test_optimizers_are_those_of_the_paper() -> None:
    config = {
        **PRESETS["paper-256"],
        **{key: PRESETS["tiny"][key] for key in ("image", "encoder", "decoder", "discriminator")},
    }
    networks = build(config)
    recipe = train(config, networks)
    for phase in recipe.phases:
        assert type(phase.optimizer) is torch.optim.Adam
        (group,) = phase.optimizer.param_groups
        assert (group["lr"], group["betas"]) == (2e-4, (0.5, 0.999))
        (network,) = (networks[name] for name in phase.networks)
        assert {id(p) for p in group["params"]} == {id(p) for p in network.parameters()}
    assert recipe.averaged == {}
    assert train(PRESETS["emoji-64"], build(PRESETS["emoji-64"])).averaged == {"generator": 5.0}


def test_jitter_keeps_pairs_together_and_goes_everywhere() -> None:
    a = torch.rand(400, 3, 6, 8)
    one, two = jitter(a, -a, 3, source(400))
    assert one.shape == a.shape
    assert torch.equal(one, -two)
    enlarged = nn.functional.interpolate(a, (9, 11), mode="bilinear", align_corners=False)
    cuts = torch.stack([enlarged[:, :, y : y + 6, x : x + 8] for y in range(4) for x in range(4)])
    matches = (cuts - one).abs().amax((2, 3, 4)) < 1e-6
    assert matches.any(0).all()
    assert matches.any(1).all()
    assert all(torch.equal(x, y) for x, y in zip(jitter(a, -a, 0, source(400)), (a, -a), strict=True))


def test_an_update_is_a_function_of_its_source() -> None:
    """So that a resumed run goes on as it would have: jitter and dropout are drawn from the batch's own numbers."""
    config = PRESETS["tiny"]
    networks = build(config)
    recipe = train(config, networks)
    for phase in recipe.phases:
        torch.manual_seed(1)
        one, _ = phase.loss(pairs(config, 4))
        torch.manual_seed(2)
        two, _ = phase.loss(pairs(config, 4))
        other = pairs(config, 4)
        three, _ = phase.loss(Batch(other.tensors, source(4, seed=9)))
        assert torch.equal(one, two)
        assert not torch.equal(one, three)


def test_unusable_configurations_are_refused() -> None:
    with pytest.raises(TrainingError, match="there is no discriminator 'patch-71': choose one of image-286, patch-16"):
        build({**PRESETS["tiny"], "discriminator": "patch-71"})
    with pytest.raises(TrainingError, match="discriminator 'image-286' leaves no logit of a 64x64 image"):
        build({**PRESETS["emoji-64"], "discriminator": "image-286"})
    with pytest.raises(TrainingError, match=r"images of 96x128 cannot be halved 6 times.*multiples of 64"):
        build({**PRESETS["emoji-64"], "image": (96, 128, 3)})
    for decoder in (((32, 0.5), (32, 0.0)), ((32, 0.0), (32, 0.0), (16, 0.0))):
        with pytest.raises(TrainingError, match=r"expected 3 layers \(channels, rate of dropout\)"):
            build({**PRESETS["tiny"], "decoder": decoder})


# --- noise ------------------------------------------------------------------------------------------------------------


def test_dropout_drops_below_its_rate_and_scales_what_stays() -> None:
    """Of each CD layer's activations those with noise below one half are zero and the rest twice as large; then ReLU."""
    config = PRESETS["emoji-64"]
    generator = build(config)["generator"]
    normalized: list[Tensor] = []
    joined: list[Tensor] = []
    for up in generator.decoder:
        up.register_forward_hook(lambda _, __, made: normalized.append(made))
    for following in (*list(generator.decoder)[1:], generator.image):
        following.register_forward_pre_hook(lambda _, given: joined.append(given[0]))
    numbers = noise(config, 2)
    numbers[:, :3] = torch.tensor([0.0, 0.5, 0.9999999])
    with torch.no_grad():
        generator(pairs(config, 2).tensors["a"], numbers)
    start = 0
    for layer, shape in enumerate(dropped(config)):
        size = math.prod(shape)
        kept = numbers[:, start : start + size].reshape(2, *shape) >= 0.5
        start += size
        assert kept.float().mean().item() == pytest.approx(0.5, abs=0.05)
        torch.testing.assert_close(joined[layer][:, : shape[0]], torch.relu(normalized[layer]) * kept * 2)
    assert start == numbers.shape[1]
    for layer in range(3, 5):
        torch.testing.assert_close(joined[layer][:, : normalized[layer].shape[1]], torch.relu(normalized[layer]))


def test_a_seed_is_a_picture() -> None:
    """The only source of variety is the noise drawn from the seed: the same pair the same bytes, another pair other bytes."""
    config = PRESETS["tiny"]
    networks = build(config)
    with torch.no_grad():
        networks["generator"].image.weight.mul_(20)  # a fresh network's pictures are grey
    graph = export(config, networks)["generator"].eval()
    declared = spec(config)
    (given,) = (one for one in declared.tasks[0].inputs if one.tensor == "noise")
    decoder = NoiseDecoder(given, declared.graph("generator").input("noise"), Path())
    pixels = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8).expand(3, -1, -1, -1)
    drawn = decoder.decode({"seed": [(5, 0), (5, 1), (5, 0)]}, 3)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    made = graph(pixels, torch.from_numpy(drawn))
    assert torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[1])


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_rows_do_not_meet(rows: int) -> None:
    """Instance norm is the batch norm of a batch of one: a picture's translation is the same in any batch."""
    config = PRESETS["tiny"]
    networks = build(config)
    with torch.no_grad():
        networks["generator"].image.weight.mul_(20)
    generator = networks["generator"]
    a, numbers = pairs(config, 8).tensors["a"], noise(config, 8)
    together = generator(a[:rows], numbers[:rows])
    alone = torch.cat([generator(a[row : row + 1], numbers[row : row + 1]) for row in range(rows)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert generator(a, numbers).std(0).mean() > 0.05


# --- spec -------------------------------------------------------------------------------------------------------------


def test_the_spec_is_a_translation_from_an_image_and_a_seed() -> None:
    for config in PRESETS.values():
        made = spec(config)
        assert msgspec.json.decode(msgspec.json.encode(made), type=Spec) == made
        (task,) = made.tasks
        assert (task.name, task.kind, task.values()) == ("a2b", "translate", ("image", "seed"))
        assert made.graph("generator").radius is None  # instance norm sees the whole picture


def test_the_family_is_registered() -> None:
    (family,) = ganserve_families()
    assert family.name == "pix2pix"
    assert (family.build, family.train, family.export) == (
        "ganserve_pix2pix.network:build",
        "ganserve_pix2pix.train:train",
        "ganserve_pix2pix.network:export",
    )
    assert ganserve_pix2pix.__doc__


# --- learning ---------------------------------------------------------------------------------------------------------


def outlines() -> tuple[Tensor, Tensor]:
    """1,797 pairs of 16x16: the outline of a handwritten digit, black on white, and the digit itself, blue on yellow."""
    digits = [
        np.asarray(Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((16, 16), Image.Resampling.BICUBIC))
        for image in load_digits().images
    ]
    ink = torch.tensor(np.stack(digits), dtype=torch.float32)[:, None] / 255
    edges = (nn.functional.max_pool2d(ink, 3, 1, 1) + nn.functional.max_pool2d(-ink, 3, 1, 1)) > 0.6
    yellow, blue = (torch.tensor(colour).view(1, 3, 1, 1) for colour in ((1.0, 0.8, -0.6), (-0.8, -0.4, 0.6)))
    return (1 - 2 * edges.float()).expand(-1, 3, -1, -1), yellow + (blue - yellow) * ink


def run(recipe: Recipe, networks: Mapping[str, nn.Module], a: Tensor, b: Tensor, rows: int, steps: int) -> None:
    """The phases of ``recipe``, step by step, on random pairs."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(a), (rows,), generator=generator)
        for phase in recipe.phases:
            for name, network in networks.items():
                network.requires_grad_(name in phase.networks)
            loss, _ = phase.loss(Batch({"a": a[chosen], "b": b[chosen]}, Source(generator, rows)))
            phase.optimizer.zero_grad()
            loss.backward()
            phase.optimizer.step()


def test_it_learns_real_pairs() -> None:
    """On pairs that it never saw, translations lie much nearer to their targets than the input does, or the mean target."""
    config = PRESETS["tiny"]
    networks = build(config)
    a, b = outlines()
    recipe = train(config, networks)
    run(recipe, networks, a[:1500], b[:1500], 16, 100)
    with torch.no_grad():
        made = recipe.preview(networks, Batch({"a": a[1500:], "b": b[1500:]}, source(297)))
    distance = (made - b[1500:]).abs().mean()
    copied = (a[1500:] - b[1500:]).abs().mean()
    mean = (b[:1500].mean(0, keepdim=True) - b[1500:]).abs().mean()
    assert distance < 0.7 * min(copied, mean)

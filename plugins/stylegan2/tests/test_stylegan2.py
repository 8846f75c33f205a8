"""StyleGAN2: counts and sizes that follow from the papers, the layers against their equations, and what each preset declares."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve.spec import Loop
from ganserve_stylegan2 import PRESETS, channels, ganserve_families, layers, maps, opponent, pixels, resolutions, spec
from ganserve_stylegan2.discriminator import Discriminator
from ganserve_stylegan2.mapping import MappingNetwork, Truncation, mixed
from ganserve_stylegan2.network import build, directions, export
from ganserve_stylegan2.synthesis import Layer, ModulatedConvolution, Picture, Synthesis
from ganserve_trainers.layers.fir import Smooth
from ganserve_trainers.onnx_trace import Traced, trace

NAMES = ["paper-1024", "paper-256", "ada-256", "ada-cifar10", "emoji-64", "tiny"]
TINY = PRESETS["tiny"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def count(*networks: nn.Module) -> int:
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def trained_like(network: nn.Module) -> nn.Module:
    """``network`` with the weights that start from zero set to random numbers: noise and biases have an effect."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, 0, 0.3)
    return network


# --- tables -----------------------------------------------------------------------------------------------------------


def test_the_presets() -> None:
    assert list(PRESETS) == NAMES


@pytest.mark.parametrize(
    ("preset", "generator"),
    [("paper-1024", 30_370_060), ("paper-256", 30_034_338), ("ada-256", 24_767_458)],
)
def test_the_papers_generators_have_their_counts(preset: str, generator: int) -> None:
    with torch.device("meta"):
        networks = build(PRESETS[preset])
    assert count(networks["mapping"], networks["synthesis"]) == generator


def test_the_counts_follow_from_the_layers() -> None:
    """The tiny preset by hand: w 16, 16 feature maps at 4x4 and 8x8, one colour."""
    networks = build(TINY)
    convolution = 16 * 16 * 9 + (16 * 16 + 16) + 16 + 1  # weight, style, bias, noise strength
    picture = 16 + (16 * 16 + 16) + 1
    assert count(networks["mapping"]) == 2 * (16 * 16 + 16)
    assert count(networks["synthesis"]) == 16 * 4 * 4 + 3 * convolution + 2 * picture
    block = 2 * (16 * 16 * 9 + 16) + 16 * 16
    epilogue = 17 * 16 * 9 + 16 + (256 * 16 + 16) + (16 + 1)
    assert count(networks["discriminator"]) == (16 + 16) + block + epilogue


def test_resolutions_and_widths() -> None:
    config = PRESETS["paper-1024"]
    assert resolutions(config) == (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    assert [channels(config, side) for side in resolutions(config)] == [512, 512, 512, 512, 512, 256, 128, 64, 32]
    assert layers(config) == 18
    assert maps(TINY) == (4, 8, 8)
    assert pixels(TINY) == 16 + 64 + 64


def test_the_emoji_bundle_fits_into_eight_megabytes_at_two_bytes_a_weight() -> None:
    networks = build(PRESETS["emoji-64"])
    assert PRESETS["emoji-64"]["w"] <= 128
    assert 2 * count(networks["mapping"], networks["synthesis"]) < 8e6 / 2


@pytest.mark.parametrize("preset", NAMES)
def test_every_preset_declares_latents_and_noise(preset: str) -> None:
    config = PRESETS[preset]
    declared = spec(config)
    rows = layers(config)
    assert declared.graph("mapping").output("w").shape == (rows, config["w"])
    assert declared.graph("mapping").output("w_avg").shape == (rows, config["w"])
    assert declared.graph("synthesis").input("noise").shape == (pixels(config),)
    assert declared.graph("synthesis").input("noise_gain").shape == (rows,)
    assert declared.graph("synthesis").output("image").shape == tuple(config["image"])
    sample, invert = declared.tasks
    assert [(latent.tensor, latent.walk, latent.layers) for latent in sample.latents] == [
        ("z", "slerp", False),
        ("w", "lerp", True),
    ]
    assert sample.values() == ("seed", "psi", "cutoff", "noise_seed", "noise_gain")
    assert {source.tensor for source in sample.inputs if source.optional} == {"psi", "cutoff", "noise", "noise_gain"}
    assert invert.inversion is not None
    assert invert.inversion.starts == {"average": "w_avg", "samples": "w_sample"}
    assert any(isinstance(step, Loop) for step in invert.steps)


def test_classes_add_a_label() -> None:
    declared = spec({**TINY, "classes": 10})
    assert [tensor.name for tensor in declared.graph("mapping").inputs] == ["z", "label", "psi", "cutoff"]
    assert declared.tasks[0].values()[:2] == ("seed", "label")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"residual": False},
        {"discriminator": "sngan"},
        {"discriminator": "sngan", "classes": 10},
        {"classes": 10},
        {"augment": ()},
        {"image": (16, 16, 3)},
    ],
)
def test_networks_have_the_sizes_that_the_spec_declares(changes: dict[str, Any]) -> None:
    config = {**TINY, **changes}
    networks = build(config)
    height, width, colours = config["image"]
    labels = (torch.tensor([0, 9, 3]),) if config["classes"] else ()
    w = networks["mapping"](torch.randn(3, config["z"]), *labels)
    assert w.shape == (3, config["w"])
    images = networks["synthesis"](w[:, None].expand(-1, layers(config), -1), torch.randn(3, pixels(config)))
    assert images.shape == (3, colours, height, width)
    assert networks[opponent(config)](images, *labels).shape == (3,)
    assert ("ada" in networks) == bool(config["augment"])


def test_the_family_is_registered() -> None:
    (family,) = ganserve_families()
    assert (family.name, family.presets) == ("stylegan2", PRESETS)
    assert "CVPR 2020" in family.paper


# --- the mapping network ----------------------------------------------------------------------------------------------


def test_only_the_direction_of_z_counts() -> None:
    mapping, z = MappingNetwork(16, 16, 2), torch.randn(3, 16)
    torch.testing.assert_close(mapping(z), mapping(7 * z))
    assert mapping(torch.zeros(1, 16)).isfinite().all()


def test_w_has_the_scale_of_its_input() -> None:
    w = MappingNetwork(512, 512, 8)(torch.randn(64, 512))
    assert 0.5 < w.square().mean().item() < 2


def test_labels_matter() -> None:
    mapping, z = MappingNetwork(16, 16, 2, classes=3), torch.randn(1, 16).expand(3, -1)
    one, two, three = mapping(z, torch.arange(3))
    assert (one - two).abs().max() > 0.05
    assert (two - three).abs().max() > 0.05


def test_the_average_follows_w() -> None:
    mapping = MappingNetwork(4, 4, 1)
    mapping.follow(torch.tensor([[1.0, 2, 3, 4], [3, 2, 1, 0]]))
    torch.testing.assert_close(mapping.w_avg, torch.tensor([2.0, 2, 2, 2]) * 0.002)
    mapping.follow(torch.full((1, 4), 5.0))
    torch.testing.assert_close(mapping.w_avg, torch.full((4,), 2 * 0.002 * 0.998 + 5 * 0.002))


def test_mapping_alone_moves_no_average() -> None:
    mapping = MappingNetwork(16, 16, 2).train()
    mapping(torch.randn(8, 16))
    assert not mapping.w_avg.any()


def truncated(psi: float, cutoff: int) -> tuple[Tensor, Tensor, Tensor]:
    """w without truncation, w_avg, and the graph's w ``[layers, w]``."""
    mapping = MappingNetwork(16, 16, 2)
    nn.init.normal_(mapping.w_avg)
    z = torch.randn(1, 16)
    made, average = Truncation(mapping, 6)(z, torch.tensor([psi]), torch.tensor([cutoff]))
    assert torch.equal(average[0], mapping.w_avg.expand(6, -1))
    return mapping(z)[0], mapping.w_avg, made[0]


@pytest.mark.parametrize("psi", [-1.0, 0.0, 0.3, 0.7, 1.0, 1.5])
@pytest.mark.parametrize("cutoff", [0, 2, 6])
def test_truncation(psi: float, cutoff: int) -> None:
    """Karras et al., 2019, appendix B: w' = w_avg + psi (w - w_avg), in the coarse layers only."""
    w, average, made = truncated(psi, cutoff)
    torch.testing.assert_close(made[:cutoff], (average + psi * (w - average)).expand(cutoff, -1))
    assert torch.equal(made[cutoff:], w.expand(6 - cutoff, -1))


def test_truncation_is_exact_at_its_ends() -> None:
    w, average, made = truncated(1.0, 6)
    assert torch.equal(made, w.expand(6, -1))
    _, average, made = truncated(0.0, 6)
    assert torch.equal(made, average.expand(6, -1))


def test_mixing_takes_layers_from_two_latents() -> None:
    one, two = torch.randn(3, 4), torch.randn(3, 4)
    made = mixed(one, two, torch.tensor([0, 2, 5]), 5)
    assert torch.equal(made[0], two[0].expand(5, -1))
    assert torch.equal(made[1], torch.stack([one[1], one[1], two[1], two[1], two[1]]))
    assert torch.equal(made[2], one[2].expand(5, -1))


# --- the synthesis network --------------------------------------------------------------------------------------------


def explicit(layer: ModulatedConvolution, features: Tensor, w: Tensor) -> Tensor:
    """Eq. 1 and 3 as they are written: weights of its own for each row, which a grouped convolution applies."""
    rows, inputs, height, width = features.shape
    gain = (inputs * layer.weight.shape[2] ** 2) ** -0.5
    style = w @ layer.style.weight.T / w.shape[1] ** 0.5 + layer.style.bias
    weight = (layer.weight.transpose(0, 1) if layer.smooth else layer.weight) * gain
    modulated = style[:, None, :, None, None] * weight
    if layer.demodulates:
        modulated = modulated / (modulated.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    grouped = features.reshape(1, rows * inputs, height, width)
    if not layer.smooth:
        made = F.conv2d(grouped, modulated.flatten(0, 1), padding=layer.padding, groups=rows)
        return made.view(rows, -1, height, width)
    transposed = modulated.transpose(1, 2).flatten(0, 1)
    wide = F.conv_transpose2d(grouped, transposed, stride=2, groups=rows)
    return Smooth(weight.shape[0], 1, gain=4.0)(wide.view(rows, -1, 2 * height + 1, 2 * width + 1))


@pytest.mark.parametrize(("kernel", "up", "demodulates"), [(3, False, True), (3, True, True), (1, False, False)])
def test_constant_weights_do_what_weights_of_each_row_do(kernel: int, up: bool, demodulates: bool) -> None:
    layer = ModulatedConvolution(12, 7, kernel, 10, up=up, demodulates=demodulates)
    features, w = torch.randn(4, 12, 8, 8), torch.randn(4, 10)
    made, scale = layer(features, w)
    assert (scale is None) == (not demodulates)
    made = made if scale is None else made * scale
    assert made.shape == (4, 7, *((16, 16) if up else (8, 8)))
    torch.testing.assert_close(made, explicit(layer, features, w), rtol=1e-5, atol=1e-5)
    layer.freeze()
    with torch.no_grad():
        layer.weight.mul_(1)
        frozen, again = layer(features, w)
        torch.testing.assert_close(frozen if again is None else frozen * again, made)


def test_demodulation_gives_every_map_variance_one() -> None:
    layer = ModulatedConvolution(64, 32, 3, 16)
    features, w = torch.randn(8, 64, 24, 24), 3 * torch.randn(8, 16)
    made, scale = layer(features, w)
    assert scale is not None
    inside = (made * scale)[..., 1:-1, 1:-1]
    assert inside.square().mean((2, 3)).mean().item() == pytest.approx(1, rel=0.05)


def test_a_layer_is_its_equations() -> None:
    """Convolution, noise, bias, leaky ReLU with gain sqrt(2): the gain may stand before what is positively homogeneous."""
    layer = Layer(6, 5, 8, 4)
    trained_like(layer)
    features, w, noise, gain = torch.randn(2, 6, 4, 4), torch.randn(2, 8), torch.randn(2, 16), torch.tensor([1.0, 0.5])
    expected = explicit(layer.convolution, features, w)
    expected = expected + layer.strength * (gain[:, None] * noise).view(2, 1, 4, 4) + layer.bias[:, None, None]
    expected = F.leaky_relu(expected, 0.2) * 2**0.5
    torch.testing.assert_close(layer(features, w, noise, gain), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer(features[:1], w[:1], noise[:1], None), expected[:1], rtol=1e-5, atol=1e-5)


def test_a_slow_strength_counts_as_little_as_it_learns() -> None:
    """As in an equalized layer: Adam moves the parameter as fast as ever, and what it is multiplied by makes that little."""
    layer, slow = Layer(6, 5, 8, 4), Layer(6, 5, 8, 4, 0.02)
    trained_like(layer)
    slow.load_state_dict(layer.state_dict())
    features, w, noise = torch.randn(2, 6, 4, 4), torch.randn(2, 8), torch.randn(2, 16)
    torch.testing.assert_close(slow(features, w, 50 * noise, None), layer(features, w, noise, None))
    before = slow(features, w, noise, None)
    slow.freeze()
    torch.testing.assert_close(slow(features, w, noise, None), before)


def test_a_strength_that_does_not_learn_is_left_out_until_export() -> None:
    """Exported, the noise is an input all the same: the graph takes what the spec declares."""
    silent = Layer(6, 5, 8, 4, 0.0)
    features, w, noise = torch.randn(2, 6, 4, 4), torch.randn(2, 8), torch.randn(2, 16)
    made = silent(features, w, noise, None)
    made.sum().backward()
    assert silent.strength.grad is None
    silent.freeze()
    torch.testing.assert_close(silent(features, w, noise.requires_grad_(), None), made)
    assert silent(features, w, noise, None).requires_grad


def test_a_layer_does_the_same_in_either_memory_layout() -> None:
    layer = trained_like(Layer(6, 5, 8, 4))
    features, w, noise = torch.randn(2, 6, 4, 4), torch.randn(2, 8), torch.randn(2, 16)
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        made = layer.to(memory_format=layout)(features.contiguous(memory_format=layout), w, noise, None)
        gradients.append([made.detach(), *torch.autograd.grad(made.square().sum(), list(layer.parameters()))])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_noise_can_be_off_everywhere_or_in_some_layers() -> None:
    """StyleGAN's figure 5: each map of the flat noise belongs to one layer, and the last row's gain to none."""
    synthesis = trained_like(Synthesis([(4, 8), (8, 8)], 3, 8))
    w, one, two = torch.randn(1, 4, 8), torch.randn(1, pixels(TINY)), torch.randn(1, pixels(TINY))
    off, on = torch.zeros(1, 4), torch.ones(1, 4)
    assert torch.equal(synthesis(w, one, off), synthesis(w, two, off))
    assert torch.equal(synthesis(w, one, on), synthesis(w, one))
    for layer, (first, last) in enumerate([(0, 16), (16, 80), (80, 144)]):
        gain = F.one_hot(torch.tensor([layer]), 4).float()
        exchanged = one.clone()
        exchanged[:, first:last] = two[:, first:last]
        assert (synthesis(w, one, gain) - synthesis(w, exchanged, gain)).abs().max() > 1e-3
        elsewhere = two.clone()
        elsewhere[:, first:last] = one[:, first:last]
        assert torch.equal(synthesis(w, one, gain), synthesis(w, elsewhere, gain))
    last = F.one_hot(torch.tensor([3]), 4).float()
    assert torch.equal(synthesis(w, one, last), synthesis(w, one, off))


def test_every_row_of_w_is_used_and_torgb_shares_the_next_convolutions() -> None:
    synthesis = Synthesis([(4, 8), (8, 8)], 3, 8)
    w, noise = torch.randn(1, 4, 8), torch.randn(1, pixels(TINY))
    seen: dict[str, Tensor] = {}
    for name, module in synthesis.named_modules():
        if isinstance(module, Layer | Picture):
            module.register_forward_pre_hook(lambda _, inputs, name=name: seen.__setitem__(name, inputs[1]))
    synthesis(w, noise)
    used = {name: [row for row in range(4) if torch.equal(w[:, row], vector)] for name, vector in seen.items()}
    assert used == {
        "blocks.0.layers.0": [0],
        "blocks.0.picture": [1],
        "blocks.1.layers.0": [1],
        "blocks.1.layers.1": [2],
        "blocks.1.picture": [3],
    }


def test_pictures_of_all_resolutions_are_summed() -> None:
    """The skip generator: with the finer toRGB silenced, the picture is the coarser one, enlarged."""
    synthesis = Synthesis([(4, 8), (8, 8)], 3, 8)
    w, noise = torch.randn(2, 4, 8), torch.randn(2, pixels(TINY))
    coarse: list[Tensor] = []
    synthesis.blocks[0].picture.register_forward_hook(lambda _, __, made: coarse.append(made))
    fine: list[Tensor] = []
    synthesis.blocks[1].picture.register_forward_hook(lambda _, __, made: fine.append(made))
    image = synthesis(w, noise)
    torch.testing.assert_close(image, synthesis.blocks[1].enlarge(coarse[0]) + fine[0])


# --- the discriminator ------------------------------------------------------------------------------------------------


def test_a_quiet_torgb_adds_less_and_learns_as_much_slower() -> None:
    loud, quiet = Picture(6, 3, 8), Picture(6, 3, 8, 0.1)
    quiet.load_state_dict(loud.state_dict())
    features, w = torch.randn(2, 6, 4, 4), torch.randn(2, 8)
    torch.testing.assert_close(quiet(features, w), 0.1 * loud(features, w))
    for layer in (loud, quiet):
        layer(features, w).sum().backward()
    loud_gradient, quiet_gradient = (layer.convolution.weight.grad for layer in (loud, quiet))
    torch.testing.assert_close(quiet_gradient, 0.1 * loud_gradient)


def test_the_discriminator_of_sngan_has_the_layers_of_dcgan() -> None:
    """64x64: 4x4 convolutions of stride 2 to 48, 96, 192 and 384 feature maps, one to the logit, and an embedding of each class."""
    config = {**PRESETS["emoji-64"], "discriminator": "sngan", "classes": 41}
    judge = build(config)["sngan"]
    widths = (3, 48, 96, 192, 384, 1)
    convolutions = sum(one * other * 16 + other for one, other in itertools.pairwise(widths))
    assert count(judge) == convolutions + 41 * 384
    for layer in judge.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item() == pytest.approx(1, abs=0.05)


def test_the_discriminator_of_sngan_projects_on_the_label() -> None:
    """Miyato & Koyama, 2018: logit(x, y) = psi(phi(x)) + <e(y), phi(x)>, phi summed over all places."""
    judge = build({**TINY, "discriminator": "sngan", "classes": 10})["sngan"].eval()
    images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 3, 9, 3])
    features = judge.layers(images)
    expected = judge.logit(features).flatten() + torch.einsum("nchw,nc->n", features, judge.embedding.weight.T[labels])
    torch.testing.assert_close(judge(images, labels), expected)


def test_a_residual_discriminator_keeps_the_scale_of_its_features() -> None:
    """Of images without detail: the filter would take the rest."""
    discriminator = Discriminator([(64, 32), (32, 64), (16, 64), (8, 64), (4, 64)], 3, group=4)
    features = discriminator.picture(torch.randn(32, 3, 1, 1).expand(-1, -1, 64, 64))
    for block in discriminator.blocks:
        features = block(features)
        assert 0.4 < features.square().mean().item() < 2.5


def test_a_block_is_its_paths() -> None:
    """Two convolutions with activations of gain sqrt(2), and the filtered image past them; their sum divided by sqrt(2)."""
    (block,) = Discriminator([(8, 6), (4, 10)], 3, group=4).blocks
    trained_like(block)
    features = torch.randn(2, 6, 8, 8)

    def convolved(layer: Any, features: Tensor, **options: int) -> Tensor:
        weight = layer.weight / layer.weight[0].numel() ** 0.5
        return F.conv2d(features, weight, layer.bias, **options)

    made = F.leaky_relu(convolved(block.first, features, padding=1), 0.2) * 2**0.5
    made = F.leaky_relu(convolved(block.second, Smooth(6, 2)(made), stride=2), 0.2) * 2**0.5
    past = convolved(block.past[1], Smooth(6, 1)(features)[:, :, ::2, ::2])
    torch.testing.assert_close(block(features), (made + past) / 2**0.5, rtol=1e-5, atol=1e-5)


def test_the_projection_on_the_label() -> None:
    discriminator = Discriminator([(4, 8)], 1, group=2, classes=3)
    images, labels = torch.randn(1, 1, 4, 4).expand(3, -1, -1, -1), torch.arange(3)
    features: list[Tensor] = []
    discriminator.logit.register_forward_hook(lambda _, __, made: features.append(made))
    logits = discriminator(images, labels)
    embedded = discriminator.embedding.weight.T / 3**0.5 + discriminator.embedding.bias
    embedded = embedded / embedded.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(logits, (features[0] * embedded).sum(1) / 8**0.5, rtol=1e-4, atol=1e-5)
    assert logits.unique().numel() == 3


@pytest.mark.parametrize("alike", [False, True])
def test_images_of_one_label_are_compared_where_they_should_be(alike: bool) -> None:
    """Two images of one label that are the same change each other's logits only if they are a group."""
    discriminator = Discriminator([(4, 8)], 1, group=2, classes=2, alike=alike)
    images, labels = torch.randn(4, 1, 4, 4), torch.tensor([0, 0, 1, 1])
    images[1] = images[0]
    met: list[Tensor] = []
    discriminator.deviation.register_forward_hook(lambda _, __, made: met.append(made[:, -1, 0, 0]))
    discriminator(images, labels)
    assert (met[0][:2] < 1e-3).all() == alike


# --- export -----------------------------------------------------------------------------------------------------------


class Exported:
    """The graphs ``mapping`` and ``synthesis`` of networks whose every weight has an effect, in torch and in ONNX."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.config = {**TINY, **changes}
        self.networks = {name: trained_like(network) for name, network in build(self.config).items()}
        nn.init.normal_(self.networks["mapping"].w_avg)
        self.modules = export(self.config, self.networks)
        self.folder = folder

    def onnx(self, name: str, *inputs: Tensor) -> list[np.ndarray]:
        """What ONNX Runtime makes of ``inputs``, in the order of the spec."""
        graph = spec(self.config).graph(name)
        path = self.folder / f"{name}.onnx"
        if not path.exists():
            example = [tensor[:1].expand(3, *tensor.shape[1:]).contiguous() for tensor in inputs]
            path.write_bytes(trace(Traced(self.modules[name]), graph, example).SerializeToString())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options)
        feeds = {tensor.name: given.numpy() for tensor, given in zip(graph.inputs, inputs, strict=True)}
        found: list[np.ndarray] = session.run([tensor.name for tensor in graph.outputs], feeds)
        return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(1)
    return Exported(tmp_path_factory.mktemp("exported"))


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_the_exported_mapping_truncates_each_row_as_it_wants(exported: Exported, rows: int) -> None:
    given = (torch.randn(rows, 16), torch.linspace(-1, 1.5, rows), torch.arange(rows) % 5)
    w, average = exported.onnx("mapping", *given)
    with torch.no_grad():
        expected, _ = exported.modules["mapping"](*given)
    np.testing.assert_allclose(w, expected.numpy(), atol=1e-5)
    assert np.array_equal(average, exported.networks["mapping"].w_avg.expand(rows, 4, -1).numpy()), "w_avg to the bit"


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_the_exported_synthesis_takes_any_w_and_noise(exported: Exported, rows: int) -> None:
    given = (torch.randn(rows, 4, 16), torch.randn(rows, pixels(TINY)), torch.rand(rows, 4))
    (images,) = exported.onnx("synthesis", *given)
    with torch.no_grad():
        expected = exported.modules["synthesis"](*given).numpy()
        trained = exported.networks["synthesis"](*given)
    assert images.dtype == np.uint8
    assert np.abs(images.astype(int) - expected.astype(int)).max() <= 1
    assert (images != expected).mean() < 0.01
    assert images.std() > 5
    # The folded network is the trained one.
    levels = ((trained + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(expected - levels).max() <= 1


def test_a_latent_of_zeros_is_served(exported: Exported) -> None:
    """The exporter would drop a very small number that keeps a division finite."""
    w, _ = exported.onnx("mapping", torch.zeros(1, 16), torch.ones(1), torch.tensor([0]))
    assert np.isfinite(w).all()


def test_psi_0_is_the_average(exported: Exported) -> None:
    w, average = exported.onnx("mapping", torch.randn(2, 16), torch.zeros(2), torch.tensor([4, 4]))
    assert np.array_equal(w, average)


def test_export_changes_no_network(exported: Exported) -> None:
    networks = exported.networks
    before = {
        name: {key: tensor.clone() for key, tensor in network.state_dict().items()}
        for name, network in networks.items()
    }
    trace(
        Traced(export(TINY, networks)["mapping"].train()),
        spec(TINY).graph("mapping"),
        [torch.randn(3, 16), torch.ones(3), torch.tensor([1, 2, 3])],
    )
    for name, network in networks.items():
        after = network.state_dict()
        assert after.keys() == before[name].keys()
        assert all(torch.equal(tensor, before[name][key]) for key, tensor in after.items()), f"{name} changed"


def test_class_conditional_mappings_are_exported(tmp_path: Path) -> None:
    conditional = Exported(tmp_path, classes=10)
    z, one = torch.randn(1, 16).expand(10, -1).contiguous(), torch.ones(10)
    given = (z, torch.arange(10), one, torch.zeros(10, dtype=torch.int64))
    w, _ = conditional.onnx("mapping", *given)
    with torch.no_grad():
        np.testing.assert_allclose(w, conditional.modules["mapping"](*given)[0].numpy(), atol=1e-5)
    assert len(np.unique(w[:, 0].round(4), axis=0)) == 10


def test_directions_are_orthonormal() -> None:
    found = directions(TINY, build(TINY))
    assert list(found) == [f"sefa-{place}" for place in range(10)]
    vectors = np.stack([one.vector for one in found.values()])
    assert vectors.shape == (10, 4, 16)
    assert {one.tensor for one in found.values()} == {"w"}
    assert np.array_equal(vectors, np.broadcast_to(vectors[:, :1], vectors.shape)), "alike in all layers"
    np.testing.assert_allclose(vectors[:, 0] @ vectors[:, 0].T, np.eye(10), atol=1e-5)

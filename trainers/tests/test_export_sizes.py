"""Export of graphs whose sizes are free: networks that take any picture, and networks that only seem to."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve import spec
from ganserve.bundle import ExportedGraph
from ganserve.engines import Options, Session, onnxruntime, openvino, tensorrt
from ganserve.errors import ExportError
from ganserve_trainers.examples import run_module
from ganserve_trainers.layers.denormalize import Denormalize
from ganserve_trainers.onnx_graph import export_graph
from ganserve_trainers.onnx_radius import check_radius
from ganserve_trainers.onnx_trace import Traced
from ganserve_trainers.onnx_weights import SharedWeights

pytestmark = pytest.mark.usefixtures("one_registry")

ROWS = 8


class Normalized(nn.Module):
    """Bytes [n, H, W, C] in, as the server sends pictures; the network sees [-1, 1] [n, C, H, W]."""

    def __init__(self, network: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(self, picture: Tensor) -> Tensor:
        return self.network(picture.float().permute(0, 3, 1, 2) / 127.5 - 1)


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.layers(x)
        return x + residual


@pytest.fixture(autouse=True)
def same_weights() -> None:
    """Networks start alike."""
    torch.manual_seed(0)


def normed(layer: nn.Module, channels: int) -> list[nn.Module]:
    return [layer, nn.InstanceNorm2d(channels), nn.ReLU()]


def resnet() -> nn.Sequential:
    """A small generator of CycleGAN's kind: reflection padding, instance norm, two steps down and up again."""
    block = (nn.ReflectionPad2d(1), nn.Conv2d(32, 32, 3), nn.InstanceNorm2d(32))
    return nn.Sequential(
        nn.ReflectionPad2d(3),
        *normed(nn.Conv2d(3, 8, 7), 8),
        *normed(nn.Conv2d(8, 16, 3, 2, 1), 16),
        *normed(nn.Conv2d(16, 32, 3, 2, 1), 32),
        Residual(*block, nn.ReLU(), *block),
        *normed(nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1), 16),
        *normed(nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1), 8),
        nn.ReflectionPad2d(3),
        nn.Conv2d(8, 3, 7),
        nn.Tanh(),
    )


def convolution(kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(3, 3, kernel, padding=kernel // 2)


def translator(
    network: Callable[..., Tensor], multiple: int, scaled: bool, radius: int | None
) -> tuple[spec.Graph, Traced]:
    """The graph picture → image of any size, and its module; ``scaled`` says that the image's sides are not the picture's."""
    sides = ("tall", "wide") if scaled else ("height", "width")
    graph = spec.Graph(
        name="translator",
        inputs=(spec.Tensor(name="picture", dtype="uint8", shape=("height", "width", 3), multiple=multiple),),
        outputs=(spec.Tensor(name="image", dtype="uint8", shape=(*sides, 3)),),
        radius=radius,
    )
    return graph, Traced(Denormalize(Normalized(network))).eval()


def pictures(height: int, width: int, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, height, width, 3), np.uint8)


def export(
    folder: Path,
    network: Callable[..., Tensor],
    *,
    multiple: int = 4,
    scaled: bool = False,
    example: tuple[int, int] = (32, 32),
    radius: int | None = None,
) -> ExportedGraph:
    graph, traced = translator(network, multiple, scaled, radius)
    examples = run_module(traced, graph, {"picture": pictures(*example)})
    return export_graph(graph, traced, examples, folder, SharedWeights(folder / "weights.bin"))


def translate(session: Session, pictures: np.ndarray) -> np.ndarray:
    made = session.run({"picture": session.upload(pictures)}, ["image"])
    return session.download(made["image"])


def test_a_resnet_is_exported_for_any_size_that_it_takes(tmp_path: Path) -> None:
    network = resnet()
    graph = export(tmp_path, network, multiple=8)
    assert graph.parity < 1e-5
    model = onnx.load(tmp_path / "translator.onnx")
    free = [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert free == ["rows", "8*height", "8*width", ""]
    expected = Denormalize(Normalized(network)).eval()
    wanted = expected(torch.from_numpy(pictures(24, 56))).detach().numpy()
    for engine in (onnxruntime, openvino):
        session = engine.load(tmp_path / graph.file, Options(graph=graph, threads=1))
        found = translate(session, pictures(24, 56))
        assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1, engine.__name__
        session.close()


def test_tensorrt_builds_the_resnet(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    graph = export(tmp_path, resnet(), multiple=8)
    assert tensorrt.compile(tmp_path / graph.file, tmp_path, Options(graph=graph, max_rows=4)).size > 0


def test_operations_are_counted_at_the_examples_size(tmp_path: Path) -> None:
    for example in ((8, 8), (16, 24)):
        graph = export(tmp_path, convolution(), example=example)
        assert graph.flops == 2 * example[0] * example[1] * 3 * 3 * 9


@pytest.mark.parametrize("scale", [2, 4])
def test_an_image_may_be_larger_than_its_picture(tmp_path: Path, scale: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))
    graph = export(tmp_path, network, multiple=1, scaled=True, radius=1)
    session = onnxruntime.load(tmp_path / graph.file, Options(graph=graph, threads=1))
    assert translate(session, pictures(5, 7)).shape == (ROWS, 5 * scale, 7 * scale, 3)


def test_axes_of_one_name_have_one_size(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
    with pytest.raises(
        ExportError, match=r"'height' has 32 elements and, in 'image', 64; axes of one name have one size"
    ):
        export(tmp_path, network)


def test_sides_that_are_too_small_are_found(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"(?s)runs at height 32, width 32, but not at height 4, width 4, .* larger\s`multiple`"
    ):
        export(tmp_path, resnet(), multiple=4)


class Framed(nn.Module):
    """Has a table of one size, like an embedding of places."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3, 32, 32))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


def test_a_network_of_one_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"runs at height 32, width 32, but not at height 4, width 4"):
        export(tmp_path, Framed())


def test_a_network_that_always_makes_the_examples_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'height' has 4 elements and, in 'image', 32"):
        export(tmp_path, lambda x: F.interpolate(x, size=(32, 32)))
    with pytest.raises(ExportError, match=r"axis 1 \(tall\) of output 'image' was frozen at 32"):
        export(tmp_path, lambda x: F.interpolate(x, size=(32, 32)), scaled=True)


def test_a_size_that_only_the_exporter_sees_is_found_by_trying_others(tmp_path: Path) -> None:
    def two_faced(x: Tensor) -> Tensor:
        return x * (0.5 if torch.compiler.is_exporting() or x.shape[2] == 32 else 0.25)

    with pytest.raises(ExportError, match="'image' differs from torch"):
        export(tmp_path, two_faced)


def test_a_branch_on_a_side_is_found_by_trying_others(tmp_path: Path) -> None:
    def branching(x: Tensor) -> Tensor:
        return x if x.shape[3] > 24 else x.flip(3)

    with pytest.raises(ExportError, match=r"at height \d+, width \d+: 'image' differs .* a branch or a constant"):
        export(tmp_path, branching)


def test_an_exporter_that_gives_up_tells_what_every_side_must_be(tmp_path: Path) -> None:
    def stubborn(x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            raise RuntimeError("no")
        return x

    with pytest.raises(
        ExportError, match=r"(?s)cannot be exported.*any sides that are multiples .*\(height 4, width 4\)"
    ):
        export(tmp_path, stubborn)


def test_two_multiples_of_one_axis_are_refused(tmp_path: Path) -> None:
    side = [spec.Tensor(name=f"x{m}", dtype="float32", shape=("side",), multiple=m) for m in (2, 3)]
    graph = spec.Graph(
        name="sum", inputs=tuple(side), outputs=(spec.Tensor(name="y", dtype="float32", shape=("side",)),)
    )
    traced = Traced(Sum())
    feeds = {tensor.name: np.ones((ROWS, 6), np.float32) for tensor in side}
    with pytest.raises(ExportError, match=r"axis 'side' is a multiple of 2 and, in input 'x3', of 3"):
        export_graph(graph, traced, run_module(traced, graph, feeds), tmp_path, SharedWeights(tmp_path / "w"))


class Sum(nn.Module):
    """x + y."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


# The radius, in input pixels: (true radius, network, whether it scales, multiple).

RADII = {
    "one convolution": (2, lambda: convolution(5), False, 1),
    "three convolutions": (6, lambda: nn.Sequential(convolution(5), convolution(3), convolution(7)), False, 1),
    # One pixel down lies on 2 input pixels and sees 1 more on the left; after a 3x3, 2 more on each side.
    "down": (1, lambda: nn.Conv2d(3, 3, 3, 2, 1), True, 2),
    "down, convolution": (3, lambda: nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1), convolution(3)), True, 2),
    "up": (1, lambda: nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)), True, 1),
    "pixels": (0, lambda: nn.Conv2d(3, 3, 1), False, 1),
    "up, convolution": (1, lambda: nn.Sequential(nn.Upsample(scale_factor=4), convolution(3)), True, 1),
    "there and back": (
        3,
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1), nn.ConvTranspose2d(3, 3, 4, 2, 1)),
        False,
        2,
    ),
}


def prove(network: Callable[..., Tensor], multiple: int, scaled: bool, radius: int) -> None:
    graph, traced = translator(network, multiple, scaled, radius)
    check_radius(graph, traced, {"picture": pictures(32, 32)})


@pytest.mark.parametrize("name", RADII)
def test_a_true_radius_passes(name: str) -> None:
    radius, network, scaled, multiple = RADII[name]
    prove(network(), multiple, scaled, radius)


@pytest.mark.parametrize("name", [name for name in RADII if name != "pixels"])
def test_a_radius_that_is_too_small_is_refused(name: str) -> None:
    radius, network, scaled, multiple = RADII[name]
    with pytest.raises(ExportError, match=rf"radius={radius - 1}, but a changed input pixel .* {radius} pixels away"):
        prove(network(), multiple, scaled, radius - 1)


def test_export_proves_the_radius(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"radius=20, .* pixels away along 'height': .* or None .*instance norm"):
        export(tmp_path, resnet(), multiple=8, radius=20)


def test_an_output_that_covers_no_picture_has_no_radius(tmp_path: Path) -> None:
    graph = spec.Graph(
        name="score",
        inputs=(spec.Tensor(name="x", dtype="float32", shape=("side",)),),
        outputs=(spec.Tensor(name="score", dtype="float32"),),
        radius=1,
    )
    traced = Traced(Mean())
    examples = run_module(traced, graph, {"x": np.ones((ROWS, 6), np.float32)})
    with pytest.raises(ExportError, match=r"radius=1, but its output 'score' \[\] is not spread over .*\(side\)"):
        export_graph(graph, traced, examples, tmp_path, SharedWeights(tmp_path / "w"))


class Mean(nn.Module):
    """The mean of a row."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def test_an_output_that_loses_its_border_has_no_radius() -> None:
    with pytest.raises(ExportError, match=r"makes \d+ pixels of \d+ along 'height'.*whole multiple"):
        prove(nn.Conv2d(3, 3, 3, padding=(0, 1)), multiple=4, scaled=True, radius=1)

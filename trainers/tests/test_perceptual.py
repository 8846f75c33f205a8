"""The perceptual term of inversion: VGG16 from its files, its distance, and the step that has it."""

import importlib.util
import itertools
import math
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from ganserve import golden
from ganserve.bundle import Bundle
from ganserve.engines import Options, onnxruntime, tensorrt
from ganserve.engines import torch as torch_engine
from ganserve.errors import ExportError
from ganserve.plugins import installed, resolve
from ganserve_trainers.export import Label, export_bundle
from ganserve_trainers.inversion import multiscale
from ganserve_trainers.layers.normalize import from_bytes
from ganserve_trainers.perceptual import (
    BLOCKS,
    CONFIG,
    NETWORK,
    TORCHVISION,
    WEIGHT,
    Features,
    Layout,
    distance,
    halved,
    load,
    with_features,
)

pytestmark = pytest.mark.usefixtures("one_registry")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under torchvision's names, spread so that features neither vanish nor explode; and one of the classifier."""
    generator = torch.Generator().manual_seed(0)
    tensors, inputs = {"classifier.0.bias": torch.zeros(3)}, 3
    for number, outputs in zip(TORCHVISION, [width for block in BLOCKS for width in block], strict=True):
        spread = math.sqrt(2 / (9 * inputs))
        tensors[f"features.{number}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * spread
        tensors[f"features.{number}.bias"] = torch.randn(outputs, generator=generator) * 0.1
        inputs = outputs
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def features(file: Path) -> Features:
    return load(file)


def images(channels: int = 3, side: int = 32, count: int = 2) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_there_are_13_convolutions() -> None:
    count = sum(parameter.numel() for parameter in Features(Layout(preprocessing="caffe")).parameters())
    assert count == 14_714_688, "VGG16 without its classifier (Simonyan & Zisserman, 2015, table 2, D)"


def test_features_are_those_of_vgg16(file: Path, features: Features) -> None:
    """Written out with torch's own pooling, from the file."""
    tensors = load_file(file)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    values = ((images() + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]
    numbers = iter(TORCHVISION)
    for block, found in zip(BLOCKS, features(images()), strict=True):
        if block != BLOCKS[0]:
            values = F.max_pool2d(values, 2)
        for _ in block:
            number = next(numbers)
            values = F.conv2d(
                values, tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"], padding=1
            ).relu()
        torch.testing.assert_close(found, F.normalize(values, dim=1), rtol=1e-3, atol=1e-4)


def test_halving_is_max_pooling_and_drops_an_odd_end() -> None:
    values = torch.randn(2, 3, 7, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(halved(values), F.max_pool2d(values, 2))


def test_small_pictures_have_fewer_blocks_and_grey_ones_count_as_colour(features: Features) -> None:
    assert len(features(images(side=8))) == 4
    grey = images(channels=1)
    for one, other in zip(features(grey), features(grey.expand(-1, 3, -1, -1)), strict=True):
        assert torch.equal(one, other)


def test_the_distance_is_zero_of_equals_and_grows_with_noise(features: Features) -> None:
    noise = torch.randn(images().shape, generator=torch.Generator().manual_seed(2))
    first = features(images())
    found = [distance(first, features(images() + share * noise)) for share in (0.0, 0.01, 0.1, 1.0)]
    assert found[0].tolist() == [0.0, 0.0]
    assert all(bool((less < more).all()) for less, more in itertools.pairwise(found))
    torch.testing.assert_close(found[2], distance(features(images() + 0.1 * noise), first))


def test_caffes_channels_are_told_by_the_metadata(file: Path, tmp_path: Path) -> None:
    save_file(load_file(file), tmp_path / "caffe.safetensors", {"preprocessing": "caffe"})
    caffe = load(tmp_path / "caffe.safetensors")
    bgr = ((images() + 1) * 127.5).flip(1) - torch.tensor([104.00699, 116.66877, 122.67892])[:, None, None]
    tensors = load_file(file)
    expected = F.conv2d(bgr, tensors["features.0.weight"], tensors["features.0.bias"], padding=1)
    found = caffe.convolutions()[0](images() * caffe.scale + caffe.shift)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("wrong", ["missing", "shape", "text", "metadata"])
def test_a_wrong_file_is_refused(file: Path, tmp_path: Path, wrong: str) -> None:
    path, tensors = tmp_path / "wrong.safetensors", load_file(file)
    if wrong == "missing":
        del tensors["features.28.bias"]
    if wrong == "shape":
        tensors["features.5.weight"] = torch.zeros(128, 64, 1, 1)
    save_file(tensors, path, {"preprocessing": "darknet"} if wrong == "metadata" else None)
    if wrong == "text":
        path.write_text("no weights")
    with pytest.raises(ExportError, match=r"wrong\.safetensors holds no VGG16 weights: "):
        load(path)


def test_a_keras_file_needs_h5py_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "vgg.h5").write_bytes(b"no HDF5")
    missing = importlib.util.find_spec("h5py") is None
    with pytest.raises(ExportError, match="pip install h5py" if missing else "holds no VGG16 weights"):
        load(tmp_path / "vgg.h5")


def test_a_family_without_inversion_takes_no_features() -> None:
    family = installed().family("cyclegan")
    spec = family.spec(family.config("tiny"))
    assert with_features(spec, {}) is spec
    with pytest.raises(ExportError, match="features serve inversion, and this family has none"):
        with_features(spec, {CONFIG: {}})


@pytest.fixture(scope="module")
def made(one_registry: None, features: Features, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny DCGAN with contrast, and the features."""
    family = installed().family("dcgan")
    torch.manual_seed(0)
    networks = dict(resolve(family.build)(family.config("tiny")))
    for parameter in networks["generator"].parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    config = {**family.config("tiny"), CONFIG: msgspec.to_builtins(features.layout)}
    out = tmp_path_factory.mktemp("bundles") / "seeing"
    return export_bundle(family, "tiny", config, {**networks, NETWORK: features}, out, Label(name="seeing"))


def test_the_step_tells_the_distance_and_lowers_it(made: Bundle, features: Features) -> None:
    graph = made.manifest.graph("invert")
    assert graph.outputs[-1].name == "perceptual"
    assert graph.parity < 1e-4
    arrays, feeds = made.golden(), golden.inputs(made, graph)
    session = onnxruntime.load(made.path(graph.file), Options(graph=graph, threads=1))
    names = [tensor.name for tensor in graph.outputs]
    state, told = dict(feeds), []
    for step in range(60):
        state |= {"step": np.full(4, step), "steps": np.full(4, 60)}
        found = session.run({name: session.upload(array) for name, array in state.items()}, names)
        results = {name: session.download(value) for name, value in found.items()}
        state |= {name.removesuffix("_next"): array for name, array in results.items() if name.endswith("_next")}
        told.append(results["perceptual"])
    assert (told[-1] < told[0]).all()
    # The loss is the pixels' and the distance, weighted.
    preview, target = (torch.tensor(array) for array in (results["preview"], feeds["target"]))
    with torch.no_grad():
        pixels = multiscale(from_bytes(preview) - from_bytes(target))[0]
        seen = distance(features(from_bytes(preview)), features(from_bytes(target)))
    np.testing.assert_allclose(results["perceptual"], seen.numpy(), rtol=0.05)
    np.testing.assert_allclose(results["loss"], (pixels + WEIGHT * seen).numpy(), rtol=0.05)
    assert arrays["invert.perceptual"].shape == (4,)


def test_its_gradient_is_torchs(made: Bundle, features: Features) -> None:
    """With autograd and torch's own pooling, at the first step, whose first moment is a tenth of the gradient."""
    graph, feeds = made.manifest.graph("invert"), golden.inputs(made, made.manifest.graph("invert"))
    module = torch_engine.load(made.path("generator.onnx"), Options(graph=made.manifest.graph("generator")))._module
    generator, x = module.network.generator, torch.tensor(feeds["x"], requires_grad=True)
    difference = generator(x) - from_bytes(torch.tensor(feeds["target"]))
    loss = multiscale(difference)[0] + WEIGHT * distance(
        features(generator(x)), features(from_bytes(torch.tensor(feeds["target"])))
    )
    (expected,) = torch.autograd.grad(loss.sum(), x)
    session = onnxruntime.load(made.path(graph.file), Options(graph=graph, threads=1))
    first = session.run(
        {name: session.upload(np.zeros(4, np.int64) if name == "step" else array) for name, array in feeds.items()},
        ["first_next"],
    )
    np.testing.assert_allclose(
        10 * session.download(first["first_next"]), expected.numpy(), atol=1e-4 * float(expected.abs().max())
    )


def test_tensorrt_builds_it(made: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    graph = made.manifest.graph("invert")
    assert tensorrt.compile(made.path(graph.file), tmp_path, Options(graph=graph)).size > 0


def test_the_features_weights_are_stored_once(made: Bundle, features: Features) -> None:
    model = onnx.load(made.path("invert.onnx"), load_external_data=False)
    kernels = [node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    used = {name for name in kernels if ".features." in name}
    assert len(used) == 10, "8x8 pixels reach the fourth block"
    weights = sum(parameter.nbytes for block in list(features.blocks)[:4] for parameter in block.parameters())
    assert made.manifest.files["weights.bin"].size < weights + 100_000

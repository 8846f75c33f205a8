"""The step of inversion: its loss, its Adam and its schedule against torch's own, and what the exported graph makes of them."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve import bundle, golden, spec
from ganserve.bundle import Bundle
from ganserve.engines import Options, openvino, tensorrt
from ganserve.engines import onnxruntime as ort
from ganserve.errors import EngineError, ExportError
from ganserve.inversion import invert_graph
from ganserve.plugins import installed, resolve
from ganserve_trainers.examples import run_module
from ganserve_trainers.export import Label, export_bundle
from ganserve_trainers.inversion import InversionStep, adam, multiscale, scheduled
from ganserve_trainers.onnx_graph import export_graph
from ganserve_trainers.onnx_trace import Traced
from ganserve_trainers.onnx_weights import SharedWeights

pytestmark = pytest.mark.usefixtures("one_registry")

ROWS, LAYERS, WIDTH, SIDE = 8, 3, 6, 16
STEPS = 60


class Styled(nn.Module):
    """A small generator with everything that a gradient has to go through: layers of a latent, convolutions of all kinds, noise."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) / math.sqrt(math.prod(shape[1:])))

        self.constant, self.affine = weight(6, 4, 4), weight(6, WIDTH)
        self.up, self.blur = weight(6, 4, 3, 3), weight(4, 1, 3, 3)
        self.next, self.out = weight(4, 4, 4, 4), weight(3, 4, 3, 3)

    def forward(self, w: Tensor, noise: Tensor) -> Tensor:
        coarse, middle, fine = w.unbind(1)
        values = self.constant * (1 + F.linear(coarse, self.affine))[:, :, None, None]
        values = F.conv_transpose2d(values, self.up, stride=2, padding=1, output_padding=1)
        values = F.leaky_relu(F.conv2d(values, self.blur, padding=1, groups=4) + noise.unflatten(1, (1, 8, 8)), 0.2)
        values = values * torch.rsqrt(values.square().mean(1, keepdim=True) + 0.1) * (1 + middle[:, :4, None, None])
        values = F.conv_transpose2d(values, self.next, stride=2, padding=1)
        return torch.tanh(F.conv2d(values, self.out, padding=1) + fine[:, 3:, None, None])


W = spec.Tensor(name="w", dtype="float32", shape=(LAYERS, WIDTH))
NOISE = spec.Tensor(name="noise", dtype="float32", shape=(64,))
IMAGE = spec.Tensor(name="image", dtype="uint8", shape=(SIDE, SIDE, 3))
GRAPH = invert_graph(W, IMAGE, (NOISE,), tied=True)


def feeds(steps: int = STEPS) -> dict[str, np.ndarray]:
    """Rows as of the first step, half of them tied."""
    random = np.random.default_rng(0)
    start = random.standard_normal((ROWS, 1, WIDTH), np.float32).repeat(LAYERS, 1)
    return {
        "target": random.integers(0, 256, (ROWS, SIDE, SIDE, 3), np.uint8),
        **dict.fromkeys(("x", "first", "second", "best"), start),
        "best_loss": np.zeros(ROWS, np.float32),
        "step": np.zeros(ROWS, np.int64),
        "steps": np.full(ROWS, steps, np.int64),
        "rate": np.full(ROWS, 0.1, np.float32),
        "tied": (np.arange(ROWS) % 2).astype(np.float32),
        "noise": 0.1 * random.standard_normal((ROWS, 64), np.float32),
    }


class Run:
    """A function from the graph's inputs to its outputs, by name."""

    def __init__(self, source: nn.Module | Path) -> None:
        self.module = source if isinstance(source, nn.Module) else None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = None if self.module else onnxruntime.InferenceSession(source, options)

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.session is not None:
            return dict(
                zip([o.name for o in self.session.get_outputs()], self.session.run(None, dict(arrays)), strict=True)
            )
        assert self.module is not None
        # As the torch engine runs it.
        with torch.inference_mode():
            made = self.module(*(torch.tensor(arrays[tensor.name]) for tensor in GRAPH.inputs))
        return {tensor.name: value.numpy() for tensor, value in zip(GRAPH.outputs, made, strict=True)}


def search(run: Run, arrays: Mapping[str, np.ndarray], steps: int = STEPS) -> list[dict[str, np.ndarray]]:
    """What every step made."""
    made: list[dict[str, np.ndarray]] = []
    state = dict(arrays)
    for step in range(steps):
        made.append(run({**state, "step": np.full(len(state["step"]), step)}))
        state |= {name.removesuffix("_next"): array for name, array in made[-1].items() if name.endswith("_next")}
    return made


def losses(made: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.stack([step["loss"] for step in made])


@pytest.fixture(scope="module")
def step() -> InversionStep:
    return InversionStep(Styled(), tied=True).eval()


@pytest.fixture(scope="module")
def exported(one_registry: None, step: InversionStep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph, exported by way of all its rules."""
    folder = tmp_path_factory.mktemp("step")
    module = Traced(step).eval()
    found = export_graph(
        GRAPH, module, run_module(module, GRAPH, feeds()), folder, SharedWeights(folder / "weights.bin")
    )
    assert found.parity < 1e-5
    return folder / found.file


# --- the parts, against torch's own -----------------------------------------------------------------------------------


def test_the_loss_is_the_squared_error_at_every_scale() -> None:
    difference = torch.randn(2, 3, 24, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    difference.requires_grad_()
    expected = sum(
        (difference.unfold(2, size, size).unfold(3, size, size).mean((4, 5)) ** 2).sum((1, 2, 3)) for size in (1, 2, 4)
    ) / (3 * 24 * 16)
    error, gradient = multiscale(difference.detach())
    torch.testing.assert_close(error, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), difference)[0])


def test_odd_and_small_pictures_are_compared_as_they_are() -> None:
    for shape in ((1, 1, 7, 8), (1, 1, 6, 6)):
        difference = torch.ones(shape)
        assert multiscale(difference)[0].item() == 1.0


def test_the_learning_rate_rises_and_falls_as_in_the_paper() -> None:
    """Up over the first 5 %, half a cosine down over the last 25 %, in each row over its own steps."""
    steps = torch.tensor([100, 1000])
    rates = torch.stack([scheduled(torch.tensor([0.1, 0.2]), steps * share // 100, steps) for share in range(100)], 1)
    torch.testing.assert_close(rates[0] * 2, rates[1], rtol=0, atol=0.2 * 0.2)
    torch.testing.assert_close(rates[0, :5], 0.02 * torch.arange(1.0, 6.0))
    torch.testing.assert_close(rates[0, 4:76], torch.full((72,), 0.1))
    down = (torch.arange(76, 100) - 75) / 25
    torch.testing.assert_close(rates[0, 76:], 0.05 + 0.05 * torch.cos(torch.pi * down))
    assert scheduled(torch.ones(1), torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)).item() == 1


def test_adam_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.zeros(2, 5))
    optimizer = torch.optim.Adam([parameter], lr=1.0)
    x, first, second = torch.zeros(2, 5), torch.zeros(2, 5), torch.zeros(2, 5)
    for step in range(20):
        parameter.grad = torch.randn(2, 5, generator=generator) * 10.0 ** -torch.arange(0.0, 10, 2)
        optimizer.step()
        update, first, second = adam(parameter.grad, first, second, torch.full((2,), step))
        x = x - update
        torch.testing.assert_close(x, parameter.data, rtol=1e-4, atol=1e-4)


def reference(step: InversionStep, arrays: Mapping[str, np.ndarray], steps: int) -> np.ndarray:
    """The losses of a search written with torch.autograd and torch.optim, row by row, without ties."""
    curves = []
    for row in range(ROWS):
        target = torch.tensor(arrays["target"][row : row + 1]).permute(0, 3, 1, 2).double() / 127.5 - 1
        noise = torch.tensor(arrays["noise"][row : row + 1])
        x = nn.Parameter(torch.tensor(arrays["x"][row : row + 1]))
        optimizer = torch.optim.Adam([x], lr=float(arrays["rate"][row]))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda n: (
                min(1, (n + 1) / (0.05 * steps)) * (0.5 - 0.5 * math.cos(math.pi * min(1, (1 - n / steps) / 0.25)))
            ),
        )
        curve = []
        for _ in range(steps):
            difference = step.generator(x, noise).double() - target
            loss = sum(F.avg_pool2d(difference, size).square().sum() for size in (1, 2, 4)) / difference.numel()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            curve.append(loss.item())
        curves.append(curve)
    return np.array(curves).T


def test_a_search_has_the_loss_curve_of_torchs_autograd_and_adam(step: InversionStep, exported: Path) -> None:
    arrays = feeds() | {"tied": np.zeros(ROWS, np.float32)}
    expected = reference(step, arrays, STEPS)
    assert (expected.min(0) < 0.9 * expected[0]).all(), "the search finds something"
    for run in (Run(step), Run(exported)):
        np.testing.assert_allclose(losses(search(run, arrays)), expected, rtol=1e-3)


# --- the step ---------------------------------------------------------------------------------------------------------


def test_nothing_is_read_of_the_state_at_step_0(step: InversionStep, exported: Path) -> None:
    nan = {name: np.full_like(feeds()[name], np.nan) for name in ("first", "second", "best", "best_loss")}
    for run in (Run(step), Run(exported)):
        one, other = run(feeds()), run(feeds() | nan)
        for name, array in one.items():
            assert np.array_equal(array, other[name]), name


def test_the_best_is_kept(exported: Path) -> None:
    """With a rate so high that the loss jumps."""
    made = search(Run(exported), feeds() | {"rate": np.full(ROWS, 3.0, np.float32)}, 20)
    curve, best = losses(made), np.stack([step["best_loss_next"] for step in made])
    assert (np.diff(curve, axis=0) > 0).any()
    assert np.array_equal(best, np.minimum.accumulate(curve))
    again = Run(exported)(feeds() | {"x": made[-1]["best_next"]})
    np.testing.assert_array_equal(again["loss"], best[-1])


def test_tied_layers_stay_equal_and_others_part(exported: Path) -> None:
    found = search(Run(exported), feeds(), 5)[-1]["x_next"]
    equal = (found == found[:, :1]).all(axis=(1, 2))
    assert equal.tolist() == [row % 2 == 1 for row in range(ROWS)]
    loose = search(Run(exported), feeds() | {"tied": np.zeros(ROWS, np.float32)}, 1)[0]["first_next"]
    tied = search(Run(exported), feeds() | {"tied": np.ones(ROWS, np.float32)}, 1)[0]["first_next"]
    np.testing.assert_allclose(tied, loose.mean(1, keepdims=True).repeat(LAYERS, 1), rtol=1e-5, atol=1e-9)


def test_the_preview_is_the_picture_of_the_moment(step: InversionStep, exported: Path) -> None:
    arrays = feeds()
    with torch.no_grad():
        images = step.generator(torch.tensor(arrays["x"]), torch.tensor(arrays["noise"])).permute(0, 2, 3, 1)
    preview = Run(exported)(arrays)["preview"]
    np.testing.assert_allclose(preview / 127.5 - 1, images.numpy(), atol=0.51 / 127.5)


def test_a_gradient_of_zero_moves_nothing(tmp_path: Path) -> None:
    """Adam's epsilon survives export, which drops sums with numbers as small."""

    class Dead(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return (z[:, :1] * 0).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()

    z = spec.Tensor(name="z", dtype="float32", shape=(4,))
    graph = invert_graph(z, spec.Tensor(name="image", dtype="uint8", shape=(8, 8, 1)))
    arrays = feeds() | {"target": feeds()["target"][:, :8, :8, :1]}
    arrays |= {name: arrays[name][:, 0, :4].copy() for name in ("x", "first", "second", "best")}
    arrays = {tensor.name: arrays[tensor.name] for tensor in graph.inputs}
    module = Traced(InversionStep(Dead())).eval()
    export_graph(graph, module, run_module(module, graph, arrays), tmp_path, SharedWeights(tmp_path / "weights.bin"))
    made = Run(tmp_path / "invert.onnx")(arrays)
    np.testing.assert_array_equal(made["x_next"], arrays["x"])


# --- the exported graph -----------------------------------------------------------------------------------------------


def test_rows_keep_their_bits_whatever_their_batch(exported: Path) -> None:
    """Over a whole search, and with neighbours that are at other steps."""
    run = Run(exported)
    together = search(run, feeds())
    for rows in (1, 2, 3):
        some = search(run, {name: array[:rows] for name, array in feeds().items()})
        for name, array in together[-1].items():
            assert np.array_equal(some[-1][name], array[:rows]), f"{name} with {rows} rows"
    late = {name.removesuffix("_next"): array for name, array in together[9].items() if name.endswith("_next")}
    mixed = feeds() | {"step": np.where(np.arange(ROWS) < 4, 0, 10)}
    mixed |= {name: np.concatenate([mixed[name][:4], late[name][4:]]) for name in late}
    made = run(mixed)
    for name, array in made.items():
        assert np.array_equal(array[:4], together[0][name][:4]), name
        assert np.array_equal(array[4:], together[10][name][4:]), name


def test_kernels_are_the_weights_of_the_generator(exported: Path) -> None:
    model = onnx.load(exported)
    kernels = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")}
    assert all(name.startswith("network.generator.") for name in kernels)
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1}
    assert weights == {f"network.generator.{name}" for name in ("constant", "affine", "up", "blur", "next", "out")}


def test_tensorrt_builds_it(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    assert tensorrt.compile(exported, tmp_path, Options(graph=GRAPH)).size > 0


def test_a_free_number_of_pixels_is_refused(tmp_path: Path) -> None:
    image = msgspec.structs.replace(IMAGE, shape=("height", "width", 3))
    graph = invert_graph(W, image, (NOISE,), tied=True)
    module = Traced(InversionStep(Styled(), tied=True)).eval()
    with pytest.raises(ExportError, match="height"):
        export_graph(graph, module, run_module(module, graph, feeds()), tmp_path, SharedWeights(tmp_path / "w.bin"))


# --- in a bundle ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=("gan", "dcgan"))
def made(one_registry: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of untrained networks."""
    family = installed().family(request.param)
    torch.manual_seed(0)
    networks = resolve(family.build)(family.config("tiny"))
    out = tmp_path_factory.mktemp("bundles") / family.name
    return export_bundle(family, "tiny", family.config("tiny"), networks, out, Label(name=family.name))


def test_the_weights_are_stored_once(made: Bundle) -> None:
    generator, invert = (onnx.load(made.path(graph.file), load_external_data=False) for graph in made.manifest.graphs)
    places = [
        {tuple((entry.key, entry.value) for entry in tensor.external_data) for tensor in model.graph.initializer} - {()}
        for model in (generator, invert)
    ]
    assert places[0]
    assert places[0] == places[1]


def test_golden_rows_are_of_several_steps(made: Bundle) -> None:
    arrays = made.golden()
    assert arrays["invert.step"].tolist() == [0, 1, 2, 3]
    assert (arrays["invert.second"][1:] >= 0).all()
    assert (arrays["invert.second"][1:] > 0).any()
    assert made.manifest.golden.noise.keys() == {"generator"}


def test_an_engine_with_a_wrong_gradient_is_refused(made: Bundle, tmp_path: Path) -> None:
    """A hundredth more or less of the first moment, which hardly shows in the latent."""
    shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True)
    arrays = made.golden()
    arrays["invert.first_next"] = arrays["invert.first_next"] * np.float32(1.01)
    np.savez(tmp_path / made.manifest.golden.file, **arrays)  # type: ignore[arg-type]
    files = {name: bundle.digest(tmp_path / name) for name in made.manifest.files}
    bundle.write_manifest(tmp_path, msgspec.structs.replace(made.manifest, files=files))
    graph = made.manifest.graph("invert")
    session = ort.load(made.path(graph.file), Options(graph=graph, threads=1))
    assert golden.check(made, graph, session, "fp32") < 0.01
    with pytest.raises(EngineError, match=r"'first_next': golden rows differ by 0\.00\d+ of their largest value"):
        golden.check(bundle.read(tmp_path), graph, session, "fp32")


def test_openvino_takes_the_gradient_right(made: Bundle) -> None:
    """Where layers share a weight, each is given a copy: with one for all, OpenVINO's gradient was off by 20 to 50 %."""
    pytest.importorskip("openvino")
    graph = made.manifest.graph("invert")
    session = openvino.load(made.path(graph.file), Options(graph=graph, threads=1))
    feeds = {name: session.upload(array) for name, array in golden.inputs(made, graph).items()}
    found = session.download(session.run(feeds, ["first_next"])["first_next"])
    expected = made.golden()["invert.first_next"]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert golden.check(made, graph, session, "fp32") < 0.2

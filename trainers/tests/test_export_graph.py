"""Export of one graph: small modules that keep every rule, and modules that break exactly one."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve import spec
from ganserve.bundle import ExportedGraph
from ganserve.errors import ExportError
from ganserve_trainers.examples import run_module
from ganserve_trainers.layers.denormalize import Denormalize, to_bytes
from ganserve_trainers.onnx_graph import export_graph
from ganserve_trainers.onnx_rules import check_nodes, check_rows
from ganserve_trainers.onnx_trace import Traced
from ganserve_trainers.onnx_weights import SharedWeights

ROWS = 8


pytestmark = pytest.mark.usefixtures("one_registry")


class Calls(nn.Module):
    """A module that is a function of its inputs and one convolution kernel."""

    def __init__(self, function: Callable[..., Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.function = function
        self.kernel = nn.Parameter(torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)) / 6)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.function(self.kernel, *inputs)


def export(
    folder: Path,
    module: nn.Module | Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Mapping[str, np.ndarray] | None = None,
    outputs: tuple[spec.Tensor, ...] = (spec.Tensor(name="y", dtype="float32", shape=(4, 8, 8)),),
    batchable: bool = True,
    half: bool = False,
) -> ExportedGraph:
    feeds = inputs or {"x": np.random.default_rng(0).standard_normal((ROWS, 4, 8, 8), np.float32)}
    tensors = tuple(spec.Tensor(name=k, dtype=str(v.dtype), shape=v.shape[1:]) for k, v in feeds.items())  # type: ignore[arg-type]
    graph = spec.Graph(name="graph", inputs=tensors, outputs=outputs, batchable=batchable)
    traced = Traced(module if isinstance(module, nn.Module) else Calls(module)).eval()
    weights = SharedWeights(folder / "weights.bin")
    return export_graph(graph, traced, run_module(traced, graph, feeds), folder, weights, half=half)


def convolve(kernel: Tensor, x: Tensor) -> Tensor:
    return F.conv2d(x, kernel, padding=1)


def nodes(folder: Path) -> list[str]:
    return [node.op_type for node in onnx.load(folder / "graph.onnx").graph.node]


def test_a_module_that_keeps_the_rules_is_measured(tmp_path: Path) -> None:
    graph = export(tmp_path, convolve)
    assert graph.parity < 1e-5
    assert graph.flops == 2 * (4 * 8 * 8) * (4 * 3 * 3)
    assert (graph.file, graph.opset) == ("graph.onnx", 20)


def test_nothing_but_the_graph_and_its_weights_is_written(tmp_path: Path) -> None:
    export(tmp_path, Denormalize(Calls(lambda kernel, x: convolve(kernel, x)[:, :3].tanh())), outputs=(image(8),))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.onnx"], "small weights stay in the graph"


def test_no_path_of_this_machine_gets_into_the_file(tmp_path: Path) -> None:
    export(tmp_path, convolve)
    data = (tmp_path / "graph.onnx").read_bytes()
    for trace in (b"site-packages", b".py", b"stack_trace", str(tmp_path).encode()):
        assert trace not in data


def test_the_first_axis_of_inputs_and_outputs_is_free(tmp_path: Path) -> None:
    export(tmp_path, convolve)
    model = onnx.load(tmp_path / "graph.onnx")
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "rows"


def image(size: int) -> spec.Tensor:
    return spec.Tensor(name="image", dtype="uint8", shape=(size, size, 3))


def test_the_error_of_bytes_is_measured_on_the_floats_before_them(tmp_path: Path) -> None:
    graph = export(
        tmp_path, Denormalize(Calls(lambda kernel, x: convolve(kernel, x)[:, :3].tanh())), outputs=(image(8),)
    )
    assert 0 < graph.parity < 1e-5
    assert [value.name for value in onnx.load(tmp_path / "graph.onnx").graph.output] == ["image"]


def test_without_that_layer_the_error_of_bytes_is_in_whole_steps(tmp_path: Path) -> None:
    graph = export(tmp_path, lambda kernel, x: to_bytes(convolve(kernel, x)[:, :3].tanh()), outputs=(image(8),))
    assert graph.parity in (0.0, pytest.approx(1 / 127.5))


def test_several_inputs_of_several_types(tmp_path: Path) -> None:
    table = torch.linspace(-1, 1, 30).reshape(10, 3)
    feeds = {
        "label": np.arange(ROWS) % 10,
        "psi": np.linspace(0, 1, ROWS, dtype=np.float32),
        "flip": np.arange(ROWS) % 2 == 0,
    }
    outputs = (
        spec.Tensor(name="w", dtype="float32", shape=(3,)),
        spec.Tensor(name="next", dtype="int64"),
        spec.Tensor(name="flop", dtype="bool"),
    )
    graph = export(
        tmp_path,
        lambda _, label, psi, flip: (
            torch.where(flip[:, None], -1.0, 1.0) * table[label] * psi[:, None],
            label + 1,
            ~flip,
        ),
        feeds,
        outputs,
    )
    assert graph.parity < 1e-6


def test_a_free_size_beside_the_rows_stays_free(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((ROWS, 4, 6, 7), np.float32)
    sides = ("height", "width")
    tensors = (spec.Tensor(name="x", dtype="float32", shape=(4, *sides)),)
    graph = spec.Graph(
        name="graph", inputs=tensors, outputs=(spec.Tensor(name="y", dtype="float32", shape=(4, *sides)),)
    )
    module = Traced(Calls(convolve)).eval()
    export_graph(graph, module, run_module(module, graph, {"x": x}), tmp_path, SharedWeights(tmp_path / "weights.bin"))
    dims = onnx.load(tmp_path / "graph.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["rows", 4, "height", "width"]


def test_a_network_left_in_training_mode_is_exported_in_eval_mode(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    graph = export(tmp_path, module)
    assert graph.parity < 1e-5
    assert "Dropout" not in nodes(tmp_path)


def test_a_kernel_computed_from_constants_is_folded(tmp_path: Path) -> None:
    export(tmp_path, lambda kernel, x: convolve(kernel * 2 + 1, x))
    assert nodes(tmp_path) == ["Conv"]


# One broken rule each.


def test_a_number_of_rows_taken_from_the_example_is_refused(tmp_path: Path) -> None:
    def frozen(kernel: Tensor, x: Tensor) -> Tensor:
        return convolve(kernel, x) + torch.zeros(int(x.shape[0]), 1, 1, 1).expand(x.numel() // 256, 4, 8, 8)

    with pytest.raises(ExportError, match=r"axis 0 \(rows\) of input 'x' was frozen at 3, the example's size"):
        export(tmp_path, frozen)


def test_what_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    def branches(kernel: Tensor, x: Tensor) -> Tensor:
        return convolve(kernel, x) if bool(x.sum() > 0) else x

    with pytest.raises(ExportError, match="graph 'graph' cannot be exported: "):
        export(tmp_path, branches)


def test_rows_that_see_one_another_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"rows of 'y' change by up to .* when 2 of them run together.*batchable=False"
    ):
        export(tmp_path, lambda kernel, x: convolve(kernel, x) - x.mean(0, keepdim=True))


def test_a_graph_may_declare_that_its_rows_see_one_another(tmp_path: Path) -> None:
    graph = export(tmp_path, lambda kernel, x: convolve(kernel, x) - x.mean(0, keepdim=True), batchable=False)
    assert not graph.batchable


def test_batch_statistics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"training mode|run together"):
        export(tmp_path, lambda kernel, x: F.batch_norm(convolve(kernel, x), None, None, training=True))


def test_a_computed_kernel_is_refused(tmp_path: Path) -> None:
    def modulated(kernel: Tensor, x: Tensor) -> Tensor:
        return F.conv2d(x, kernel * x.mean(dim=(0, 2, 3))[:, None, None, None].abs(), padding=1)

    with pytest.raises(ExportError, match=r"computes the kernel of a Conv .*scale the convolution's input"):
        export(tmp_path, modulated)


def test_a_computed_transposed_kernel_is_refused(tmp_path: Path) -> None:
    def modulated(kernel: Tensor, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, kernel * x.mean(), padding=1)

    with pytest.raises(ExportError, match="computes the kernel of a ConvTranspose"):
        export(tmp_path, modulated)


@pytest.mark.parametrize("noise", [torch.randn_like, torch.rand_like])
def test_noise_drawn_in_the_graph_is_refused(tmp_path: Path, noise: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ExportError, match=r"draws its own random numbers \(Random.*make the noise an input"):
        export(tmp_path, lambda kernel, x: convolve(kernel, x) + noise(x))


def test_dropout_left_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"training mode|random numbers"):
        export(tmp_path, lambda kernel, x: F.dropout(convolve(kernel, x), training=True))


def test_bytes_that_are_not_cast_at_once_are_refused(tmp_path: Path) -> None:
    pictures = {"x": np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8, 4), np.uint8)}

    def late(kernel: Tensor, x: Tensor) -> Tensor:
        return convolve(kernel, x.permute(0, 3, 1, 2).float())

    with pytest.raises(ExportError, match=r"gives the bytes of input 'x' to a Transpose.*make them floats"):
        export(tmp_path, late, pictures)
    export(tmp_path, lambda kernel, x: convolve(kernel, x.float().permute(0, 3, 1, 2) / 255), pictures)


def test_a_shape_unlike_the_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"output 'y' really is float32\[4, 6, 6\] a row, the spec says float32\[4, 8, 8\]"
    ):
        export(tmp_path, lambda kernel, x: F.conv2d(x, kernel))


def test_a_type_unlike_the_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"output 'y' really is float64.* the spec says float32"):
        export(tmp_path, lambda kernel, x: convolve(kernel, x).double())


def test_outputs_unlike_the_spec_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"its module gives 2 outputs, the spec names \['y'\]"):
        export(tmp_path, lambda kernel, x: (convolve(kernel, x), x))


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="output 'y' holds NaN or infinity"):
        export(tmp_path, lambda kernel, x: convolve(kernel * float("nan"), x))


def test_a_graph_that_differs_from_torch_is_refused(tmp_path: Path) -> None:
    def two_faced(kernel: Tensor, x: Tensor) -> Tensor:
        return convolve(kernel, x) + (0.01 if torch.compiler.is_exporting() else 0.0)

    with pytest.raises(ExportError, match=r"'y' differs from torch by 0\.00\d+ of its range; at most 0\.001"):
        export(tmp_path, two_faced)


def test_bytes_that_differ_from_torch_are_refused(tmp_path: Path) -> None:
    def two_faced(kernel: Tensor, x: Tensor) -> Tensor:
        return to_bytes((convolve(kernel, x)[:, :3] / 9).tanh() + (0.02 if torch.compiler.is_exporting() else 0.0))

    with pytest.raises(
        ExportError, match=r"'image' differs from torch by up to 3 grey levels, 2\.\d+ on average; at most 1"
    ):
        export(tmp_path, two_faced, outputs=(image(8),))


def test_floats_before_bytes_that_differ_are_refused_even_where_the_bytes_hardly_do(tmp_path: Path) -> None:
    def two_faced(kernel: Tensor, x: Tensor) -> Tensor:
        return torch.full_like(x[:, :3], 0.5 / 127.5) + (0.002 if torch.compiler.is_exporting() else 0.0)

    with pytest.raises(ExportError, match=r"'float_images\.0' differs from torch by 0\.002"):
        export(tmp_path, Denormalize(Calls(two_faced)), outputs=(image(8),))


# Rules on nodes that torch does not write by itself: hand-made models.


def handmade(*made: onnx.NodeProto, opset: int = 20, domain: str = "") -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])
    graph = helper.make_graph(list(made), "graph", [value], [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)])


GRAPH = spec.Graph(
    name="graph",
    inputs=(spec.Tensor(name="x", dtype="float32", shape=(4,)),),
    outputs=(spec.Tensor(name="y", dtype="float32", shape=(4,)),),
)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (handmade(helper.make_node("Relu", ["x"], ["y"]), opset=21), "ai.onnx 21: expected ai.onnx up to 20"),
        (handmade(helper.make_node("Magic", ["x"], ["y"], domain="my"), opset=1, domain="my"), "operators my 1"),
        (handmade(helper.make_node("RandomUniformLike", ["x"], ["y"])), "RandomUniformLike"),
        (handmade(helper.make_node("Bernoulli", ["x"], ["y"])), "Bernoulli"),
        (
            handmade(
                helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "n", "w"], training_mode=1)
            ),
            "BatchNormalization .* in training mode",
        ),
        (handmade(helper.make_node("Dropout", ["x", "ratio", "mode"], ["y"])), "Dropout .* in training mode"),
        (handmade(helper.make_node("Conv", ["x", "x"], ["y"])), "computes the kernel of a Conv"),
    ],
)
def test_a_node_that_breaks_a_rule_is_named(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        check_nodes(model, GRAPH)


def test_a_rule_holds_inside_a_branch_too() -> None:
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["rows", 4])
    branch = helper.make_graph([helper.make_node("RandomNormalLike", ["x"], ["z"])], "branch", [], [output])
    model = handmade(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))
    with pytest.raises(ExportError, match="RandomNormalLike"):
        check_nodes(model, GRAPH)


def test_functions_are_refused() -> None:
    model = handmade(helper.make_node("Relu", ["x"], ["y"]))
    node = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(helper.make_function("", "f", ["a"], ["b"], [node], [helper.make_opsetid("", 20)]))
    with pytest.raises(ExportError, match=r"functions of its own \(f\)"):
        check_nodes(model, GRAPH)


X = {"x": np.arange(32, dtype=np.float32).reshape(8, 4)}


def test_a_batch_that_was_frozen_is_seen_by_its_failure() -> None:
    def run(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if len(feeds["x"]) > 1:
            raise ValueError("cannot reshape")
        return {"y": feeds["x"]}

    with pytest.raises(ExportError, match=r"runs with one row but not with 2: cannot reshape"):
        check_rows(GRAPH, run, X)


def test_a_batch_that_was_frozen_is_seen_by_the_rows_it_gives() -> None:
    with pytest.raises(ExportError, match=r"2 rows in give 1 rows of 'y'"):
        check_rows(GRAPH, lambda feeds: {"y": feeds["x"][:1]}, X)


def test_equal_rows_pass() -> None:
    check_rows(GRAPH, lambda feeds: {"y": feeds["x"] * 2}, X)

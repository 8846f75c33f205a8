"""Export of whole bundles, with the smallest families there are, and what every engine makes of them."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper
from torch import Tensor, nn

from ganserve import bundle, golden, spec
from ganserve.bundle import Bundle
from ganserve.cli import cli
from ganserve.codecs.seeds import draw
from ganserve.engines import Options, Session, onnxruntime, openvino, tensorrt
from ganserve.engines import torch as torch_engine
from ganserve.errors import EngineError, ExportError, SpecError
from ganserve.plugins import installed, resolve
from ganserve_trainers.command import train
from ganserve_trainers.examples import SEED, make_examples
from ganserve_trainers.export import Label, export_bundle
from ganserve_trainers.export_command import export
from ganserve_trainers.onnx_trace import Traced

pytestmark = pytest.mark.usefixtures("one_registry")

FAMILIES = ("gan", "dcgan")
ENGINES = {"onnxruntime": onnxruntime, "openvino": openvino, "torch": torch_engine}


def networks(family: str, preset: str = "tiny") -> Mapping[str, nn.Module]:
    """Networks that have seen a few batches' worth of noise: weights large enough for images with contrast, statistics moved."""
    record = installed().family(family)
    torch.manual_seed(0)
    built: Mapping[str, nn.Module] = resolve(record.build)(record.config(preset))
    with torch.no_grad():
        for name, values in built["generator"].state_dict().items():
            if name.endswith("running_mean"):
                values.normal_(0, 0.1)
            elif name.endswith("running_var"):
                values.uniform_(0.5, 1.5)
            elif values.dtype == torch.float32:
                values.add_(torch.randn_like(values), alpha=0.2)
    return built


def make(family: str, out: Path, **options: Any) -> Bundle:
    record = installed().family(family)
    return export_bundle(record, "tiny", record.config("tiny"), networks(family), out, Label(name=family), **options)


@pytest.fixture(scope="module", params=FAMILIES)
def made(one_registry: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make(request.param, tmp_path_factory.mktemp("bundles") / request.param)


@pytest.fixture(scope="module")
def half(one_registry: None, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make("dcgan", tmp_path_factory.mktemp("bundles") / "half", half=True)


def session(of: Bundle, engine: str, name: str = "generator") -> Session:
    graph = of.manifest.graph(name)
    loaded: Session = ENGINES[engine].load(of.path(graph.file), Options(graph=graph, threads=1))  # type: ignore[attr-defined]
    return loaded


def test_a_bundle_says_what_was_measured(made: Bundle) -> None:
    generator, invert = bundle.read(made.folder).manifest.graphs
    for graph in (generator, invert):
        assert 0 < graph.parity < 1e-5
        assert graph.opset == 20
    assert 0 < generator.flops <= invert.flops / 2, "inversion runs the generator forwards and backwards"
    assert made.manifest.preset == "tiny"
    assert made.manifest.licence == "unknown"


def test_the_golden_rows_are_images_with_contrast(made: Bundle) -> None:
    arrays = made.golden()
    assert [name for name in arrays if name.startswith("generator")] == ["generator.image"], (
        "noise is drawn from its seeds, not stored"
    )
    assert arrays["generator.image"].std() > 20
    assert len({row.tobytes() for row in arrays["generator.image"]}) == made.manifest.golden.rows == 4


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_reproduces_the_golden_rows(made: Bundle, engine: str) -> None:
    assert golden.check(made, made.manifest.graph("generator"), session(made, engine), "fp32") <= 1


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_reproduces_the_golden_rows_from_half_weights(half: Bundle, engine: str) -> None:
    assert golden.check(half, half.manifest.graph("generator"), session(half, engine), "fp32") <= 1


def test_tensorrt_builds_it_for_any_number_of_rows(
    made: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    profiles = []

    class Builder:
        """TensorRT's, of which the profiles are kept."""

        def __init__(self, log: Any) -> None:
            self.real = trt.Builder(log)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def create_optimization_profile(self) -> Any:
            profiles.append(self.real.create_optimization_profile())
            return profiles[-1]

    watched = ModuleType(trt.__name__)
    vars(watched).update(vars(trt) | {"Builder": Builder})
    monkeypatch.setattr(tensorrt, "_tensorrt", lambda: watched)
    command = ["compile", str(made.folder), "--out", str(tmp_path), "--max-batch", "16"]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    sizes = [path.stat().st_size for path in tmp_path.glob("*.engine")]
    assert len(sizes) == len(profiles) == len(made.manifest.graphs)
    assert min(sizes) > made.manifest.files["weights.bin"].size
    for graph, profile in zip(made.manifest.graphs, profiles, strict=True):
        for tensor in graph.inputs:
            rows = [shape[0] for shape in profile.get_shape(tensor.name)]
            assert rows == [1, 8, 16], f"{tensor.name}: at least, mostly and at most"


def test_tensorrt_unfolds_half_weights_when_it_builds(half: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    for graph in half.manifest.graphs:
        assert tensorrt.compile(half.path(graph.file), tmp_path, Options(graph=graph)).size > 0


def test_the_torch_engine_refuses_a_bundle_whose_weights_do_not_fit_the_plugin(made: Bundle, tmp_path: Path) -> None:
    graph = made.manifest.graphs[0]
    model = onnx.load(made.path(graph.file))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("weight"))
    for node in model.graph.node:
        node.input[:] = ["merged" if name == weight.name else name for name in node.input]
    weight.name = "merged"
    shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True)
    onnx.save(model, tmp_path / graph.file)
    files = {name: bundle.digest(tmp_path / name) for name in made.manifest.files}
    bundle.write_manifest(tmp_path, msgspec.structs.replace(made.manifest, files=files))
    with pytest.raises(EngineError, match="export merged network"):
        torch_engine.load(tmp_path / graph.file, Options(graph=graph))


def test_what_half_weights_change_in_the_images_is_measured_and_told(half: Bundle, tmp_path: Path) -> None:
    made, full = (
        bundle.read(one.folder).golden()["generator.image"] for one in (half, make("dcgan", tmp_path / "full"))
    )
    told = half.manifest.provenance["rounding"]
    levels = np.abs(made.astype(int) - full.astype(int))
    assert told["most"] >= levels.max()
    assert 0 < told["mean"] < 0.5
    assert told["mean"] == pytest.approx(levels.mean(), rel=0.5), "of more rows than the bundle keeps"
    assert "rounding" not in make("dcgan", tmp_path / "exact").manifest.provenance


def test_half_weights_that_change_the_images_too_much_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @torch.no_grad()
    def roughly(network: nn.Module) -> None:
        for weight in network.parameters():
            weight.copy_((weight * 4).round() / 4)

    monkeypatch.setattr("ganserve_trainers.export.round_to_half", roughly)
    with pytest.raises(ExportError, match=r"weights in half precision change its images by .* grey levels on average"):
        make("dcgan", tmp_path / "out", half=True)
    assert not list(tmp_path.iterdir())


def test_half_weights_are_the_rounded_ones_at_half_the_size(half: Bundle, tmp_path: Path) -> None:
    model = onnx.load(half.path("generator.onnx"))
    large = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) * 4 >= 1024]
    assert large
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.FLOAT16}
    full = make("dcgan", tmp_path / "full")
    assert half.manifest.files["weights.bin"].size <= full.manifest.files["weights.bin"].size // 2 + 64
    originals = {tensor.name: tensor for tensor in onnx.load(full.path("generator.onnx")).graph.initializer}
    for tensor in large:
        rounded = numpy_helper.to_array(originals[tensor.name]).astype(np.float16)
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), rounded)


def test_exporting_twice_gives_the_same_bytes(made: Bundle, tmp_path: Path) -> None:
    again = make(made.manifest.family, tmp_path / "again")
    assert again.manifest.files == made.manifest.files


def test_the_networks_are_left_as_they_were(tmp_path: Path) -> None:
    record = installed().family("dcgan")
    built = networks("dcgan")
    before = {name: value.clone() for name, value in built["generator"].state_dict().items()}
    built["generator"].train()
    export_bundle(record, "tiny", record.config("tiny"), built, tmp_path / "b", Label(name="b"), half=True)
    assert built["generator"].training
    for name, value in built["generator"].state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_operations_are_counted_as_two_for_a_multiply_add() -> None:
    from onnx import helper

    from ganserve_trainers.onnx_flops import flops

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], group=2),
        helper.make_node("ConvTranspose", ["y", "v"], ["z"], group=2),
        helper.make_node("Gemm", ["a", "b"], ["c"], transA=1),
        helper.make_node("MatMul", ["d", "e"], ["f"]),
        helper.make_node("Relu", ["f"], ["g"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    shapes = {"x": (1, 4, 9, 9), "w": (6, 2, 3, 3), "y": (1, 6, 7, 7), "v": (6, 5, 4, 4)}
    shapes |= {"a": (10, 1), "b": (10, 7), "c": (1, 7), "d": (1, 3, 8), "e": (8, 5), "f": (1, 3, 5)}
    conv = 2 * (6 * 7 * 7) * (2 * 3 * 3)  # each output sums over its group's two inputs and nine taps
    transposed = 2 * (6 * 7 * 7) * (5 * 4 * 4)  # each input is spread over its group's five outputs and sixteen taps
    assert flops(model, shapes) == conv + transposed + 2 * 10 * 7 + 2 * 3 * 5 * 8


def test_an_existing_bundle_is_kept_unless_forced(half: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(half.folder, out)
    with pytest.raises(ExportError, match=r"exists: choose another folder, or replace that bundle with --force"):
        make("gan", out)
    assert bundle.read(out).manifest == half.manifest
    made = make("gan", out, force=True)
    assert bundle.read(out).manifest == made.manifest
    assert made.manifest.family == "gan"
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing temporary stays behind"


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(ExportError, match="is not a bundle"):
        make("dcgan", tmp_path / "out", force=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "irreplaceable"


def test_a_failed_export_leaves_the_old_bundle_and_nothing_else(half: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(half.folder, out)
    record = installed().family("dcgan")
    broken = networks("dcgan")
    next(broken["generator"].parameters()).data.fill_(float("nan"))
    with pytest.raises(ExportError, match="NaN"):
        export_bundle(record, "tiny", record.config("tiny"), broken, out, Label(name="b"), force=True)
    assert bundle.read(out).manifest == half.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path) -> None:
    record = installed().family("dcgan")
    with pytest.raises(SpecError, match=r"'\.\./b' is not allowed"):
        export_bundle(record, "tiny", record.config("tiny"), networks("dcgan"), tmp_path / "b", Label(name="../b"))


# The command, on a run that was really trained.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("runs") / "digits"
    options = ["dcgan", "--preset", "tiny", "--data", "digits:", "--out", str(folder), "--kimg", "0.064"]
    options += ["--snapshot-kimg", "0.032"]
    result = CliRunner().invoke(train, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder


def test_the_command_turns_a_run_into_a_bundle(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "dcgan-digits"
    result = CliRunner().invoke(export, [str(run), "--out", str(out), "--version", "3"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    manifest = bundle.read(out).manifest
    assert (manifest.name, manifest.version, manifest.family) == ("dcgan-digits", 3, "dcgan")
    assert manifest.provenance["images_seen"] == 64
    assert "dcgan-digits version 3" in result.output
    assert "error against torch" in result.output


def test_the_command_takes_an_older_checkpoint(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "younger"
    result = CliRunner().invoke(export, [str(run), "--out", str(out), "--kimg", "0.032"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert bundle.read(out).manifest.provenance["images_seen"] == 32
    result = CliRunner().invoke(export, [str(run), "--out", str(tmp_path / "none"), "--kimg", "0.05"])
    assert result.exit_code == 1
    assert "no checkpoint at 0.05 kimg; there are: 0.064, 0.032" in result.output


def test_the_command_says_what_is_wrong(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(export, [str(tmp_path), "--out", str(tmp_path / "b")])
    assert result.exit_code == 1
    assert "holds no run" in result.output
    result = CliRunner().invoke(export, [str(run), "--out", str(run)])
    assert result.exit_code == 1
    assert "exists: choose another folder" in result.output


# Example rows.

STYLE = spec.Spec(
    graphs=(
        spec.Graph(
            name="mapping",
            inputs=(
                spec.Tensor(name="z", dtype="float32", shape=(4,)),
                spec.Tensor(name="label", dtype="int64"),
            ),
            outputs=(spec.Tensor(name="w", dtype="float32", shape=(4,)),),
        ),
        spec.Graph(
            name="walk",
            inputs=(
                spec.Tensor(name="w", dtype="float32", shape=(4,)),
                spec.Tensor(name="noise", dtype="float32", shape=(4,)),
                spec.Tensor(name="step", dtype="int64"),
                spec.Tensor(name="limit", dtype="int64"),
            ),
            outputs=(spec.Tensor(name="next", dtype="float32", shape=(4,)),),
        ),
    ),
    tasks=(
        spec.Task(
            name="sample",
            kind="sample",
            inputs=(
                spec.Input(tensor="z", codec="noise", reads=("seed",)),
                spec.Input(tensor="label", codec="label", reads=("label", "seed"), options={"classes": 3}),
            ),
            steps=(
                spec.Step(graph="mapping"),
                spec.Loop(
                    graph="walk",
                    state={"next": "w"},
                    steps=5,
                    counter="step",
                    limit="limit",
                    noise={"noise": spec.Noise(stream=9)},
                ),
            ),
            output=spec.Output(tensor="next", codec="array"),
        ),
    ),
)


class Map(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return z + label[:, None]


class Walk(nn.Module):
    def forward(self, w: Tensor, noise: Tensor, step: Tensor, limit: Tensor) -> Tensor:
        return w + noise * (limit - step)[:, None]


def decode(source: spec.Input, tensor: spec.Tensor, pairs: np.ndarray) -> np.ndarray:
    decoder = resolve(installed().codec(source.codec).decode or "")(source, tensor, Path())
    return np.asarray(decoder.decode({"seed": pairs}, len(pairs)))


def test_examples_follow_the_tasks_dataflow() -> None:
    modules = {"mapping": Traced(Map()), "walk": Traced(Walk())}
    found = make_examples(STYLE, modules, decode, 3)
    mapping, walk = found["mapping"], found["walk"]
    np.testing.assert_array_equal(
        mapping.outputs["w"], mapping.inputs["z"] + mapping.inputs["label"][:, None].astype(np.float32)
    )
    # Row by row as in the first steps: five times the noise went into w before step 1, five and four times before step 2.
    before = np.array([[0], [5], [9]], np.float32)
    np.testing.assert_allclose(walk.inputs["w"], mapping.outputs["w"] + before * walk.inputs["noise"], rtol=1e-5)
    assert walk.inputs["step"].tolist() == [0, 1, 2]
    assert walk.inputs["limit"].tolist() == [5, 5, 5]
    assert mapping.noise == {"z": spec.Noise()}
    assert walk.noise == {"noise": spec.Noise(stream=9)}
    assert not np.array_equal(walk.inputs["noise"], mapping.inputs["z"]), "another stream"


def test_a_graph_without_examples_is_named() -> None:
    lonely = spec.Spec(
        graphs=STYLE.graphs,
        tasks=(
            spec.Task(
                name="sample",
                kind="sample",
                inputs=STYLE.tasks[0].inputs,
                steps=(spec.Step(graph="mapping"),),
                output=spec.Output(tensor="w", codec="array"),
            ),
        ),
    )
    with pytest.raises(ExportError, match="no example rows for the graph walk"):
        make_examples(lonely, {"mapping": Traced(Map()), "walk": Traced(Walk())}, decode, 3)


def test_noise_of_every_codec_is_kept_as_how_it_is_drawn() -> None:
    """And with the options of that codec alone that say so."""
    options = {"distribution": "uniform", "stream": 7, "default": 3}
    task = spec.Task(
        name="sample",
        kind="sample",
        inputs=(
            spec.Input(tensor="z", codec="fixed-noise", reads=("noise_seed",), optional=True, options=options),
            spec.Input(tensor="label", codec="label", reads=("label", "seed"), options={"classes": 3}),
        ),
        steps=(spec.Step(graph="mapping"),),
        output=spec.Output(tensor="w", codec="array"),
    )
    declared = spec.Spec(graphs=STYLE.graphs[:1], tasks=(task,))

    def example(source: spec.Input, tensor: spec.Tensor, pairs: np.ndarray) -> np.ndarray:
        decoder = resolve(installed().codec(source.codec).decode or "")(source, tensor, Path())
        return np.asarray(decoder.example(pairs))

    found = make_examples(declared, {"mapping": Traced(Map())}, example, 3)["mapping"]
    assert found.noise == {"z": spec.Noise(distribution="uniform", stream=7)}
    pairs = np.array([(SEED, row) for row in range(3)], np.uint64)
    np.testing.assert_array_equal(found.inputs["z"], draw(found.noise["z"], pairs, (4,)))

"""What a family declares to be inverted: the graph of a step, its loop, its inputs."""

import msgspec
import pytest

from ganserve.errors import SpecError
from ganserve.inversion import MAX_STEPS, inversion, invert_graph, invert_inputs, invert_loop
from ganserve.spec import Graph, Input, Latent, Output, Spec, Step, Task, Tensor, tensors_of

W = Tensor(name="w", dtype="float32", shape=(4, 8))
NOISE = Tensor(name="noise", dtype="float32", shape=(9,))
IMAGE = Tensor(name="image", dtype="uint8", shape=(16, 16, 3))


def task(tied: bool | None = True) -> Task:
    return Task(
        name="invert",
        kind="invert",
        inputs=(
            Input(tensor="w_sample", codec="noise", reads=("seed",)),
            Input(tensor="noise", codec="fixed-noise", reads=("noise_seed",), optional=True),
            *invert_inputs(0.1, steps=200, tied=tied),
        ),
        steps=(invert_loop("w"), Step(graph="synthesis")),
        output=Output(tensor="image", codec="image"),
        latents=(Latent(tensor="w", layers=True),),
        inversion=inversion("w", {"samples": "w_sample"}),
    )


def declared(tied: bool = True) -> Spec:
    synthesis = Graph(name="synthesis", inputs=(W, NOISE), outputs=(IMAGE,))
    return Spec(graphs=(synthesis, invert_graph(W, IMAGE, (NOISE,), tied=tied)), tasks=(task(tied if tied else None),))


def test_a_few_lines_make_a_whole_task() -> None:
    spec = declared()
    assert msgspec.json.decode(msgspec.json.encode(spec), type=Spec) == spec
    tensors = tensors_of({graph.name: graph for graph in spec.graphs}, spec.tasks[0])
    for name in ("start", "w_sample", "w", "x_next"):
        assert (tensors[name].dtype, tensors[name].shape) == ("float32", W.shape), name
    assert tensors["target"].shape == tensors["preview"].shape == IMAGE.shape
    assert tensors["steps"].dtype == "int64"
    assert tensors["loss"].shape == ()


def test_the_inputs_stand_in_the_order_of_the_torch_module() -> None:
    names = [tensor.name for tensor in declared().graph("invert").inputs]
    state = ["target", "x", "first", "second", "best", "best_loss"]
    assert names == [*state, "step", "steps", "rate", "tied", "noise"]
    assert [tensor.name for tensor in declared(tied=False).graph("invert").inputs] == [
        *(name for name in names if name != "tied")
    ]


def test_the_loop_reads_its_start_and_what_the_generator_needs() -> None:
    spec = declared()
    graph, loop = spec.graph("invert"), spec.tasks[0].steps[0]
    assert isinstance(loop, type(invert_loop("w")))
    assert loop.needs(graph) == {"target", "start", "rate", "steps", "tied", "noise"}
    made = loop.makes(graph)
    assert (made["best_next"], made["best_loss_next"]) == ("w", "loss")
    assert len(set(made.values())) == len(made), "no two outputs share a name"
    assert invert_loop("w", {"noise": "grain"}).reads(graph)["noise"] == "grain"


def test_steps_rate_and_tie_have_defaults_and_bounds() -> None:
    inputs = {source.tensor: source for source in invert_inputs(0.1, steps=200, tied=False)}
    assert inputs["steps"].options == {"low": 1, "high": MAX_STEPS, "default": 200}
    assert inputs["rate"].options["default"] == 0.1
    assert inputs["tied"].options == {"low": 0, "high": 1, "default": 0}
    assert all(inputs[name].optional for name in ("steps", "rate", "tied"))
    assert not inputs["target"].optional
    assert "tied" not in {source.tensor for source in invert_inputs(0.1)}


def test_a_start_of_another_shape_is_refused() -> None:
    spec = declared()
    wrong = msgspec.structs.replace(task(), inversion=inversion("w", {"samples": "w_sample", "average": "noise"}))
    with pytest.raises(SpecError, match="'noise' has another shape than 'start'"):
        Spec(graphs=spec.graphs, tasks=(wrong,))

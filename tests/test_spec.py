import msgspec
import pytest

from ganserve.errors import SpecError
from ganserve.spec import Graph, Input, Inversion, Latent, Loop, Output, Spec, Step, Task, Tensor

Z = Tensor(name="z", dtype="float32", shape=(4,))
IMAGE = Tensor(name="image", dtype="uint8", shape=(2, 2, 3))
GENERATOR = Graph(name="generator", inputs=(Z,), outputs=(IMAGE,))
SEED = Input(tensor="z", codec="noise", reads=("seed",))


def sample(**changes: object) -> Task:
    fields = {
        "name": "sample",
        "kind": "sample",
        "inputs": (SEED,),
        "steps": (Step(graph="generator"),),
        "output": Output(tensor="image", codec="image"),
    }
    return Task(**(fields | changes))


def test_a_spec_survives_json() -> None:
    spec = Spec(graphs=(GENERATOR,), tasks=(sample(),))
    assert msgspec.json.decode(msgspec.json.encode(spec), type=Spec) == spec


def test_unknown_fields_and_wrong_types_are_refused_with_their_path() -> None:
    good = msgspec.to_builtins(Spec(graphs=(GENERATOR,), tasks=(sample(),)))
    good["graphs"][0]["inputs"][0]["dtype"] = "complex64"
    with pytest.raises(msgspec.ValidationError, match=r"complex64.*\$\.graphs\[0\]\.inputs\[0\]\.dtype"):
        msgspec.convert(good, Spec)


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b", "a" * 129, "a\n"])
def test_names_that_could_leave_a_folder_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match="name"):
        Tensor(name=name, dtype="float32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": (Step(graph="mapping"),)}, "graph 'mapping'; there are"),
        ({"steps": (Step(graph="generator", inputs={"w": "z"}),)}, "no input 'w'"),
        ({"steps": (Step(graph="generator", inputs={"z": "w"}),), "inputs": ()}, "nothing makes w"),
        ({"output": Output(tensor="w", codec="image")}, "nothing makes its output 'w'"),
        ({"inputs": (SEED, Input(tensor="label", codec="label", reads=("label",)))}, "'label' is read by no step"),
    ],
)
def test_a_dataflow_that_cannot_run_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Spec(graphs=(GENERATOR,), tasks=(sample(**changes),))


def test_two_uses_of_a_tensor_must_agree() -> None:
    other = Graph(name="other", inputs=(Tensor(name="z", dtype="float32", shape=(5,)),), outputs=(IMAGE,))
    with pytest.raises(SpecError, match=r"'z' is float32\[4\] in one step and float32\[5\] in graph 'other'"):
        Spec(graphs=(GENERATOR, other), tasks=(sample(steps=(Step(graph="generator"), Step(graph="other"))),))


def test_a_loop_keeps_the_type_of_its_state() -> None:
    walk = Graph(name="walk", inputs=(Z,), outputs=(Tensor(name="next", dtype="float32", shape=(5,)), IMAGE))
    with pytest.raises(SpecError, match="loop state 'next' → 'z' changes"):
        Spec(graphs=(walk,), tasks=(sample(steps=(Loop(graph="walk", state={"next": "z"}, steps=3),)),))


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        (Latent(tensor="w"), "'w' is none of its tensors; they are z, image"),
        (Latent(tensor="image"), "latent 'image' must be float32 of a fixed shape"),
        (Latent(tensor="z", layers=True), r"latent 'z' has shape \[4\], so no layers to mix"),
    ],
)
def test_a_latent_must_be_one(latent: Latent, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Spec(graphs=(GENERATOR,), tasks=(sample(latents=(latent,)),))


X = Tensor(name="x", dtype="float32", shape=(4,))
LOSS = Tensor(name="loss", dtype="float32")
SEARCH = Graph(name="search", inputs=(X,), outputs=(Tensor(name="y", dtype="float32", shape=(4,)), LOSS, IMAGE))


def invert(**changes: object) -> Task:
    inversion = {"start": "x", "starts": {"samples": "z"}, "latent": "y", "loss": "loss", "preview": "image"}
    return sample(
        kind="invert",
        steps=(Step(graph="generator", outputs={"image": "first"}), Loop(graph="search", state={"y": "x"}, steps=3)),
        inversion=Inversion(**(inversion | changes)),
    )


def test_an_inversion_starts_from_what_no_step_makes() -> None:
    spec = Spec(graphs=(GENERATOR, SEARCH), tasks=(invert(),))
    assert msgspec.json.decode(msgspec.json.encode(spec), type=Spec) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent": "w"}, "'w' is none of its tensors"),
        ({"loss": "w"}, "'w' is none of its tensors"),
        ({"starts": {"average": "loss"}}, "'loss' has another shape than 'x', where the inversion starts"),
    ],
)
def test_an_inversion_names_tensors_that_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Spec(graphs=(GENERATOR, SEARCH), tasks=(invert(**changes),))


def test_inversion_and_kind_go_together() -> None:
    with pytest.raises(SpecError, match="a task of kind 'invert', and no other, says how in `inversion`"):
        Spec(graphs=(GENERATOR,), tasks=(sample(kind="invert"),))

"""Whatever a model's configuration tells of its tasks can be asked for with Triton's own client, and comes as it was told."""

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from ganserve.bundle import read
from ganserve.directions import add_direction
from ganserve.testing.echo import SIZE, write_bundle
from ganserve.testing.echo_inversion import write_inversion_bundle
from ganserve.testing.echo_style import LAYERS, write_style_bundle
from ganserve.testing.echo_text import write_text_bundle
from ganserve.testing.server import serving

ROWS, FREE = 2, 8
"""Rows of a request, and the length of an axis that may have any."""

WRITERS = {
    "echo": write_bundle,
    "echo-inversion": write_inversion_bundle,
    "echo-style": write_style_bundle,
    "echo-text": write_text_bundle,
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    folder = tmp_path_factory.mktemp("tasks")
    for name, write in WRITERS.items():
        write(folder / name)
    add_direction(read(folder / "echo-style"), "up", "w", np.ones((LAYERS, SIZE), np.float32), "by hand")
    with serving(folder, max_rows=64) as server, triton.InferenceServerClient(server.address) as found:
        yield found


def tasks_of(client: triton.InferenceServerClient, model: str) -> dict[str, Any]:
    """What the configuration tells of each task, by its name."""
    told = client.get_model_config(model, as_json=True)["config"]["parameters"]
    return {
        name.removeprefix("task."): json.loads(value["string_value"])
        for name, value in told.items()
        if name.startswith("task.")
    }


def shape_of(told: Mapping[str, Any]) -> list[int]:
    _, *sizes = told["shape"]
    return [ROWS, *(FREE if size == -1 else size for size in sizes)]


def value(told: Mapping[str, Any], datatype: str) -> np.ndarray | None:
    """Rows of ``datatype`` that an input may have which was ``told`` so; None if they need more than was told."""
    if "formats" in told:
        height, width = told.get("height", FREE), told.get("width", FREE)
        pixels = np.random.default_rng(0).integers(0, 256, (ROWS, height, width, told["channels"]), np.uint8)
        return pixels if datatype == "UINT8" else np.array([[png(one)] for one in pixels], object)
    if datatype == "BYTES":
        words = told.get("names", ["a red ball"])
        return np.array([[words[0]]] * ROWS, object) if words else None
    # Some of the types that a number may have know nothing below 0.
    return np.full(shape_of(told), np.ceil(max(told.get("low", 0), 0)), triton_dtype(datatype))


def is_tensor(told: Mapping[str, Any] | None) -> bool:
    """Whether an input that was ``told`` so is no value, but rows of numbers."""
    return told is not None and "formats" not in told and told["shape"] != [-1, 1]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


def triton_dtype(datatype: str) -> Any:
    return np.dtype(datatype.lower().replace("fp", "float"))


def given(name: str, array: np.ndarray, datatype: str) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


@pytest.mark.parametrize("model", WRITERS)
def test_every_task_answers_what_its_configuration_tells(client: triton.InferenceServerClient, model: str) -> None:
    """Each input is given alone, beside what is needed, in each of the types that it may have; all outputs are asked for."""
    for task, told in tasks_of(client, model).items():
        choices = [
            (name, datatype, array)
            for name, one in told["inputs"].items()
            for datatype in one["datatypes"]
            if (array := value(one, datatype)) is not None
        ]
        needed = {
            name: (datatype, array)
            for name, datatype, array in reversed(choices)
            if not told["inputs"][name]["optional"]
        }
        check(client, model, task, told, needed)
        for name, datatype, array in choices:
            if is_tensor(told["inputs"][name]):
                check_entry(client, model, task, told, needed, {name: (datatype, array)})
            else:
                check(client, model, task, told, {**needed, name: (datatype, array)})


def check(
    client: triton.InferenceServerClient,
    model: str,
    task: str,
    told: Mapping[str, Any],
    inputs: Mapping[str, tuple[str, np.ndarray]],
    *,
    entered: bool = False,
) -> None:
    """That ``inputs`` give outputs of the types and shapes that were ``told``: all of them, but where a tensor is ``entered``."""
    parameters: dict[str, Any] = {"task": task}
    outputs = list(told["outputs"])
    if told["kind"] == "invert" and (entered or not {"seed", "psi"}.isdisjoint(inputs)):
        # The seed, and what else samples are made from, is not read by a search that begins elsewhere.
        parameters["start"] = "given" if entered else "samples"
    elif told["kind"] == "invert":
        outputs = [name for name in outputs if name not in ("seed", "index")]
    outputs = outputs[: 1 if entered else None]
    answer = client.infer(
        model,
        [given(name, array, datatype) for name, (datatype, array) in inputs.items()],
        parameters=parameters,
        outputs=[triton.InferRequestedOutput(name) for name in outputs],
    )
    made = list(answer.get_response().outputs)
    assert [one.name for one in made] == outputs
    for output in made:
        expected = told["outputs"][output.name]
        sizes = zip(output.shape, [ROWS if inputs else 1, *expected["shape"][1:]], strict=True)
        assert output.datatype == expected["datatype"], (task, inputs, output.name)
        assert all(want in (-1, size) for size, want in sizes), (task, inputs, output.name)


def check_entry(
    client: triton.InferenceServerClient,
    model: str,
    task: str,
    told: Mapping[str, Any],
    needed: Mapping[str, tuple[str, np.ndarray]],
    tensor: Mapping[str, tuple[str, np.ndarray]],
) -> None:
    """:func:`check` with a tensor beside what is needed, or, where that is computed from it, instead of that."""
    try:
        check(client, model, task, told, {**needed, **tensor}, entered=True)
    except InferenceServerException as error:
        if f"not used because {next(iter(tensor))} was given" not in str(error):
            raise
        check(client, model, task, told, tensor, entered=True)

"""Whatever a model's configuration tells of its tasks can be asked for with Triton's own client, and comes as it was told."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tasks")
    for name, write in WRITERS.items():
        write(root / name)
    add_direction(read(root / "echo-style"), "up", "w", np.ones((LAYERS, SIZE), np.float32), "by hand")
    return root


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[triton.InferenceServerClient]:
    with serving(folder, max_rows=64) as server, triton.InferenceServerClient(server.address) as found:
        yield found


Inputs: TypeAlias = Mapping[str, tuple[str, np.ndarray]]
"""Name → type and rows."""


class Asked:
    """A task of a model, and what the model's configuration ``told`` of it."""

    def __init__(self, client: triton.InferenceServerClient, model: str, task: str, told: Mapping[str, Any]) -> None:
        self._client, self._model, self._task, self.told = client, model, task, told

    def check(self, inputs: Inputs, *, entered: bool = False) -> None:
        """That ``inputs`` give outputs of the types and shapes that were told: all of them, but where a tensor is ``entered``."""
        parameters: dict[str, Any] = {"task": self._task}
        outputs = list(self.told["outputs"])
        if self.told["kind"] == "invert" and (entered or not {"seed", "psi"}.isdisjoint(inputs)):
            # The seed, and what else samples are made from, is not read by a search that begins elsewhere.
            parameters["start"] = "given" if entered else "samples"
        elif self.told["kind"] == "invert":
            outputs = [name for name in outputs if name not in ("seed", "index")]
        outputs = outputs[: 1 if entered else None]
        answer = self._client.infer(
            self._model,
            [given(name, array, datatype) for name, (datatype, array) in inputs.items()],
            parameters=parameters,
            outputs=[triton.InferRequestedOutput(name) for name in outputs],
        )
        made = list(answer.get_response().outputs)
        assert [one.name for one in made] == outputs
        for output in made:
            expected = self.told["outputs"][output.name]
            sizes = zip(output.shape, [ROWS if inputs else 1, *expected["shape"][1:]], strict=True)
            assert output.datatype == expected["datatype"], (self._task, inputs, output.name)
            assert all(want in (-1, size) for size, want in sizes), (self._task, inputs, output.name)

    def check_entry(self, needed: Inputs, tensor: Inputs) -> None:
        """:meth:`check` with a tensor beside what is needed, or, where that is computed from it, instead of that."""
        try:
            self.check({**needed, **tensor}, entered=True)
        except InferenceServerException as error:
            if f"not used because {next(iter(tensor))} was given" not in str(error):
                raise
            self.check(tensor, entered=True)


def tasks_of(client: triton.InferenceServerClient, model: str) -> dict[str, Asked]:
    """The tasks that the configuration tells of, by their names."""
    told = client.get_model_config(model, as_json=True)["config"]["parameters"]
    return {
        (task := name.removeprefix("task.")): Asked(client, model, task, json.loads(value["string_value"]))
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
    return np.full(shape_of(told), np.ceil(max(told.get("low", 0), 0)), triton_to_np_dtype(datatype))


def is_tensor(told: Mapping[str, Any]) -> bool:
    """Whether an input that was ``told`` so is no value, but rows of numbers."""
    return "formats" not in told and told["shape"] != [-1, 1]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


def given(name: str, array: np.ndarray, datatype: str) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


@pytest.mark.parametrize("model", WRITERS)
def test_every_task_answers_what_its_configuration_tells(
    folder: Path, client: triton.InferenceServerClient, model: str
) -> None:
    """Each input is given alone, beside what is needed, in each of the types that it may have; all outputs are asked for."""
    tasks = tasks_of(client, model)
    assert set(tasks) == {task.name for task in read(folder / model).manifest.tasks}
    for asked in tasks.values():
        inputs = asked.told["inputs"]
        choices = [
            (name, datatype, array)
            for name, one in inputs.items()
            for datatype in one["datatypes"]
            if (array := value(one, datatype)) is not None
        ]
        needed = {
            name: (datatype, array) for name, datatype, array in reversed(choices) if not inputs[name]["optional"]
        }
        asked.check(needed)
        for name, datatype, array in choices:
            if is_tensor(inputs[name]):
                asked.check_entry(needed, {name: (datatype, array)})
            else:
                asked.check({**needed, name: (datatype, array)})

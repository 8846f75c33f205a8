"""Requests of the Open Inference Protocol that lie, or are no requests at all: each is refused cleanly, and cheaply."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ganserve import inference
from ganserve.bundle import read
from ganserve.errors import InvalidArgument
from ganserve.inference import messages as pb
from ganserve.plugins import installed
from ganserve.serving.model import Model, Settings, load_model
from ganserve.serving.oip_parameters import check_parameters
from ganserve.serving.oip_ports import BYTES, DTYPES
from ganserve.serving.wire_oip import parameters_of, wish_of
from ganserve.testing.server import Serving, serving

MAX_ROWS = 64


@pytest.fixture(scope="module")
def model(echo: Path) -> Iterator[Model]:
    found = load_model(read(echo), installed(), Settings(threads=1))
    yield found
    found.close()


@pytest.fixture(scope="module")
def server(echo: Path) -> Iterator[Serving]:
    with serving(echo, max_rows=MAX_ROWS) as found:
        yield found


def asks(model: Model, request: Any, task: str) -> int:
    """How many rows the server would run for ``request``."""
    parameters = parameters_of(request)
    check_parameters(parameters, model.tasks[task], streaming=False)
    return wish_of(request, parameters, model, model.tasks[task], MAX_ROWS).rows


def refused(model: Model, request: Any, task: str = "sample") -> str:
    with pytest.raises(InvalidArgument) as caught:
        asks(model, request, task)
    return str(caught.value)


def one(name: str, datatype: str, shape: list[int], raw: bytes | None = None, **contents: Any) -> Any:
    request = pb.ModelInferRequest(model_name="echo")
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw is not None:
        request.raw_input_contents.append(raw)
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    return request


FOUR = np.zeros(4, np.float32).tobytes()


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (one("z", "FP32", [2**62, 4], FOUR), f"inputs[z]: {2**62} rows; expected at most 64"),
        (one("z", "FP32", [1, 4], FOUR[:-1]), "inputs[z]: 15 bytes of FP32 for shape [1, 4]; expected 16"),
        (one("z", "FP32", [1, 4], FOUR + b"\0"), "inputs[z]: 17 bytes of FP32 for shape [1, 4]; expected 16"),
        (one("z", "FP32", [-1, 4], FOUR), "inputs[z]: its shape is [-1, 4]; expected [-1, 4], sizes of at least 1"),
        (one("z", "FP32", [0, 4], b""), "inputs[z]: its shape is [0, 4]"),
        (one("z", "FP32", [1] * 1000, FOUR), "inputs[z]: its shape is [1, 1, 1, 1, 1, 1, 1, 1]; expected"),
        (one("z", "FP32", [], FOUR), "inputs[z]: its shape is []; expected [-1, 4]"),
        (one("z", "FP16", [1, 4], FOUR[:8]), "inputs[z]: its type is 'FP16'; expected FP32"),
        (one("z", "X" * 10**6, [1, 4], FOUR), "inputs[z]: its type is 'XXXXXXXXXXXXXXXXXXXX'; expected FP32"),
        (one("z", "FP32", [1, 4]), "inputs[z]: its elements are in no field; expected fp32_contents for FP32"),
        (one("z", "FP32", [1, 4], fp64_contents=[0.0] * 4), "inputs[z]: its elements are in fp64_contents; expected fp32"),
        (one("z", "FP32", [1, 4], fp32_contents=[0.0] * 5), "inputs[z]: 5 elements for shape [1, 4]; expected 4"),
        (one("z", "FP32", [1, 4], FOUR, fp32_contents=[0.0] * 4), "inputs[z]: its elements are in contents and in raw"),
        (one("truncation", "FP16", [1], fp32_contents=[1.0]), "inputs[truncation]: FP16 has no contents; send it in raw"),
        (one("label", "INT8", [1], int_contents=[300]), "inputs[label]: it has elements from 300 to 300, more than INT8"),
        (one("label", "UINT64", [1], uint64_contents=[2**64 - 1]), None),
        (one("label", BYTES, [1], b""), "inputs[label]: its bytes end before the length of element 0 of 1"),
        (one("label", BYTES, [2], struct.pack("<I", 0)), "inputs[label]: its bytes end before the length of element 1 of 2"),
        (one("label", BYTES, [1], b"\xff\xff\xff\xffabc"), "inputs[label]: element 0 is said to have 4294967295 bytes, 3 are left"),
        (one("label", BYTES, [1], struct.pack("<I", 1) + b"ab"), "inputs[label]: 1 bytes are left after 1 elements"),
        (one("label", BYTES, [1, 2**40], struct.pack("<I", 0)), "inputs[label]: its shape is [1, 1099511627776]"),
    ],
)  # fmt: skip
def test_what_lies_is_refused_by_name(model: Model, request_: Any, expected: str | None) -> None:
    if expected is None:
        assert asks(model, request_, "sample") == 1
    else:
        assert refused(model, request_).startswith(expected)


def test_a_declared_picture_is_not_believed(model: Model) -> None:
    side = 2**31
    lying = one("image", "UINT8", [1, side, side, 3], b"abc")
    assert refused(model, lying, "negative").startswith(
        f"inputs[image]: 3 bytes of UINT8 for shape [1, {side}, {side}, 3]"
    )
    many = one("image", "UINT8", [1, 1, 1, 2**22], b"", uint_contents=[0] * 2**22)
    many.ClearField("raw_input_contents")
    assert "elements in contents; send more than 1048576 in raw_input_contents" in refused(model, many, "negative")


def test_a_crowd_is_not_looked_at_one_by_one(model: Model) -> None:
    crowd = pb.ModelInferRequest(
        inputs=[pb.ModelInferRequest.InferInputTensor(name="z")] * 100_000,
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="z")] * 100_000,
    )
    assert (
        refused(model, crowd)
        == "inputs: 100000 are given; this task has 5; outputs: 100000 are asked for; this task has 6"
    )
    for number in range(1000):
        crowd.parameters[str(number)].bool_param = True
    assert refused(model, crowd) == "parameters: 1000 are given; there are 15"


def test_raw_contents_are_one_for_each_input(model: Model) -> None:
    request = one("z", "FP32", [1, 4], FOUR)
    request.raw_input_contents.append(FOUR)
    assert refused(model, request).startswith("raw_input_contents: 2 entries for 1 inputs")


NAMES = st.sampled_from(("seed", "label", "truncation", "z", "w", "image", "direction.x", "steps", "", "sede"))
SIZES = st.one_of(st.integers(-2, 5), st.sampled_from((2**31, 2**63 - 1, -(2**63), 64, 65)))
RAW = st.one_of(st.binary(max_size=40), st.integers(0, 5).map(lambda rows: bytes(16 * rows)))
CHOICES = st.one_of(
    st.booleans().map(lambda value: pb.InferParameter(bool_param=value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: pb.InferParameter(int64_param=value)),
    st.integers(0, 2**64 - 1).map(lambda value: pb.InferParameter(uint64_param=value)),
    st.text(max_size=8).map(lambda value: pb.InferParameter(string_param=value)),
    st.floats().map(lambda value: pb.InferParameter(double_param=value)),
    st.just(pb.InferParameter()),
)
PARAMETERS = st.dictionaries(
    st.sampled_from(("count", "first_index", "format", "quality", "size", "seconds", "timeout", "background", "", "x")),
    CHOICES,
    max_size=2,
)


@st.composite
def requests(draw: st.DrawFn) -> Any:
    request = pb.ModelInferRequest(model_name="echo")
    for name, value in draw(PARAMETERS).items():
        request.parameters[name].CopyFrom(value)
    for _ in range(draw(st.integers(0, 3))):
        tensor = request.inputs.add(
            name=draw(NAMES),
            datatype=draw(st.sampled_from((*DTYPES, BYTES, "BF16", ""))),
            shape=draw(st.lists(SIZES, max_size=4)),
        )
        if draw(st.booleans()):
            request.raw_input_contents.append(draw(RAW))
        elif draw(st.booleans()):
            tensor.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=8)))
        else:
            tensor.contents.int64_contents.extend(draw(st.lists(st.integers(-3, 3), max_size=8)))
    return request


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests(), task=st.sampled_from(("sample", "walk", "negative", "blend", "measure")))
@example(request=one("z", "FP32", [2**31, 2**31, 2**31], b""), task="sample")
def test_any_request_is_taken_or_refused(model: Model, request: Any, task: str) -> None:
    try:
        rows = asks(model, request, task)
    except InvalidArgument:
        return
    assert 1 <= rows <= MAX_ROWS


VALID = one("z", "FP32", [2, 4], FOUR * 2)
VALID.parameters["task"].string_param = "sample"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, VALID.ByteSize() - 1), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_message_gets_an_answer_that_is_no_fault_of_the_server(
    server: Serving, at: int, value: int, cut: bool
) -> None:
    data = bytearray(VALID.SerializeToString())
    data[at] = value
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(f"/{inference.SERVICE}/ModelInfer")
        answer = call.future(bytes(data[: at + 1] if cut else data), timeout=30)
        # Some of the bytes are the model's name and the task's.
        assert answer.code() in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        if answer.code() is grpc.StatusCode.OK:
            reply = pb.ModelInferResponse.FromString(answer.result())
            sizes = [math.prod(output.shape) * DTYPES[output.datatype].itemsize for output in reply.outputs]
            assert sizes == [len(raw) for raw in reply.raw_output_contents]

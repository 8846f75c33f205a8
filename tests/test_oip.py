"""The Open Inference Protocol: the stock client of Triton against a real server, and ganserve.v1's answers beside it."""

import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from PIL import Image
from tritonclient.utils import InferenceServerException

from ganserve import Client, __version__, inference
from ganserve.bundle import read
from ganserve.codecs.seeds import draw
from ganserve.directions import add_direction
from ganserve.testing.echo import SIZE, Z_NOISE, image_of, write_bundle
from ganserve.testing.echo_inversion import write_inversion_bundle
from ganserve.testing.echo_pictures import blend_of, double_of, measure_of, negative_of
from ganserve.testing.echo_style import LAYERS, write_style_bundle
from ganserve.testing.server import Serving, serving
from ganserve.v1 import generation_pb2, generation_pb2_grpc

ROOT = Path(__file__).parent.parent

DTYPES = {"INT64": np.int64, "UINT64": np.uint64, "FP32": np.float32, "FP64": np.float64, "UINT8": np.uint8}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oip")
    write_bundle(folder / "echo" / "1")
    write_bundle(folder / "echo" / "2", version=2)
    write_inversion_bundle(folder / "echo-inversion")
    style = read(write_style_bundle(folder / "echo-style"))
    add_direction(style, "up", "w", np.ones((LAYERS, SIZE), np.float32), "by hand")
    (folder / "pix2pix-edges").symlink_to(ROOT / "bundles" / "pix2pix-edges")
    (folder / "broken").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[Serving]:
    with serving(bundles, max_rows=64) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as found:
        yield found


@pytest.fixture(scope="module")
def own(server: Serving) -> Iterator[Client]:
    with Client(server.address) as found:
        yield found


def given(name: str, array: np.ndarray | list[Any], datatype: str = "FP32") -> triton.InferInput:
    """An input: numbers of ``datatype``, or BYTES."""
    values = np.array(array, object if datatype == "BYTES" else DTYPES[datatype])
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def asked(*names: str) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name) for name in names]


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """The status and the message with which ``call`` fails."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    return str(caught.value.status()).removeprefix("StatusCode."), str(caught.value.message())


def echo(client: triton.InferenceServerClient, *inputs: triton.InferInput, **more: Any) -> triton.InferResult:
    parameters = {"task": "sample", **more.pop("parameters", {})}
    return client.infer("echo", list(inputs), parameters=parameters, **more)


def pictures(rows: int, height: int = 8, width: int = 12) -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 256, (rows, height, width, 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


# What there is.


def test_it_is_alive_and_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo")
    assert client.is_model_ready("echo", "1")
    assert not client.is_model_ready("echo", "3")
    assert not client.is_model_ready("broken")
    assert not client.is_model_ready("unknown")


def test_the_server_tells_its_name_and_what_it_answers(client: triton.InferenceServerClient) -> None:
    told = client.get_server_metadata()
    assert (told.name, told.version) == ("ganserve", __version__)
    assert set(told.extensions) >= {"model_configuration", "model_repository", "statistics"}


def test_metadata_tell_the_inputs_and_outputs_of_the_first_task(client: triton.InferenceServerClient) -> None:
    told = client.get_model_metadata("echo")
    assert (told.name, list(told.versions), told.platform) == ("echo", ["1", "2"], "ganserve")
    inputs = {one.name: (one.datatype, list(one.shape)) for one in told.inputs}
    outputs = {one.name: (one.datatype, list(one.shape)) for one in told.outputs}
    one, w = [-1, 1], ("FP32", [-1, SIZE])
    assert inputs == {"seed": ("INT64", one), "truncation": ("FP32", one), "label": ("INT64", one), "z": w, "w": w}
    assert outputs == {
        "image": ("UINT8", [-1, SIZE, SIZE, 3]),
        "seed": ("UINT64", one),
        "index": ("UINT64", one),
        "z": w,
        "label": ("INT64", one),
        "w": w,
    }
    told = client.get_model_metadata("pix2pix-edges")
    assert {one.name: (one.datatype, list(one.shape)) for one in told.inputs}["image"] == ("BYTES", one)
    made = client.infer("echo", [], parameters={"task": "sample"}, outputs=asked(*outputs))
    assert {one.name: (one.datatype, [-1, *one.shape[1:]]) for one in made.get_response().outputs} == outputs


def test_the_configuration_is_what_a_load_generator_reads(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("echo", as_json=True)["config"]
    assert config["name"] == "echo"
    assert config["max_batch_size"] == 64
    assert config["dynamic_batching"] == {"preferred_batch_size": [32]}
    assert not config["model_transaction_policy"].get("decoupled", False)
    assert [group["kind"] for group in config["instance_group"]] == ["KIND_CPU"]
    inputs = {one["name"]: one for one in config["input"]}
    assert inputs["seed"] == {"name": "seed", "data_type": "TYPE_INT64", "dims": ["1"], "optional": True}
    assert {"name": "image", "data_type": "TYPE_UINT8", "dims": ["4", "4", "3"]} in config["output"]
    walk = json.loads(config["parameters"]["task.walk"]["string_value"])
    assert walk["kind"] == "sample"
    assert walk["inputs"]["steps"] == {
        "datatypes": walk["inputs"]["steps"]["datatypes"],
        "shape": [-1, 1],
        "optional": False,
        "low": 1,
        "high": 50,
        "default": None,
    }
    assert walk["outputs"]["image"] == {"datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]}
    metadata = {one.name: list(one.shape) for one in client.get_model_metadata("echo").inputs}
    # With batches the one has the row axis and the other has not.
    assert {name: [-1, *map(int, one["dims"])] for name, one in inputs.items()} == metadata


def test_an_input_that_every_task_needs_is_not_optional(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("pix2pix-edges", as_json=True)["config"]
    optional = {one["name"]: one.get("optional", False) for one in config["input"]}
    assert not optional["image"]
    assert optional["seed"]


def test_the_index_lists_what_was_found(client: triton.InferenceServerClient) -> None:
    found = {(one.name, one.version): (one.state, one.reason) for one in client.get_model_repository_index().models}
    assert found["echo", "1"] == found["echo", "2"] == ("READY", "")
    state, reason = next(entry for (name, _), entry in found.items() if name == "broken")
    assert state == "UNAVAILABLE"
    assert "manifest.json" in reason


ABSENT: dict[str, tuple[Any, ...]] = {
    "get_system_shared_memory_status": (),
    "register_system_shared_memory": ("region", "/region", 64),
    "unregister_system_shared_memory": ("region",),
    "get_cuda_shared_memory_status": (),
    "register_cuda_shared_memory": ("region", b"aGFuZGxl", 0, 64),
    "unregister_cuda_shared_memory": ("region",),
    "get_trace_settings": (),
    "update_trace_settings": (),
    "get_log_settings": (),
    "update_log_settings": ({"log_info": True},),
}


@pytest.mark.parametrize("method", ABSENT)
def test_what_is_not_there_is_unimplemented(client: triton.InferenceServerClient, method: str) -> None:
    assert refusal(lambda: getattr(client, method)(*ABSENT[method]))[0] == "UNIMPLEMENTED"


def test_every_way_to_share_memory_has_been_tried() -> None:
    offered = [name for name in dir(triton.InferenceServerClient) if name.endswith(("shared_memory", "memory_status"))]
    assert sorted(offered) == sorted(name for name in ABSENT if "shared_memory" in name)


def test_health_and_reflection_know_the_service(server: Serving) -> None:
    with grpc.insecure_channel(server.address) as channel:
        check = health_pb2.HealthCheckRequest(service=inference.SERVICE)
        assert health_pb2_grpc.HealthStub(channel).Check(check).status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        symbols = (inference.SERVICE, "inference.ModelInferRequest", "ganserve.v1.SampleRequest")
        requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
        requests.append(reflection_pb2.ServerReflectionRequest(list_services=""))
        *files, services = reflection(iter(requests))
        assert all(answer.file_descriptor_response.file_descriptor_proto for answer in files)
        assert inference.SERVICE in [one.name for one in services.list_services_response.service]


# The same images as ganserve.v1.


def test_seeds_give_the_images_of_ganserve_v1_bit_for_bit(client: triton.InferenceServerClient, own: Client) -> None:
    seeds = [7, 2**40, 0]
    made = echo(
        client, given("seed", [[seed] for seed in seeds], "INT64"), outputs=asked("image", "w", "seed", "index")
    )
    theirs = own.sample("echo", task="sample", seeds=seeds, format="raw", returns=["w"])
    assert made.as_numpy("image").dtype == np.uint8
    np.testing.assert_array_equal(made.as_numpy("image"), theirs.arrays())
    np.testing.assert_array_equal(made.as_numpy("w"), theirs.tensor("w"))
    assert made.as_numpy("seed").tolist() == [[seed] for seed in seeds]
    assert made.as_numpy("index").tolist() == [[0]] * 3
    assert made.get_response().parameters["determinism"].string_param == "bit_exact"
    assert made.get_response().parameters["engines"].string_param == "onnxruntime"


def test_one_seed_for_several_rows_counts_their_indices(client: triton.InferenceServerClient, own: Client) -> None:
    parameters = {"count": 5, "first_index": 3}
    made = echo(client, given("seed", [2**64 - 1], "UINT64"), parameters=parameters)
    theirs = own.sample("echo", 5, task="sample", seed=2**64 - 1, first_index=3, format="raw")
    np.testing.assert_array_equal(made.as_numpy("image"), theirs.arrays())
    assert made.as_numpy("index").tolist() == [[3], [4], [5], [6], [7]]


def test_without_a_seed_the_reply_tells_one_that_gives_the_same_again(client: triton.InferenceServerClient) -> None:
    first = echo(client, parameters={"count": 2})
    again = echo(client, given("seed", first.as_numpy("seed")[:1], "UINT64"), parameters={"count": 2})
    np.testing.assert_array_equal(first.as_numpy("image"), again.as_numpy("image"))


@pytest.mark.parametrize(
    "labels",
    [given("label", [[0], [2]], "INT64"), given("label", [["circle"], ["star"]], "BYTES")],
    ids=["INT64", "BYTES"],
)
def test_labels_are_numbers_or_names(client: triton.InferenceServerClient, labels: triton.InferInput) -> None:
    made = echo(client, given("seed", [5, 5], "INT64"), labels)
    z = draw(Z_NOISE, np.array([(5, 0), (5, 0)], np.uint64), (SIZE,))
    np.testing.assert_array_equal(made.as_numpy("image"), image_of(z + np.array([[0], [2]], np.float32)))


@pytest.mark.parametrize(("datatype", "value"), [("FP64", 0.3), ("FP32", 0.5)])
def test_truncation_is_that_of_ganserve_v1(
    client: triton.InferenceServerClient, own: Client, datatype: str, value: float
) -> None:
    made = echo(client, given("seed", [9], "INT64"), given("truncation", [value], datatype), parameters={"count": 4})
    theirs = own.sample("echo", 4, task="sample", seed=9, truncation=value, format="raw")
    np.testing.assert_array_equal(made.as_numpy("image"), theirs.arrays())
    whole = own.sample("echo", 4, task="sample", seed=9, format="raw")
    assert (made.as_numpy("image") != whole.arrays()).any()


def test_latents_are_entered_and_returned(client: triton.InferenceServerClient) -> None:
    w = np.array([[0, 1, 2, 3], [-1, 0.5, 9, -9]], np.float32)
    made = echo(client, given("w", w), outputs=asked("w", "image"))
    np.testing.assert_array_equal(made.as_numpy("image"), image_of(w))
    np.testing.assert_array_equal(made.as_numpy("w"), w)
    assert [one.name for one in made.get_response().outputs] == ["w", "image"]


@pytest.mark.parametrize("typed", [True, False])
def test_typed_contents_are_as_good_as_raw_ones(server: Serving, typed: bool) -> None:
    message = inference.message_types()
    request = message["ModelInferRequest"](model_name="echo", id="a")
    request.parameters["task"].string_param = "sample"
    # Triton's C++ client, which perf_analyzer is made with, says this to unary calls too; the one in Python cannot.
    request.parameters["triton_enable_empty_final_response"].bool_param = False
    for name, datatype, shape, field, values in (
        ("z", "FP32", [2, SIZE], "fp32_contents", np.linspace(-1, 1, 8, dtype=np.float32)),
        ("label", "INT64", [1], "int64_contents", np.array([1])),
    ):
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if typed:
            getattr(tensor.contents, field).extend(values.tolist())
        else:
            request.raw_input_contents.append(values.tobytes())
    with grpc.insecure_channel(server.address) as channel:
        reply = channel.unary_unary(
            f"/{inference.SERVICE}/ModelInfer",
            request_serializer=message["ModelInferRequest"].SerializeToString,
            response_deserializer=message["ModelInferResponse"].FromString,
        )(request)
    assert (reply.model_name, reply.model_version, reply.id) == ("echo", "2", "a")
    image = np.frombuffer(reply.raw_output_contents[0], np.uint8).reshape(list(reply.outputs[0].shape))
    z = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, SIZE)
    np.testing.assert_array_equal(image, image_of(z + 1))


@pytest.mark.parametrize("name", ["png", "webp", "npy"])
def test_files_are_those_of_ganserve_v1(client: triton.InferenceServerClient, own: Client, name: str) -> None:
    made = echo(client, given("seed", [3], "INT64"), parameters={"count": 3, "format": name}).as_numpy("image")
    assert made.shape == (3, 1)
    assert [data for (data,) in made] == own.sample("echo", 3, task="sample", seed=3, format=name).data


def test_directions_move_rows(client: triton.InferenceServerClient, own: Client) -> None:
    inputs = [given("seed", [4, 5], "INT64"), given("label", [0], "INT64"), given("direction.up", [0.5, -2.0])]
    made = client.infer("echo-style", inputs, parameters={"task": "sample", "format": "npy"}).as_numpy("image")
    directions = {"up": [0.5, -2.0]}
    theirs = own.sample("echo-style", task="sample", seeds=[4, 5], labels=0, directions=directions, format="npy")
    assert [data for (data,) in made] == theirs.data
    wrong = [given("seed", [4], "INT64"), given("direction.up", [1e9], "FP64")]
    status, message = refusal(lambda: client.infer("echo-style", wrong, parameters={"task": "sample"}))
    assert (status, message[:52]) == ("INVALID_ARGUMENT", "inputs[direction.up]: 1000000000.0 is out of range; ")


def test_a_version_may_be_asked_for(client: triton.InferenceServerClient) -> None:
    assert echo(client, model_version="1").get_response().model_version == "1"
    assert echo(client).get_response().model_version == "2"


def test_compressed_requests_are_read(client: triton.InferenceServerClient) -> None:
    assert echo(client, given("w", np.zeros((2, SIZE))), compression_algorithm="gzip").as_numpy("image").shape[0] == 2


# Pictures.


def test_pictures_as_tensors_are_translated_row_by_row(client: triton.InferenceServerClient) -> None:
    images = pictures(3)
    made = client.infer("echo", [given("image", images, "UINT8")], parameters={"task": "negative"}).as_numpy("result")
    np.testing.assert_array_equal(made, negative_of(images))


def test_pictures_as_files_are_those_of_ganserve_v1(client: triton.InferenceServerClient, own: Client) -> None:
    images = pictures(2, 64, 64)
    files = given("image", [png(image) for image in images], "BYTES")
    made = client.infer("pix2pix-edges", [files, given("seed", [7], "INT64")])
    for row, image in enumerate(images):
        theirs = own.translate("pix2pix-edges", image, seed=7, index=row, format="raw")
        np.testing.assert_array_equal(made.as_numpy("result")[row], theirs.array())
    assert made.as_numpy("index").tolist() == [[0], [1]]


def test_one_of_two_pictures_serves_all_rows(client: triton.InferenceServerClient) -> None:
    images, reference = pictures(3), pictures(1)
    inputs = [given("image", images, "UINT8"), given("reference", reference, "UINT8"), given("weight", [0.0, 0.5, 1.0])]
    made = client.infer("echo", inputs, parameters={"task": "blend"}).as_numpy("result")
    expected = blend_of(images, np.repeat(reference, 3, 0), np.array([0, 0.5, 1], np.float32))
    np.testing.assert_array_equal(made, expected)


def test_pictures_are_fitted_and_put_back(client: triton.InferenceServerClient) -> None:
    image = np.full((1, 20, 30, 3), 255, np.uint8)
    parameters = {"task": "fixed", "size": "letterbox", "background": "#ffffff", "restore": True}
    made = client.infer("echo", [given("image", image, "UINT8")], parameters=parameters).as_numpy("result")
    assert made.shape == (1, 20, 30, 3)
    black = client.infer("echo", [given("image", image, "UINT8")], parameters={**parameters, "background": "#000000"})
    assert (black.as_numpy("result") != made).any()


def test_results_that_are_no_pictures_are_tensors(client: triton.InferenceServerClient) -> None:
    images = pictures(2)
    made = client.infer("echo", [given("image", images, "UINT8")], parameters={"task": "measure"}).as_numpy("colour")
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, measure_of(images))


def test_pictures_of_different_sizes_come_back_as_files_only(client: triton.InferenceServerClient) -> None:
    images = [pictures(1, 8, 8)[0], pictures(1, 8, 12)[0]]
    files = given("image", [png(image) for image in images], "BYTES")
    status, message = refusal(lambda: client.infer("echo", [files], parameters={"task": "double"}))
    assert status == "INVALID_ARGUMENT"
    assert message.startswith("outputs[result]: rows have different shapes, such as [16, 16, 3] and [16, 24, 3]")
    made = client.infer("echo", [files], parameters={"task": "double", "format": "png"}).as_numpy("result")
    for (data,), image in zip(made, images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), double_of(image[None])[0])


def test_a_picture_is_inverted_as_by_ganserve_v1(client: triton.InferenceServerClient, own: Client) -> None:
    target = own.sample("echo-inversion", seed=3, format="raw").arrays()
    inputs = [given("image", target, "UINT8"), given("seed", [1], "INT64"), given("steps", [40], "INT64")]
    made = client.infer("echo-inversion", inputs, parameters={"task": "invert", "start": "samples", "samples": 4})
    theirs = own.invert("echo-inversion", target[0], seed=1, steps=40, start="samples", samples=4, format="raw")
    np.testing.assert_array_equal(made.as_numpy("z")[0], theirs.latent)
    assert made.as_numpy("loss").tolist() == [[pytest.approx(theirs.loss)]]
    assert made.as_numpy("seed").tolist() == [[1]]
    again = [given("image", target, "UINT8"), given("z", made.as_numpy("z")), given("steps", [1], "INT64")]
    better = client.infer("echo-inversion", again, parameters={"task": "invert"}, outputs=asked("loss"))
    assert better.as_numpy("loss") <= made.as_numpy("loss")


def test_a_search_takes_no_more_steps_than_the_server_allows(bundles: Path) -> None:
    with (
        serving(bundles / "echo-inversion", max_steps=5) as limited,
        triton.InferenceServerClient(limited.address) as client,
    ):
        target = given("image", np.zeros((1, SIZE, SIZE, 3)), "UINT8")
        for steps, refused in ((6, True), (5, False)):
            inputs = [target, given("steps", [steps], "INT64")]
            ask = partial(client.infer, "echo-inversion", inputs, parameters={"task": "invert", "start": "average"})
            if refused:
                assert "6; this server takes at most 5 steps of a search" in refusal(ask)[1]
            else:
                assert ask().as_numpy("loss").shape == (1, 1)


# What is refused.

SEED = given("seed", [1], "INT64")


@pytest.mark.parametrize(
    ("inputs", "more", "expected"),
    [
        ([given("sede", [1], "INT64")], {}, "inputs[sede]: is no input of this task; its inputs are seed, truncation, label, z, w"),
        ([SEED, SEED], {}, "inputs[seed]: given twice"),
        ([given("seed", [-1], "INT64")], {}, "inputs[seed]: -1 is refused; expected 0 to 18446744073709551615"),
        ([given("seed", [1.0], "FP32")], {}, "inputs[seed]: its type is 'FP32'; expected INT64 or"),
        ([given("seed", [[1, 2]], "INT64")], {}, "inputs[seed]: its shape is [1, 2]; expected [-1, 1]"),
        ([given("z", [[1.0, 2.0]])], {}, "inputs[z]: its shape is [1, 2]; expected [-1, 4]"),
        ([given("z", [[1.0, 2.0, np.nan, 0.0]])], {}, "inputs[z]: it has NaN or infinity"),
        ([given("truncation", [np.inf], "FP64")], {}, "inputs[truncation]: it has NaN or infinity"),
        ([given("truncation", [99.0])], {}, "inputs[truncation][0]: 99.0 is out of range"),
        ([given("label", [3], "INT64")], {}, "inputs[label][0]: 3 is no class of this model"),
        ([given("label", ["cirle"], "BYTES")], {}, "inputs[label][0]: 'cirle' is no class of this model"),
        ([given("label", [b"\xff"], "BYTES")], {}, "inputs[label]: b'\\xff' is no UTF-8"),
        ([given("seed", [1, 2, 3], "INT64"), given("label", [0, 1], "INT64")], {}, "inputs[label]: 2 rows for 3 rows"),
        ([given("seed", np.zeros(65), "INT64")], {}, "inputs[seed]: 65 rows; expected at most 64"),
        ([SEED, given("w", np.zeros((1, SIZE)))], {}, "inputs[seed]: not used because w was given"),
        ([SEED], {"count": 65}, "parameters[count]: 65 rows asked for; expected 1 to 64"),
        ([SEED], {"count": 0}, "parameters[count]: is refused: Expected `int` >= 1"),
        ([SEED], {"count": "2"}, "parameters[count]: is refused: Expected `int | null`, got `str`"),
        ([SEED], {"fromat": "png"}, "parameters[fromat]: is unknown; the parameters are task, count"),
        ([SEED], {"format": "gif"}, "parameters[format]: 'gif' is unknown here"),
        ([SEED], {"quality": 3}, "parameters[quality]: raw is exact and takes no quality"),
        ([SEED], {"size": "exact"}, "parameters[size]: not used by task 'sample' of kind 'sample'"),
        ([SEED], {"response_per_row": True}, "parameters[response_per_row]: not used: it is for ModelStreamInfer"),
        ([], {"first_index": 3}, "parameters[first_index]: an index needs the seed"),
        ([SEED], {"max_reply_bytes": 100}, "parameters[max_reply_bytes]: the reply may take"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_name(
    client: triton.InferenceServerClient, inputs: list[triton.InferInput], more: dict[str, Any], expected: str
) -> None:
    status, message = refusal(lambda: echo(client, *inputs, parameters=more))
    assert status == "INVALID_ARGUMENT"
    assert message.startswith(expected)


@pytest.mark.parametrize(
    ("task", "inputs", "more", "expected"),
    [
        ("negative", [], {}, "inputs[image]: task 'negative' needs image"),
        ("negative", [], {"size": "exact"}, "parameters[size]: not used: no picture is given"),
        ("negative", [given("image", [b"no picture"], "BYTES")], {}, "inputs[image]: "),
        ("negative", [given("image", [png(pictures(1)[0]), b""], "BYTES")], {}, "inputs[image][1]: "),
        ("negative", [given("image", np.zeros((1, 4, 4, 2)), "UINT8")], {}, "inputs[image]: "),
        ("negative", [given("image", pictures(1), "UINT8")], {"background": "white"}, "parameters[background]: is refused"),
        ("negative", [given("image", pictures(1), "UINT8")], {"start": "samples"}, "parameters[start]: not used by task"),
        ("blend", [given("image", pictures(1), "UINT8")], {}, "inputs[reference]: task 'blend' needs reference"),
        ("measure", [given("image", pictures(1), "UINT8")], {"format": "png"}, "parameters[format]: 'png' is unknown here"),
        ("measure", [given("image", pictures(1), "UINT8")], {"restore": True}, "parameters[restore]: not used by task"),
        ("walk", [given("seed", [1], "INT64"), given("steps", [51], "INT64")], {}, "inputs[steps][0]: 51 is refused"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_pictures_and_values_is_told_by_name(
    client: triton.InferenceServerClient,
    task: str,
    inputs: list[triton.InferInput],
    more: dict[str, Any],
    expected: str,
) -> None:
    status, message = refusal(lambda: client.infer("echo", inputs, parameters={"task": task, **more}))
    assert status == "INVALID_ARGUMENT"
    assert message.startswith(expected)


@pytest.mark.parametrize(
    ("label", "wrong"),
    [
        (given("label", [0, 3], "INT64"), {"index": 3}),
        (given("label", ["circle", "cirle"], "BYTES"), {"name": "cirle"}),
    ],
    ids=["INT64", "BYTES"],
)
def test_details_of_what_is_wrong_are_those_of_ganserve_v1(
    server: Serving, label: triton.InferInput, wrong: dict[str, Any]
) -> None:
    message = inference.message_types()
    request = message["ModelInferRequest"](model_name="echo")
    request.parameters["task"].string_param = "sample"
    request.inputs.add(name="label", datatype=label.datatype(), shape=label.shape())
    request.raw_input_contents.append(label._get_content())
    labels = [generation_pb2.Label(index=0), generation_pb2.Label(**wrong)]
    theirs = generation_pb2.SampleRequest(model="echo", task="sample", count=2, labels=labels)
    with grpc.insecure_channel(server.address) as channel:
        infer = channel.unary_unary(
            f"/{inference.SERVICE}/ModelInfer",
            request_serializer=message["ModelInferRequest"].SerializeToString,
            response_deserializer=message["ModelInferResponse"].FromString,
        )
        told = [
            wrong_fields(lambda: infer(request)),
            wrong_fields(lambda: generation_pb2_grpc.GenerationStub(channel).Sample(theirs)),
        ]
    (field, fault), (own_field, own_fault) = told
    assert (field, own_field) == ("inputs[label][1]", "labels[1]")
    assert fault == own_fault
    assert "is no class of this model" in fault


def wrong_fields(call: Callable[[], Any]) -> tuple[str, str]:
    """The one field that ``call`` is refused for, as invalid, and what is wrong with it, by the details of the status."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)
    assert status is not None
    (bad,) = [detail for detail in status.details if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR)]
    bad.Unpack(request := error_details_pb2.BadRequest())
    (violation,) = request.field_violations
    return violation.field, violation.description


def test_outputs_that_are_not_there_are_refused(client: triton.InferenceServerClient) -> None:
    status, message = refusal(lambda: echo(client, SEED, outputs=asked("image", "pixels")))
    assert (status, message) == (
        "INVALID_ARGUMENT",
        "outputs[pixels]: is no output of this task; its outputs are image, seed, index, z, label, w",
    )
    assert refusal(lambda: echo(client, SEED, outputs=[triton.InferRequestedOutput("image", class_count=3)]))[1] == (
        "outputs[image]: its parameter 'classification' is unknown here"
    )
    entered = given("w", np.zeros((1, SIZE)))
    assert (
        refusal(lambda: echo(client, entered, outputs=asked("seed")))[1]
        == "outputs[seed]: there is none: no noise is drawn"
    )
    tint, images = given("tint", np.zeros((2, 3))), given("image", pictures(2), "UINT8")
    noisy = partial(client.infer, "echo", [images, tint], parameters={"task": "noisy"}, outputs=asked("seed"))
    assert refusal(noisy)[1] == "outputs[seed]: there is none: no noise is drawn", "once, for all rows"


@pytest.mark.parametrize(
    ("model", "version", "task", "expected"),
    [
        ("unknown", "", "sample", ("NOT_FOUND", "there is no model 'unknown'; there are ")),
        ("echo", "3", "sample", ("NOT_FOUND", "model 'echo' has no version 3; there are 1, 2")),
        ("echo", "latest", "sample", ("INVALID_ARGUMENT", "model_version: 'latest'; expected a number from 1")),
        ("echo", "", "paint", ("NOT_FOUND", "model 'echo' has no task 'paint'; its tasks are: sample, walk")),
        ("broken", "", "sample", ("UNAVAILABLE", "model 'broken' is failed: ")),
    ],
)
def test_models_and_tasks_that_are_not_there(
    client: triton.InferenceServerClient, model: str, version: str, task: str, expected: tuple[str, str]
) -> None:
    status, message = refusal(lambda: client.infer(model, [], version, parameters={"task": task}))
    assert status == expected[0]
    assert message.startswith(expected[1])


def test_a_model_of_many_tasks_wants_to_know_which(client: triton.InferenceServerClient) -> None:
    status, message = refusal(lambda: client.infer("echo", []))
    assert (status, message.partition(";")[0]) == ("NOT_FOUND", "model 'echo' has no single task of kind 'sample'")


def test_shared_memory_is_refused_by_name(client: triton.InferenceServerClient) -> None:
    shared = triton.InferInput("seed", [1], "INT64")
    shared.set_shared_memory("region", 8)
    status, message = refusal(lambda: echo(client, shared))
    assert (status, message) == (
        "INVALID_ARGUMENT",
        "inputs[seed]: its parameter 'shared_memory_byte_size' is unknown here; send its elements in the request",
    )


def test_sequences_and_priorities_are_refused_by_name(client: triton.InferenceServerClient) -> None:
    assert "parameters[priority]: is unknown" in refusal(lambda: echo(client, SEED, priority=1))[1]
    assert "parameters[sequence_id]: is unknown" in refusal(lambda: echo(client, SEED, sequence_id=1))[1]

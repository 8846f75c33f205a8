"""Both clients against real servers, and every status as a typed error."""

import asyncio
import io
import re
import subprocess
import sys
import threading
import time
import urllib.request

import grpc
import msgspec
import numpy as np
import pytest
from PIL import Image

import ganserve
from ganserve import AsyncClient, Client, errors
from ganserve.bundle import read, write_manifest
from ganserve.client import Samples, grid
from ganserve.client.request import FORMATS
from ganserve.client.samples import samples_of
from ganserve.codecs import EncodeOptions
from ganserve.codecs.image import FORMATS as SERVER_FORMATS
from ganserve.codecs.image import ImageEncoder
from ganserve.codecs.seeds import draw
from ganserve.commands.process import free_port
from ganserve.metrics import Metrics
from ganserve.serving.interceptor import Interceptor
from ganserve.serving.traffic import Traffic
from ganserve.serving.wire import FORMATS as WIRE_FORMATS
from ganserve.spec import Output, Step, Tensor
from ganserve.testing.echo import LABELS, SIZE, Z_NOISE, image_of, write_bundle
from ganserve.testing.server import serving
from ganserve.v1 import generation_pb2, generation_pb2_grpc, media_pb2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "echo")
    write_bundle(folder / "echo2", version=2)
    write_bundle(folder / "slow", name="slow")
    (write_bundle(folder / "damaged", name="damaged") / "walk.onnx").write_bytes(b"no graph")
    arrays = read(write_bundle(folder / "arrays", name="arrays")).manifest
    task = next(task for task in arrays.tasks if task.name == "sample")
    task = msgspec.structs.replace(task, steps=(Step(graph="mapping"),), output=Output(tensor="w", codec="array"))
    write_manifest(folder / "arrays", msgspec.structs.replace(arrays, tasks=(task,)))
    with serving(folder) as found:
        yield found


def blocking(address, method, *args, **options):
    with Client(address) as client:
        found = getattr(client, method)(*args, **options)
        return list(found) if method == "sample_stream" else found


def awaiting(address, method, *args, **options):
    async def call():
        async with AsyncClient(address) as client:
            found = getattr(client, method)(*args, **options)
            return [sample async for sample in found] if method == "sample_stream" else await found

    return asyncio.run(call())


@pytest.fixture(params=[blocking, awaiting])
def call(request, server):
    return lambda *args, **options: request.param(server.address, *args, **options)


def z_of(seeds):
    return draw(Z_NOISE, np.array(seeds, np.uint64), (SIZE,))


def test_sample_gives_images_arrays_bytes_seeds_and_what_served(call):
    samples = call("sample", "echo", n=3, seed=7, first_index=5, labels="star", task="sample", returns=("z", "w"))
    assert isinstance(samples, Samples)
    pairs = [(7, 5), (7, 6), (7, 7)]
    w = z_of(pairs) + np.float32(2)
    assert samples.seeds == pairs
    np.testing.assert_array_equal(samples.tensor("z"), z_of(pairs))
    np.testing.assert_array_equal(samples.tensor("w"), w)
    np.testing.assert_array_equal(samples.arrays(), image_of(w))
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in samples.images()]), image_of(w))
    with Image.open(io.BytesIO(samples.data[0])) as image:
        assert image.format == "PNG"
    assert (samples[0].kind, samples[0].format, samples[0].shape) == ("image", "png", (SIZE, SIZE, 3))
    assert (samples.served.model, samples.served.version) == ("echo", 2)
    assert samples.served.engines == ("onnxruntime", "onnxruntime")
    assert samples.served.determinism == "bit-exact"
    assert samples.served.seconds.keys() == {"queue", "engine", "encode", "total"}
    assert isinstance(samples[1:], Samples)
    assert samples[1:].seeds == pairs[1:]


def test_the_stream_gives_the_same_rows_in_order(call):
    options = {"n": 40, "seed": 3, "task": "sample", "format": "raw"}
    streamed = call("sample_stream", "echo", **options)
    together = call("sample", "echo", **options)
    assert [(row.seed, row.index) for row in streamed] == together.seeds == [(3, index) for index in range(40)]
    assert [row.data for row in streamed] == together.data
    assert streamed[0].served.model == "echo"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_decodes_to_the_picture(call, name):
    z = np.array([[-3.0, -1.0, 1.0, 3.0]])
    sample = call("sample", "echo", tensors={"z": z}, labels=0, task="sample", format=name)[0]
    expected = image_of(z)[0]
    worst = {"jpeg": 12, "webp": 24}.get(name, 0)
    assert sample.format == name
    assert np.abs(np.asarray(sample.image()).astype(int) - expected).max() <= worst
    pixels = sample.array()
    assert pixels.dtype == ("float32" if name == "npy-float" else "uint8")
    if name == "npy-float":
        pixels = np.rint((pixels + 1) * 127.5)
    assert np.abs(pixels.astype(int) - expected).max() <= worst


@pytest.mark.parametrize(
    ("name", "channels"),
    [(name, channels) for name in FORMATS for channels in (1, 4) if (name, channels) != ("jpeg", 4)],
)
def test_grey_and_transparent_pictures_keep_their_channels(name, channels):
    row = np.full((5, 7, channels), 200, np.uint8)
    row[..., -1] = 255
    encoder = ImageEncoder(Output(tensor="image", codec="image"), Tensor(name="image", dtype="uint8", shape=row.shape))
    media = encoder.encode(row, encoder.check(EncodeOptions(format=name)))
    numbers = {text: number for number, text in WIRE_FORMATS.items()}
    image = media_pb2.Image(format=numbers[name], data=media.data, **media.attributes)
    message = generation_pb2.Sample(media=media_pb2.Media(image=image))
    sample = samples_of(generation_pb2.SampleResponse(samples=[message]))[0]
    assert sample.array().shape == row.shape
    assert sample.image().mode == {1: "L", 4: "RGBA"}[channels]
    assert np.abs(np.asarray(sample.image()).astype(int).reshape(row.shape) - row).max() <= 2


def test_the_client_knows_the_servers_formats():
    assert set(FORMATS) == set(SERVER_FORMATS)


def test_arrays_are_no_pictures(call):
    sample = call("sample", "arrays", n=2, seed=1, labels=0)[1]
    assert (sample.kind, sample.format) == ("array", "npy")
    np.testing.assert_array_equal(sample.array(), z_of([(1, 1)])[0])
    with pytest.raises(ValueError, match="this result is an array, not an image"):
        sample.image()


def test_rows_may_each_have_their_seed_label_and_truncation(call):
    samples = call(
        "sample", "echo", seeds=[9, 2**64 - 1], labels=["square", 2], truncation=[0.5, 5], task="sample", returns=["w"]
    )
    z = np.concatenate(
        [
            draw(Z_NOISE, np.array([pair], np.uint64), (SIZE,), truncation=np.array([threshold]))
            for pair, threshold in (((9, 0), 0.5), ((2**64 - 1, 0), 5.0))
        ]
    )
    assert samples.seeds == [(9, 0), (2**64 - 1, 0)]
    np.testing.assert_array_equal(samples.tensor("w"), z + np.array([[1], [2]], np.float32))


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (1, {}),
        (3, {"seeds": [1, 2, 3]}),
        (2, {"labels": [0, "star"]}),
        (4, {"truncation": [1, 2, 3, 4]}),
        (5, {"tensors": {"z": np.zeros((5, SIZE))}, "labels": 0}),
    ],
)
def test_without_n_the_longest_value_counts(call, rows, options):
    assert len(call("sample", "echo", task="sample", **options)) == rows


def test_numbers_reach_the_task(call):
    halved = call("sample", "echo", n=2, task="walk", seed=1, numbers={"steps": [1, 3]}, returns=["count"])
    assert halved.tensor("count").tolist() == [1, 3]


def test_a_chosen_seed_gives_the_same_images_again(call):
    first = call("sample", "echo", n=2, task="sample", format="raw")
    assert first[0].seed is not None
    again = call("sample", "echo", n=2, seed=first[0].seed, task="sample", format="raw")
    assert again.data == first.data


def test_versions_can_be_chosen(call):
    assert call("sample", "echo", version=1, task="sample").served.version == 1


def test_models_tell_what_there_is(call):
    by_key = {(model.name, model.version): model for model in call("models")}
    assert list(by_key) == [("arrays", 1), ("damaged", 1), ("echo", 1), ("echo", 2), ("slow", 1)]
    damaged = by_key["damaged", 1]
    assert damaged.state == "failed"
    assert "walk.onnx" in damaged.reason
    assert by_key["echo", 1].engines["synthesis"] == "onnxruntime"
    info = call("model", "echo")
    assert info.summary == by_key["echo", 2]
    sample = next(task for task in info.tasks if task.name == "sample")
    assert (sample.kind, sample.output) == ("sample", "image")
    assert sample.values["label"]["names"] == list(LABELS)
    assert (sample.tensors["z"].dtype, sample.tensors["z"].shape) == ("float32", (SIZE,))
    assert (info.licence, info.provenance) == ("Apache-2.0", {})


def violations(call, **options):
    with pytest.raises(errors.InvalidArgument) as caught:
        call("sample", "echo", **{"task": "sample", **options})
    return dict(caught.value.violations)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("seed", {"seed": -1}),
        ("seeds[1]", {"seeds": [0, 2**64]}),
        ("count", {"n": 2**31}),
        ("version", {"version": 2**63}),
        ("output.quality", {"quality": 2**31}),
        ("labels[0]", {"labels": 2**63}),
        ("output.image_format", {"format": "gif"}),
        ("tensors[z]", {"tensors": {"z": np.zeros((1, SIZE), np.complex64)}}),
    ],
)
def test_what_no_message_can_hold_is_refused_here(field, options):
    client = Client("localhost:1")  # nobody listens there: it is never asked
    with client, pytest.raises(errors.InvalidArgument) as caught:
        client.sample("echo", **options)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_the_servers_violations_arrive_field_by_field(call):
    assert violations(call, n=-1).keys() == {"count"}
    assert violations(call, labels=[0, 7], seed=1).keys() == {"labels[1]"}
    found = violations(call, n=2, seed=1, seeds=[1, 2], returns=["nothing"])
    assert found.keys() == {"seeds", "return_tensors"}
    assert "exclude each other" in found["seeds"]


def test_unknown_things_are_not_found(call):
    with pytest.raises(errors.NotFound, match="there is no model 'nobody'"):
        call("sample_stream", "nobody")
    with pytest.raises(errors.NotFound, match="no version 3"):
        call("model", "echo", 3)


def test_a_model_that_failed_is_unavailable(call):
    with pytest.raises(errors.Unavailable, match=r"'damaged' is failed.*walk\.onnx"):
        call("sample", "damaged")


def test_a_deadline_holds(call):
    with pytest.raises(errors.DeadlineExceeded):
        call("sample", "echo", n=1000, task="walk", numbers={"steps": 50}, timeout=0.02)


def test_a_failed_row_is_an_internal_error_with_an_id(call):
    with pytest.raises(errors.InternalError) as caught:
        call("sample", "echo", task="fragile", numbers={"hurt": 1})
    assert len(caught.value.error_id) == 16


def test_nobody_listening_is_unavailable():
    with Client(f"127.0.0.1:{free_port()}") as client, pytest.raises(errors.Unavailable, match="connect"):
        client.models()


def test_closing_a_client_cancels_its_calls(server):
    client = Client(server.address)
    threading.Timer(0.2, client.close).start()
    with pytest.raises(errors.Cancelled):
        list(client.sample_stream("echo", n=1000, task="walk", numbers={"steps": 50}))


def test_leaving_a_stream_early_cancels_the_rest(server):
    with Client(server.address) as client:
        stream = client.sample_stream("slow", n=1000, task="alone", seed=1)
        assert next(stream).index == 0
        stream.close()
        deadline = time.monotonic() + 10
        while not (codes := _codes(server, "slow")) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert codes == {"CANCELLED": 1}


def _codes(server, model):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    found = (
        re.match(rf'ganserve_requests_total{{code="(\w+)",model="{model}",task="\w+"}} (\S+)', line) for line in lines
    )
    return {match[1]: float(match[2]) for match in found if match}


def test_a_reply_that_may_outgrow_the_client_is_refused(server):
    with Client(server.address, max_reply_bytes=20_000) as client:
        assert len(client.sample("echo", n=10, task="sample")) == 10
        with pytest.raises(errors.InvalidArgument, match="SampleStream") as caught:
            client.sample("echo", n=1000, task="sample")
        assert caught.value.violations[0].field == "max_reply_bytes"
        assert len(list(client.sample_stream("echo", n=1000, task="sample", format="raw"))) == 1000


class Scripted(generation_pb2_grpc.GenerationServicer):
    """A service behind the real interceptor that fails as told, then answers."""

    def __init__(self):
        self.failures = []
        self.calls = []
        self.requests = []
        self.reply = generation_pb2.SampleResponse()

    async def Sample(self, request, context):  # noqa: N802
        self.calls.append(time.monotonic())
        self.requests.append(request)
        if self.failures:
            raise self.failures.pop(0)
        return self.reply


@pytest.fixture
async def scripted():
    service = Scripted()
    traffic = Traffic(Metrics())
    traffic.accepting = True
    interceptor = Interceptor(traffic)
    server = grpc.aio.server(options=(("grpc.max_receive_message_length", 1 << 20),))
    generation_pb2_grpc.add_GenerationServicer_to_server(service, interceptor)
    server.add_generic_rpc_handlers((interceptor,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        yield service, client
    await server.stop(0)


LEAVES = [
    errors.InvalidArgument([errors.Violation("count", "0 rows"), errors.Violation("labels[3]", "no such class")]),
    errors.NotFound("no such model"),
    errors.Unauthenticated("no token"),
    errors.PermissionDenied("not you"),
    errors.QueueFull("too many rows", 0.25),
    errors.QuotaExceeded("too many of yours", 0.25),
    errors.QuotaExceeded("too many of yours, for hours", 7200.0),
    errors.DeadlineExceeded("too late"),
    errors.Cancelled("gone"),
    errors.Unavailable("starting"),
    errors.LoadFailed("golden rows differ"),
    errors.InternalError("abc123"),
]


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.code)
async def test_every_error_arrives_as_it_was_raised(scripted, error):
    service, client = scripted
    service.failures = [error] * 4
    with pytest.raises(errors.RequestError) as caught:
        await client.sample("echo")
    assert type(caught.value) is type(error)
    assert vars(caught.value) == vars(error)
    assert str(caught.value) == str(error)
    retried = (
        isinstance(error, errors.QueueFull | errors.Unavailable | errors.Cancelled)
        or getattr(error, "retry_after", 7200.0) < 1
    )
    assert len(service.calls) == (4 if retried else 1)


def test_every_leaf_is_tried():
    assert {type(error) for error in LEAVES} == set(errors.RequestError.__subclasses__())


async def test_replies_beyond_grpcs_usual_limit_are_asked_for_and_accepted(scripted):
    service, client = scripted
    image = media_pb2.Image(
        format=media_pb2.IMAGE_FORMAT_RAW, width=2000, height=2000, channels=3, data=bytes(12_000_000)
    )
    service.reply.samples.add(media=media_pb2.Media(image=image))
    assert (await client.sample("echo")).arrays().shape == (1, 2000, 2000, 3)
    assert service.requests[0].max_reply_bytes == 64 << 20


async def test_retries_end_with_the_answer(scripted):
    service, client = scripted
    service.failures = [errors.Unavailable("draining"), errors.Unavailable("draining")]
    assert len(await client.sample("echo")) == 0
    assert len(service.calls) == 3


async def test_a_full_servers_delay_is_kept(scripted):
    service, client = scripted
    service.failures = [errors.QueueFull("full", 0.4)]
    await client.sample("echo")
    first, second = service.calls
    assert second - first >= 0.39  # the backoff alone would be 0.1 s


async def test_other_statuses_are_told_plainly(scripted):
    service, client = scripted
    with pytest.raises(errors.RequestError, match=r"^RESOURCE_EXHAUSTED: .*larger than max") as caught:
        await client.sample("echo", tensors={"z": np.zeros((1 << 20,))})
    assert type(caught.value) is errors.RequestError
    with pytest.raises(errors.RequestError, match=r"^UNIMPLEMENTED"):
        await client.models()
    assert not service.calls


@pytest.mark.parametrize("call", [blocking, awaiting])
def test_waiting_for_a_server_that_starts_later(tmp_path, call):
    port = free_port()
    folder = write_bundle(tmp_path / "echo")
    waiting = threading.Thread(target=call, args=(f"127.0.0.1:{port}", "wait_ready", 20), kwargs={"model": "echo"})
    waiting.start()
    time.sleep(0.3)
    assert waiting.is_alive()
    with serving(folder, port=port):
        waiting.join(10)
        assert not waiting.is_alive()


def test_waiting_ends_with_what_it_waited_for(call, server):
    call("wait_ready", 5)
    with pytest.raises(errors.DeadlineExceeded, match=r"model 'damaged' .* was not ready within 0\.3 s: .*NOT_SERVING"):
        call("wait_ready", 0.3, model="damaged")
    with (
        Client(f"127.0.0.1:{free_port()}") as client,
        pytest.raises(errors.DeadlineExceeded, match="could not be reached"),
    ):
        client.wait_ready(0.2)


def test_a_grid_is_square_and_keeps_grey():
    greys = [Image.new("L", (4, 3), level) for level in (10, 20, 30, 40, 50)]
    sheet = grid(greys, gap=1)
    assert (sheet.mode, sheet.size) == ("L", (3 * 5 - 1, 2 * 4 - 1))
    assert [sheet.getpixel((column * 5, row * 4)) for row in (0, 1) for column in (0, 1, 2)] == [
        10,
        20,
        30,
        40,
        50,
        255,
    ]
    assert sheet.getpixel((4, 0)) == 255
    mixed = grid([*greys, Image.new("RGBA", (2, 1), (255, 0, 0, 0))], columns=6, gap=0)
    assert (mixed.mode, mixed.size) == ("RGB", (24, 3))
    assert mixed.getpixel((21, 1)) == (255, 255, 255)  # transparent, and centred
    with pytest.raises(ValueError, match="at least one"):
        grid([])


def test_importing_ganserve_is_cheap_and_the_client_needs_no_engine():
    code = (
        "import sys, ganserve; heavy = {'grpc', 'numpy', 'PIL', 'onnx', 'onnxruntime', 'torch', 'click'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "ganserve.Client, ganserve.AsyncClient;"
        "heavy -= {'grpc', 'numpy', 'PIL'}; assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="Nobody"):
        ganserve.Nobody  # noqa: B018

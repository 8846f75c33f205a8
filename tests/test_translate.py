"""Translate and TranslateStream over gRPC: right pictures, every refusal, batches, streams, tiles and callers who go."""

import asyncio
import contextlib
import io
import random
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from ganserve.codecs.seeds import draw
from ganserve.commands.process import server as server_process
from ganserve.commands.process import stop
from ganserve.engines import Session
from ganserve.plugins import installed
from ganserve.serving.model import Settings
from ganserve.serving.server import Server, ServerSettings, running
from ganserve.serving.stage import LoadedGraph
from ganserve.testing.echo_pictures import (
    FIXED,
    MAX_PIXELS,
    TINT_NOISE,
    blend_of,
    double_of,
    global_of,
    measure_of,
    negative_of,
    noisy_of,
)
from ganserve.v1 import generation_pb2 as pb
from ganserve.v1 import generation_pb2_grpc, media_pb2, models_pb2, models_pb2_grpc

RAW = media_pb2.OutputOptions(image_format=media_pb2.IMAGE_FORMAT_RAW)
LARGE = 256 << 20


class Watched:
    """A real session that remembers the pictures of each run and waits while its gate is shut."""

    def __init__(self, session: Session, seen: list[tuple[str, tuple[int, ...]]], name: str) -> None:
        self.session, self.batch_invariant = session, session.batch_invariant
        self.seen, self.name = seen, name
        self.open = threading.Event()
        self.open.set()
        self.held = False

    def upload(self, array: np.ndarray) -> Any:
        return self.session.upload(array)

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> Mapping[str, Any]:
        self.held = True
        assert self.open.wait(60)
        self.held = False
        first = next(iter(feeds.values()))
        self.seen.append((self.name, tuple(first.shape())))
        return self.session.run(feeds, outputs)

    def download(self, value: Any) -> np.ndarray:
        return self.session.download(value)

    def close(self) -> None:
        self.open.set()
        self.session.close()


class Up:
    """A server on this event loop and the stubs of its services."""

    def __init__(self, server: Server, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.generation = generation_pb2_grpc.GenerationStub(channel)
        self.models = models_pb2_grpc.ModelsStub(channel)
        self.runs: list[tuple[str, tuple[int, ...]]] = []

    def watch(self, graph: str) -> Watched:
        """``graph`` of echo watched; ask for it before any request."""
        graphs = self.server.repository.get("echo").graphs
        assert isinstance(graphs, dict)
        watched = Watched(graphs[graph].session, self.runs, graph)
        graphs[graph] = LoadedGraph(graphs[graph].graph, graphs[graph].engine, watched)
        return watched

    async def jam(self, gate: Watched, **fields: Any) -> Any:
        """Shut ``gate`` and let one request run into it, so that all others wait; the call of that one."""
        gate.open.clear()
        call = asyncio.ensure_future(self.generation.Translate(request(gate.name, **fields)))
        await self.until(lambda: gate.held)
        return call

    def metric(self, name: str, **labels: str) -> float:
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.002)

    async def waiting(self, rows: int) -> None:
        await self.until(lambda: self.metric("ganserve_queue_rows", device="cpu") == rows)

    async def idle(self) -> None:
        await self.until(lambda: self.metric("ganserve_in_flight_requests") == 0)
        assert self.metric("ganserve_queue_rows", device="cpu") == self.metric("ganserve_stream_frames") == 0


@contextlib.asynccontextmanager
async def up(*bundles: Path, **given: Any) -> AsyncIterator[Up]:
    models = Settings(threads=1, max_batch=given.pop("max_batch", 16))
    settings = ServerSettings(bundles=bundles, port=0, metrics_port=None, models=models, encode_threads=1, **given)
    async with running(settings, installed()) as server:
        options = [
            ("grpc.enable_retries", 0),
            ("grpc.max_receive_message_length", LARGE),
            ("grpc.max_send_message_length", LARGE),
        ]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
            await server.ready.wait()
            yield Up(server, channel)


@pytest.fixture
async def one(echo: Path) -> AsyncIterator[Up]:
    async with up(echo) as found:
        yield found


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def raw(picture: np.ndarray) -> media_pb2.Image:
    height, width, channels = picture.shape
    return media_pb2.Image(
        format=media_pb2.IMAGE_FORMAT_RAW, width=width, height=height, channels=channels, data=picture.tobytes()
    )


def file(picture: np.ndarray, kind: str = "PNG", **options: Any) -> media_pb2.Image:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return media_pb2.Image(data=buffer.getvalue())


PICTURE = noise(8, 12)


def request(task: str = "negative", **fields: Any) -> pb.TranslateRequest:
    return pb.TranslateRequest(model="echo", task=task, **{"output": RAW, "images": {"image": raw(PICTURE)}, **fields})


def tensor(array: np.ndarray) -> media_pb2.Tensor:
    kinds = {"float32": media_pb2.DATA_TYPE_FLOAT32, "uint8": media_pb2.DATA_TYPE_UINT8}
    return media_pb2.Tensor(data_type=kinds[array.dtype.name], shape=array.shape, data=array.tobytes())


def pixels(translation: pb.Translation) -> np.ndarray:
    image = translation.media.image
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, image.channels)


async def translated(one: Up, message: pb.TranslateRequest) -> np.ndarray:
    return pixels((await one.generation.Translate(message)).translation)


def violations(error: grpc.RpcError) -> dict[str, str]:
    found = {}
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found |= {one.field: one.description for one in bad.field_violations}
    return found


def retry_seconds(error: grpc.RpcError) -> float:
    retry = error_details_pb2.RetryInfo()
    status = rpc_status.from_call(error)
    assert status is not None
    assert status.details[0].Unpack(retry)
    return retry.retry_delay.ToMilliseconds() / 1000


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


# Right answers.


async def test_a_picture_of_any_size_is_translated_and_keeps_its_size(one: Up) -> None:
    for height, width in ((8, 12), (30, 41), (1, 1), (5, 64)):
        picture = noise(height, width)
        padded = np.pad(picture, ((0, -height % 4), (0, -width % 4), (0, 0)), "reflect" if height > 4 else "edge")
        made = await translated(one, request(images={"image": file(picture)}))
        assert made.shape == picture.shape
        if height > 4:
            assert (made == negative_of(padded[None])[0, :height, :width]).all()


async def test_the_reply_says_what_was_read_what_served_it_and_how_long_each_part_took(one: Up) -> None:
    frames = [Image.fromarray(noise(9, 7, seed)) for seed in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    image = media_pb2.Image(data=buffer.getvalue())
    reply = await one.generation.Translate(request("blend", images={"image": image, "reference": raw(noise(9, 7))}))
    read = reply.translation.images
    assert {name: (one.width, one.height, one.pictures) for name, one in read.items()} == {
        "image": (7, 9, 3),
        "reference": (7, 9, 1),
    }
    assert (reply.served.model, reply.served.version, list(reply.served.engines)) == ("echo", 1, ["onnxruntime"])
    assert set(reply.served.seconds) == {"decode", "queue", "engine", "encode", "total"}
    assert 0 < reply.served.seconds["decode"] < reply.served.seconds["total"]
    assert one.metric("ganserve_decode_seconds_count", format="file") == 1
    assert one.metric("ganserve_decode_seconds_count", format="raw") == 1
    assert one.metric("ganserve_requests_total", model="echo", task="blend", code="OK") == 1
    assert not reply.translation.HasField("seed")


async def test_every_task_makes_what_can_be_said_by_hand(one: Up) -> None:
    image, reference = noise(8, 12, 1), noise(8, 12, 2)
    images = {"image": raw(image)}
    both = {**images, "reference": raw(reference)}
    weight = np.array([0.25], np.float32)
    tint = draw(TINT_NOISE, np.array([(7, 3)], np.uint64), (3,))
    cases = [
        (request("negative", images=images), negative_of(image[None])),
        (request("negative-alone", images=images), negative_of(image[None])),
        (request("global", images=images), global_of(image[None])),
        (request("blend", images=both), blend_of(image[None], reference[None], np.array([0.5], np.float32))),
        (request("blend", images=both, numbers={"weight": 0.25}), blend_of(image[None], reference[None], weight)),
        (request("noisy", images=images, seed=7, index=3), noisy_of(image[None], tint)),
        (request("double", images=images), double_of(image[None])),
    ]
    for message, expected in cases:
        assert (await translated(one, message) == expected[0]).all(), message.task


async def test_noise_is_drawn_from_the_seed_which_is_told(one: Up) -> None:
    first = await one.generation.Translate(request("noisy"))
    seed = first.translation.seed
    again = await one.generation.Translate(request("noisy", seed=seed.seed, index=seed.index))
    assert again.translation == first.translation
    other = await one.generation.Translate(request("noisy", seed=seed.seed, index=seed.index + 1))
    assert other.translation.media != first.translation.media


async def test_sizes_are_met_as_the_policy_says_and_restored(one: Up) -> None:
    picture = noise(20, 40)
    images = {"image": file(picture)}
    small = await translated(one, request("fixed", images=images))
    assert small.shape == (FIXED, FIXED, 3)
    assert (await translated(one, request("fixed", images=images, size=pb.SIZE_POLICY_RESIZE)) == small).all()
    restored = await translated(one, request("fixed", images=images, restore=True))
    assert restored.shape == picture.shape
    boxed = request("fixed", images=images, size=pb.SIZE_POLICY_LETTERBOX, background=pb.Color(red=200))
    red = (await translated(one, boxed))[0]
    assert (red == negative_of(np.full((1, 9, 9, 3), (200, 0, 0), np.uint8))[0, 0, 4]).all(axis=1)[1:-1].all()
    boxed.restore = True
    assert (await translated(one, boxed)).shape == picture.shape
    assert (await translated(one, request("double", images=images))).shape == (40, 80, 3)
    assert (await translated(one, request("double", images=images, restore=True))).shape == picture.shape
    odd = noise(6, 7)
    assert (
        await translated(one, request("double", images={"image": raw(odd)})) == odd.repeat(2, 0).repeat(2, 1)
    ).all(), "cut at the scale of the result"


async def test_a_result_that_is_no_picture_comes_as_an_array(one: Up) -> None:
    reply = await one.generation.Translate(request("measure", output=None, return_tensors=["image"]))
    array = np.load(io.BytesIO(reply.translation.media.array.npy))
    np.testing.assert_allclose(array, measure_of(PICTURE[None])[0], rtol=1e-6)
    assert list(reply.translation.tensors["image"].shape) == [8, 12, 3]


async def test_tensors_may_be_given_for_pictures_and_returned(one: Up) -> None:
    message = request(images={}, tensors={"image": tensor(PICTURE[None])}, return_tensors=["image", "result"])
    translation = (await one.generation.Translate(message)).translation
    assert translation.tensors["image"].data == PICTURE.tobytes()
    assert translation.tensors["result"].data == negative_of(PICTURE[None]).tobytes()
    assert not translation.images


async def test_models_get_tells_what_pictures_a_task_reads(one: Up) -> None:
    reply = await one.models.Get(models_pb2.GetRequest(model="echo"))
    tasks = {task.name: task for task in reply.tasks if task.kind == "translate"}
    assert [value.name for value in tasks["blend"].values] == ["image", "reference", "weight"]
    assert list(tasks["negative"].tensors["image"].shape) == [-1, -1, 3]
    assert f'"max_pixels": {MAX_PIXELS}' in tasks["negative"].values[0].description_json
    assert f'"width": {FIXED}' in tasks["fixed"].values[0].description_json


# Refusals.


def image(**fields: Any) -> media_pb2.Image:
    return media_pb2.Image(**{"data": b"x", **fields})


TWO = {"image": raw(PICTURE), "reference": raw(PICTURE)}

REFUSED: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"images": {}}, {"images": "empty; task 'negative' reads the pictures image"}),
    (
        {"images": {**TWO, "mask": raw(PICTURE)}},
        {"images[reference]": "not used; task 'negative' reads the pictures image", "images[mask]": "not used"},
    ),
    (
        {"task": "blend"},
        {"images[reference]": "task 'blend' needs reference, or the tensor 'reference' itself"},
    ),
    (
        {"task": "blend", "images": {"image": raw(PICTURE), "reference": raw(noise(12, 12))}},
        {"images[reference]": "its height is 12 and that of 'image' is 8; give both one size"},
    ),
    ({"images": {"image": image(data=b"")}}, {"images[image].data": "empty; send a PNG, JPEG or WebP file"}),
    ({"images": {"image": image(data=b"GIF89a" * 9)}}, {"images[image]": ""}),
    ({"images": {"image": file(PICTURE, "BMP")}}, {"images[image]": ""}),
    ({"images": {"image": image(data=file(PICTURE).data[:90])}}, {"images[image]": ""}),
    (
        {"images": {"image": image(format=media_pb2.IMAGE_FORMAT_NPY_FLOAT)}},
        {"images[image].format": "no format of pictures in a request"},
    ),
    ({"images": {"image": image(format=99)}}, {"images[image].format": "99 is no format"}),
    ({"images": {"image": image(width=-1)}}, {"images[image].width": "-1; expected the picture's own"}),
    (
        {"images": {"image": image(format=media_pb2.IMAGE_FORMAT_RAW, width=5, height=5, channels=3)}},
        {"images[image]": ""},
    ),
    ({"size": 9}, {"size": "9 is unknown; expected 0 to 4"}),
    ({"images": {"image": raw(noise(9, 9))}, "size": pb.SIZE_POLICY_EXACT}, {"images[image]": "9x9"}),
    ({"task": "fixed", "size": pb.SIZE_POLICY_EXACT}, {"images[image]": "16x16"}),
    ({"task": "fixed", "size": pb.SIZE_POLICY_NATIVE}, {"images[image]": "16x16"}),
    (
        {"background": pb.Color(red=256, green=255, blue=4000)},
        {"background.red": "256; expected 0 to 255", "background.blue": "4000; expected 0 to 255"},
    ),
    ({"seed": 1}, {"seed": "not used; task 'negative' reads image"}),
    ({"index": 1}, {"index": "an index needs the seed"}),
    ({"label": pb.Label(index=1)}, {"label": "not used; task 'negative' reads image"}),
    ({"label": pb.Label()}, {"label": "empty; give an index or a name"}),
    ({"truncation": 0.5}, {"truncation": "not used"}),
    ({"numbers": {"weight": 1}}, {"numbers[weight]": "not used"}),
    ({"numbers": {"seed": 1}}, {"numbers[seed]": "seed has a field of its own"}),
    ({"numbers": {"image": 1}}, {"numbers[image]": "image is a picture; give it in images"}),
    ({"task": "blend", "images": TWO, "numbers": {"weight": 1.5}}, {"numbers[weight]": "1.5 is refused"}),
    ({"tensors": {"nope": tensor(PICTURE[None])}}, {"tensors[nope]": "no such tensor"}),
    ({"images": {}, "tensors": {"image": tensor(np.zeros((2, 8, 8, 3), np.uint8))}}, {"tensors[image]": "2 rows"}),
    ({"images": {}, "tensors": {"image": tensor(noise(8, 9)[None])}}, {"tensors[image]": "its shape is [1, 8, 9, 3]"}),
    ({"tensors": {"image": tensor(PICTURE[None])}}, {"images[image]": "not used because image was given"}),
    (
        {
            "images": {},
            "tensors": {"image": tensor(PICTURE[None])},
            "size": pb.SIZE_POLICY_NATIVE,
            "restore": True,
            "background": pb.Color(),
        },
        {"size": "no picture is given", "restore": "no picture is given", "background": "no picture is given"},
    ),
    ({"task": "measure", "output": None, "restore": True}, {"restore": "makes no picture"}),
    ({"task": "measure"}, {"output.image_format": "makes no images"}),
    ({"return_tensors": ["nope"]}, {"return_tensors": "'nope' is no tensor"}),
    ({"output": media_pb2.OutputOptions(image_format=99)}, {"output.image_format": "99 is unknown"}),  # type: ignore[arg-type]
    ({"output": media_pb2.OutputOptions(quality=50)}, {"output.quality": "png is exact"}),
    ({"max_reply_bytes": 100}, {"max_reply_bytes": "send a smaller picture"}),
    ({"model": ""}, {"model": "empty"}),
    ({"version": -1}, {"version": "-1; expected 1 or more"}),
]


async def test_every_wrong_field_is_named_with_what_was_expected(one: Up) -> None:
    for fields, expected in REFUSED:
        model = fields.get("model", "echo")
        message = request(**{name: value for name, value in fields.items() if name != "model"})
        message.model = model
        error = await refused(one.generation.Translate(message))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (fields, error)
        found = violations(error)
        assert found.keys() == expected.keys(), fields
        for field, text in expected.items():
            assert text in found[field], (fields, found)
    assert one.metric("ganserve_rejected_requests_total", reason="invalid") == len(REFUSED)
    assert one.metric("ganserve_batch_rows_count", model="echo") == 0, "refused before anything was computed"


async def test_tasks_of_another_kind_are_not_found(one: Up) -> None:
    for task in ("sample", "nope", ""):
        error = await refused(one.generation.Translate(request(task)))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "its translate tasks are: negative, negative-alone, global" in (error.details() or "")


async def test_a_picture_beyond_the_servers_limits_is_refused_by_its_header(echo: Path) -> None:
    async with up(echo, max_picture_pixels=256) as one:
        # A header that says 30000x30000, and no pixels behind it.
        bomb = bytearray(file(PICTURE).data)
        bomb[16:24] = (30000).to_bytes(4, "big") * 2
        for data in (file(noise(16, 17)).data, bytes(bomb)):
            found = violations(await refused(one.generation.Translate(request(images={"image": image(data=data)}))))
            assert list(found) == ["images[image]"]
        numbers = request(images={"image": raw(noise(16, 17))})
        assert "at most 256" in violations(await refused(one.generation.Translate(numbers)))["images[image]"]
        assert (await translated(one, request(images={"image": raw(noise(13, 16))}))).shape == (13, 16, 3)


async def test_a_4k_png_may_be_sent(one: Up) -> None:
    picture = file(noise(2160, 3840), compress_level=0)
    size = len(picture.data)
    assert size > 24_000_000
    found = violations(
        await refused(one.generation.Translate(request("global", images={"image": picture}, max_reply_bytes=LARGE)))
    )
    assert "3840x2160 pixels are more than the 1048576" in found["images[image]"]


async def test_a_reply_that_would_be_too_large_is_refused_before_the_model_runs_where_its_size_is_known(
    one: Up,
) -> None:
    watched = one.watch("negative")
    images = {"image": raw(noise(64, 64))}
    for fields in ({}, {"output": media_pb2.OutputOptions()}, {"return_tensors": ["result"]}):
        message = request(images=images, **fields)
        size = (await one.generation.Translate(message)).ByteSize()
        message.max_reply_bytes = size - 1
        runs = len(one.runs)
        assert "max_reply_bytes" in violations(await refused(one.generation.Translate(message)))
        assert len(one.runs) == runs
    assert watched.name == one.runs[0][0]
    # What `double` makes is known afterwards only.
    message = request("double", images=images, max_reply_bytes=4 * 64 * 64 * 3)
    assert "max_reply_bytes" in violations(await refused(one.generation.Translate(message)))
    message.max_reply_bytes += 10_000
    assert (await translated(one, message)).shape == (128, 128, 3)


async def test_four_mebibytes_are_accepted_where_the_request_says_nothing(one: Up) -> None:
    # What gRPC clients take unless they are told otherwise.
    fits, large = (request(images={"image": raw(noise(1180, width))}) for width in (1180, 1190))
    assert not fits.max_reply_bytes
    assert 4_177_200 < (await one.generation.Translate(fits)).ByteSize() < 4 << 20
    runs = len(one.runs)
    error = await refused(one.generation.Translate(large))
    assert "4194304 are accepted" in violations(error)["max_reply_bytes"]
    assert len(one.runs) == runs


async def test_a_full_queue_is_told_before_the_picture_is_decoded(echo: Path) -> None:
    async with up(echo, queue_rows=2, max_batch=1) as one:
        gate = one.watch("negative")
        busy = [await one.jam(gate)]
        busy += [asyncio.ensure_future(one.generation.Translate(request())) for _ in range(2)]
        await one.waiting(2)
        decoded = one.metric("ganserve_decode_seconds_count", format="raw")
        error = await refused(one.generation.Translate(request()))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert one.metric("ganserve_decode_seconds_count", format="raw") == decoded
        gate.open.set()
        await asyncio.gather(*busy)


ROOM = 2 * PICTURE.nbytes
"""What a raw ``PICTURE`` takes, as it is sent and as the model takes it."""


async def test_pictures_that_wait_take_room_and_those_beyond_it_are_refused_before_they_are_decoded(echo: Path) -> None:
    small = file(np.zeros((20, 20, 3), np.uint8))
    async with up(echo, queue_bytes=3 * ROOM + len(small.data)) as one:
        gate = one.watch("negative")
        busy = [await one.jam(gate)]
        busy += [asyncio.ensure_future(one.generation.Translate(request())) for _ in range(2)]
        await one.waiting(2)
        decoded = one.metric("ganserve_decode_seconds_count", format="raw")
        # For the one there is no room as it is sent; for the other, a small file, as large as it says that it is.
        for sent in (raw(PICTURE), small):
            error = await refused(one.generation.Translate(request(images={"image": sent})))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "bytes of pictures are waiting" in (error.details() or "")
            assert retry_seconds(error) > 0
        assert one.metric("ganserve_rejected_requests_total", reason="queue_full") == 2
        assert one.metric("ganserve_decode_seconds_count", format="raw") == decoded
        assert one.metric("ganserve_decode_seconds_count", format="file") == 0
        gate.open.set()
        await asyncio.gather(*busy)
        assert (await translated(one, request())).shape == PICTURE.shape


async def test_a_picture_for_which_there_is_never_room_is_refused_for_good(echo: Path) -> None:
    async with up(echo, queue_bytes=ROOM) as one:
        bomb = bytearray(file(PICTURE).data)
        bomb[16:24] = (5000).to_bytes(4, "big") * 2
        bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
        for sent in (raw(noise(12, 12)), image(data=bytes(bomb))):
            found = violations(await refused(one.generation.Translate(request(images={"image": sent}))))
            assert f"this server holds {ROOM} for all pictures" in found["images[image]"]
        assert one.metric("ganserve_decode_seconds_count", format="file") == 0
        assert (await translated(one, request())).shape == PICTURE.shape


async def test_room_is_given_back_however_a_call_ends(echo: Path) -> None:
    async with up(echo, queue_bytes=ROOM) as one:
        gate = one.watch("negative")

        async def all_room_is_there() -> None:
            assert (await translated(one, request())).shape == PICTURE.shape

        await all_room_is_there()
        assert (await refused(one.generation.Translate(request(max_reply_bytes=100)))).code().name == "INVALID_ARGUMENT"
        await all_room_is_there()
        await refused(one.generation.Translate(request(images={"image": image(data=file(PICTURE).data[:90])})))
        await all_room_is_there()
        await refused(
            one.generation.Translate(request("measure", output=None, size=pb.SIZE_POLICY_EXACT, restore=True))
        )
        await all_room_is_there()
        call = await one.jam(gate)
        call.cancel()
        gate.open.set()
        await one.idle()
        await all_room_is_there()
        await played(one, frames([PICTURE]))
        await all_room_is_there()
        stream = one.generation.TranslateStream()
        await stream.write(frames([PICTURE])[0])
        await stream.read()
        stream.cancel()
        await one.idle()
        await all_room_is_there()


async def test_decoding_does_not_hold_up_the_event_loop(one: Up) -> None:
    picture = file(noise(1000, 1000), compress_level=9)
    call = asyncio.ensure_future(one.generation.Translate(request(images={"image": picture}, max_reply_bytes=LARGE)))
    await one.until(lambda: one.metric("ganserve_in_flight_requests") == 1)
    longest, last = 0.0, time.monotonic()
    while not call.done():
        await asyncio.sleep(0)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    decode = (await call).served.seconds["decode"]
    assert longest < max(0.2, decode)


# Batches.


async def test_equal_sizes_meet_and_different_sizes_never_do(one: Up) -> None:
    gate = one.watch("negative")
    await one.jam(gate)
    pictures = [noise(8 + 4 * (number % 3), 12, number) for number in range(30)]
    calls = [asyncio.ensure_future(one.generation.Translate(request(images={"image": raw(one_)}))) for one_ in pictures]
    await one.waiting(30)
    gate.open.set()
    for picture, call in zip(pictures, calls, strict=True):
        assert (pixels((await call).translation) == negative_of(picture[None])[0]).all()
    shapes = [shape for _, shape in one.runs]
    assert sum(shape[0] for shape in shapes) == 31, "with the one that went first"
    assert len(shapes) <= 4, "one that ran first, and three sizes"


async def test_large_pictures_meet_only_as_far_as_the_model_takes_them_at_once(one: Up) -> None:
    gate = one.watch("blend")
    side = 400
    images = {"image": raw(noise(side, side)), "reference": raw(noise(side, side, 1))}
    await one.jam(gate, images=images)
    calls = [asyncio.ensure_future(one.generation.Translate(request("blend", images=images))) for _ in range(13)]
    await one.waiting(13)
    gate.open.set()
    await asyncio.gather(*calls)
    most = MAX_PIXELS // side**2
    assert [shape[0] for _, shape in one.runs] == [1, most, most, 13 - 2 * most]


async def test_rows_that_must_not_meet_run_alone_and_let_other_callers_through(one: Up) -> None:
    gate = one.watch("negative-alone")
    one.watch("global")
    await one.jam(gate)
    alone = [asyncio.ensure_future(one.generation.Translate(request("negative-alone"))) for _ in range(19)]
    await one.waiting(19)
    others = [asyncio.ensure_future(one.generation.Translate(request("global"))) for _ in range(5)]
    await one.waiting(24)
    gate.open.set()
    for call in alone:
        assert (pixels((await call).translation) == negative_of(PICTURE[None])[0]).all()
    await asyncio.gather(*others)
    names = [name for name, _ in one.runs]
    assert {shape[0] for name, shape in one.runs if name == "negative-alone"} == {1}
    assert names.index("global") < 19, "before the last of those that run alone"
    assert names.count("negative-alone") == 20


# Streams.


def frames(pictures: Sequence[np.ndarray], **fields: Any) -> list[pb.TranslateStreamRequest]:
    """A stream of ``pictures``, the first beside the settings."""
    messages = [pb.TranslateStreamRequest(images={"image": raw(picture)}) for picture in pictures]
    messages[0].settings.CopyFrom(request(**{"images": {}, **fields}))
    return messages


async def played(one: Up, messages: Sequence[pb.TranslateStreamRequest]) -> list[pb.TranslateStreamResponse]:
    async def sent() -> AsyncIterator[pb.TranslateStreamRequest]:
        for message in messages:
            yield message

    return [reply async for reply in one.generation.TranslateStream(sent())]


async def test_frames_come_back_in_order_whatever_runs_first(one: Up) -> None:
    one.watch("negative")

    async def caller(seed: int) -> None:
        rng = random.Random(seed)
        pictures = [noise(4 * rng.randint(1, 5), 4 * rng.randint(1, 5), 100 * seed + n) for n in range(60)]
        replies = await played(one, frames(pictures))
        assert [reply.frame for reply in replies] == list(range(60))
        for picture, reply in zip(pictures, replies, strict=True):
            assert (pixels(reply.translation) == negative_of(picture[None])[0]).all()
            assert reply.translation.images["image"].height == len(picture)
        assert {reply.served.model for reply in replies} == {"echo"}

    await asyncio.gather(*(caller(seed) for seed in range(6)))
    assert sum(shape[0] for _, shape in one.runs) == 360
    assert len(one.runs) < 360, "frames met in batches"
    assert one.metric("ganserve_requests_total", model="echo", task="negative", code="OK") == 6
    assert one.metric("ganserve_latency_seconds_count", model="echo", task="negative") == 6
    await one.idle()


async def test_the_frames_of_a_stream_are_computed_while_more_come_in(one: Up) -> None:
    gate = one.watch("negative")
    await one.jam(gate)
    call = one.generation.TranslateStream()
    for message in frames([PICTURE] * 5):
        await call.write(message)
    await one.waiting(5)
    gate.open.set()
    for number in range(5):
        assert (await call.read()).frame == number
    assert one.runs[1][1][0] == 5, "all frames in one batch"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_every_frame_has_the_same_noise(one: Up) -> None:
    for fields in ({"seed": 5, "index": 9}, {}):
        replies = await played(one, frames([PICTURE] * 6, task="noisy", **fields))
        assert len({reply.translation.SerializeToString(deterministic=True) for reply in replies}) == 1
    assert replies[0].translation.HasField("seed")


async def test_pictures_in_the_settings_hold_for_every_frame_that_brings_none_of_that_name(one: Up) -> None:
    reference, other = noise(8, 12, 5), noise(8, 12, 6)
    messages = frames([PICTURE] * 3, task="blend", images={"reference": raw(reference)})
    messages[1].images["reference"].CopyFrom(raw(other))
    half = np.array([0.5], np.float32)
    for used, reply in zip((reference, other, reference), await played(one, messages), strict=True):
        assert (pixels(reply.translation) == blend_of(PICTURE[None], used[None], half)[0]).all()


async def test_pictures_in_the_settings_are_decoded_once_a_stream(echo: Path) -> None:
    half = np.array([0.5], np.float32)
    reference = noise(8, 12, 5)
    async with up(echo, stream_frames=4) as one:
        gate = one.watch("blend")
        gate.open.clear()
        messages = frames([PICTURE] * 20, task="blend", images={"reference": file(reference)})
        playing = asyncio.create_task(played(one, messages))
        await one.until(lambda: one.metric("ganserve_stream_frames") == 4)
        gate.open.set()
        for reply in await playing:
            assert (pixels(reply.translation) == blend_of(PICTURE[None], reference[None], half)[0]).all()
            assert reply.translation.images["reference"].width == 12
            assert reply.served.seconds["decode"] > 0
        assert one.metric("ganserve_decode_seconds_count", format="raw") == 20
        assert one.metric("ganserve_decode_seconds_count", format="file") == 1, "for all frames, four of them at once"
        assert len(await played(one, messages)) == 20
        assert one.metric("ganserve_decode_seconds_count", format="file") == 2, "another stream's are its own"
        own = frames([PICTURE] * 2, task="blend", images={"reference": file(reference)})
        for message in own:
            message.images["reference"].CopyFrom(raw(PICTURE))
        await played(one, own)
        assert one.metric("ganserve_decode_seconds_count", format="file") == 2, "one that no frame needs is not decoded"


async def test_pictures_in_the_settings_hold_their_room_as_long_as_the_stream(echo: Path) -> None:
    async with up(echo, queue_bytes=3 * ROOM) as one:
        stream = one.generation.TranslateStream()
        messages = frames([PICTURE] * 9, task="blend", images={"reference": raw(PICTURE)})
        for message in messages:
            await stream.write(message)
            assert (await stream.read()).frame >= 0
        gate = one.watch("negative")
        first = await one.jam(gate)
        second = asyncio.ensure_future(one.generation.Translate(request()))
        await one.waiting(1)
        assert (await refused(one.generation.Translate(request()))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        third = asyncio.ensure_future(one.generation.Translate(request()))
        await one.waiting(2)
        gate.open.set()
        await asyncio.gather(first, second, third)


async def test_a_message_with_settings_alone_is_no_frame_and_an_empty_stream_is_none(one: Up) -> None:
    settings = pb.TranslateStreamRequest(settings=request(images={}))
    assert await played(one, [settings]) == []
    assert await played(one, []) == []
    (reply,) = await played(one, [settings, pb.TranslateStreamRequest(images={"image": raw(PICTURE)})])
    assert reply.frame == 0


async def test_a_frame_that_is_refused_ends_the_stream_after_those_before_it(one: Up) -> None:
    for wrong, expected in (
        (pb.TranslateStreamRequest(images={"image": image()}), "frames[17].images[image]"),
        (pb.TranslateStreamRequest(images={"image": raw(PICTURE), "mask": raw(PICTURE)}), "frames[17].images[mask]"),
        (pb.TranslateStreamRequest(), "frames[17].images"),
        (pb.TranslateStreamRequest(settings=request()), "frames[17].settings"),
    ):
        call = one.generation.TranslateStream()
        messages = frames([PICTURE] * 30)
        messages[17] = wrong
        replies: list[pb.TranslateStreamResponse] = []
        writing = asyncio.create_task(_write(call, messages))
        error = await refused(_rest(call, replies))
        await writing
        assert [reply.frame for reply in replies] == list(range(17))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert list(violations(error)) == [expected]
    await one.idle()
    assert one.metric("ganserve_requests_total", model="echo", task="negative", code="INVALID_ARGUMENT") == 4


async def _write(call: Any, messages: Sequence[pb.TranslateStreamRequest]) -> int:
    """Write all of ``messages`` that the stream takes; how many."""
    for number, message in enumerate(messages):
        try:
            await call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            return number
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        await call.done_writing()
    return len(messages)


async def _rest(call: Any, replies: list[pb.TranslateStreamResponse] | None = None) -> None:
    """Read what is left into ``replies``; raises what the stream ends with."""
    while (reply := await call.read()) is not grpc.aio.EOF:
        if replies is not None:
            replies.append(reply)


async def test_what_is_wrong_with_the_settings_names_them(one: Up) -> None:
    cases: list[tuple[list[pb.TranslateStreamRequest], grpc.StatusCode, list[str]]] = [
        ([pb.TranslateStreamRequest(images={"image": raw(PICTURE)})], grpc.StatusCode.INVALID_ARGUMENT, ["settings"]),
        (frames([PICTURE], task="nope"), grpc.StatusCode.NOT_FOUND, []),
        (frames([PICTURE], numbers={"x": 1}), grpc.StatusCode.INVALID_ARGUMENT, ["settings.numbers[x]"]),
        (frames([PICTURE], size=9), grpc.StatusCode.INVALID_ARGUMENT, ["settings.size"]),
        (
            frames([PICTURE], task="blend", images={"reference": image()}),
            grpc.StatusCode.INVALID_ARGUMENT,
            ["settings.images[reference]"],
        ),
        (frames([PICTURE], task="blend"), grpc.StatusCode.INVALID_ARGUMENT, ["frames[0].images[reference]"]),
    ]
    for messages, code, fields in cases:
        error = await refused(played(one, messages))
        assert error.code() is code
        assert list(violations(error)) == fields
    call = one.generation.TranslateStream()
    await call.write(pb.TranslateStreamRequest(settings=request("nope")))
    assert (await refused(_rest(call))).code() is grpc.StatusCode.NOT_FOUND, "before any frame has come"


async def test_a_client_that_reads_nothing_is_not_read_from_either(echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    window = 4
    async with up(echo, stream_frames=window) as one:
        levels, gauge = [0.0], one.server.metrics.stream_frames

        def inc(amount: float = 1, count: Callable[..., None] = gauge.inc) -> None:
            count(amount)
            levels.append(one.metric("ganserve_stream_frames"))

        monkeypatch.setattr(gauge, "inc", inc)
        call = one.generation.TranslateStream()
        messages = frames([noise(256, 256)] * 1000)
        writing = asyncio.create_task(_write(call, messages))
        made, still = 0.0, 0
        while still < 100:
            await asyncio.sleep(0.01)
            now = one.metric("ganserve_images_total", model="echo")
            still = still + 1 if now == made and now > 0 else 0
            made = now
        assert 0 < max(levels) <= window  # how many depends on who is faster, the caller or the engine
        assert not writing.done(), "the server reads on"
        # What the connection holds (its windows grow to a few megabytes) comes on top of what the server does.
        assert made < 100
        assert (await call.read()).frame == 0
        call.cancel()
        await writing
        await one.idle()
        assert one.metric("ganserve_requests_total", model="echo", task="negative", code="CANCELLED") == 1


async def test_a_caller_that_vanishes_frees_its_frames(one: Up) -> None:
    gate = one.watch("negative")
    first = await one.jam(gate)
    call = one.generation.TranslateStream()
    for message in frames([PICTURE] * 5):
        await call.write(message)
    await one.waiting(5)
    call.cancel()
    await one.waiting(0)
    assert one.metric("ganserve_cancelled_rows_total") == 5
    unary = one.generation.Translate(request())
    ended = asyncio.ensure_future(unary.wait_for_connection())
    await one.waiting(1)
    unary.cancel()
    await one.waiting(0)
    assert one.metric("ganserve_cancelled_rows_total") == 6
    await asyncio.gather(ended, return_exceptions=True)
    gate.open.set()
    await first
    await one.idle()
    assert (await translated(one, request()) == negative_of(PICTURE[None])[0]).all()


async def test_a_deadline_ends_a_stream(one: Up) -> None:
    gate = one.watch("negative")
    first = await one.jam(gate)
    call = one.generation.TranslateStream(timeout=1)
    for message in frames([PICTURE] * 3):
        await call.write(message)
    error = await refused(_rest(call))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    gate.open.set()
    await first
    await one.idle()
    assert one.metric("ganserve_requests_total", model="echo", task="negative", code="DEADLINE_EXCEEDED") == 1


async def test_many_streams_end_in_every_way_and_leave_nothing_behind(one: Up) -> None:
    rng = random.Random(2)

    async def caller(number: int) -> None:
        messages = frames([noise(8, 8, number)] * 12)
        way = number % 4
        if way == 0:
            messages[rng.randrange(12)].images["image"].data = b"no picture"
        call = one.generation.TranslateStream()
        writing = asyncio.create_task(_write(call, messages))
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            for _ in range(rng.randrange(6)):
                await call.read()
            if way == 1:
                call.cancel()
            await _rest(call)
        await writing

    await asyncio.gather(*(caller(number) for number in range(60)))
    await one.idle()
    assert len(await played(one, frames([PICTURE] * 3))) == 3


async def test_bytes_that_are_no_message_end_a_stream_with_what_is_wrong(echo: Path) -> None:
    async with up(echo) as one:
        address = f"127.0.0.1:{one.server.port}"
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.stream_stream(
                "/ganserve.v1.Generation/TranslateStream",
                response_deserializer=pb.TranslateStreamResponse.FromString,
            )()
            (first,) = frames([PICTURE])
            await call.write(first.SerializeToString())
            assert (await call.read()).frame == 0
            await call.write(b"\xff" * 30)
            error = await refused(_rest(call))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "no ganserve.v1.TranslateStreamRequest" in (error.details() or "")


# Tiles.


async def test_a_picture_too_large_for_one_run_is_run_in_tiles_without_a_seam(one: Up) -> None:
    one.watch("negative")
    picture = noise(1500, 1601)
    padded = np.pad(picture, ((0, 0), (0, 3), (0, 0)), "reflect")
    made = await translated(one, request(images={"image": raw(picture)}, max_reply_bytes=LARGE))
    assert (made == negative_of(padded[None])[0, :, :1601]).all()
    assert sum(shape[0] for _, shape in one.runs) == 3
    assert len({shape[1:] for _, shape in one.runs}) == 1, "all tiles have one size"
    assert all(shape[0] * shape[1] * shape[2] <= MAX_PIXELS for _, shape in one.runs)


async def test_tiles_of_two_pictures_and_of_a_larger_result(one: Up) -> None:
    first, second = noise(1200, 1200, 1), noise(1200, 1200, 2)
    message = request(
        "blend",
        images={"image": raw(first), "reference": raw(second)},
        max_reply_bytes=LARGE,
        numbers={"weight": 0.25},
        return_tensors=["weight", "reference"],
    )
    translation = (await one.generation.Translate(message)).translation
    weight = np.array([0.25], np.float32)
    assert (pixels(translation) == blend_of(first[None], second[None], weight)[0]).all()
    assert np.frombuffer(translation.tensors["weight"].data, np.float32) == 0.25
    assert (np.frombuffer(translation.tensors["reference"].data, np.uint8) == second.reshape(-1)).all()
    double = request("double", images={"image": raw(first)}, max_reply_bytes=LARGE)
    assert (await translated(one, double) == double_of(first[None])[0]).all()


async def test_a_model_without_a_radius_says_what_fits(one: Up) -> None:
    for task, fields in (("global", {}), ("measure", {"output": None})):
        message = request(task, images={"image": raw(noise(1200, 2400))}, max_reply_bytes=LARGE, **fields)
        text = violations(await refused(one.generation.Translate(message)))["images[image]"]
        assert "2400x1200 pixels are more than the 1048576 that the model takes at once" in text
        assert "send at most 1448x724" in text
    fits = request("global", images={"image": raw(noise(724, 1448))}, max_reply_bytes=LARGE)
    assert (await translated(one, fits)).shape == (724, 1448, 3)


async def test_a_4k_picture_takes_little_memory(echo: Path, tmp_path: Path) -> None:
    picture = np.kron(noise(135, 240), np.ones((16, 16, 1), np.uint8))

    def peak(pid: int) -> float:
        return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024

    log = tmp_path / "log"
    with server_process(echo, log, "--threads", "1") as (process, address):
        options = [("grpc.max_receive_message_length", LARGE)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            generation = generation_pb2_grpc.GenerationStub(channel)
            serving = health_pb2.HealthCheckResponse.SERVING
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60
            )
            while (await watch.read()).status != serving:
                pass
            watch.cancel()
            small = await generation.Translate(request())
            assert small.translation.media.image.width == 12
            before = peak(process.pid)
            reply = await generation.Translate(request(images={"image": file(picture)}, max_reply_bytes=LARGE))
            grown = peak(process.pid) - before
        stop(process, log)
    assert (pixels(reply.translation) == negative_of(picture[None])[0]).all()
    # Decoded, tiles, result, encoded, sent: 25 MB each; one tile of 1 Mpixel takes the engine 12 MB a float32 tensor.
    print(f"grew by {grown:.0f} MiB")
    assert grown < 400, f"{grown:.0f} MiB"

"""The server over gRPC: every answer, every status, health, reflection, draining, and the process as a whole."""

import asyncio
import contextlib
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from ganserve.codecs.image import ImageEncoder
from ganserve.codecs.label import draw_labels
from ganserve.codecs.seeds import draw
from ganserve.errors import GanserveError
from ganserve.plugins import installed
from ganserve.serving.call import COPY_BYTES
from ganserve.serving.model import Settings
from ganserve.serving.ports import ACCEPT_SECONDS
from ganserve.serving.repository import Repository
from ganserve.serving.server import Server, ServerSettings, running
from ganserve.testing.echo import LABELS, SIZE, WALK_NOISE, Z_NOISE, image_of
from ganserve.v1 import generation_pb2 as pb
from ganserve.v1 import generation_pb2_grpc, media_pb2, models_pb2, models_pb2_grpc

from .gate import Gate, gate_at

RAW = media_pb2.OutputOptions(image_format=media_pb2.IMAGE_FORMAT_RAW)


class Up:
    """A server on this event loop, a channel to it, and the stubs of its services."""

    def __init__(self, server: Server, channel: grpc.aio.Channel) -> None:
        self.server, self.channel = server, channel
        self.generation = generation_pb2_grpc.GenerationStub(channel)
        self.models = models_pb2_grpc.ModelsStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    def gate(self, graph: str) -> Gate:
        return gate_at(self.server, graph)

    def metric(self, name: str, **labels: str) -> float:
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.002)

    async def waiting(self, rows: int) -> None:
        await self.until(lambda: self.metric("ganserve_queue_rows", device="cpu") == rows)


@contextlib.asynccontextmanager
async def up(*bundles: Path, ready: bool = True, **given: Any) -> AsyncIterator[Up]:
    models = Settings(threads=1, max_batch=given.pop("max_batch", 16))
    settings = ServerSettings(bundles=bundles, port=0, metrics_port=None, models=models, encode_threads=1, **given)
    async with running(settings, installed()) as server:
        options = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", 64 << 20)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
            if ready:
                await server.ready.wait()
            yield Up(server, channel)


@pytest.fixture
async def one(echo: Path) -> AsyncIterator[Up]:
    async with up(echo) as found:
        yield found


def request(task: str = "sample", **fields: Any) -> pb.SampleRequest:
    return pb.SampleRequest(model="echo", task=task, **{"output": RAW, "count": 1, **fields})


def tensor(array: np.ndarray) -> media_pb2.Tensor:
    kinds = {"float32": media_pb2.DATA_TYPE_FLOAT32, "int64": media_pb2.DATA_TYPE_INT64}
    return media_pb2.Tensor(data_type=kinds[array.dtype.name], shape=array.shape, data=array.tobytes())


def pixels(sample: pb.Sample) -> np.ndarray:
    image = sample.media.image
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, image.channels)


def violations(error: grpc.RpcError) -> dict[str, str]:
    return {
        violation.field: violation.description
        for bad in details(error, error_details_pb2.BadRequest)
        for violation in bad.field_violations
    }


def details(error: grpc.RpcError, kind: type) -> list[Any]:
    status = rpc_status.from_call(error)
    found = []
    for detail in status.details if status is not None else ():
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


# Right answers.


class Wish:
    """A random request, and what its every row must be, computed by hand."""

    def __init__(self, rng: random.Random) -> None:
        self.rows = rows = rng.randint(1, 4)
        self.task = task = rng.choice(["sample"] * 6 + ["walk", "settle", "alone", "alone", "fragile"])
        fields: dict[str, Any] = {"count": rows}
        pairs = self._seeds(rng, fields)
        truncation = self._truncation(rng, fields)
        z = draw(Z_NOISE, pairs, (SIZE,), truncation=truncation)
        if task == "walk":
            w = self._walk(rng, fields, z, pairs)
        elif task == "settle":
            w = self._settle(z)
        else:
            w = z + self._labels(rng, fields, pairs)[:, None].astype(np.float32)
        self.breaks = task == "fragile" and self._hurts(rng, fields)
        self.message, self.pairs, self.expected = request(task, **fields), pairs, image_of(w)

    def _seeds(self, rng: random.Random, fields: dict[str, Any]) -> np.ndarray:
        first = rng.choice([0, 0, 5, 2**64 - self.rows])
        fields["first_index"] = first
        if rng.random() < 0.5:
            fields["seed"] = seed = rng.getrandbits(64)
            return np.array([(seed, first + row) for row in range(self.rows)], np.uint64)
        fields["seeds"] = [rng.getrandbits(64) for _ in range(self.rows)]
        return np.array([(seed, first) for seed in fields["seeds"]], np.uint64)

    def _truncation(self, rng: random.Random, fields: dict[str, Any]) -> np.ndarray | None:
        if rng.random() < 0.6:
            return None
        fields["truncation"] = [rng.uniform(0.3, 2) for _ in range(rng.choice([1, self.rows]))]
        return np.broadcast_to(np.array(fields["truncation"]), (self.rows,))

    def _labels(self, rng: random.Random, fields: dict[str, Any], pairs: np.ndarray) -> np.ndarray:
        if rng.random() < 0.3:
            return draw_labels(pairs, len(LABELS))
        chosen = [rng.randrange(len(LABELS)) for _ in range(rng.choice([1, self.rows]))]
        fields["labels"] = [pb.Label(index=one) if rng.random() < 0.5 else pb.Label(name=LABELS[one]) for one in chosen]
        return np.broadcast_to(np.array(chosen), (self.rows,))

    def _walk(self, rng: random.Random, fields: dict[str, Any], z: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        steps = [rng.randint(1, 3) for _ in range(self.rows)]
        fields["numbers"] = {"steps": pb.Numbers(values=steps)}
        ends = []
        for row, count in enumerate(steps):
            x = z[row]
            for step in range(count):
                x = x * np.float32(0.5) + draw(WALK_NOISE, pairs[row : row + 1], (SIZE,), step=step)[0]
            ends.append(x)
        return np.stack(ends)

    def _hurts(self, rng: random.Random, fields: dict[str, Any]) -> bool:
        hurt = [int(rng.random() < 0.1) for _ in range(self.rows)]
        fields["numbers"] = {"hurt": pb.Numbers(values=hurt)}
        return any(hurt)

    @staticmethod
    def _settle(z: np.ndarray) -> np.ndarray:
        ends = []
        for row in z:
            x = row * np.float32(0.5)
            while np.abs(x).max() >= np.float32(0.1):
                x = x * np.float32(0.5)
            ends.append(x)
        return np.stack(ends)

    async def check(self, calling: Awaitable[Sequence[pb.Sample]]) -> None:
        """What comes is right; and where a row of this request breaks the engine, nothing comes but that it did."""
        if self.breaks:
            assert (await refused(calling)).code() is grpc.StatusCode.INTERNAL
            return
        samples = await calling
        assert len(samples) == self.rows
        for row, sample in enumerate(samples):
            assert (sample.seed.seed, sample.seed.index) == tuple(self.pairs[row].tolist())
            assert sample.media.image.data == self.expected[row].tobytes(), f"row {row} of {self.message}"


@pytest.mark.timeout(900)
async def test_ten_thousand_concurrent_random_requests_all_get_their_own_images(one: Up) -> None:
    rng = random.Random(7)
    left = iter(range(10_000))
    expected: Counter[tuple[str, str]] = Counter()

    async def sampled(message: pb.SampleRequest) -> Sequence[pb.Sample]:
        return (await one.generation.Sample(message)).samples

    async def streamed(message: pb.SampleRequest) -> Sequence[pb.Sample]:
        return [reply.sample async for reply in one.generation.SampleStream(pb.SampleStreamRequest(sample=message))]

    async def caller() -> None:
        for number in left:
            wish = Wish(rng)
            await wish.check((sampled if number % 10 else streamed)(wish.message))
            expected[wish.task, "INTERNAL" if wish.breaks else "OK"] += 1

    async with asyncio.TaskGroup() as callers:
        for _ in range(200):
            callers.create_task(caller())
    assert expected["fragile", "INTERNAL"] > 100
    assert sum(expected.values()) == 10_000
    for (task, code), calls in expected.items():
        assert one.metric("ganserve_requests_total", model="echo", task=task, code=code) == calls
    largest_request = one.metric("ganserve_batch_rows_bucket", model="echo", le="4.0")
    assert largest_request < one.metric("ganserve_batch_rows_count", model="echo"), "rows of different requests met"
    assert one.metric("ganserve_queue_rows", device="cpu") == one.metric("ganserve_in_flight_requests") == 0


@pytest.mark.parametrize(("seconds", "heard"), [(1, grpc.StatusCode.CANCELLED), (ACCEPT_SECONDS, grpc.StatusCode.OK)])
async def test_calls_that_a_busy_server_has_not_accepted_wait_as_long_as_it_says_and_are_not_cancelled(
    echo: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, heard: grpc.StatusCode
) -> None:
    monkeypatch.setattr("ganserve.serving.ports.ACCEPT_SECONDS", seconds)
    async with up(echo) as one:
        calls = [one.generation.Sample(request()) for _ in range(20)]
        await asyncio.sleep(0)
        # The event loop is busy with something else; gRPC's threads receive the calls meanwhile.
        time.sleep(2.5)
        codes = [await call.code() for call in calls]
    assert codes.count(heard) >= 19, "but the one that the server had asked for beforehand"


async def test_a_stream_gives_each_row_in_order_as_the_unary_call_does(one: Up) -> None:
    message = request(
        "walk", count=40, seed=3, numbers={"steps": pb.Numbers(values=[1 + row % 7 for row in range(40)])}
    )
    stream = [reply async for reply in one.generation.SampleStream(pb.SampleStreamRequest(sample=message))]
    reply = await one.generation.Sample(message)
    assert [one.sample for one in stream] == list(reply.samples)
    assert [one.sample.seed.index for one in stream] == list(range(40))
    assert {one.served.model for one in stream} == {"echo"}


async def test_a_stream_sends_a_row_before_the_next_is_ready(one: Up) -> None:
    gate = one.gate("alone")
    gate.open.clear()
    gate.passes.release()
    call = one.generation.SampleStream(pb.SampleStreamRequest(sample=request("alone", count=2, seed=1)))
    assert (await call.read()).sample.seed.index == 0
    reading = asyncio.create_task(call.read())
    await one.until(lambda: gate.waiting == 1)
    assert gate.runs == 1
    assert not reading.done()
    gate.open.set()
    assert (await reading).sample.seed.index == 1
    assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize(
    ("image_format", "copied", "apart"),
    [
        (media_pb2.IMAGE_FORMAT_PNG, COPY_BYTES, True),
        (media_pb2.IMAGE_FORMAT_JPEG, COPY_BYTES, True),
        (media_pb2.IMAGE_FORMAT_WEBP, COPY_BYTES, True),
        # A copy, which takes less than handing it over would where it is a small one.
        (media_pb2.IMAGE_FORMAT_RAW, 2 * 48, False),
        (media_pb2.IMAGE_FORMAT_RAW, 2 * 48 - 1, True),
    ],
)
async def test_pictures_are_encoded_off_the_event_loop(
    one: Up, monkeypatch: pytest.MonkeyPatch, image_format: media_pb2.ImageFormat, copied: int, apart: bool
) -> None:
    monkeypatch.setattr("ganserve.serving.call.COPY_BYTES", copied)
    threads, encode = set(), ImageEncoder.encode

    def watched(*given: Any) -> Any:
        threads.add(threading.get_ident())
        return encode(*given)

    monkeypatch.setattr(ImageEncoder, "encode", watched)
    message = request(count=2, output=media_pb2.OutputOptions(image_format=image_format))
    assert len((await one.generation.Sample(message)).samples) == 2
    assert (threading.get_ident() not in threads) == apart
    assert threads


async def test_the_reply_says_what_served_it_and_how_long_it_took(one: Up) -> None:
    served = (await one.generation.Sample(request(count=3))).served
    assert (served.model, served.version, list(served.engines)) == ("echo", 1, ["onnxruntime", "onnxruntime"])
    assert served.determinism == pb.DETERMINISM_BIT_EXACT
    assert set(served.seconds) == {"queue", "engine", "encode", "total"}
    assert 0 < served.seconds["engine"] <= served.seconds["total"]


async def test_latents_are_given_once_for_all_rows_or_once_for_each_and_tensors_come_back(one: Up) -> None:
    w = np.linspace(-2, 2, SIZE, dtype=np.float32)[None]
    reply = await one.generation.Sample(request(count=3, tensors={"w": tensor(w)}, return_tensors=["w", "w"]))
    for sample in reply.samples:
        assert (pixels(sample) == image_of(w)[0]).all()
        assert not sample.HasField("seed")
        assert np.frombuffer(sample.tensors["w"].data, np.float32).tolist() == w[0].tolist()
        assert list(sample.tensors["w"].shape) == [SIZE]
    each = await one.generation.Sample(request(count=0, tensors={"w": tensor(np.concatenate([w, -w]))}))
    assert [pixels(sample).tobytes() for sample in each.samples] == [image_of(x).tobytes() for x in (w, -w)]


async def test_the_count_may_be_left_to_the_seeds(one: Up) -> None:
    assert len((await one.generation.Sample(request(count=0, seeds=[4, 4, 9]))).samples) == 3


@pytest.mark.parametrize("count", [1, 7, 64])
async def test_no_reply_outgrows_what_was_reckoned_before_it_was_made(one: Up, count: int) -> None:
    z = np.random.default_rng(1).standard_normal((count, SIZE), np.float32)
    for number in media_pb2.ImageFormat.values():
        output = media_pb2.OutputOptions(image_format=number)
        message = request("settle", count=count, tensors={"z": tensor(z)}, output=output, return_tensors=["z", "image"])
        size = (await one.generation.Sample(message)).ByteSize()
        message.max_reply_bytes = size - 1
        assert (await refused(one.generation.Sample(message))).code() is grpc.StatusCode.INVALID_ARGUMENT


# Refusals.


def _tensors(**arrays: Any) -> dict[str, media_pb2.Tensor]:
    return {name: array if isinstance(array, media_pb2.Tensor) else tensor(array) for name, array in arrays.items()}


F32 = media_pb2.DATA_TYPE_FLOAT32
ROW = np.zeros((1, SIZE), np.float32)
NAN = np.full((1, SIZE), np.nan, np.float32)
NUMBER = pb.Numbers(values=[1])

REFUSED: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"count": 0}, {"count": "0 rows asked for; expected 1 to 1024"}),
    ({"count": -1}, {"count": "-1 rows"}),
    ({"count": 1025}, {"count": "1025 rows asked for; expected 1 to 1024"}),
    ({"count": 2**31 - 1, "seeds": [1, 2], "labels": [pb.Label(index=1)] * 3}, {"count": "expected 1 to 1024"}),
    ({"labels": [pb.Label(index=3)]}, {"labels[0]": "3 is no class of this model: expected an index from 0 to 2"}),
    ({"labels": [pb.Label(index=-1)]}, {"labels[0]": "-1 is no class"}),
    ({"labels": [pb.Label(name="sqare")]}, {"labels[0]": "did you mean 'square' or 'star'?"}),
    ({"labels": [pb.Label()]}, {"labels[0]": "empty; give an index or a name"}),
    ({"count": 3, "labels": [pb.Label(index=0)] * 2}, {"labels": "2 values for 3 rows"}),
    (
        {"task": "walk", "numbers": {"steps": NUMBER}, "labels": [pb.Label(index=0)]},
        {"labels": "not used; task 'walk'"},
    ),
    ({"truncation": [math.nan]}, {"truncation[0]": "nan is out of range"}),
    ({"truncation": [math.inf]}, {"truncation[0]": "inf is out of range"}),
    ({"truncation": [0.001]}, {"truncation[0]": "expected 0.02 to 10"}),
    ({"count": 3, "truncation": [1, -1, 1]}, {"truncation[1]": "-1.0 is out of range"}),
    ({"count": 3, "truncation": [1, 1]}, {"truncation": "2 values for 3 rows"}),
    ({"tensors": _tensors(z=ROW[:, :3])}, {"tensors[z]": "its shape is [1, 3]; expected float32[rows, 4]"}),
    ({"tensors": _tensors(z=ROW[0])}, {"tensors[z]": "its shape is [4]"}),
    ({"tensors": _tensors(z=np.zeros((1, SIZE), np.int64))}, {"tensors[z]": "its type is int64"}),
    ({"tensors": _tensors(z=media_pb2.Tensor(shape=[1, 4], data=bytes(16)))}, {"tensors[z]": "its type is not told"}),
    (
        {"tensors": _tensors(z=media_pb2.Tensor(data_type=F32, shape=[1, 4], data=bytes(15)))},
        {"tensors[z]": "15 bytes of data for shape [1, 4]; expected 16"},
    ),
    (
        {"tensors": _tensors(z=media_pb2.Tensor(data_type=F32, shape=[-1, 4], data=b""))},
        {"tensors[z]": "its shape is [-1, 4]"},
    ),
    ({"tensors": _tensors(z=NAN)}, {"tensors[z]": "it has NaN or infinity"}),
    ({"tensors": _tensors(w=np.full((1, SIZE), np.inf, np.float32))}, {"tensors[w]": "NaN or"}),
    ({"count": 3, "tensors": _tensors(z=np.zeros((2, SIZE), np.float32))}, {"tensors[z]": "2 rows for 3 rows asked"}),
    ({"tensors": _tensors(nope=ROW)}, {"tensors[nope]": "its tensors are z, label, w, image"}),
    ({"return_tensors": ["nope"]}, {"return_tensors": "'nope' is no tensor of task 'sample'"}),
    ({"output": media_pb2.OutputOptions(image_format=99)}, {"output.image_format": "99 is unknown"}),  # type: ignore[arg-type]
    ({"output": media_pb2.OutputOptions(quality=50)}, {"output.quality": "png is exact and takes no quality"}),
    (
        {"output": media_pb2.OutputOptions(image_format=media_pb2.IMAGE_FORMAT_JPEG, quality=101)},
        {"output.quality": "101 is out of range"},
    ),
    ({"seed": 1, "seeds": [1]}, {"seeds": "exclude each other"}),
    ({"count": 3, "seeds": [1, 2]}, {"seeds": "2 seeds for 3 rows"}),
    ({"seed": 1, "tensors": _tensors(w=ROW)}, {"seed": "not used because w was given"}),
    ({"seed": 1, "labels": [pb.Label(index=0)], "tensors": _tensors(z=ROW)}, {"seed": "not used because z was given"}),
    ({"seed": 1, "truncation": [1], "tensors": _tensors(w=ROW)}, {"seed": "not used", "truncation": "not used"}),
    ({"first_index": 3}, {"first_index": "an index needs the seed"}),
    ({"count": 2, "seed": 1, "first_index": 2**64 - 1}, {"first_index": "exceed 2^64"}),
    ({"task": "walk"}, {"numbers[steps]": "task 'walk' needs steps, or the tensor 'steps' itself"}),
    ({"task": "walk", "numbers": {"steps": pb.Numbers(values=[51])}}, {"numbers[steps][0]": "51 is refused"}),
    ({"task": "walk", "numbers": {"steps": pb.Numbers(values=[1.5])}}, {"numbers[steps][0]": "whole number"}),
    ({"task": "walk", "numbers": {"steps": pb.Numbers()}}, {"numbers[steps]": "0 values for 1 rows"}),
    ({"numbers": {"nope": NUMBER}}, {"numbers[nope]": "not used; task 'sample' reads seed, truncation, label"}),
    ({"numbers": {"label": NUMBER}}, {"numbers[label]": "label has a field of its own"}),
    ({"model": ""}, {"model": "empty; give a name that Models.List lists"}),
    ({"version": -1}, {"version": "-1; expected 1 or more, or 0 for the latest"}),
    ({"count": 1000, "max_reply_bytes": 1000}, {"max_reply_bytes": "call SampleStream, which sends one message a row"}),
    ({"max_reply_bytes": -1}, {"max_reply_bytes": "-1 are accepted"}),
    (
        {"count": 0, "return_tensors": ["a"], "tensors": _tensors(b=ROW)},
        {"count": "0 rows", "return_tensors": "'a' is no", "tensors[b]": "no such"},
    ),
]


async def test_every_wrong_field_is_named_with_what_was_expected(one: Up) -> None:
    for fields, expected in REFUSED:
        message = request(**{"task": "sample", **{name: value for name, value in fields.items() if name != "model"}})
        if "model" in fields:
            message.model = fields["model"]
        error = await refused(one.generation.Sample(message))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, fields
        found = violations(error)
        assert found.keys() == expected.keys(), fields
        for field, text in expected.items():
            assert text in found[field], fields
    assert one.metric("ganserve_rejected_requests_total", reason="invalid") == len(REFUSED)
    assert one.metric("ganserve_batch_rows_count", model="echo") == 0


async def test_no_refusal_outgrows_the_trailers_that_clients_accept(one: Up) -> None:
    long = "ü" * 100_000
    message = request(
        count=1000,
        labels=[pb.Label(name=long)],
        return_tensors=[f"{long}{number}" for number in range(3)],
        numbers={f"{long}{number}": NUMBER for number in range(3)},
    )
    error = await refused(one.generation.Sample(message))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(error)
    many = request(count=1000, seed=1, labels=[pb.Label(index=9)] * 1000)
    error = await refused(one.generation.Sample(many))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "labels[0]" in violations(error)
    empty = request(count=1000, seed=1, labels=[pb.Label()] * 1000)
    assert (await refused(one.generation.Sample(empty))).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_is_not_there_is_not_found_and_what_is_there_is_named(one: Up) -> None:
    for message, text in (
        (pb.SampleRequest(model="nope", count=1), "there is no model 'nope'; there are echo"),
        (request(version=7), "model 'echo' has no version 7; there are 1"),
        (
            request("nope"),
            "model 'echo' has no task 'nope'; its sample tasks are: sample, walk, settle, alone, fragile",
        ),
        (request(""), "has no single task of kind 'sample'"),
    ):
        error = await refused(one.generation.Sample(message))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert text in (error.details() or "")
    assert (await refused(one.models.Get(models_pb2.GetRequest(model="nope")))).code() is grpc.StatusCode.NOT_FOUND


async def test_a_reply_that_would_be_too_large_is_refused_before_anything_is_computed(one: Up) -> None:
    gate = one.gate("mapping")
    # Raw images of 48 bytes fit; the tensors asked for beside them do not.
    message = request(count=1024, seed=1, output=media_pb2.OutputOptions())
    message.max_reply_bytes = 1024 * 48
    error = await refused(one.generation.Sample(message))
    assert "SampleStream" in violations(error)["max_reply_bytes"]
    assert gate.runs == 0
    assert one.metric("ganserve_encode_seconds_count", format="png") == 0
    stream = one.generation.SampleStream(pb.SampleStreamRequest(sample=message))
    assert len([reply async for reply in stream]) == 1024


async def test_a_full_queue_says_when_to_come_back(echo: Path) -> None:
    async with up(echo, queue_rows=40, max_batch=4) as one:
        gate = one.gate("mapping")
        gate.open.clear()
        busy = asyncio.create_task(asyncio.wait_for(one.generation.Sample(request(count=40, seed=1)), 60))
        await one.waiting(36)
        error = await refused(one.generation.Sample(request(count=5, seed=1)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "36 rows are waiting and 5 more exceed the queue's 40" in (error.details() or "")
        (retry,) = details(error, error_details_pb2.RetryInfo)
        assert retry.retry_delay.ToMilliseconds() > 0
        trailers = dict(error.trailing_metadata())
        assert int(trailers["grpc-retry-pushback-ms"]) == retry.retry_delay.ToMilliseconds()
        assert one.metric("ganserve_rejected_requests_total", reason="queue_full") == 1
        assert violations(await refused(one.generation.Sample(request(count=41)))).keys() == {"count"}
        gate.open.set()
        assert len((await busy).samples) == 40


async def test_a_row_that_breaks_the_engine_is_internal_with_an_id_that_the_log_explains(
    one: Up, caplog: pytest.LogCaptureFixture
) -> None:
    def message(seed: int, hurt: int) -> pb.SampleRequest:
        return request("fragile", seed=seed, numbers={"hurt": pb.Numbers(values=[hurt])})

    answers = await asyncio.gather(
        *(one.generation.Sample(message(seed, seed % 5 == 0)) for seed in range(20)), return_exceptions=True
    )
    for seed, answer in enumerate(answers):
        if seed % 5:
            pairs = np.array([(seed, 0)], np.uint64)
            w = draw(Z_NOISE, pairs, (SIZE,)) + draw_labels(pairs, len(LABELS))[:, None].astype(np.float32)
            assert pixels(answer.samples[0]).tobytes() == image_of(w).tobytes()
            continue
        assert isinstance(answer, grpc.aio.AioRpcError)
        assert answer.code() is grpc.StatusCode.INTERNAL
        (info,) = details(answer, error_details_pb2.RequestInfo)
        assert answer.details() == f"internal error {info.request_id}: the server's log has the cause under this id"
        (record,) = [record for record in caplog.records if info.request_id in record.getMessage()]
        assert record.exc_info is not None
        assert "Gather" in str(record.exc_info[1])
    assert one.metric("ganserve_requests_total", model="echo", task="fragile", code="INTERNAL") == 4


# Callers who go.


async def test_a_deadline_frees_the_rows_and_is_counted_as_one(one: Up) -> None:
    gate = one.gate("mapping")
    gate.open.clear()
    error = await refused(one.generation.Sample(request(count=100, seed=1), timeout=0.3))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await one.waiting(0)
    await one.until(lambda: one.metric("ganserve_in_flight_requests") == 0)
    assert one.metric("ganserve_requests_total", model="echo", task="sample", code="DEADLINE_EXCEEDED") == 1
    assert one.metric("ganserve_cancelled_rows_total") == 84
    gate.open.set()


async def test_a_deadline_that_cannot_be_met_is_told_by_the_server_before_any_row_is_run(echo: Path) -> None:
    async with up(echo, max_batch=1) as one:
        gate = one.gate("mapping")
        real = gate.run
        gate.run = lambda feeds, outputs: (time.sleep(0.05), real(feeds, outputs))[1]  # type: ignore[method-assign]
        for _ in range(3):
            await one.generation.Sample(request(seed=1))
        runs = gate.runs
        started = time.monotonic()
        error = await refused(one.generation.Sample(request(count=1000, seed=1), timeout=20))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "1000 of 1000 rows still wait" in (error.details() or "")
        assert time.monotonic() - started < 19, "the caller need not wait for it"
        assert gate.runs == runs


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("task", "fields"),
    [("alone", {}), ("walk", {"numbers": {"steps": pb.Numbers(values=[50])}})],
    ids=["alone", "walk"],
)
async def test_a_caller_that_vanishes_frees_its_rows(
    one: Up, task: str, fields: dict[str, Any], streaming: bool
) -> None:
    gate = one.gate(task)
    gate.open.clear()
    message = request(task, count=200, seed=1, **fields)
    call = (
        one.generation.SampleStream(pb.SampleStreamRequest(sample=message))
        if streaming
        else one.generation.Sample(message)
    )
    gate.passes.release(3)
    if streaming and task == "alone":
        for _ in range(3):
            await call.read()
    await one.until(lambda: gate.runs == 3 and gate.waiting == 1)
    assert one.metric("ganserve_queue_rows", device="cpu") > 0
    runs = gate.runs
    call.cancel()
    await one.waiting(0)
    await one.until(lambda: one.metric("ganserve_in_flight_requests") == 0)
    assert one.metric("ganserve_requests_total", model="echo", task=task, code="CANCELLED") == 1
    gate.open.set()
    # These rows run after whatever the engine still had to run.
    assert len((await one.generation.Sample(request(count=2))).samples) == 2
    assert gate.runs <= runs + 1, "the batch that ran when the caller left, and no other"
    assert one.metric("ganserve_queue_rows", device="cpu") == 0


async def test_a_reader_that_stalls_is_not_sent_more_than_the_wire_holds_and_frees_its_rows_when_it_goes(
    one: Up,
) -> None:
    rows = 1024

    def encoded() -> float:
        return one.metric("ganserve_images_total", model="echo")

    async def stalled() -> float:
        """How many rows are encoded once no more of them are."""
        async with asyncio.timeout(60):
            while True:
                before = encoded()
                await asyncio.sleep(1)
                if encoded() == before:
                    return before

    message = request("settle", count=rows, seed=1, return_tensors=["z", "image"])
    # A window of 64 KiB that does not grow: fewer bytes than the rows have.
    options = [("grpc.enable_retries", 0), ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{one.server.port}", options=options) as channel:
        call = generation_pb2_grpc.GenerationStub(channel).SampleStream(pb.SampleStreamRequest(sample=message))
        first = await call.read()
        assert first.ByteSize() * rows > 2 * (1 << 16)
        assert 0 < await stalled() < rows
        assert one.metric("ganserve_in_flight_requests") == 1
        call.cancel()
        await one.until(lambda: one.metric("ganserve_in_flight_requests") == 0)
    assert one.metric("ganserve_queue_rows", device="cpu") == 0
    assert one.metric("ganserve_requests_total", model="echo", task="settle", code="CANCELLED") == 1
    assert not one.metric("ganserve_requests_total", model="echo", task="settle", code="INTERNAL")
    assert encoded() < rows
    await one.until(lambda: one.server.repository.get("echo").calls == 0)


# Bytes that no client of ours would send.


async def test_bytes_that_are_no_request_do_not_harm_the_server(one: Up) -> None:
    call = one.channel.unary_unary("/ganserve.v1.Generation/Sample")
    rng = random.Random(3)
    whole = request(count=2, seed=1, tensors=_tensors(z=ROW)).SerializeToString()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call(bytes(data[: rng.randint(0, len(data))]))
    for garbage in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", rng.randbytes(5000)):
        error = await refused(call(garbage))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "no ganserve.v1.SampleRequest" in violations(error)[""]
    assert len((await one.generation.Sample(request(count=2))).samples) == 2


async def test_unknown_and_repeated_fields_are_read_as_protobuf_says(one: Up) -> None:
    call = one.channel.unary_unary("/ganserve.v1.Generation/Sample", response_deserializer=pb.SampleResponse.FromString)
    unknown = b"\xfa\x7f\x05hello" + b"\xf8\x7f\x01"
    plain = request(seed=4).SerializeToString()
    twice = plain + pb.SampleRequest(count=3).SerializeToString() + unknown
    assert len((await call(plain + unknown)).samples) == 1
    assert len((await call(twice)).samples) == 3


async def test_a_message_over_the_limit_is_refused_by_its_size(echo: Path) -> None:
    async with up(echo, max_request_bytes=10_000) as one:
        error = await refused(one.generation.Sample(request(return_tensors=["x" * 20_000])))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "10000" in (error.details() or "")
        assert len((await one.generation.Sample(request(count=2))).samples) == 2


# Health, reflection, models.


async def _statuses(one: Up, service: str) -> list[str]:
    names = health_pb2.HealthCheckResponse.ServingStatus
    call = one.health.Watch(health_pb2.HealthCheckRequest(service=service))
    return [names.Name(reply.status) async for reply in call]


async def test_health_tells_of_the_start_the_readiness_and_the_end(
    echo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = threading.Event()
    load = Repository.load

    def slow(self: Repository) -> None:
        assert begin.wait(60)
        load(self)

    monkeypatch.setattr(Repository, "load", slow)
    (tmp_path / "broken").mkdir()
    (tmp_path / "echo").symlink_to(echo)
    async with up(tmp_path, ready=False) as one:
        check = one.health.Check
        assert (await check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await refused(check(health_pb2.HealthCheckRequest(service="echo")))).code() is grpc.StatusCode.NOT_FOUND
        names = ("", "echo", "broken", "ganserve.v1.Generation", "unheard-of")
        watches = {name: asyncio.create_task(_statuses(one, name)) for name in (*names, "")}
        gone = one.health.Watch(health_pb2.HealthCheckRequest())
        await gone.read()
        gone.cancel()
        error = await refused(one.generation.Sample(request()))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "starting or draining" in (error.details() or "")
        begin.set()
        await one.server.ready.wait()
        assert (await check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        for name, status in (("echo", "SERVING"), ("broken", "NOT_SERVING")):
            found = (await check(health_pb2.HealthCheckRequest(service=name))).status
            assert health_pb2.HealthCheckResponse.ServingStatus.Name(found) == status
        await one.generation.Sample(request())
        # Its open watches do not keep a server that has nothing else to do.
        await asyncio.wait_for(one.server.drain(), one.server.settings.grace / 2)
        found = {name: await watch for name, watch in watches.items()}
        assert found[""] == ["NOT_SERVING", "SERVING", "NOT_SERVING"]
        assert found["echo"] == ["SERVICE_UNKNOWN", "SERVING", "NOT_SERVING"]
        assert found["ganserve.v1.Generation"] == ["SERVICE_UNKNOWN", "SERVING", "NOT_SERVING"]
        assert found["broken"] == ["SERVICE_UNKNOWN", "NOT_SERVING"]
        assert found["unheard-of"] == ["SERVICE_UNKNOWN"]


async def test_a_server_that_drains_finishes_what_it_has_and_takes_no_more(one: Up) -> None:
    gate = one.gate("mapping")
    gate.open.clear()
    running = [
        asyncio.create_task(asyncio.wait_for(one.generation.Sample(request(count=60, seed=n)), 60)) for n in (1, 2)
    ]
    await one.waiting(104)
    draining = asyncio.create_task(one.server.drain())
    await asyncio.sleep(0.05)
    assert (await refused(one.generation.Sample(request()))).code() is grpc.StatusCode.UNAVAILABLE
    gate.open.set()
    assert [len((await call).samples) for call in running] == [60, 60]
    await draining


async def test_a_start_that_is_cut_short_does_not_begin_to_answer(echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = threading.Event()
    load = Repository.load
    monkeypatch.setattr(Repository, "load", lambda self: (begin.wait(60), load(self)))
    async with up(echo, ready=False) as one:
        await one.server.drain()
        begin.set()
        await one.server.ready.wait()
        assert not one.server.repository.serves("echo")
        assert not one.server.traffic.accepting


async def test_reflection_lists_the_services(one: Up) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(one.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    async for reply in call:
        assert {service.name for service in reply.list_services_response.service} == {
            "ganserve.v1.Generation",
            "ganserve.v1.Inversion",
            "ganserve.v1.Latents",
            "ganserve.v1.Models",
            "ganserve.v1.Text",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "inference.GRPCInferenceService",
        }


async def test_models_get_tells_all_that_a_caller_needs(one: Up) -> None:
    found = await one.models.Get(models_pb2.GetRequest(model="echo"))
    assert found.summary.state == models_pb2.MODEL_STATE_READY
    walk = next(task for task in found.tasks if task.name == "walk")
    assert {value.name for value in walk.values} == {"seed", "truncation", "steps"}
    assert list(walk.tensors["image"].shape) == [SIZE, SIZE, 3]
    assert next(value for value in walk.values if value.name == "steps").description_json.startswith('{"low": 1')
    assert (found.licence, found.attribution) == ("Apache-2.0", "made by ganserve.testing")


async def test_a_port_that_is_taken_is_one_clear_error_and_leaves_nothing_behind(echo: Path) -> None:
    before = set(threading.enumerate())
    async with up(echo) as one:
        for wrong in ({"port": one.server.port}, {"metrics_port": one.server.port}):
            settings = ServerSettings(bundles=(echo,), **{"port": 0, "metrics_port": None, **wrong})
            with pytest.raises(GanserveError, match=f"{one.server.port}.*choose another"):
                async with running(settings, installed()):
                    pytest.fail("it runs")
    # The event loop's own workers may stay, and so may gRPC's.
    left = [one.name for one in set(threading.enumerate()) - before]
    assert [name for name in left if not name.startswith("asyncio_") and "_poll_wrapper" not in name] == []


# The process.


class Process:
    """``ganserve serve`` as an operator starts it."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "ganserve", "serve", "--port", "0", "--metrics-port", "0"]
        command.extend(("--management-port", "-1", "--threads", "1"))
        self.process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        address, self.metrics = self.wait_for(r"listening on ([0-9.:]+), metrics on port (\d+)")
        self.channel = grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)])
        self.wait_for("ready: ")

    def wait_for(self, pattern: str) -> tuple[str, ...]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if match := re.search(pattern, line):
                return match.groups()
        raise AssertionError(f"the server ended: {''.join(self.log)}")

    def __enter__(self) -> "Process":
        return self

    def sample(self, message: pb.SampleRequest, calls: int) -> list[Any]:
        """``calls`` calls of Sample, all of which the server has begun to serve."""
        stub = generation_pb2_grpc.GenerationStub(self.channel)
        begun = [stub.Sample.future(message) for _ in range(calls)]
        while True:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics") as page:
                if f"ganserve_in_flight_requests {calls}.0" in page.read().decode():
                    return begun
            assert not any(call.done() for call in begun)

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(echo: Path) -> Iterator[Callable[..., Process]]:
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(Process(str(echo), *arguments))


def long(count: int) -> pb.SampleRequest:
    return request("walk", count=count, seed=1, numbers={"steps": pb.Numbers(values=[50])})


def test_sigterm_turns_unready_finishes_what_waits_and_exits_with_0(start: Callable[..., Process]) -> None:
    server = start()
    watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    calls = server.sample(long(200), 3)
    server.process.send_signal(signal.SIGTERM)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    replies = [call.result(timeout=60) for call in calls]
    assert [len(reply.samples) for reply in replies] == [200] * 3
    assert replies[0].samples == replies[1].samples
    assert server.process.wait(60) == 0


def test_a_second_sigterm_stops_at_once_whatever_is_going_on(start: Callable[..., Process]) -> None:
    server = start("--grace", "300")
    calls = server.sample(long(1000), 3)
    for _ in range(2):
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining|stopping at once")
    assert server.process.wait(60) == 128 + signal.SIGTERM
    errors = [call.exception(timeout=60) for call in calls]
    assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}


def test_rows_that_outlive_the_grace_period_are_cancelled(start: Callable[..., Process]) -> None:
    server = start("--grace", "0.1")
    calls = server.sample(long(1000), 3)
    server.process.send_signal(signal.SIGTERM)
    assert {call.exception(timeout=60).code() for call in calls} <= {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
    }
    assert server.process.wait(60) == 0


def test_a_serving_process_is_small_and_has_no_torch_in_it(echo: Path) -> None:
    script = f"""
import asyncio, sys, time
started = time.monotonic()
from pathlib import Path
from ganserve.plugins import installed
from ganserve.serving.server import ServerSettings, running

async def main():
    settings = ServerSettings(bundles=(Path({str(echo)!r}),), port=0, metrics_port=0)
    async with running(settings, installed()) as server:
        await server.ready.wait()
        ready = time.monotonic() - started
        import grpc
        from ganserve.v1 import generation_pb2, generation_pb2_grpc
        async with grpc.aio.insecure_channel(f"127.0.0.1:{{server.port}}") as channel:
            request = generation_pb2.SampleRequest(model="echo", task="sample", count=64)
            reply = await generation_pb2_grpc.GenerationStub(channel).Sample(request)
        assert len(reply.samples) == 64
        banned = {{"torch", "onnxscript", "openvino", "tensorrt"}} & set(sys.modules)
        rss = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
        print(sorted(banned), int(rss.split()[1]) / 1024, ready)

asyncio.run(main())
"""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("memory is read from /proc")
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    banned, megabytes, ready = out.rsplit(maxsplit=2)
    assert banned == "[]"
    assert float(megabytes) < 250
    assert float(ready) < 60, "a bound for a machine that is busy; the aim is 2 s"

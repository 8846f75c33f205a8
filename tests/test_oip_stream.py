"""Streams, cancelled calls and statistics of the Open Inference Protocol, with the stock client of Triton."""

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tritonclient.utils import InferenceServerException

from ganserve import Client, inference
from ganserve.serving.policy import Lifecycle
from ganserve.serving.service_oip import LOOK_SECONDS
from ganserve.testing.echo import SIZE, image_of
from ganserve.testing.server import Serving, serving

from .gate import Gate, gate_before

PATIENCE = 30.0


@pytest.fixture
def server(echo: Path) -> Iterator[Serving]:
    with serving(echo) as found:
        yield found


@pytest.fixture
def client(server: Serving) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as found:
        yield found


@pytest.fixture
def gate(server: Serving) -> Iterator[Gate]:
    """A gate before ``synthesis``, shut."""
    with gate_before(server, "synthesis") as found:
        yield found


def entered(rows: int, level: float = 0.0) -> list[triton.InferInput]:
    """The input w of ``rows``, each a level higher than the one before."""
    w = np.full((rows, SIZE), level, np.float32) + np.arange(rows, dtype=np.float32)[:, None]
    made = triton.InferInput("w", [rows, SIZE], "FP32")
    made.set_data_from_numpy(w)
    return [made]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def metric(server: Serving, name: str, **labels: str) -> float:
    return server.server.metrics.registry.get_sample_value(name, labels) or 0.0


class Heard:
    """What a stream's callback is told, in order."""

    def __init__(self) -> None:
        self.answers: queue.Queue[tuple[triton.InferResult | None, InferenceServerException | None]] = queue.Queue()

    def __call__(self, result: triton.InferResult | None, error: InferenceServerException | None) -> None:
        self.answers.put((result, error))

    def result(self) -> triton.InferResult:
        result, error = self.answers.get(timeout=PATIENCE)
        assert error is None, error
        assert result is not None
        return result

    def error(self) -> InferenceServerException:
        _, error = self.answers.get(timeout=PATIENCE)
        assert error is not None
        return error


def is_final(result: triton.InferResult) -> bool:
    return bool(result.get_response().parameters["triton_final_response"].bool_param)


SAMPLE = {"task": "sample"}


def test_a_stream_answers_requests_in_order_each_in_one_message(client: triton.InferenceServerClient) -> None:
    heard = Heard()
    client.start_stream(heard)
    for number in range(20):
        client.async_stream_infer(
            "echo",
            entered(1 + number % 3, number),
            request_id=str(number),
            parameters=SAMPLE,
            enable_empty_final_response=number % 2 == 0,
        )
    for number in range(20):
        result = heard.result()
        assert result.get_response().id == str(number)
        assert is_final(result)
        levels = number + np.arange(1 + number % 3, dtype=np.float32)[:, None]
        np.testing.assert_array_equal(result.as_numpy("image"), image_of(np.broadcast_to(levels, (len(levels), SIZE))))
    client.stop_stream()
    assert heard.answers.empty()


def test_a_request_in_a_stream_may_have_a_message_for_each_row(client: triton.InferenceServerClient) -> None:
    heard = Heard()
    client.start_stream(heard)
    client.async_stream_infer("echo", entered(3), request_id="rows", parameters={**SAMPLE, "response_per_row": True})
    client.async_stream_infer("echo", entered(2), request_id="next", parameters=SAMPLE)
    for row in range(3):
        result = heard.result()
        assert (result.get_response().id, is_final(result)) == ("rows", row == 2)
        np.testing.assert_array_equal(result.as_numpy("image"), image_of(np.full((1, SIZE), row, np.float32)))
    assert heard.result().get_response().id == "next"
    client.stop_stream()


def test_a_refused_request_hinders_no_other_of_its_stream(client: triton.InferenceServerClient) -> None:
    heard = Heard()
    client.start_stream(heard)
    client.async_stream_infer("echo", entered(1), parameters={**SAMPLE, "fromat": "png"}, request_id="wrong")
    client.async_stream_infer("unknown", [], request_id="lost")
    client.async_stream_infer("echo", entered(1), parameters=SAMPLE, request_id="right")
    assert heard.error().message().startswith("INVALID_ARGUMENT: parameters[fromat]: is unknown; ")
    assert heard.error().message().startswith("NOT_FOUND: there is no model 'unknown'")
    assert heard.result().get_response().id == "right"
    client.stop_stream()


def test_a_stream_may_ask_for_errors_as_statuses(client: triton.InferenceServerClient) -> None:
    heard = Heard()
    client.start_stream(heard, headers={"triton_grpc_error": "true"})
    client.async_stream_infer("echo", entered(1), parameters=SAMPLE)
    client.async_stream_infer("unknown", [])
    heard.result()
    error = heard.error()
    assert (error.status(), error.message()[:29]) == ("StatusCode.NOT_FOUND", "there is no model 'unknown'; ")
    client.stop_stream()


def test_requests_of_a_stream_meet_in_batches_and_few_are_read_ahead(
    server: Serving, client: triton.InferenceServerClient, gate: Gate
) -> None:
    heard = Heard()
    client.start_stream(heard)
    for number in range(20):
        client.async_stream_infer("echo", entered(1, number), parameters=SAMPLE)
    until(lambda: metric(server, "ganserve_stream_frames") == 8)
    gate.open.set()
    for number in range(20):
        assert (heard.result().as_numpy("image") == image_of(np.full((1, SIZE), number, np.float32))).all()
    client.stop_stream()
    assert metric(server, "ganserve_batch_rows_count", model="echo") < 20
    until(lambda: metric(server, "ganserve_in_flight_requests") == 0)
    assert metric(server, "ganserve_requests_total", model="echo", task="sample", code="OK") == 20
    assert metric(server, "ganserve_stream_frames") == 0


def test_cancelling_a_stream_drops_the_rows_that_wait(
    server: Serving, client: triton.InferenceServerClient, gate: Gate
) -> None:
    heard = Heard()
    client.start_stream(heard)
    for _ in range(3):
        client.async_stream_infer("echo", entered(64), parameters=SAMPLE)
    client.async_stream_infer("echo", entered(64), parameters={**SAMPLE, "response_per_row": True})
    until(lambda: metric(server, "ganserve_queue_rows", device="cpu") == 3 * 64 - 32)
    client.stop_stream(cancel_requests=True)
    until(lambda: metric(server, "ganserve_queue_rows", device="cpu") == 0)
    until(lambda: metric(server, "ganserve_in_flight_requests") == 0)
    assert metric(server, "ganserve_requests_total", model="echo", task="sample", code="CANCELLED") == 3
    assert heard.error().status() == "StatusCode.CANCELLED"


def test_cancelling_a_call_drops_the_rows_that_wait(
    server: Serving, client: triton.InferenceServerClient, gate: Gate
) -> None:
    heard = Heard()
    context = client.async_infer("echo", entered(64), heard, parameters=SAMPLE)
    until(lambda: metric(server, "ganserve_queue_rows", device="cpu") == 32)
    context.cancel()
    until(lambda: metric(server, "ganserve_queue_rows", device="cpu") == 0)
    assert heard.error().status() == "StatusCode.CANCELLED"
    gate.open.set()
    until(lambda: metric(server, "ganserve_cancelled_rows_total") == 32)


def test_deadlines_are_grpcs_or_the_requests_own(
    server: Serving, client: triton.InferenceServerClient, gate: Gate
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("echo", entered(1), parameters=SAMPLE, client_timeout=0.2)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    heard = Heard()
    # The batch before runs, so that these rows wait for longer than the 1000 microseconds that they have.
    client.async_infer("echo", entered(1), heard, parameters=SAMPLE, timeout=1000)
    until(lambda: metric(server, "ganserve_queue_rows", device="cpu") == 1)
    time.sleep(0.01)
    gate.open.set()
    assert heard.error().status() == "StatusCode.DEADLINE_EXCEEDED"


def test_a_full_queue_says_when_to_come_back(echo: Path) -> None:
    with (
        serving(echo, queue_rows=4) as small,
        triton.InferenceServerClient(small.address) as client,
        gate_before(small, "synthesis") as gate,
    ):
        heard = Heard()
        client.async_infer("echo", entered(1), heard, parameters=SAMPLE)
        until(lambda: metric(small, "ganserve_in_flight_requests") == 1)
        until(lambda: metric(small, "ganserve_queue_rows", device="cpu") == 0)
        client.async_infer("echo", entered(4), heard, parameters=SAMPLE)
        until(lambda: metric(small, "ganserve_queue_rows", device="cpu") == 4)
        with pytest.raises(InferenceServerException) as caught:
            client.infer("echo", entered(1), parameters=SAMPLE)
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        # Triton's client shows no details, so this one is asked by hand.
        request = inference.message_types()["ModelInferRequest"](model_name="echo")
        request.parameters["task"].string_param = "sample"
        with grpc.insecure_channel(small.address, [("grpc.enable_retries", 0)]) as channel:
            infer = channel.unary_unary(f"/{inference.SERVICE}/ModelInfer")
            with pytest.raises(grpc.RpcError) as refused:
                infer(request.SerializeToString(), timeout=PATIENCE)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "4 rows are waiting and 1 more exceed the queue's 4" in refused.value.details()
        status = rpc_status.from_call(refused.value)
        (detail,) = [one for one in status.details if one.Is(error_details_pb2.RetryInfo.DESCRIPTOR)]
        detail.Unpack(retry := error_details_pb2.RetryInfo())
        assert retry.retry_delay.ToMilliseconds() > 0
        trailers = dict(refused.value.trailing_metadata())
        assert int(trailers["grpc-retry-pushback-ms"]) == retry.retry_delay.ToMilliseconds()
        gate.open.set()
        assert heard.result().as_numpy("image").shape[0] == 1


def test_rows_of_both_protocols_meet_in_one_batch(
    server: Serving, client: triton.InferenceServerClient, gate: Gate
) -> None:
    def batches() -> float:
        return metric(server, "ganserve_batch_rows_count", model="echo")

    def ask(level: float) -> np.ndarray:
        w = np.full((1, SIZE), level, np.float32)
        return own.sample("echo", task="sample", tensors={"w": w}, format="raw").arrays()

    heard, before = Heard(), batches()
    with Client(server.address) as own, ThreadPoolExecutor(2) as pool:
        held = pool.submit(ask, 1)
        until(lambda: gate.waiting == 1)
        queued = pool.submit(ask, 2)
        until(lambda: metric(server, "ganserve_queue_rows", device="cpu") == 1)
        client.async_infer("echo", entered(1, 3), heard, parameters=SAMPLE)
        until(lambda: metric(server, "ganserve_queue_rows", device="cpu") == 2)
        gate.open.set()
        images = [held.result(PATIENCE), queued.result(PATIENCE), heard.result().as_numpy("image")]
    for level, image in enumerate(images, 1):
        np.testing.assert_array_equal(image, image_of(np.full((1, SIZE), level, np.float32)))
    until(lambda: batches() == before + 2)
    assert gate.runs == 2, "one batch of one row, one of two"


# Asyncio.


async def test_the_asyncio_client_infers_and_streams(server: Serving) -> None:
    async with triton_aio.InferenceServerClient(server.address) as client:
        assert await client.is_server_ready()
        results = await asyncio.gather(
            *[client.infer("echo", entered(1, level), parameters=SAMPLE) for level in range(8)]
        )
        for level, result in enumerate(results):
            assert (result.as_numpy("image") == image_of(np.full((1, SIZE), level, np.float32))).all()

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for number in range(5):
                yield {
                    "model_name": "echo",
                    "inputs": entered(1, number),
                    "request_id": str(number),
                    "parameters": SAMPLE,
                }

        told = [(result.get_response().id, error) async for result, error in client.stream_infer(requests())]
        assert told == [(str(number), None) for number in range(5)]


async def test_the_asyncio_client_cancels_a_stream(server: Serving, gate: Gate) -> None:
    async with triton_aio.InferenceServerClient(server.address) as client:

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": "echo", "inputs": entered(64), "parameters": SAMPLE}
            await asyncio.sleep(PATIENCE)

        answers = client.stream_infer(requests())
        await asyncio.to_thread(until, lambda: metric(server, "ganserve_queue_rows", device="cpu") == 32)
        answers.cancel()
        with pytest.raises(asyncio.CancelledError):
            await anext(answers)
        await asyncio.to_thread(until, lambda: metric(server, "ganserve_queue_rows", device="cpu") == 0)


# Statistics.


def test_statistics_count_what_both_protocols_did(server: Serving, client: triton.InferenceServerClient) -> None:
    (before,) = client.get_inference_statistics("echo", "1").model_stats
    assert (before.name, before.version, before.last_inference) == ("echo", "1", 0)
    began = time.time()
    client.infer("echo", entered(40), parameters=SAMPLE)
    heard = Heard()
    client.start_stream(heard)
    client.async_stream_infer("echo", entered(2), parameters={**SAMPLE, "response_per_row": True})
    assert not is_final(heard.result())
    assert is_final(heard.result())
    client.stop_stream()
    with Client(server.address) as own:
        own.sample("echo", 3, task="sample", format="png")
        own.translate("echo", np.zeros((8, 8, 3), np.uint8), task="negative")
    with pytest.raises(InferenceServerException):
        client.infer("echo", entered(1), parameters={**SAMPLE, "quality": 1})
    (stats,) = client.get_inference_statistics("echo").model_stats
    assert stats.inference_count == 40 + 2 + 3 + 1
    # 40 rows are a batch of 32 and one of 8.
    assert stats.execution_count == 5
    assert {one.batch_size: one.compute_infer.count for one in stats.batch_stats} == {1: 1, 2: 1, 3: 1, 8: 1, 32: 1}
    times = stats.inference_stats
    assert (times.success.count, times.fail.count) == (4, 1)
    parts = (times.queue, times.compute_input, times.compute_infer, times.compute_output)
    assert [part.count for part in parts] == [4] * 4
    assert all(part.ns > 0 for part in (times.queue, times.compute_infer, times.compute_output, times.fail))
    assert sum(one.compute_infer.ns for one in stats.batch_stats) == pytest.approx(times.compute_infer.ns, rel=1e-6)
    assert times.success.ns > times.compute_infer.ns
    assert 1e3 * began <= stats.last_inference <= 1e3 * time.time()
    assert metric(server, "ganserve_engine_seconds_sum", model="echo", engine="onnxruntime") == pytest.approx(
        times.compute_infer.ns / 1e9
    )


@pytest.fixture
def manager(server: Serving) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.management) as found:
        yield found


def test_statistics_are_told_of_models_that_serve(client: triton.InferenceServerClient) -> None:
    assert [one.name for one in client.get_inference_statistics().model_stats] == ["echo"]
    with pytest.raises(InferenceServerException) as caught:
        client.get_inference_statistics("unknown")
    assert caught.value.status() == "StatusCode.NOT_FOUND"


# The repository.


def test_models_are_unloaded_and_loaded(
    client: triton.InferenceServerClient, manager: triton.InferenceServerClient
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.unload_model("echo")
    assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
    manager.unload_model("echo")
    assert not client.is_model_ready("echo")
    (entry,) = client.get_model_repository_index().models
    assert (entry.name, entry.state, entry.reason[:15]) == ("echo", "UNAVAILABLE", "it was unloaded")
    for call in (lambda: client.infer("echo", entered(1), parameters=SAMPLE), lambda: client.get_model_config("echo")):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
    assert not client.get_inference_statistics().model_stats
    manager.load_model("echo")
    assert client.is_model_ready("echo")
    assert client.infer("echo", entered(1), parameters=SAMPLE).as_numpy("image").shape == (1, SIZE, SIZE, 3)
    (stats,) = client.get_inference_statistics("echo").model_stats
    assert (stats.inference_count, stats.inference_stats.success.count) == (1, 1)


def test_what_cannot_be_loaded_is_told(manager: triton.InferenceServerClient) -> None:
    for call, status, expected in (
        (lambda: manager.load_model("unknown"), "NOT_FOUND", "there is no model 'unknown'"),
        (lambda: manager.unload_model("unknown"), "NOT_FOUND", "there is no model 'unknown'"),
        (lambda: manager.load_model(""), "INVALID_ARGUMENT", "model_name: empty"),
        (lambda: manager.load_model("echo", config="{}"), "INVALID_ARGUMENT", "parameters[config]: is unknown here"),
    ):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == f"StatusCode.{status}"
        assert caught.value.message().startswith(expected)


def test_an_idle_model_is_ready_and_its_first_call_loads_it(echo: Path) -> None:
    with serving(echo, lifecycle=Lifecycle(lazy=True)) as lazy, triton.InferenceServerClient(lazy.address) as client:
        assert client.is_model_ready("echo")
        assert [one.state for one in client.get_model_repository_index().models] == ["READY"]
        assert metric(lazy, "ganserve_models_in_memory") == 0
        assert client.infer("echo", entered(1), parameters=SAMPLE).as_numpy("image").shape[0] == 1
        assert metric(lazy, "ganserve_models_in_memory") == 1


# Start and end.


def test_a_stream_that_is_kept_open_ends_when_the_server_drains(
    server: Serving, client: triton.InferenceServerClient, gate: Gate
) -> None:
    heard = Heard()
    client.start_stream(heard)
    client.async_stream_infer("echo", entered(1), parameters=SAMPLE)
    until(lambda: metric(server, "ganserve_stream_frames") == 1)
    server.server.traffic.accepting = False
    time.sleep(2 * LOOK_SECONDS)
    gate.open.set()
    assert heard.result().as_numpy("image").shape[0] == 1
    assert heard.error().status() == "StatusCode.UNAVAILABLE"
    until(lambda: metric(server, "ganserve_in_flight_requests") == 0)
    client.stop_stream()


async def test_a_server_that_drains_is_alive_but_not_ready(echo: Path) -> None:
    with serving(echo) as up:
        async with triton_aio.InferenceServerClient(up.address) as client:
            assert await client.is_server_ready()
            up.server._close()
            assert await client.is_server_live()
            assert not await client.is_server_ready()
            assert not await client.is_model_ready("echo")
            with pytest.raises(InferenceServerException) as caught:
                await client.infer("echo", entered(1), parameters=SAMPLE)
            assert caught.value.status() == "StatusCode.UNAVAILABLE"

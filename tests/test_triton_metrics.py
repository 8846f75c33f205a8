"""The series that Triton's dashboards read, beside the statistics that Triton's client reads and our own metrics."""

import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from ganserve import Client
from ganserve.errors import InvalidArgument
from ganserve.testing.echo import SIZE
from ganserve.testing.server import Serving, serving

from .gate import gate_before

PATIENCE = 30.0
SAMPLE = {"task": "sample"}

Series = dict[tuple[str, ...], float]


def text_of(server: Serving, accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{server.metrics_port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
        return reply.read().decode()


def series_of(server: Serving) -> Series:
    """What a scrape says, by name, model, version and what other labels there are."""
    return {
        (sample.name, *(sample.labels[label] for label in ("model", "version", "reason") if label in sample.labels)): (
            sample.value
        )
        for family in text_string_to_metric_families(text_of(server))
        for sample in family.samples
        if sample.name.startswith("nv_")
    }


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def entered(rows: int) -> list[triton.InferInput]:
    made = triton.InferInput("w", [rows, SIZE], "FP32")
    made.set_data_from_numpy(np.zeros((rows, SIZE), np.float32))
    return [made]


@pytest.fixture(scope="module")
def server(echo: Path) -> Iterator[Serving]:
    with serving(echo, triton_metrics=True) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as found:
        yield found


@pytest.fixture(scope="module")
def fresh(server: Serving) -> Series:
    """The series before the first call."""
    return series_of(server)


@pytest.fixture(scope="module")
def pending(fresh: Series, server: Serving, client: triton.InferenceServerClient) -> tuple[float, float]:
    """How many requests wait while one runs and two do not, of which one is then cancelled; and how many after that."""

    def waiting() -> float:
        return series_of(server)["nv_inference_pending_request_count", "echo", "1"]

    def ignore(result: object, error: object) -> None: ...

    with gate_before(server, "synthesis") as gate:
        client.async_infer("echo", entered(1), ignore, parameters=SAMPLE)
        until(lambda: gate.waiting == 1)
        client.async_infer("echo", entered(3), ignore, parameters=SAMPLE)
        cancelled = client.async_infer("echo", entered(40), ignore, parameters=SAMPLE)
        until(lambda: waiting() == 2)
        full = waiting()
        cancelled.cancel()
        until(lambda: waiting() == 1)
        gate.open.set()
        until(lambda: server.server.metrics.registry.get_sample_value("ganserve_in_flight_requests") == 0)
    return full, waiting()


@pytest.fixture(scope="module")
def series(pending: tuple[float, float], server: Serving, client: triton.InferenceServerClient) -> Series:
    """The series after calls of both protocols that ended well or not."""
    client.infer("echo", entered(40), parameters=SAMPLE)
    with pytest.raises(InferenceServerException):
        client.infer("echo", entered(1), parameters={**SAMPLE, "quality": 1})
    with Client(server.address) as own:
        own.sample("echo", 3, task="sample", format="png")
        own.translate("echo", np.zeros((8, 8, 3), np.uint8), task="negative")
        with pytest.raises(InvalidArgument):
            own.sample("echo", 0, task="sample")
    return series_of(server)


def test_every_series_is_there_before_the_first_call(fresh: Series) -> None:
    counts = {name for name, *_ in fresh}
    assert counts == {
        "nv_inference_request_success",
        "nv_inference_request_failure",
        "nv_inference_count",
        "nv_inference_exec_count",
        "nv_inference_request_duration_us",
        "nv_inference_queue_duration_us",
        "nv_inference_compute_input_duration_us",
        "nv_inference_compute_infer_duration_us",
        "nv_inference_compute_output_duration_us",
        "nv_inference_pending_request_count",
    }
    assert {key[1:3] for key in fresh} == {("echo", "1")}
    assert set(fresh.values()) == {0}


def test_requests_that_wait_are_counted(pending: tuple[float, float]) -> None:
    assert pending == (2, 0)


def test_the_numbers_are_those_of_the_statistics(series: Series, client: triton.InferenceServerClient) -> None:
    (told,) = client.get_inference_statistics("echo").model_stats
    times = told.inference_stats
    assert {name: series[name, "echo", "1"] for name in ("nv_inference_count", "nv_inference_exec_count")} == {
        "nv_inference_count": told.inference_count,
        "nv_inference_exec_count": told.execution_count,
    }
    assert told.inference_count == 1 + 3 + 40 + 3 + 1
    assert series["nv_inference_request_success", "echo", "1"] == times.success.count == 5
    assert sum(count for (name, *_), count in series.items() if name == "nv_inference_request_failure") == (
        times.fail.count
    )
    for name, nanoseconds in (
        ("request", times.success.ns + times.fail.ns),
        ("queue", times.queue.ns),
        ("compute_input", times.compute_input.ns),
        ("compute_infer", times.compute_infer.ns),
        ("compute_output", times.compute_output.ns),
    ):
        assert series[f"nv_inference_{name}_duration_us", "echo", "1"] == pytest.approx(nanoseconds / 1e3, abs=1.0)
    assert series["nv_inference_queue_duration_us", "echo", "1"] > 0


def test_the_numbers_are_those_of_our_own_metrics(series: Series, server: Serving) -> None:
    own = server.server.metrics.registry.get_sample_value
    seconds = own("ganserve_engine_seconds_sum", {"model": "echo", "engine": "onnxruntime"})
    assert seconds == pytest.approx(series["nv_inference_compute_infer_duration_us", "echo", "1"] / 1e6, abs=1e-6)
    assert own("ganserve_batch_rows_count", {"model": "echo"}) == series["nv_inference_exec_count", "echo", "1"]
    spent = sum(own("ganserve_latency_seconds_sum", {"model": "echo", "task": task}) for task in ("sample", "negative"))
    assert series["nv_inference_request_duration_us", "echo", "1"] == pytest.approx(spent * 1e6, abs=1.0)


def test_failures_have_triton_s_reasons(series: Series) -> None:
    reasons = {key[3]: count for key, count in series.items() if key[0] == "nv_inference_request_failure"}
    assert reasons == {"REJECTED": 0, "CANCELED": 1, "BACKEND": 0, "OTHER": 2}


def test_names_are_the_same_in_the_openmetrics_format(series: Series, server: Serving) -> None:
    told = text_of(server, "application/openmetrics-text; version=1.0.0")
    names = {sample.name for family in openmetrics(told) for sample in family.samples}
    assert {name for name, *_ in series} <= names


def test_without_the_option_there_is_none_of_them(echo: Path) -> None:
    with serving(echo) as plain:
        assert "nv_inference" not in text_of(plain)

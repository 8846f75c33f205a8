"""Metrics: every series is documented, present in a live scrape, and says what happened."""

import asyncio
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ganserve.plugins import installed
from ganserve.serving.gates import Access
from ganserve.serving.model import EngineChoice, Settings
from ganserve.serving.server import ServerSettings, running
from ganserve.testing.echo_inversion import write_inversion_bundle
from ganserve.v1 import generation_pb2 as pb
from ganserve.v1 import generation_pb2_grpc, inversion_pb2, inversion_pb2_grpc, media_pb2, models_pb2, models_pb2_grpc

ROOT = Path(__file__).parent.parent


async def scrape(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.0\r\nAccept: text/plain\r\n\r\n")
    answer = (await reader.read(-1)).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    assert "200 OK" in head
    assert "text/plain" in head
    return body


async def _scraped(echo: Path, folder: Path) -> str:
    """What a server shows after one of everything has happened to it."""
    (folder / "broken").mkdir()
    (folder / "echo").symlink_to(echo)
    write_inversion_bundle(folder / "echo-inversion")
    # The first engine is none that is installed: what it is asked for falls back on the second.
    engines = (EngineChoice("none"), EngineChoice("onnxruntime"))
    models = Settings(engines=engines, threads=1, max_batch=8)
    access = Access(management_port=0)
    settings = ServerSettings(bundles=(folder,), port=0, metrics_port=0, models=models, access=access)
    async with (
        running(settings, installed()) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.management_port}") as management,
    ):
        await server.ready.wait()
        generation = generation_pb2_grpc.GenerationStub(channel)
        sample = generation.Sample
        await sample(pb.SampleRequest(model="echo", task="sample", count=20, seed=1))
        raw = media_pb2.OutputOptions(image_format=media_pb2.IMAGE_FORMAT_RAW)
        await sample(pb.SampleRequest(model="echo", task="settle", count=2, output=raw))
        black = media_pb2.Image(format=media_pb2.IMAGE_FORMAT_RAW, width=8, height=4, channels=3, data=bytes(8 * 4 * 3))
        await generation.Translate(pb.TranslateRequest(model="echo", task="negative", images={"image": black}))
        grey = media_pb2.Image(format=media_pb2.IMAGE_FORMAT_RAW, width=2, height=1, channels=1, data=bytes(2))
        search = inversion_pb2.InvertRequest(model="echo-inversion", image=grey, steps=3)
        assert [reply.HasField("result") async for reply in inversion_pb2_grpc.InversionStub(channel).Invert(search)]
        await models_pb2_grpc.ModelsStub(channel).Get(models_pb2.GetRequest(model="echo"))
        for wrong in (
            pb.SampleRequest(model="what a caller writes", count=1),
            pb.SampleRequest(model="echo", task="what a caller writes", count=1),
            pb.SampleRequest(model="echo", task="sample", count=0),
            pb.SampleRequest(model="broken", count=1),
        ):
            with pytest.raises(grpc.aio.AioRpcError):
                await sample(wrong)
        models = models_pb2_grpc.ModelsStub(management)
        await models.Reload(models_pb2.ReloadRequest(model="echo-inversion"))
        (folder / "echo-inversion" / "manifest.json").write_text("{")
        with pytest.raises(grpc.aio.AioRpcError):
            await models.Load(models_pb2.LoadRequest(model="echo-inversion"))
        return await scrape(server.metrics_port)


@pytest.fixture
async def scraped(echo: Path, tmp_path: Path) -> str:
    return await _scraped(echo, tmp_path)


def values(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """The samples by name and label values, these in order of the labels' names."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_every_series_is_documented_and_every_documented_one_is_there(scraped: str) -> None:
    table = re.findall(
        r"^\| `(ganserve_\w+)` \| (\w+) \| (.*?) \| (.+) \|$", (ROOT / "docs" / "metrics.md").read_text(), re.M
    )
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in table}
    found = {}
    for family in text_string_to_metric_families(scraped):
        if family.name.endswith("_created"):
            continue
        name = family.name + {"counter": "_total", "gauge": "", "histogram": ""}[family.type]
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        kind = "info" if name.endswith("_info") else family.type
        found[name] = (kind, labels, family.documentation)
    assert found == documented


async def test_the_numbers_are_those_of_what_happened(scraped: str) -> None:
    found = values(scraped)
    expected = {
        ("ganserve_requests_total", ("OK", "echo", "sample")): 1,
        ("ganserve_requests_total", ("OK", "echo", "settle")): 1,
        ("ganserve_requests_total", ("OK", "echo", "negative")): 1,
        ("ganserve_requests_total", ("OK", "echo", "")): 1,
        ("ganserve_requests_total", ("INVALID_ARGUMENT", "echo", "sample")): 1,
        ("ganserve_requests_total", ("NOT_FOUND", "unknown", "unknown")): 2,
        ("ganserve_requests_total", ("UNAVAILABLE", "unknown", "unknown")): 1,
        ("ganserve_latency_seconds_count", ("echo", "sample")): 2,
        ("ganserve_rejected_requests_total", ("invalid",)): 1,
        ("ganserve_rejected_requests_total", ("unavailable",)): 1,
        ("ganserve_images_total", ("echo",)): 23,
        ("ganserve_pixels_total", ("echo",)): 22 * 16 + 8 * 4,
        ("ganserve_inversion_steps_total", ("echo-inversion",)): 3,
        ("ganserve_decode_seconds_count", ("raw",)): 2,
        ("ganserve_encode_seconds_count", ("png",)): 22,
        ("ganserve_encode_seconds_count", ("raw",)): 2,
        ("ganserve_engine_in_use", ("onnxruntime", "walk", "echo")): 1,
        ("ganserve_engine_preferred", ("none",)): 1,
        ("ganserve_engine_refusals_total", ("none", "echo", "unavailable")): 14,  # one for each graph
        ("ganserve_model_load_seconds_count", ("echo",)): 1,
        ("ganserve_requests_total", ("FAILED_PRECONDITION", "unknown", "unknown")): 1,
        ("ganserve_model_load_failures_total", ()): 2,
        ("ganserve_model_loads_total", ("echo-inversion",)): 2,
        ("ganserve_model_unloads_total", ("echo-inversion",)): 1,
        ("ganserve_model_reload_failures_total", ("echo-inversion",)): 1,
        ("ganserve_queue_rows", ("cpu",)): 0,
        ("ganserve_in_flight_requests", ()): 0,
        ("ganserve_stream_frames", ()): 0,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert "what a caller writes" not in scraped
    batches = found["ganserve_batch_rows_count", ("echo",)]
    assert found["ganserve_engine_seconds_count", ("onnxruntime", "echo")] == batches
    assert found["ganserve_queue_seconds_count", ("echo",)] >= batches
    assert found["ganserve_engine_seconds_sum", ("onnxruntime", "echo")] > 0
    # 20 rows in batches of at most 8, and 2 rows a run of the loop.
    assert found["ganserve_batch_rows_bucket", ("8.0", "echo")] == batches


async def test_promtool_finds_no_fault_with_a_scrape(scraped: str, needs_tool: Callable[[str], str]) -> None:
    tool = needs_tool("promtool")
    done = subprocess.run([tool, "check", "metrics"], input=scraped, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

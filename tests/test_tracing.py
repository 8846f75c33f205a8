"""Traces: a real server sends its spans to a collector on loopback that speaks OTLP."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from click.testing import CliRunner
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from ganserve.commands.serve import command
from ganserve.serving import tracing
from ganserve.serving.tracing import MOST_PARTS, Otlp, Trace
from ganserve.testing.echo import SIZE
from ganserve.testing.server import Serving, serving
from ganserve.v1 import generation_pb2 as pb
from ganserve.v1 import generation_pb2_grpc, media_pb2

from .gate import gate_before

PATIENCE = 30.0
TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01"), ("tracestate", "vendor=1"))
SAMPLE = "ganserve.v1.Generation/Sample"

Span = trace_pb2.Span


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """What a collector is: it takes spans, and here keeps them, with the requests that brought them."""

    def __init__(self) -> None:
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []

    def Export(  # noqa: N802
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in list(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def wait(self, name: str, count: int = 1) -> list[Span]:
        """The spans so far, when there are ``count`` of that name."""
        until(lambda: sum(span.name == name for span in self.spans) >= count)
        return self.spans


@pytest.fixture(scope="module")
def listening() -> Iterator[tuple[Collector, str]]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector, f"http://127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture(scope="module")
def server(echo: Path, listening: tuple[Collector, str]) -> Iterator[Serving]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        with serving(echo, otlp=Otlp(endpoint=listening[1])) as found:
            yield found


@pytest.fixture
def collector(listening: tuple[Collector, str]) -> Collector:
    listening[0].requests.clear()
    return listening[0]


@pytest.fixture
def stub(server: Serving) -> Iterator[generation_pb2_grpc.GenerationStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield generation_pb2_grpc.GenerationStub(channel)


def number(value: float) -> pb.Numbers:
    return pb.Numbers(values=[value])


def told(span: Span) -> dict[str, str | int]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def under(spans: Sequence[Span], parent: Span) -> list[Span]:
    return sorted(
        (span for span in spans if span.parent_span_id == parent.span_id), key=lambda span: span.start_time_unix_nano
    )


def the(spans: Sequence[Span], name: str) -> Span:
    (found,) = (span for span in spans if span.name == name)
    return found


def test_a_call_is_a_span_of_its_caller_s_trace(collector: Collector, stub: generation_pb2_grpc.GenerationStub) -> None:
    request = pb.SampleRequest(model="echo", task="sample", count=3, seed=7)
    before = time.time_ns()
    stub.Sample(request, metadata=SAMPLED, timeout=PATIENCE)
    spans = collector.wait(SAMPLE)
    call = the(spans, SAMPLE)
    assert (call.trace_id.hex(), call.parent_span_id.hex(), call.trace_state) == (TRACE_ID, PARENT_ID, "vendor=1")
    assert call.kind == Span.SPAN_KIND_SERVER
    assert call.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert told(call) == {
        "rpc.system.name": "grpc",
        "rpc.method": SAMPLE,
        "rpc.response.status_code": "OK",
        "ganserve.model": "echo",
        "ganserve.version": 1,
        "ganserve.task": "sample",
        "ganserve.rows": 3,
    }
    parts = under(spans, call)
    assert [span.name for span in parts] == ["decode", "queue", "graph mapping", "graph synthesis", "encode"]
    assert len(spans) == len({span.span_id for span in spans}) == 6
    assert before <= call.start_time_unix_nano
    for part in parts:
        assert part.trace_id == call.trace_id
        assert part.start_time_unix_nano < part.end_time_unix_nano
    ends = [call.start_time_unix_nano]
    for part in parts:
        assert ends[-1] <= part.start_time_unix_nano
        ends.append(part.end_time_unix_nano)
    assert ends[-1] <= call.end_time_unix_nano <= time.time_ns()
    graph = {"ganserve.rows": 3, "ganserve.batch_rows": 3, "ganserve.engine": "onnxruntime"}
    assert [told(part) for part in parts] == [{}, {"ganserve.rows": 3}, graph, graph, {}]
    (resource,) = {request.resource_spans[0].resource.SerializeToString() for request in collector.requests}
    names = {one.key: one.value.string_value for one in collector.requests[0].resource_spans[0].resource.attributes}
    assert resource
    assert (names["service.name"], names["deployment.environment.name"]) == ("ganserve", "test")


def test_the_time_in_the_queue_is_in_the_queue_s_span(
    collector: Collector, server: Serving, stub: generation_pb2_grpc.GenerationStub
) -> None:
    # What no request has asked for before is planned anew, with the gate.
    request = pb.SampleRequest(model="echo", task="sample", count=1, return_tensors=["w"])
    with gate_before(server, "synthesis") as gate:
        first = stub.Sample.future(request, timeout=PATIENCE)
        until(lambda: gate.waiting)
        second = stub.Sample.future(request, metadata=SAMPLED, timeout=PATIENCE)
        read = server.server.metrics.registry.get_sample_value
        until(lambda: read("ganserve_queue_rows", {"device": "cpu"}) == 1)
        time.sleep(0.2)
        gate.open.set()
        first.result()
        second.result()
    spans = collector.wait(SAMPLE, 2)
    call = next(span for span in spans if (span.name, span.trace_id.hex()) == (SAMPLE, TRACE_ID))
    parts = {span.name: (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 for span in under(spans, call)}
    assert parts["queue"] > 0.19
    assert parts["graph mapping"] + parts["graph synthesis"] < 0.19


def test_the_caller_decides_whether_a_call_is_traced(
    collector: Collector, stub: generation_pb2_grpc.GenerationStub
) -> None:
    request = pb.SampleRequest(model="echo", task="sample", count=1)
    stub.Sample(request, metadata=(("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-00"),), timeout=PATIENCE)
    stub.Sample(request, metadata=(("traceparent", "nonsense"),), timeout=PATIENCE)
    stub.Sample(request, timeout=PATIENCE)
    calls = [span for span in collector.wait(SAMPLE, 2) if span.name == SAMPLE]
    assert len(calls) == 2
    assert not any(call.parent_span_id for call in calls)
    assert len({call.trace_id for call in calls} | {bytes.fromhex(TRACE_ID)}) == 3


def test_pictures_are_decoded_and_nothing_of_a_caller_is_told(
    collector: Collector, stub: generation_pb2_grpc.GenerationStub
) -> None:
    marked = bytes(range(200, 248)) * 2
    picture = media_pb2.Image(format=media_pb2.IMAGE_FORMAT_RAW, width=8, height=4, channels=3, data=marked)
    request = pb.TranslateRequest(model="echo", task="negative", images={"image": picture})
    stub.Translate(request, metadata=(("authorization", "Bearer a-secret"), *SAMPLED), timeout=PATIENCE)
    labelled = pb.SampleRequest(model="echo", task="sample", count=1, seed=918273645)
    stub.Sample(labelled, metadata=SAMPLED, timeout=PATIENCE)
    spans = collector.wait(SAMPLE)
    names = [span.name for span in under(spans, the(spans, "ganserve.v1.Generation/Translate"))]
    assert names[0] == "decode"
    assert names[-1] == "encode"
    sent = b"".join(request.SerializeToString() for request in collector.requests)
    for secret in (b"a-secret", b"authorization", marked[:16], b"918273645", (918273645).to_bytes(4, "little")):
        assert secret not in sent


def test_calls_that_fail_say_how(collector: Collector, stub: generation_pb2_grpc.GenerationStub) -> None:
    for request in (
        pb.SampleRequest(model="echo", task="sample", count=0),
        pb.SampleRequest(model="what a caller writes", count=1),
        pb.SampleRequest(model="echo", task="fragile", count=1, numbers={"hurt": number(1)}),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Sample(request, metadata=SAMPLED, timeout=PATIENCE)
    spans = collector.wait(SAMPLE, 3)
    found = [
        (told(span)["rpc.response.status_code"], told(span)["ganserve.model"], span.status.code)
        for span in spans
        if span.name == SAMPLE
    ]
    unset, error = trace_pb2.Status.STATUS_CODE_UNSET, trace_pb2.Status.STATUS_CODE_ERROR
    assert found == [
        ("INVALID_ARGUMENT", "echo", unset),
        ("NOT_FOUND", "unknown", unset),
        ("INTERNAL", "echo", error),
    ]
    failed = [span for span in spans if span.name == SAMPLE][-1]
    assert told(failed)["ganserve.request_id"] in caught.value.details()
    assert b"what a caller writes" not in b"".join(request.SerializeToString() for request in collector.requests)


def test_each_request_of_an_oip_stream_is_a_span_below_it(collector: Collector, server: Serving) -> None:
    w = triton.InferInput("w", [2, SIZE], "FP32")
    w.set_data_from_numpy(np.zeros((2, SIZE), np.float32))
    answers: list[object] = []
    with triton.InferenceServerClient(server.address) as client:
        client.start_stream(lambda result, error: answers.append(error or result), headers=dict(SAMPLED))
        for _ in range(2):
            client.async_stream_infer("echo", [w], parameters={"task": "sample"})
        client.stop_stream()
    assert len(answers) == 2
    spans = collector.wait("inference.GRPCInferenceService/ModelStreamInfer")
    stream = the(spans, "inference.GRPCInferenceService/ModelStreamInfer")
    assert (stream.trace_id.hex(), stream.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    requests = under(spans, stream)
    assert [(span.name, span.kind) for span in requests] == [("request", Span.SPAN_KIND_INTERNAL)] * 2
    for span in requests:
        assert told(span)["ganserve.rows"] == 2
        assert [one.name for one in under(spans, span)] == ["decode", "queue", "graph synthesis", "encode"]


def test_a_loop_s_runs_are_bounded(collector: Collector, stub: generation_pb2_grpc.GenerationStub) -> None:
    request = pb.SampleRequest(model="echo", task="walk", count=1, numbers={"steps": number(8)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "MOST_PARTS", 10)
        stub.Sample(request, metadata=SAMPLED, timeout=PATIENCE)
    spans = collector.wait(SAMPLE)
    call = the(spans, SAMPLE)
    # decode, encode, and for each step of the walk and for what shows its end a wait and a run.
    assert len(under(spans, call)) == 10
    assert told(call)["ganserve.parts_left_out"] == 2 + 2 * 9 - 10


def test_a_long_call_keeps_a_bounded_number_of_parts() -> None:
    trace = Trace(None)
    for _ in range(MOST_PARTS + 5):
        trace.add("queue", 0.0, trace.started + 1.0)
    assert (len(trace.parts), trace.left_out) == (MOST_PARTS, 5)
    assert trace.parts[0].started == trace.started


def test_a_share_of_the_calls_without_a_decision_is_traced(
    echo: Path, listening: tuple[Collector, str], collector: Collector
) -> None:
    request = pb.SampleRequest(model="echo", task="sample", count=1)
    with (
        serving(echo, otlp=Otlp(endpoint=listening[1], sample=0.0)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        sample = generation_pb2_grpc.GenerationStub(channel).Sample
        sample(request, timeout=PATIENCE)
        sample(request, metadata=SAMPLED, timeout=PATIENCE)
    # A server that ends sends what is left.
    assert [span.trace_id.hex() for span in collector.spans if span.name == SAMPLE] == [TRACE_ID]


def test_a_dead_collector_costs_spans_and_no_call(echo: Path) -> None:
    request = pb.SampleRequest(model="echo", task="sample", count=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        patch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "32")
        patch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
        with serving(echo, otlp=Otlp(endpoint="http://127.0.0.1:1")) as server:
            with grpc.insecure_channel(server.address) as channel:
                sample = generation_pb2_grpc.GenerationStub(channel).Sample
                for _ in range(30):
                    sample(request, metadata=SAMPLED, timeout=PATIENCE)
                began = time.monotonic()
                sample(request, metadata=SAMPLED, timeout=PATIENCE)
                assert time.monotonic() - began < 1.0
            began = time.monotonic()
        assert time.monotonic() - began < 6.0


def test_nothing_is_imported_nor_kept_when_traces_are_off(echo: Path) -> None:
    script = (
        "import sys, grpc, ganserve.serving.server\n"
        "from ganserve.testing.server import serving\n"
        "from ganserve.v1 import generation_pb2 as pb, generation_pb2_grpc\n"
        "from ganserve.serving import tracing\n"
        "tracing.begin = tracing.Trace = None\n"
        "from pathlib import Path\n"
        "with serving(Path(sys.argv[1])) as server, grpc.insecure_channel(server.address) as channel:\n"
        "    sample = generation_pb2_grpc.GenerationStub(channel).Sample\n"
        "    request = pb.SampleRequest(model='echo', task='sample', count=1)\n"
        f"    sample(request, metadata={SAMPLED!r}, timeout={PATIENCE})\n"
        "    assert server.server.traffic._tracer is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(echo)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--otlp-endpoint", "localhost:4317"), "'localhost:4317' is no URL of a collector"),
        (("--otlp-sample", "0.5"), "--otlp-sample needs --otlp-endpoint"),
        (("--otlp-endpoint", "http://localhost:4317", "--otlp-sample", "2"), "2.0 is not in the range 0<=x<=1"),
    ],
)
def test_options_that_say_nothing_are_refused(options: Sequence[str], expected: str) -> None:
    done = CliRunner().invoke(command, options, env={"COLUMNS": "300"})
    assert done.exit_code == 2
    assert expected in " ".join(done.output.replace("│", " ").split())

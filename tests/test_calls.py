"""The log of calls: which have a line, what is in it, and that nothing of a request is."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from ganserve import Client
from ganserve.commands.process import server as process
from ganserve.commands.process import stop
from ganserve.serving import calls
from ganserve.serving.calls import REQUEST_ID, Logged, id_of
from ganserve.serving.gates import Access
from ganserve.serving.quota import Quota, Rate
from ganserve.serving.tokens import add
from ganserve.testing.echo import SIZE
from ganserve.testing.server import Serving, serving
from ganserve.v1 import generation_pb2 as pb
from ganserve.v1 import generation_pb2_grpc

from .gate import gate_before
from .test_tracing import until

PATIENCE = 30.0
SAMPLE, INFER = "ganserve.v1.Generation/Sample", "inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "inference.GRPCInferenceService/ModelStreamInfer"
ID = (REQUEST_ID, "from-a.proxy:7")


class Lines(logging.Handler):
    """The lines of calls so far, as the log has them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def wait(self, count: int = 1) -> list[logging.LogRecord]:
        """The lines, when there are ``count`` of them: one is written when its caller has been told already."""
        until(lambda: len(self.records) >= count)
        assert len(self.records) == count
        return self.records


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    calls.log.addHandler(handler)
    calls.log.setLevel(logging.INFO)
    yield handler
    calls.log.removeHandler(handler)
    calls.log.setLevel(logging.NOTSET)


def told(record: logging.LogRecord) -> dict[str, object]:
    """What the line says, but how long the call took, and where it came from."""
    found = {
        name: getattr(record, name)
        for name in ("request_id", "method", "code", "model", "version", "task", "rows", "client")
        if hasattr(record, name)
    }
    assert 0 < record.seconds < PATIENCE
    assert record.peer.startswith("ipv4:127.0.0.1:")
    assert all(f"{name}={value}" in record.getMessage() for name, value in found.items())
    return found


def request(**fields: object) -> pb.SampleRequest:
    return pb.SampleRequest(**{"model": "echo", "task": "sample", "count": 3, "seed": 987654321987, **fields})


def sampler(server: Serving) -> tuple[grpc.Channel, grpc.UnaryUnaryMultiCallable]:
    channel = grpc.insecure_channel(server.address)
    return channel, generation_pb2_grpc.GenerationStub(channel).Sample


def test_every_call_has_a_line_with_its_id_which_its_caller_is_told(echo: Path, lines: Lines) -> None:
    with serving(echo, log_calls="all") as server:
        channel, sample = sampler(server)
        _, call = sample.with_call(request(), metadata=(ID,), timeout=PATIENCE)
        rest = {"model": "echo", "version": 1, "task": "sample"}
        assert told(lines.wait()[0]) == {
            "request_id": ID[1], "method": SAMPLE, "code": "OK", "rows": 3, **rest
        }  # fmt: skip
        assert dict(call.trailing_metadata())[REQUEST_ID] == ID[1]
        stream = generation_pb2_grpc.GenerationStub(channel).SampleStream(
            pb.SampleStreamRequest(sample=request()), timeout=PATIENCE
        )
        assert len(list(stream)) == 3
        own = told(lines.wait(2)[1])
        assert own == {"request_id": own["request_id"], "method": f"{SAMPLE}Stream", "code": "OK", "rows": 3, **rest}
        assert dict(stream.trailing_metadata()) == {REQUEST_ID: own["request_id"]}
        with pytest.raises(grpc.RpcError) as caught:
            sample(request(model="what a caller writes"), metadata=(ID,), timeout=PATIENCE)
        assert told(lines.wait(3)[2]) == {"request_id": ID[1], "method": SAMPLE, "code": "NOT_FOUND"}
        assert dict(caught.value.trailing_metadata())[REQUEST_ID] == ID[1]
        with Client(server.address) as client:
            client.models()
        assert told(lines.wait(4)[3])["method"] == "ganserve.v1.Models/List"
        channel.close()


def test_the_open_inference_protocol_has_the_same_lines_and_one_for_each_request_of_a_stream(
    echo: Path, lines: Lines
) -> None:
    def given(rows: int) -> list[triton.InferInput]:
        w = triton.InferInput("w", [rows, SIZE], "FP32")
        w.set_data_from_numpy(np.zeros((rows, SIZE), np.float32))
        return [w]

    rest = {"model": "echo", "version": 1, "task": "sample"}
    with serving(echo, log_calls="all") as server, triton.InferenceServerClient(server.address) as client:
        client.infer("echo", given(2), parameters={"task": "sample"}, headers=dict([ID]))
        whole = {"request_id": ID[1], "method": INFER, "code": "OK", "rows": 2, **rest}
        assert told(lines.wait()[0]) == whole
        answers: list[object] = []
        client.start_stream(lambda result, error: answers.append(error or result), headers=dict([ID]))
        for rows in (1, 2):
            client.async_stream_infer("echo", given(rows), parameters={"task": "sample"})
        client.async_stream_infer("what a caller writes", given(1))
        client.stop_stream()
        found = {str(one["request_id"]): one for one in map(told, lines.wait(5)[1:])}
    part = {"method": STREAM_INFER, **rest, "code": "OK"}
    assert found == {
        f"{ID[1]}-1": {"request_id": f"{ID[1]}-1", "rows": 1, **part},
        f"{ID[1]}-2": {"request_id": f"{ID[1]}-2", "rows": 2, **part},
        f"{ID[1]}-3": {"request_id": f"{ID[1]}-3", "method": STREAM_INFER, "code": "NOT_FOUND"},
        ID[1]: {"request_id": ID[1], "method": STREAM_INFER, "code": "OK"},
    }


def test_refused_calls_have_lines_that_name_their_client_and_no_token(echo: Path, tmp_path: Path, lines: Lines) -> None:
    token = add(tmp_path / "tokens.json", "alice")
    access = Access(token_file=tmp_path / "tokens.json", quota=Quota(rows=Rate(4, 3600)))
    bearer = ("authorization", f"Bearer {token}")
    with serving(echo, log_calls="failed", access=access) as server:
        channel, sample = sampler(server)
        sample(request(), metadata=(bearer,), timeout=PATIENCE)
        for shown in ((), (("authorization", "Bearer another"),), (bearer,)):
            with pytest.raises(grpc.RpcError):
                sample(request(), metadata=shown, timeout=PATIENCE)
        server.server.traffic.accepting = False
        with pytest.raises(grpc.RpcError):
            sample(request(), metadata=(bearer,), timeout=PATIENCE)
        channel.close()
    found = [(one["code"], one.get("client"), one.get("rows")) for one in map(told, lines.wait(4))]
    assert found == [
        ("UNAUTHENTICATED", None, None),
        ("UNAUTHENTICATED", None, None),
        ("RESOURCE_EXHAUSTED", "alice", 3),
        ("UNAVAILABLE", None, None),
    ]
    assert not [one for one in lines.records if token in one.getMessage() or "another" in one.getMessage()]


def test_calls_that_their_callers_leave_or_whose_time_is_up_have_lines(echo: Path, lines: Lines) -> None:
    with serving(echo, log_calls="failed") as server:
        channel, sample = sampler(server)
        stream = generation_pb2_grpc.GenerationStub(channel).SampleStream
        with gate_before(server, "synthesis") as gate:
            left = sample.future(request(return_tensors=["w"]), metadata=(ID,), timeout=PATIENCE)
            until(lambda: gate.waiting)
            left.cancel()
            assert (told(lines.wait()[0])["code"], lines.records[0].request_id) == ("CANCELLED", ID[1])
            late = stream(pb.SampleStreamRequest(sample=request(return_tensors=["w"])), timeout=0.3)
            with pytest.raises(grpc.RpcError):
                next(late)
            assert told(lines.wait(2)[1])["code"] == "DEADLINE_EXCEEDED"
            gate.open.set()
        channel.close()


def test_a_failure_is_told_and_logged_by_the_call_s_id(echo: Path, caplog: pytest.LogCaptureFixture) -> None:
    logged: tuple[Logged, ...] = ("off", "failed")
    for which in logged:
        caplog.clear()
        with serving(echo, log_calls=which) as server:
            channel, sample = sampler(server)
            hurt = request(task="fragile", numbers={"hurt": pb.Numbers(values=[1])})
            with pytest.raises(grpc.RpcError, match=f"internal error {ID[1]}: ") as caught:
                sample(hurt, metadata=(ID,), timeout=PATIENCE)
            assert dict(caught.value.trailing_metadata())[REQUEST_ID] == ID[1]
            channel.close()
        (failed,) = [one for one in caplog.records if one.levelno == logging.ERROR]
        assert failed.request_id == ID[1]


def test_without_the_option_no_call_has_a_line_nor_an_id(
    echo: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ganserve.serving.traffic.id_of", None)
    with serving(echo) as server:
        channel, sample = sampler(server)
        _, call = sample.with_call(request(), metadata=(ID,), timeout=PATIENCE)
        assert not [key for key, _ in call.trailing_metadata() if key == REQUEST_ID]
        with pytest.raises(grpc.RpcError) as caught:
            sample(request(count=0), timeout=PATIENCE)
        assert not [key for key, _ in caught.value.trailing_metadata() if key == REQUEST_ID]
        channel.close()
    assert lines.records == []


class From:
    """A call with these metadata."""

    def __init__(self, *given: tuple[str, str | bytes]) -> None:
        self._given = given

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._given

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


@pytest.mark.parametrize("given", ["", "a b", "a\nb", "é", "x" * 129, "\x1b[0m", b"bytes"])
def test_an_id_that_no_log_should_hold_is_not_taken(given: str | bytes) -> None:
    made = id_of(From((REQUEST_ID, given)))
    assert (len(made), set(made) <= set("0123456789abcdef")) == (16, True)
    assert id_of(From((REQUEST_ID, "x" * 128), (REQUEST_ID, "other"))) == "x" * 128


def test_a_client_s_name_cannot_write_a_line_of_its_own(lines: Lines) -> None:
    from ganserve.serving.traffic import Watch

    calls.write(Watch(0.0, SAMPLE, From(ID), "", "cert:a\nb" + "c" * 200), "OK", 0.5)
    assert lines.records[0].client == "cert:a?b" + "c" * 120
    assert "\n" not in lines.records[0].getMessage()


def test_lines_are_objects_at_any_level_and_hold_nothing_of_the_request(echo: Path, tmp_path: Path) -> None:
    log, options = tmp_path / "log", ("--log-format", "json", "--log-level", "error", "--log-calls", "all")
    with process(echo, log, "--threads", "1", *options) as (running, address):
        with Client(address) as client:
            client.wait_ready(60)
            client.sample("echo", task="sample", n=2, seed=987654321987)
        stop(running, log)
    (line,) = [line for line in log.read_text().splitlines() if SAMPLE in line]
    found = json.loads(line)
    assert found.items() >= {"level": "INFO", "logger": "ganserve.serving.calls", "rows": 2, "code": "OK"}.items()
    assert "987654321987" not in log.read_text()

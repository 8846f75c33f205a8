"""What one client may ask for: the arithmetic with a clock of the test's own, and the refusals of a server."""

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ganserve import Client, inference
from ganserve.errors import QuotaExceeded, SpecError
from ganserve.serving import quota as room
from ganserve.serving.gates import Access
from ganserve.serving.quota import Meter, Quota, Rate
from ganserve.serving.tokens import add
from ganserve.testing.echo_inversion import write_inversion_bundle
from ganserve.testing.server import Serving, serving
from ganserve.v1 import generation_pb2, generation_pb2_grpc

HOURLY = 3600
PATIENCE = 30.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_read_and_what_is_none_is_refused() -> None:
    assert Rate.parse("100/second") == Rate(amount=100, seconds=1)
    assert Rate.parse("5000/minute") == Rate(amount=5000, seconds=60)
    assert Rate.parse("1/day") == Rate(amount=1, seconds=86400)
    for wrong in ("", "100", "0/second", "-1/second", "1.5/second", "100/fortnight", "100 / second", "100/second "):
        with pytest.raises(SpecError, match="is no rate"):
            Rate.parse(wrong)


def test_a_client_gets_its_amount_at_once_and_again_as_time_goes_by() -> None:
    clock = Clock()
    meter, rate = Meter(clock), Rate(amount=6, seconds=60)
    meter.take("a", "rows", rate, 5)
    meter.take("a", "rows", rate, 1)
    with pytest.raises(QuotaExceeded, match=r"quota of 'a' is 6 rows in 60 s: try again in 20\.0 s") as caught:
        meter.take("a", "rows", rate, 2)
    assert caught.value.retry_after == pytest.approx(20)
    clock.now += caught.value.retry_after
    meter.take("a", "rows", rate, 2)
    meter.take("b", "rows", rate, 6)
    meter.take("a", "calls", rate, 6)
    meter.take("a", "anything", None, 10**9)
    with pytest.raises(QuotaExceeded, match=r"7 rows asked for at once: .* ask for fewer") as caught:
        meter.take("c", "rows", rate, 7)
    assert caught.value.retry_after == math.inf


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 12)), max_size=60))
def test_in_no_time_is_more_taken_than_two_amounts_and_the_wait_told_is_enough(
    history: list[tuple[float, int]],
) -> None:
    clock, rate = Clock(), Rate(amount=10, seconds=60)
    meter, taken = Meter(clock), list[tuple[float, int]]()
    for pause, amount in history:
        clock.now += pause
        try:
            meter.take("a", "rows", rate, amount)
        except QuotaExceeded as error:
            if amount > rate.amount:
                continue
            clock.now += error.retry_after
            meter.take("a", "rows", rate, amount)
        taken.append((clock.now, amount))
    for start, _ in taken:
        assert sum(amount for when, amount in taken if start <= when < start + rate.seconds) <= 2 * rate.amount


def test_clients_that_have_rested_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_MOST_CLIENTS", 10)
    clock = Clock()
    meter, rate = Meter(clock), Rate(amount=1, seconds=1)
    for number in range(1000):
        clock.now += 1
        meter.take(f"client {number}", "calls", rate)
        assert len(meter._rested) <= 11


# On a server.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, echo: Path) -> Iterator[tuple[Serving, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("quota")
    file = folder / "tokens"
    tokens = {
        "few-calls": add(file, "few-calls", calls="2/hour"),
        "few-rows": add(file, "few-rows", rows="40/hour"),
        "short": add(file, "short", calls="2/second"),
        "seeker": add(file, "seeker", rows="60/hour"),
        "usual": add(file, "usual"),
        "two-hands": add(file, "two-hands", rows="1000/hour", streams=2),
    }
    inverse = write_inversion_bundle(folder / "inverse")
    quota = Quota(rows=Rate(amount=8, seconds=HOURLY))
    with serving(echo, inverse, access=Access(token_file=file, quota=quota)) as found:
        yield found, tokens


def test_calls_beyond_the_quota_are_refused_with_the_time_to_come_back(server: tuple[Serving, dict[str, str]]) -> None:
    found, tokens = server
    metadata = (("authorization", f"Bearer {tokens['few-calls']}"),)
    with grpc.insecure_channel(found.address) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        request = generation_pb2.SampleRequest(model="echo", task="sample", count=1)
        for _ in range(2):
            stub.Sample(request, metadata=metadata, timeout=30)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Sample(request, metadata=metadata, timeout=30)
    error = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details = {detail.TypeName(): detail for detail in rpc_status.from_call(error).details}
    details["google.rpc.RetryInfo"].Unpack(info := error_details_pb2.RetryInfo())
    assert 1700 < info.retry_delay.seconds <= 1800
    assert "google.rpc.QuotaFailure" in details
    # Half an hour is nothing to wait for: gRPC's own retries end at once.
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"
    registry = found.server.metrics.registry
    assert registry.get_sample_value("ganserve_rejected_requests_total", {"reason": "quota"})


def test_rows_are_taken_from_whoever_asked_and_a_refusal_takes_none(server: tuple[Serving, dict[str, str]]) -> None:
    found, tokens = server
    with (
        Client(found.address, token=tokens["few-rows"]) as client,
        Client(found.address, token=tokens["usual"]) as other,
    ):
        assert len(client.sample("echo", 30, task="sample")) == 30
        with pytest.raises(QuotaExceeded, match="'few-rows' is 40 rows in 3600 s: try again in"):
            client.sample("echo", 11, task="sample")
        assert len(list(client.sample_stream("echo", 10, task="sample"))) == 10
        assert len(other.sample("echo", 8, task="sample")) == 8
        with pytest.raises(QuotaExceeded, match="9 rows asked for at once: the quota of 'usual' is 8 rows"):
            other.sample("echo", 9, task="sample")


def test_a_token_with_one_bound_of_its_own_has_the_servers_others(server: tuple[Serving, dict[str, str]]) -> None:
    found, tokens = server
    refused = pytest.raises(QuotaExceeded, match="9 rows asked for at once: the quota of 'short' is 8 rows")
    with Client(found.address, token=tokens["short"]) as client, refused:
        client.sample("echo", 9, task="sample")


def test_a_short_wait_is_waited_by_the_clients_own_retries(server: tuple[Serving, dict[str, str]]) -> None:
    found, tokens = server
    with Client(found.address, token=tokens["short"]) as client:
        started = time.monotonic()
        for _ in range(3):
            client.models()
        assert time.monotonic() - started > 0.4


def test_calls_beyond_those_at_a_time_are_refused_until_one_ends(server: tuple[Serving, dict[str, str]]) -> None:
    found, tokens = server
    metadata = (("authorization", f"Bearer {tokens['two-hands']}"),)
    request = generation_pb2.SampleRequest(model="echo", task="sample", count=1)
    with contextlib.ExitStack() as stack:
        # A client's calls are counted over all its connections; channels with other options have one each.
        first, second = (stack.enter_context(grpc.insecure_channel(found.address, [("n", n)])) for n in range(2))
        open_streams = [held(channel, metadata) for channel in (first, second)]
        stub = generation_pb2_grpc.GenerationStub(second)
        with pytest.raises(grpc.RpcError, match="quota of 'two-hands' is 2 calls at a time") as caught:
            stub.Sample(request, metadata=metadata, timeout=30)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
        open_streams[0].cancel()
        with Client(found.address, token=tokens["two-hands"]) as client:
            for _ in range(5):
                assert len(client.sample("echo", 1, task="sample")) == 1
        open_streams[1].cancel()


def test_an_address_without_a_token_has_its_calls_at_a_time_too(echo: Path) -> None:
    with serving(echo, access=Access(quota=Quota(streams=3))) as found, contextlib.ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(found.address, [("n", n)])) for n in range(3)]
        calls = [held(channel) for channel in channels]
        with pytest.raises(grpc.RpcError, match=r"quota of 'ipv4:127\.0\.0\.1' is 3 calls at a time"):
            held(channels[0])
        for call in calls:
            call.cancel()
        with Client(found.address) as client:
            # As many as it likes, one after another.
            for _ in range(8):
                assert len(client.sample("echo", 1, task="sample")) == 1


def test_every_call_gives_back_its_place_however_it_ends(server: tuple[Serving, dict[str, str]]) -> None:
    found, tokens = server
    metadata = (("authorization", f"Bearer {tokens['two-hands']}"),)
    request = generation_pb2.SampleRequest(model="echo", task="sample", count=1)
    with (
        grpc.insecure_channel(found.address) as channel,
        Client(
            found.address, token=tokens["two-hands"]
        ) as client,  # tries again, for a server hears of a cancel a little later
    ):
        stub = generation_pb2_grpc.GenerationStub(channel)
        for _ in range(4):
            assert len(client.sample("echo", 1, task="sample")) == 1
            with pytest.raises(grpc.RpcError, match="no-such-model"):
                stub.Sample(generation_pb2.SampleRequest(model="no-such-model"), metadata=metadata, timeout=30)
            stream = stub.SampleStream(
                generation_pb2.SampleStreamRequest(sample=request), metadata=metadata, timeout=30
            )
            next(stream)
            stream.cancel()
            assert len(client.sample("echo", 1, task="sample")) == 1
            held(channel, metadata).cancel()


def held(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> grpc.Call:
    """A call that has begun, and goes on until it is cancelled."""
    more = threading.Event()
    name = inference.SERVICE
    call = channel.stream_stream(f"/{name}/ModelStreamInfer", lambda data: data, lambda data: data)

    def requests() -> Iterator[bytes]:
        yield b""  # names no model, which is answered
        more.wait(PATIENCE)

    found = call(requests(), metadata=metadata, timeout=PATIENCE)
    assert next(found)
    found.add_callback(more.set)
    return found


def test_the_steps_of_a_search_are_rows(server: tuple[Serving, dict[str, str]]) -> None:
    found, tokens = server
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    with Client(found.address, token=tokens["seeker"]) as client:
        model = next(one.name for one in client.models() if one.name != "echo")
        client.invert(model, picture, steps=40, start="average")
        with pytest.raises(QuotaExceeded, match="quota of 'seeker' is 60 rows"):
            client.invert(model, picture, steps=40, start="average")


def test_clients_without_tokens_are_told_apart_by_their_address(echo: Path) -> None:
    quota = Quota(calls=Rate(amount=1, seconds=HOURLY))
    with serving(echo, access=Access(quota=quota)) as found:
        with Client(found.address) as client:
            assert client.models()
        with Client(found.address) as again, pytest.raises(QuotaExceeded, match=r"'ipv4:127\.0\.0\.1'"):
            again.models()

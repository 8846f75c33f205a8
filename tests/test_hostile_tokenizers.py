"""Tokenizers that are damaged, hostile or slow: their bundles are refused when they are loaded, and keep no other model waiting."""

import asyncio
import json
import logging
import re
import sys
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ganserve import Client, bundle
from ganserve.client import Point
from ganserve.errors import BundleError, InternalError, InvalidArgument, Unavailable
from ganserve.plugins import installed
from ganserve.serving.model import Settings, load_model
from ganserve.testing.captions import tokenizer
from ganserve.testing.echo import write_bundle
from ganserve.testing.echo_text import write_text_bundle
from ganserve.testing.server import serving

pytest.importorskip("tokenizers")

SLOW = {"type": "Split", "pattern": {"Regex": "(a|aa)+[^a]$"}, "behavior": "Isolated", "invert": False}
"""A pre-tokenizer that tries every way to cut a run of the letter a: each letter more takes 1.6 times as long."""

LONG = "a" * 60
"""A run that is beyond what the library's engine of regular expressions tries: it panics."""

SECONDS_LONG = " ".join(["a" * 27] * 7)
"""Runs that are just within that, each of which takes a good part of a second."""


def words(**changes):
    return json.dumps(tokenizer() | changes)


def unknown_special():
    """A template that names a token which it does not explain."""
    single = [{"SpecialToken": {"id": "[NONE]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {}}


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A server of a model whose tokenizer is slow, and of one that reads no prompts."""
    folder = tmp_path_factory.mktemp("slow")
    text, echo = (
        write_text_bundle(folder / "text", words=words(pre_tokenizer=SLOW)),
        write_bundle(folder / "echo", tasks=("sample",)),
    )
    with serving(text, echo) as server, Client(server.address) as client:
        client.imagine("echo-text", "red", seed=1)
        client.sample("echo", labels=[1], seed=1, format="png")
        yield server, client


HOSTILE = {
    "nothing": "{}",
    "no JSON": "\x00",
    "cut": words()[:-9],
    "another's": words(model={"type": "Voodoo"}),
    "unknown special token": words(post_processor=unknown_special()),
    "more special tokens than tokens": words(
        post_processor=tokenizer()["post_processor"]
        | {"special_tokens": {name: {"id": name, "ids": [2] * 40, "tokens": ["x"] * 40} for name in ("[CLS]", "[SEP]")}}
    ),
    "a pattern too deep": words(pre_tokenizer=SLOW | {"pattern": {"Regex": "(" * 9000 + ")" * 9000}}),
    "a pattern beyond the engine at an example": words(pre_tokenizer=SLOW | {"pattern": {"Regex": "(.|..)+[^.]{99}$"}}),
}


@pytest.mark.parametrize("words", HOSTILE.values(), ids=HOSTILE)
def test_a_bundle_whose_tokenizer_is_none_is_refused_when_it_is_loaded(tmp_path, words):
    found = bundle.read(write_text_bundle(tmp_path / "text", words=words))
    with pytest.raises(BundleError, match=r"tokenizer\.json is no tokenizer .* export again"):
        load_model(found, installed(), Settings(threads=1))


def test_without_the_library_a_text_bundle_is_refused_and_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    found = bundle.read(write_text_bundle(tmp_path / "text"))
    with pytest.raises(BundleError, match=r"tokenizer\.json .* pip install 'ganserve\[text\]'"):
        load_model(found, installed(), Settings(threads=1))
    load_model(bundle.read(write_bundle(tmp_path / "echo")), installed(), Settings(threads=1)).close()


def test_others_serve_beside_a_bundle_whose_tokenizer_is_none(tmp_path):
    bad = write_text_bundle(tmp_path / "bad", name="bad", words="{}")
    good, echo = write_text_bundle(tmp_path / "good", name="good"), write_bundle(tmp_path / "echo", tasks=("sample",))
    with serving(bad, good, echo) as server, Client(server.address) as client:
        with pytest.raises(Unavailable, match=r"'bad' is failed: .*tokenizer\.json is no tokenizer"):
            client.imagine("bad", "red")
        assert client.imagine("good", "red", seed=1)[0].data
        assert client.sample("echo", labels=[1], seed=1)[0].data


def test_a_prompt_at_which_the_tokenizer_panics_fails_alone_and_is_not_logged(slow, caplog):
    _, client = slow
    before = client.imagine("echo-text", "red", seed=1, format="raw")[0].data
    for ask in (
        lambda: client.imagine("echo-text", ["red", LONG], seed=1),
        lambda: list(client.imagine_stream("echo-text", LONG, seed=1)),
        lambda: list(
            client.interpolate("echo-text", [Point(prompt="red"), Point(prompt=LONG)], 1, latent="text", seed=1)
        ),
        lambda: list(client.interpolate("echo-text", [1, 2], 1, latent="z", prompt=LONG)),
    ):
        caplog.clear()
        with pytest.raises(InternalError) as told:
            ask()
        (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert record.request_id == told.value.error_id
        assert re.search(r"BundleError: tokenizer\.json fails at a text of 60 characters \(PanicException", caplog.text)
        assert LONG not in caplog.text
    assert client.imagine("echo-text", "red", seed=1, format="raw")[0].data == before


def test_a_prompt_at_which_the_tokenizer_panics_fails_alone_by_the_open_inference_protocol(slow):
    triton = pytest.importorskip("tritonclient.grpc")
    utils = pytest.importorskip("tritonclient.utils")
    import numpy as np

    server, _ = slow
    given = triton.InferInput("prompt", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[LONG.encode()]], object))
    with (
        triton.InferenceServerClient(server.address) as other,
        pytest.raises(utils.InferenceServerException, match="internal error"),
    ):
        other.infer("echo-text", [given])


async def test_others_are_answered_while_a_tokenizer_is_slow(slow):
    server, client = slow
    took = []

    def imagine():
        began = time.monotonic()
        client.imagine("echo-text", SECONDS_LONG, seed=1)
        took.append(time.monotonic() - began)

    def sample():
        with Client(server.address) as other:
            while thread.is_alive():
                began = time.monotonic()
                # PNG: it is encoded where pictures are, by the server's one worker.
                other.sample("echo", labels=[1], seed=1, format="png")
                samples.append(time.monotonic() - began)

    async def check():
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while thread.is_alive():
                began = time.monotonic()
                await stub.Check(health_pb2.HealthCheckRequest(service="echo"))
                checks.append(time.monotonic() - began)
                await asyncio.sleep(0.01)

    samples, checks = [], []
    thread = threading.Thread(target=imagine)
    thread.start()
    await asyncio.gather(asyncio.to_thread(sample), check())
    thread.join()
    assert took[0] > 0.5, "the tokenizer was not slow"
    assert len(samples) > 3
    assert len(checks) > 3
    assert max(*samples, *checks) < took[0] / 2


def test_what_is_too_long_for_the_server_is_not_tokenized(tmp_path):
    folder = write_text_bundle(tmp_path / "text", words=words(pre_tokenizer=SLOW))
    with serving(folder, max_prompt_characters=40) as server, Client(server.address) as client:
        with pytest.raises(InvalidArgument, match=r"prompts\[0\]: has 60 characters; this server takes at most 40"):
            client.imagine("echo-text", LONG, seed=1)
        with pytest.raises(InvalidArgument, match=r"making\.prompt: has 60 characters"):
            list(client.interpolate("echo-text", [1, 2], 1, latent="z", prompt=LONG))

"""Tokenizers that are damaged, hostile or slow: their bundles are refused when they are loaded, and keep no other model waiting."""

import asyncio
import base64
import json
import logging
import re
import sys
import threading
import time

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ganserve import Client, bundle
from ganserve.client import Point
from ganserve.codecs import enlarging
from ganserve.codecs.enlarging import MOST_TIMES, times_longer
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

SECONDS_LONG = [" ".join(["a" * 27] * 7)] * 5
"""Prompts of runs that are just within that, which together take a second or more."""


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


def charsmap(entries):
    """A map of SentencePiece's, as a step ``Precompiled`` has it: a double array of the keys with room to spare, then the texts."""
    units, texts, room = np.zeros(256 * 64, np.uint32), b"", iter(range(512, 256 * 64, 256))
    units[0] = 256 << 10
    for key, text in entries.items():
        node = 256
        for place, byte in enumerate(key := key.encode(), 1):
            at = node ^ byte
            if not units[at]:
                units[at] = (at ^ next(room)) << 10 | byte | (place == len(key)) << 8
            node = at ^ int(units[at]) >> 10
        units[node], texts = 1 << 31 | len(texts), texts + text.encode() + b"\0"
    return base64.b64encode((units.nbytes).to_bytes(4, "little") + units.tobytes() + texts).decode()


def steps(*normalizers, before=()):
    """The parts of a file that change a text."""
    sequence = {"type": "Sequence", "normalizers": list(normalizers)}
    parts = {"type": "Sequence", "pretokenizers": list(before)} if before else None
    return {"normalizer": sequence, "pre_tokenizer": parts}


def replace(found, content):
    return {"type": "Replace", "pattern": found, "content": content}


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
NMT_NFKC = {"type": "Precompiled", "precompiled_charsmap": charsmap({"ﷺ": "صلى الله عليه وسلم", "é": "e"})}

UNENDED = base64.b64encode(base64.b64decode(charsmap({"a": "b", "ﷺ": "é" * 30}))[:-1]).decode()
"""A map whose last text goes on to its end."""

LIKE = {
    "MiniLM": (tokenizer(), 3),
    "CLIP": (steps({"type": "NFC"}, replace({"Regex": r"\s+"}, " "), {"type": "Lowercase"}, before=[BYTES]), 27),
    "XLM-RoBERTa": (
        steps(NMT_NFKC, replace({"Regex": " {2,}"}, " "), before=[{"type": "WhitespaceSplit"}, METASPACE]),
        88,
    ),
    "Gemma": (steps(replace({"String": " "}, "▁")), 3),
    "nothing": (steps(), 1),
}
"""How known encoders change a text, and how many times as long it may become."""

ENLARGING = {
    "one text for another": (steps(replace({"String": "a"}, "b" * 1000)), "1000"),
    "a text for nothing": (steps(replace({"Regex": ""}, "b" * 200)), "201"),
    "an empty text": (steps(replace({"String": ""}, "b" * 200)), "201"),
    "two for one, sixty times": (steps(*[replace({"String": "a"}, "aa")] * 60), "1.153e+18"),
    "beyond numbers": (steps(*[replace({"String": "a"}, "aa")] * 2000), "inf"),
    "in front": (steps({"type": "Prepend", "prepend": "b" * 2_000_000}), "201"),
    "in a sequence of its own": (steps(steps(replace({"String": "ab"}, "é" * 150))["normalizer"]), "150"),
    "in a map": (steps({"type": "Precompiled", "precompiled_charsmap": charsmap({"a": "b", "é": "b" * 400})}), "200"),
    "before parts": (steps(before=[METASPACE] * 5), "1024"),
    "the forms of Unicode": (steps(*[{"type": "NFKD"}] * 3), "1331"),
}


@pytest.mark.parametrize(("changes", "times"), ENLARGING.values(), ids=ENLARGING)
def test_a_tokenizer_that_lengthens_texts_too_much_is_refused_before_it_is_used(tmp_path, changes, times):
    # What is read with the file is normalized, too: this one would be 2 to the power of 60 letters.
    added = {"id": 99, "content": "a", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    hostile = words(**changes, added_tokens=[added | {"special": False}])
    found = bundle.read(write_text_bundle(tmp_path / "text", words=hostile))
    with pytest.raises(BundleError, match=rf"may make a text {re.escape(times)} times as long.*at most 128 times"):
        load_model(found, installed(), Settings(threads=1))


TEXTS = ("a", "é", "ﷺ", "ΐ", "İ", "가", "一", "🍎", " ", "a ", "一 ", "\u0344", "\U0001d160", "aé ﷺ🍎")


@pytest.mark.parametrize(
    "changes",
    [
        *(changes for changes, _ in LIKE.values()),
        *(steps({"type": form}) for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "StripAccents", "ByteLevel")),
        *(steps(replace(found, "bé")) for found in ({"String": "a"}, {"String": ""}, {"Regex": ""}, {"Regex": "a*"})),
        steps({"type": "Prepend", "prepend": "b" * 20_000}),
        steps({"type": "Precompiled", "precompiled_charsmap": UNENDED}),
        steps(before=[METASPACE] * 2),
        steps(before=[{"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}, BYTES]),
    ],
)  # fmt: skip
def test_no_text_becomes_longer_than_a_file_was_found_to_make_it(changes):
    import tokenizers

    file = words(**changes)
    used, times = tokenizers.Tokenizer.from_str(file), times_longer(file.encode())
    for text in TEXTS:
        text = text * (10_000 // len(text.encode()) + 1)
        made = text if used.normalizer is None else used.normalizer.normalize_str(text)
        parts = (
            [made] if used.pre_tokenizer is None else [part for part, _ in used.pre_tokenizer.pre_tokenize_str(made)]
        )
        assert sum(len(part.encode()) for part in parts) <= times * len(text.encode()) + 1e-6


@pytest.mark.parametrize(("changes", "times"), LIKE.values(), ids=LIKE)
def test_the_tokenizers_of_known_encoders_are_far_from_the_bound(changes, times):
    assert times_longer(words(**changes).encode()) == pytest.approx(times, rel=1e-3)
    assert times < MOST_TIMES


def test_every_step_that_the_library_has_is_known():
    from tokenizers import normalizers, pre_tokenizers

    for room, base in ((normalizers, normalizers.Normalizer), (pre_tokenizers, pre_tokenizers.PreTokenizer)):
        kinds = {name for name, one in vars(room).items() if isinstance(one, type) and issubclass(one, base)}
        own = {"Normalizer", "PreTokenizer", "Sequence", "Replace", "Prepend", "Metaspace", "Precompiled"}
        assert kinds - own <= enlarging._TIMES.keys()
    with pytest.raises(ValueError, match="how much its step 'Longer' lengthens a text is not known"):
        times_longer(b'{"normalizer": {"type": "Longer"}}')


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
    assert len(samples) > 3, "the tokenizer was not slow"
    assert len(checks) > 3
    assert max(*samples, *checks) < took[0] / 2


def test_what_is_too_long_for_the_server_is_not_tokenized(tmp_path):
    folder = write_text_bundle(tmp_path / "text", words=words(pre_tokenizer=SLOW))
    with serving(folder, max_prompt_characters=40) as server, Client(server.address) as client:
        with pytest.raises(InvalidArgument, match=r"prompts\[0\]: has 60 characters; this server takes at most 40"):
            client.imagine("echo-text", LONG, seed=1)
        with pytest.raises(InvalidArgument, match=r"making\.prompt: has 60 characters"):
            list(client.interpolate("echo-text", [1, 2], 1, latent="z", prompt=LONG))

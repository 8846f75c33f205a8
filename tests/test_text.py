"""Pictures of prompts over gRPC: what is made, by hand; what is refused, by its field; and what is made only once."""

import logging
import unicodedata
import urllib.request

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganserve import AsyncClient, Client
from ganserve.client import Point
from ganserve.codecs.seeds import draw
from ganserve.codecs.tokens import Tokenizer, normalized
from ganserve.errors import InvalidArgument, PermissionDenied
from ganserve.serving.prompts import PolicyChoice
from ganserve.testing.captions import TOKENIZER
from ganserve.testing.echo import SIZE, image_of, write_bundle
from ganserve.testing.echo_text import MOST_TOKENS, MULTIPLE, Z_NOISE, text_of, write_text_bundle
from ganserve.testing.server import serving
from ganserve.v1 import text_pb2, text_pb2_grpc

pytest.importorskip("tokenizers")

MODEL = "echo-text"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_text_bundle(tmp_path_factory.mktemp("text") / MODEL)


@pytest.fixture(scope="module")
def client(bundle, tmp_path_factory):
    words = tmp_path_factory.mktemp("words") / "words.txt"
    words.write_text("# of no use\nbad word\nstraße  # in any case\n", "utf-8")
    other = write_bundle(tmp_path_factory.mktemp("other") / "echo")
    with (
        serving(bundle, other, prompt_policy=(PolicyChoice.parse(f"block-list={words}"),)) as server,
        Client(server.address) as found,
    ):
        yield found


def expected(bundle, prompt, seeds):
    """The images of ``prompt`` for (seed, index) pairs, by hand."""
    tokens = Tokenizer(bundle / TOKENIZER, MOST_TOKENS)([normalized(prompt)], MULTIPLE)
    z = draw(Z_NOISE, np.array(seeds, np.uint64), (SIZE,))
    return image_of(z + text_of(tokens.ids, tokens.mask))


# What is made.


def test_prompts_by_seeds_are_as_by_hand(client, bundle):
    made = client.imagine(MODEL, ["red", "the left half"], 2, seed=7, format="raw", returns=["text"])
    assert [one.prompt for one in made] == [0, 0, 1, 1]
    assert made.seeds == [(7, 0), (7, 1)] * 2
    wanted = [*expected(bundle, "red", [(7, 0), (7, 1)]), *expected(bundle, "the left half", [(7, 0), (7, 1)])]
    np.testing.assert_array_equal(made.arrays(), wanted)
    assert not any(one.truncated for one in made)
    assert (made[0].tensors["text"] == made[1].tensors["text"]).all()
    assert (made[0].tensors["text"] != made[2].tensors["text"]).all()
    assert made.served.engines == ("onnxruntime", "onnxruntime")
    assert list(client.imagine_stream(MODEL, "red", seeds=[7, 9], format="raw"))[1].data == (
        expected(bundle, "red", [(9, 0)])[0].tobytes()
    )


def test_a_server_that_chooses_the_seed_tells_it(client, bundle):
    made = client.imagine(MODEL, "blue", 2, format="raw")
    again = expected(bundle, "blue", made.seeds)
    np.testing.assert_array_equal(made.arrays(), again)


def test_spelling_that_unicode_calls_equal_is_equal(client):
    composed, spaced = unicodedata.normalize("NFC", "café red"), "  cafe\u0301\n red\t"
    one, other = client.imagine(MODEL, [composed, spaced], seed=1, format="raw").data
    assert one == other


def test_what_the_model_does_not_read_is_cut_and_told_or_refused(client, bundle):
    long = " ".join(["red"] * 40)
    made = client.imagine(MODEL, ["red", long], seed=1, format="raw")
    assert [one.truncated for one in made] == [False, True]
    np.testing.assert_array_equal(made.arrays()[1:], expected(bundle, long, [(1, 0)]))
    with pytest.raises(InvalidArgument, match=r"prompts\[1\]: has more than 32 tokens"):
        client.imagine(MODEL, ["red", long], seed=1, whole=True)


async def test_the_client_that_awaits_makes_the_same(client, bundle):
    async with AsyncClient(client.address) as other:
        (one,) = await other.imagine(MODEL, "green", seed=3, format="raw")
        (two,) = [image async for image in other.imagine_stream(MODEL, "green", seed=3, format="raw")]
    assert one.data == two.data == expected(bundle, "green", [(3, 0)])[0].tobytes()


# Between prompts, and between seeds.


def test_a_walk_from_prompt_to_prompt_keeps_its_seed(client, bundle):
    keys = [Point(prompt="red"), Point(prompt="the left half")]
    frames = list(client.interpolate(MODEL, keys, 2, latent="text", seed=5, format="raw", returns=["text"]))
    ends = [expected(bundle, key.prompt, [(5, 0)])[0].tobytes() for key in keys]
    assert [frames[0].data, frames[2].data] == ends
    middle = (frames[0].tensors["text"] + frames[2].tensors["text"]) / 2
    np.testing.assert_allclose(frames[1].tensors["text"], middle, rtol=1e-6)


def test_a_walk_from_seed_to_seed_keeps_its_prompt(client, bundle):
    frames = list(client.interpolate(MODEL, [1, 2], 1, latent="z", prompt="red", format="raw"))
    ends = [expected(bundle, "red", [(seed, 0)])[0].tobytes() for seed in (1, 2)]
    assert [one.data for one in frames] == ends
    with pytest.raises(InvalidArgument, match=r"making\.prompt: has the control character"):
        list(client.interpolate(MODEL, [1, 2], 1, latent="z", prompt="r\x00d"))
    with pytest.raises(InvalidArgument, match=r"keys\[1\]\.prompt: is empty"):
        list(client.interpolate(MODEL, [Point(prompt="red"), Point(prompt=" ")], 1, latent="text", seed=1))
    with pytest.raises(PermissionDenied, match=r"keys\[1\]\.prompt"):
        list(client.interpolate(MODEL, [Point(prompt="red"), Point(prompt="bad word")], 1, latent="text", seed=1))


# What is refused.


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "prompts: empty"),
        (["red", ""], {}, r"prompts\[1\]: is empty"),
        ([" \n\t"], {}, r"prompts\[0\]: is empty"),
        (["a\x07b"], {}, r"prompts\[0\]: has the control character U\+0007"),
        (["x" * 201], {}, r"prompts\[0\]: has 201 characters; expected at most 200"),
        (["red"], {"numbers": {"psi": 1.0}}, r"numbers\[psi\]: not used"),
        (["red"], {"numbers": {"prompt": 1.0}}, r"numbers\[prompt\]: prompt has a field of its own"),
        (["red"], {"truncation": -1.0, "seed": 1}, "truncation"),
        (["red"], {"seed": 1, "seeds": [2]}, "seeds: seed and seeds exclude"),
        (["red"], {"n": 3, "seeds": [2]}, "seeds: 1 seeds for 3 pictures"),
        (["red"], {"first_index": 4}, "first_index"),
        (["red"], {"seed": 1, "n": 2, "first_index": 2**64 - 1}, "first_index"),
        (["red"], {"n": 5000}, "count: 5000 pictures of 1 prompts"),
        (["red"] * 3, {"tensors": {"z": np.zeros((2, SIZE), np.float32)}}, r"tensors\[z\]: 2 rows; expected 1 or 3"),
        (["red"], {"seed": 1, "tensors": {"z": np.zeros((1, SIZE), np.float32)}}, "seed: not used"),
        (["red"], {"format": "jpeg", "quality": 101}, "output.quality"),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_field(client, prompts, options, message):
    with pytest.raises(InvalidArgument, match=message):
        client.imagine(MODEL, prompts, **options)


def test_a_prompt_that_no_message_can_hold_is_refused_by_the_client(client):
    with pytest.raises(InvalidArgument, match=r"prompts\[0\]: is no text in Unicode"):
        client.imagine(MODEL, "\ud800")


def test_bytes_that_are_no_utf8_are_refused(client):
    with grpc.insecure_channel(client.address) as channel:
        call = channel.unary_unary("/ganserve.v1.Text/TextToImage", lambda data: data, lambda data: data)
        with pytest.raises(grpc.RpcError) as error:
            call(b"\x0a\x09echo-text\x22\x02\xff\xfe")
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_way_with_long_prompts_is_refused(client):
    with grpc.insecure_channel(client.address) as channel:
        request = text_pb2.TextToImageRequest(model=MODEL, prompts=["red"], long_prompt=7)
        with pytest.raises(grpc.RpcError, match="long_prompt: 7 is unknown"):
            text_pb2_grpc.TextStub(channel).TextToImage(request)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=80))
def test_any_text_is_answered_or_refused_by_its_field(client, text):
    if normalized(text) and all(unicodedata.category(one) != "Cc" or one in "\t\n\r" for one in text):
        assert len(client.imagine(MODEL, text, seed=1, format="raw")[0].data) == SIZE * SIZE * 3
        return
    with pytest.raises(InvalidArgument) as told:
        client.imagine(MODEL, text, seed=1)
    assert [one.field for one in told.value.violations] == ["prompts[0]"]


# By the Open Inference Protocol.


def test_triton_clients_ask_by_prompt_and_meet_the_same_policies(client, bundle):
    triton = pytest.importorskip("tritonclient.grpc")
    utils = pytest.importorskip("tritonclient.utils")

    def infer(prompt):
        given = [triton.InferInput("prompt", [1, 1], "BYTES"), triton.InferInput("seed", [2], "UINT64")]
        given[0].set_data_from_numpy(np.array([[prompt]], object))
        given[1].set_data_from_numpy(np.array([7, 8], np.uint64))
        with triton.InferenceServerClient(client.address) as other:
            return other.infer(MODEL, given).as_numpy("image")

    np.testing.assert_array_equal(infer(b"the left half"), expected(bundle, "the left half", [(7, 0), (8, 0)]))
    for prompt, message in (
        (b"bad word", r"inputs\[prompt\]\[0\]: refused by the policy"),
        (b"\xff", "is no UTF-8; expected prompts"),
        (b" ", r"inputs\[prompt\]\[0\]: is empty"),
        (b"red " * 40, "has more than 32 tokens"),
    ):
        with pytest.raises(utils.InferenceServerException, match=message):
            infer(prompt)


# Policies and logs.


@pytest.mark.parametrize("prompt", ["a BAD  word", "bad, word!", "the STRASSE", "ｂａｄ word"])
def test_a_blocked_phrase_is_refused(client, prompt):
    with pytest.raises(
        PermissionDenied, match=r"prompts\[1\]: refused by the policy block-list=.*: it has words"
    ) as told:
        client.imagine(MODEL, ["red", prompt])
    assert prompt not in str(told.value)
    assert client.imagine(MODEL, "not badword, nor bad sword")[0].data


def test_prompts_are_logged_only_when_asked_for(bundle, caplog):
    caplog.set_level(logging.DEBUG)
    for asked in (False, True):
        caplog.clear()
        with serving(bundle, log_prompts=asked) as server, Client(server.address) as client:
            client.imagine(MODEL, "a quiet secret", seed=1)
            with pytest.raises(InvalidArgument):
                client.imagine(MODEL, "a quiet secret \x00")
            with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as reply:
                assert b"secret" not in reply.read()
        assert ("a quiet secret" in caplog.text) is asked


def test_a_prompt_beyond_the_servers_limit_is_refused(bundle):
    with serving(bundle, max_prompt_characters=20) as server, Client(server.address) as client:
        assert client.imagine(MODEL, "x" * 20, seed=1)[0].data
        with pytest.raises(InvalidArgument, match=r"prompts\[1\]: has 21 characters; this server takes at most 20"):
            client.imagine(MODEL, ["red", "x" * 21], seed=1)

"""What callers send is in no line of the log, whatever fails, however much the failure says, and by whichever protocol it was sent."""

import base64
import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ganserve import Client
from ganserve.client import Point
from ganserve.errors import EngineError, InternalError, InvalidArgument, PermissionDenied
from ganserve.serving.prompts import PolicyChoice
from ganserve.serving.untold import named, untold
from ganserve.testing.echo import write_bundle
from ganserve.testing.echo_inversion import write_inversion_bundle
from ganserve.testing.echo_text import write_text_bundle
from ganserve.testing.server import Serving, serving

pytest.importorskip("tokenizers")

PROMPT = "a mauve walrus 7319"
PIXELS = np.random.default_rng(5).integers(0, 256, (16, 16, 3), np.uint8)
LATENT = np.array([[0.7319731, -0.4217421, 0.2839283, -0.9173917], [0.1, 0.2, 0.3, 0.4]], np.float32)
MARK = "what I was given:"
"""Each failure of the tests says so, and then what it was given."""


def png(pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


PICTURE = png(PIXELS)


def written(data: bytes) -> Iterator[str]:
    """A part of ``data`` in the ways in which a log could have it."""
    part = data[len(data) // 3 : len(data) // 3 + 8]
    yield from (
        part.decode("latin-1"),
        repr(part)[2:-1],
        part.hex(),
        part.hex(" "),
        base64.b64encode(data).decode()[12:24],
    )
    yield from (", ".join(map(str, part)), " ".join(map(str, part)))


SECRETS = (
    "mauve",
    "walrus",
    *(form for data in (PROMPT.encode(), PIXELS.tobytes(), PICTURE, LATENT.tobytes()) for form in written(data)),
    *(str(number)[1:7] for number in np.abs(LATENT[0])),
)


def talk(*given: object) -> NoReturn:
    """Fail as the most talkative of libraries."""
    said = f"{MARK} {given!r}"
    error = ValueError(said)
    error.add_note(said)
    raise error from KeyError(said)


def tensor(name: str, value: np.ndarray) -> triton.InferInput:
    made = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
    made.set_data_from_numpy(value)
    return made


def infer(server: Serving, model: str, task: str, **given: np.ndarray) -> None:
    """The same request twice: alone, and on a stream."""
    inputs, parameters = [tensor(name, value) for name, value in given.items()], {"task": task}
    answers: list[Any] = []
    with triton.InferenceServerClient(server.address) as client:
        try:
            client.infer(model, inputs, parameters=parameters)
        finally:
            client.start_stream(lambda result, error: answers.append(error))
            client.async_stream_infer(model, inputs, parameters=parameters)
            client.stop_stream()
    (error,) = answers
    assert error is None


CALLS: Mapping[str, Callable[[Serving, Client], object]] = {
    "text": lambda _, client: client.imagine("echo-text", PROMPT, seed=1, format="png"),
    "text stream": lambda _, client: list(client.imagine_stream("echo-text", PROMPT, seed=1, format="png")),
    "text walk": lambda _, client: list(
        client.interpolate("echo-text", [Point(prompt=PROMPT)] * 2, 2, latent="text", seed=1, format="png")
    ),
    "text by OIP": lambda server, _: infer(server, "echo-text", "imagine", prompt=np.array([[PROMPT]], object)),
    "picture": lambda _, client: client.translate("echo", PICTURE, task="negative", format="png"),
    "picture stream": lambda _, client: list(
        client.translate_stream("echo", [PICTURE, PIXELS], task="negative", format="png")
    ),
    "picture inverted": lambda _, client: list(
        client.invert_stream("echo-inversion", PICTURE, steps=2, start="average")
    ),
    "picture by OIP": lambda server, _: infer(server, "echo", "negative", image=PIXELS[None]),
    "picture inverted by OIP": lambda server, _: infer(
        server, "echo-inversion", "invert", image=PIXELS[None], steps=np.array([2])
    ),
    "latent": lambda _, client: client.sample("echo", task="sample", tensors={"w": LATENT}, format="png"),
    "latent stream": lambda _, client: list(
        client.sample_stream("echo", task="sample", tensors={"w": LATENT}, format="png")
    ),
    "latent by OIP": lambda server, _: infer(server, "echo", "sample", w=LATENT),
}

PLACES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "policy": ("ganserve.prompts.BlockList.__call__", ("text",)),
    "tokens": ("ganserve.codecs.tokens.TokensDecoder.decode", ("text",)),
    "picture": ("ganserve.codecs.picture.ImageDecoder.picture", ("picture",)),
    "engine": ("ganserve.engines.onnxruntime.OnnxRuntimeSession.run", ("text", "picture", "latent")),
    "encoder": ("ganserve.codecs.image.ImageEncoder.encode", ("text", "picture", "latent")),
    "request": ("ganserve.serving.front.Front._admit", ("text", "picture", "latent")),
}
"""What fails, and in the calls whose names begin in which way."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder: Path = tmp_path_factory.mktemp("content")
    (folder / "words.txt").write_text("nothing of the kind\n")
    bundles = (
        write_text_bundle(folder / "text"),
        write_bundle(folder / "echo"),
        write_inversion_bundle(folder / "inversion"),
    )
    policy = PolicyChoice("block-list", str(folder / "words.txt"))
    with serving(*bundles, log_calls="all", prompt_policy=(policy,)) as found:
        yield found


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What was logged at any level so far, and what was written past Python's log."""
    caplog.set_level(logging.DEBUG)
    return lambda: caplog.text + "".join(capfd.readouterr())


def assert_untold(text: str) -> None:
    assert [secret for secret in (MARK, *SECRETS) if secret in text] == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_that_a_caller_sent_is_logged_when_something_fails(
    server: Serving, log: Callable[[], str], monkeypatch: pytest.MonkeyPatch, place: str, call: str
) -> None:
    target, hits = PLACES[place]
    monkeypatch.setattr(target, talk)
    fails = contextlib.nullcontext()
    if call.startswith(hits):
        fails = pytest.raises((InternalError, InferenceServerException), match="internal error")
    with Client(server.address) as client, fails:
        CALLS[call](server, client)
    text = log()
    assert ("Traceback" in text) is call.startswith(hits)
    batched = "a batch of 2 rows raised ValueError: running" in text
    # Pictures of a stream are decoded one after the other: they meet in a batch, or they do not.
    if not (place == "engine" and call.startswith("picture")):
        assert batched is (place == "engine" and call.startswith("latent"))
    assert_untold(text)


@pytest.mark.parametrize("call", CALLS)
def test_nothing_that_a_caller_sent_is_logged_when_it_is_served_or_refused(
    server: Serving, log: Callable[[], str], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*given: object) -> NoReturn:
        raise PermissionDenied(f"{MARK} {given!r}")

    with Client(server.address) as client:
        CALLS[call](server, client)
        monkeypatch.setattr("ganserve.serving.front.Front._admit", refuse)
        with pytest.raises((PermissionDenied, InferenceServerException), match=MARK):
            CALLS[call](server, client)
    text = log()
    assert "code=OK" in text
    assert "code=PERMISSION_DENIED" in text
    assert_untold(text)


def test_a_failure_is_told_with_its_causes_and_places_and_what_is_ganserve_s_own(
    log: Callable[[], str],
) -> None:
    try:
        try:
            try:
                talk(PROMPT)
            except ValueError as error:
                raise OSError(28, "No space left on device", PROMPT) from error
        except OSError:
            raise InvalidArgument.of("prompts[0]", PROMPT)  # noqa: B904
    except InvalidArgument as error:
        failure = EngineError("the graph 'mapping' failed")
        failure.__cause__ = error
    logging.getLogger("test").error("it failed", exc_info=untold(failure))
    text = log()
    assert_untold(text)
    kinds = [line for line in text.splitlines() if line.startswith(("KeyError", "ValueError", "OSError", "ganserve."))]
    assert kinds == [
        "KeyError",
        "ValueError",
        "OSError: No space left on device",
        "ganserve.errors.InvalidArgument",
        "ganserve.errors.EngineError: the graph 'mapping' failed",
    ]
    assert text.count("in talk\n") == 1
    assert [named(one) for one in (failure, KeyError(PROMPT), MemoryError("7 GiB"))] == [
        "EngineError: the graph 'mapping' failed",
        "KeyError",
        "MemoryError: 7 GiB",
    ]


def test_a_failure_that_is_its_own_cause_is_told(log: Callable[[], str]) -> None:
    failure = ValueError(PROMPT)
    failure.__cause__ = failure
    logging.getLogger("test").error("it failed", exc_info=untold(failure))
    assert_untold(log())

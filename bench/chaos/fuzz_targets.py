"""What is fuzzed: seeds, and a function that says what came of an input. Whatever it raises is a find."""

import functools
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from bench.chaos.fuzz_seeds import inferences, requests
from bench.chaos.mutation import Target
from ganserve import bundle
from ganserve.codecs import PictureLimits
from ganserve.errors import InvalidArgument, RequestError
from ganserve.inference import messages as oip
from ganserve.metrics import Metrics
from ganserve.plugins import installed
from ganserve.serving.call import Call, Workers
from ganserve.serving.compose import Composition
from ganserve.serving.inversion import UNBOUND, Search
from ganserve.serving.model import Model, Settings, load_model
from ganserve.serving.oip import Run
from ganserve.serving.oip_parameters import check_parameters
from ganserve.serving.oip_ports import task_of
from ganserve.serving.service_latents import KINDS
from ganserve.serving.told import told_by
from ganserve.serving.wire import ask_of, sample_field
from ganserve.serving.wire_invert import ask_of_invert, invert_field
from ganserve.serving.wire_latents import combined, making_field, mixed, walked
from ganserve.serving.wire_oip import parameters_of
from ganserve.serving.wire_oip import wish_of as oip_wish_of
from ganserve.serving.wire_text import field_of, wish_of
from ganserve.serving.wire_translate import ask_of_translate, translate_field
from ganserve.testing.echo import write_bundle
from ganserve.testing.echo_inversion import write_inversion_bundle
from ganserve.testing.echo_style import write_style_bundle
from ganserve.testing.echo_text import write_text_bundle
from ganserve.v1 import generation_pb2, inversion_pb2, latents_pb2, text_pb2

MOST_ROWS = 64


class NobodyRuns:
    """In the place of an executor: what is fuzzed ends before anything is run."""

    clock = staticmethod(time.monotonic)


def refusal(error: RequestError) -> str:
    """A refusal in a few words, without what was in the request."""
    if isinstance(error, InvalidArgument):
        if not all(one.field and one.description for one in error.violations):
            raise AssertionError(f"a refusal that names no field: {error}") from error
        field, text = error.violations[0]
        words = [word for word in text.split()[:9] if re.fullmatch("[a-z,;]+", word)]
        return " ".join(["refused", re.sub(r"\[.*", "", field, flags=re.DOTALL)[:20], *words[:4]])
    return f"refused {error.code}"


class Messages:
    """Requests of ganserve.v1, the first byte saying of which rpc: parsed, checked and decoded as the services do it."""

    def __init__(self, folder: Path) -> None:
        writers = (write_bundle, write_inversion_bundle, write_style_bundle, write_text_bundle)
        folders = [write(folder / str(number)) for number, write in enumerate(writers)]
        self.models = [load_model(bundle.read(one), installed(), Settings(threads=1)) for one in folders]
        self.workers = Workers(NobodyRuns(), None, Metrics(), PictureLimits())  # type: ignore[arg-type]
        echo, inversion, style, text = self.models
        self.rpcs: list[tuple[type[Any], Model, Callable[[Any, Model], object]]] = [
            (generation_pb2.SampleRequest, echo, self._sample),
            (generation_pb2.SampleRequest, style, self._sample),
            (generation_pb2.TranslateRequest, echo, self._translate),
            (inversion_pb2.InvertRequest, inversion, self._invert),
            (latents_pb2.InterpolateRequest, style, functools.partial(self._compose, walked)),
            (latents_pb2.MixRequest, style, functools.partial(self._compose, mixed)),
            (latents_pb2.CombineRequest, style, functools.partial(self._compose, combined)),
            (text_pb2.TextToImageRequest, text, self._text),
        ]

    def target(self) -> Target:
        """The target."""
        return Target(
            [bytes([number]) + one.SerializeToString(deterministic=True) for number, one in requests()], self.judge, 1
        )

    def judge(self, data: bytes) -> str:
        """What comes of ``data``."""
        if not data:
            return "empty"
        kind, model, check = self.rpcs[data[0] % len(self.rpcs)]
        try:
            request = kind.FromString(data[1:])
            check(request, model)
        except DecodeError:
            return "no message"
        except RequestError as error:
            return f"{kind.__name__} {refusal(error)}"
        return f"{kind.__name__} taken"

    def _sample(self, request: Any, model: Model) -> None:
        ask = ask_of(request, model, model.task(request.task, "sample"), MOST_ROWS)
        with told_by(sample_field):
            self._decoded(Call(ask, self.workers))

    def _translate(self, request: Any, model: Model) -> None:
        task = model.task(request.task, "translate")
        ask = ask_of_translate(request, request.images, model, task)
        with told_by(translate_field(task)):
            Call(ask, self.workers)

    def _invert(self, request: Any, model: Model) -> None:
        ask = ask_of_invert(request, model, model.task(request.task, "invert"), MOST_ROWS)
        with told_by(invert_field):
            Search(ask, self.workers)

    def _compose(self, read: Callable[..., Any], request: Any, model: Model) -> None:
        wish = read(request, model, model.task(request.task, *KINDS), MOST_ROWS)
        Composition(wish.ask, wish.latent, wish.sources, wish.compose, making_field, self.workers).decode()

    def _text(self, request: Any, model: Model) -> None:
        wish = wish_of(request, model, model.task(request.task, "text_to_image"), MOST_ROWS)
        with told_by(field_of(wish)):
            self._decoded(Call(wish.ask, self.workers))

    def _decoded(self, call: Call) -> None:
        call.most_reply_bytes()
        call.decode()


class Inference:
    """Requests of the Open Inference Protocol."""

    def __init__(self, folder: Path) -> None:
        self.messages = Messages(folder)
        self.models = {model.name: model for model in self.messages.models}

    def target(self) -> Target:
        """The target."""
        return Target([one.SerializeToString(deterministic=True) for one in inferences()], self.judge, 0)

    def judge(self, data: bytes) -> str:
        """What comes of ``data``."""
        try:
            request = oip.ModelInferRequest.FromString(data)
            parameters = parameters_of(request)
            model = self.models.get(request.model_name, self.messages.models[0])
            task = task_of(model, parameters.task)
            check_parameters(parameters, task, streaming=False)
            wish = oip_wish_of(request, parameters, model, task, MOST_ROWS)
            if not 1 <= wish.rows <= MOST_ROWS:
                raise AssertionError(f"{wish.rows} rows")
            Run(wish, self.messages.workers, UNBOUND)
        except DecodeError:
            return "no message"
        except RequestError as error:
            return refusal(error)
        return "taken"


def target(name: str, folder: Path) -> Target:
    """The target of this ``name``; ``folder`` is for its files."""
    from bench.chaos.fuzz_files import Bundles, Caches
    from bench.chaos.fuzz_pictures import Pictures

    kinds: dict[str, Callable[[Path], Any]] = {
        "messages": Messages,
        "inference": Inference,
        "caches": Caches,
        "bundles": Bundles,
        "pictures": Pictures,
    }
    found: Target = kinds[name](folder).target()
    return found


def quick_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder in memory, where there is one."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)

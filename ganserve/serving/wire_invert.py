"""Messages of Invert ↔ the values of :mod:`ganserve.serving.inversion`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ganserve.errors import InvalidArgument, Violation
from ganserve.serving.call import SEED
from ganserve.serving.inversion import PICTURE, SAMPLES, Found, InvertAsk, Search, Start
from ganserve.serving.lookout import Progress
from ganserve.serving.model import Model
from ganserve.serving.task import LoadedTask
from ganserve.serving.wire import OUTPUT_FIELDS, array_of, encode_of, fill_media, fill_served, fill_tensor, label_of
from ganserve.serving.wire_translate import background_of, given_of, size_of
from ganserve.v1 import inversion_pb2 as pb

_STARTS: Mapping[pb.Start, Start | None] = {
    pb.START_UNSPECIFIED: None,
    pb.START_AVERAGE: "average",
    pb.START_SAMPLES: "samples",
    pb.START_ENCODER: "encoder",
    pb.START_GIVEN: "given",
}
_START_NUMBERS: Mapping[Start | None, pb.Start] = {start: number for number, start in _STARTS.items()}

_STEPS = "steps"

_OWN = {name: name for name in (PICTURE, SEED, "label", _STEPS, "start", "latent", "samples")} | OUTPUT_FIELDS
"""The fields of an InvertRequest, by what the inside calls them; numbers of other names travel in ``numbers``."""


def ask_of_invert(request: pb.InvertRequest, model: Model, task: LoadedTask, max_rows: int) -> InvertAsk:
    """The request as an :class:`InvertAsk`; :class:`InvalidArgument` lists every field that is wrong in form."""
    wrong: list[Violation] = []
    start = _start(request, wrong)
    values = _values(request, wrong)
    samples = _samples(request, max_rows, wrong)
    _check_progress(request, wrong)
    seconds, encode = _seconds(request, wrong), encode_of(request.output, task, wrong)
    latent = _latent(request, task, wrong) if request.HasField("latent") else None
    if wrong:
        raise InvalidArgument(wrong)
    return InvertAsk(
        model=model,
        task=task,
        rows=1,
        values=values,
        tensors={},
        encode=encode,
        start=start,
        samples=samples,
        latent=latent,
        seconds=seconds,
        every=request.progress_every,
        previews=request.previews,
        latents=request.progress_latents,
    )


def invert_field(name: str) -> str:
    """The field of an InvertRequest for ``name``: a value with or without its row, such as ``label[3]``, or ``images[image]``."""
    base = name.partition("[")[0]
    return PICTURE if base == "images" else _OWN.get(base, f"numbers[{base}]")


def response_of(said: Progress | Found, search: Search, model: Model) -> pb.InvertResponse:
    """What a search says, as a message."""
    response = pb.InvertResponse()
    if isinstance(said, Progress):
        _fill_progress(response.progress, said)
    else:
        _fill_result(response.result, said, search)
        fill_served(response.result.served, model, search)
    return response


def _fill_progress(message: pb.InvertProgress, said: Progress) -> None:
    message.step, message.steps = said.step, said.steps
    message.loss, message.seconds = said.loss, said.seconds
    if said.preview is not None:
        fill_media(message.preview, said.preview)
    if said.latent is not None:
        fill_tensor(message.latent, said.latent)


def _fill_result(message: pb.InvertResult, said: Found, search: Search) -> None:
    frame, pair, quality = search.frame, search.pair, said.quality
    assert frame is not None, "what was found was compared with the picture"
    fill_tensor(message.latents[search.latent], said.latent)
    fill_media(message.reconstruction, said.media)
    message.quality.CopyFrom(
        pb.Quality(psnr=quality.psnr, ssim=quality.ssim, ms_ssim=quality.ms_ssim, perceptual=said.perceptual)
    )
    message.loss, message.steps, message.stopped_early = said.loss, search.steps, search.stopped_early
    message.start = _START_NUMBERS[search.start]
    if pair is not None:
        message.seed.seed, message.seed.index = pair
    (message.image.width, message.image.height), message.image.pictures = frame.sent, frame.pictures


def _start(request: pb.InvertRequest, wrong: list[Violation]) -> Start | None:
    if request.start not in _STARTS:
        wrong.append(Violation("start", f"{request.start} is unknown; expected 0 to {max(_STARTS)}"))
    return _STARTS.get(request.start)


def _values(request: pb.InvertRequest, wrong: list[Violation]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if request.HasField(PICTURE):
        fit = {"size": size_of(request, wrong), "background": background_of(request, wrong)}
        values[PICTURE] = [given_of(PICTURE, request.image, fit, wrong)]
    else:
        wrong.append(Violation(PICTURE, "missing; give the picture whose latent is sought"))
    if request.HasField(SEED):
        values[SEED] = np.array([(request.seed, 0)], np.uint64)
    if request.HasField("label"):
        values["label"] = [label_of(request.label, "label", wrong)]
    if request.steps < 0:
        wrong.append(Violation(_STEPS, f"{request.steps}; expected 1 or more, or 0 for the task's default"))
    elif request.steps:
        values[_STEPS] = [request.steps]
    for name, number in request.numbers.items():
        if name in _OWN:
            wrong.append(Violation(f"numbers[{name}]", f"{name} has a field of its own"))
        else:
            values[name] = [number]
    return values


def _samples(request: pb.InvertRequest, most: int, wrong: list[Violation]) -> int | None:
    if not 0 <= request.samples <= most:
        wrong.append(Violation("samples", f"{request.samples}; expected 1 to {most}, or 0 for {SAMPLES}"))
    return request.samples or None


def _check_progress(request: pb.InvertRequest, wrong: list[Violation]) -> None:
    if request.progress_every < 0:
        wrong.append(Violation("progress_every", f"{request.progress_every}; expected 1 or more, or 0 for none"))
    if not request.progress_every:
        for field in ("previews", "progress_latents"):
            if getattr(request, field):
                wrong.append(
                    Violation(field, "not used: progress_every is 0, so that there is no progress to carry it")
                )


def _seconds(request: pb.InvertRequest, wrong: list[Violation]) -> float:
    if not 0 <= request.seconds < math.inf:
        wrong.append(Violation("seconds", f"{request.seconds}; expected a finite number above 0, or 0 for no bound"))
    return request.seconds or math.inf


def _latent(request: pb.InvertRequest, task: LoadedTask, wrong: list[Violation]) -> np.ndarray | None:
    inversion = task.task.inversion
    assert inversion is not None, "a task of kind invert has one"
    found = array_of(request.latent, task.tensors[inversion.latent], ())
    if isinstance(found, str):
        wrong.append(Violation("latent", found))
        return None
    return found

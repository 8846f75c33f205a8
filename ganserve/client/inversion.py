"""Inversions: what a caller asks for, as a message, and what the server answers on the way and at the end."""

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypedDict

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from ganserve.client.enums import choices, name_of
from ganserve.client.media import Media, media_fields
from ganserve.client.pictures import AnyPicture, image_message
from ganserve.client.request import Label, integer, label_message, output_options
from ganserve.client.samples import Served, served_of
from ganserve.client.tensors import AnyArray, array_of, tensor_message
from ganserve.client.translation import ReadImage, color_message, read_image_of, size_policy
from ganserve.errors import InvalidArgument
from ganserve.v1 import inversion_pb2

STARTS = choices("START_", inversion_pb2.Start)
"""Where a search may start, by name: average, samples, encoder, given."""

EVERY = 10
"""Steps between two calls of a ``progress`` function, unless ``progress_every`` says otherwise."""


class InvertOptions(TypedDict, total=False):
    """The options of ``invert`` and ``invert_stream``; all may be left out."""

    start: str | None
    """``encoder``: what the model's encoder makes of the picture. ``samples``: the best of several. ``average``: the mean latent.
    ``given``: ``latent``. By default given where there is one, else the first of encoder, samples and average that the task has."""
    latent: ArrayLike | None
    """Where to start, without a row axis: such as ``latent`` of an earlier progress or result."""
    samples: int | None
    """How many samples are tried; 16 by default."""
    seed: int | None
    """What they are drawn from. Without it the server chooses one and tells it."""
    steps: int | None
    """Steps of the search; by default the task's own number."""
    seconds: float | None
    """After about so many seconds the search ends with the best so far, as it does shortly before the timeout."""
    label: Label | None
    """The class, by index or name."""
    numbers: Mapping[str, float]
    """Other values that the task reads: rate ..."""
    size: str | None
    """How the picture meets the model's size: ``exact``, ``resize`` or ``letterbox``; by default resize."""
    background: tuple[int, int, int]
    """The colour behind what is transparent, and beside a letterboxed picture; white by default."""
    progress_every: int | None
    """Progress is told every so many steps. A reader that is slow gets the newest."""
    previews: bool
    """Progress carries the picture of the moment."""
    progress_latents: bool
    """Progress carries the best latent so far, from which another search can go on."""
    task: str | None
    """The task; needed only where a model has several of the kind."""
    version: int | None
    """The model's version; the latest by default."""
    format: str | None
    """How pictures are encoded: png (the default), jpeg, webp, raw, npy or npy-float."""
    quality: int | None
    """1 to 100, for jpeg and webp."""


class InvertProgress(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """How far a search is: ``step`` of ``steps`` are done."""

    step: int
    steps: int
    loss: float
    """Of the picture of the moment."""
    seconds: float
    """Since the request came."""
    preview: Media | None = None
    """The picture of the moment, if asked for."""
    latent: AnyArray | None = None
    """The best so far, without a row axis, if asked for."""


Progress: TypeAlias = Callable[[InvertProgress], object]
"""What a caller hears of progress with."""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How near two pictures are."""

    psnr: float
    """Peak signal-to-noise ratio in dB; infinity where they are equal."""
    ssim: float | None
    """Structural similarity (Wang et al., 2004), at most 1; None below 11 pixels a side."""
    ms_ssim: float | None
    """Multi-scale structural similarity, at most 1; None below 176 pixels a side."""
    perceptual: float | None
    """The distance of their perceptual features; None where the model has none."""


class Inversion(Media, frozen=True, kw_only=True, eq=False):
    """What a search found. Its ``data``, ``image()`` and ``array()`` are the reconstruction: what the model makes of the latent."""

    latents: Mapping[str, AnyArray]
    """The latent by its name among the model's tensors, without a row axis."""
    quality: Quality
    """How near the reconstruction is to the picture as the model saw it."""
    loss: float
    """Of the latent."""
    steps: int
    """Those done."""
    stopped_early: bool
    """Whether its time ended the search before its steps were done."""
    start: str
    """Where it started: average, samples, encoder or given."""
    seed: int | None
    index: int | None
    """What the start was drawn from; None if nothing was."""
    read: ReadImage
    """What the server read of the picture."""
    served: Served

    @property
    def latent(self) -> AnyArray:
        """The latent."""
        (latent,) = self.latents.values()
        return latent

    @property
    def tensors(self) -> dict[str, AnyArray]:
        """The latent as ``sample`` takes it: one row, by its name."""
        return {name: latent[np.newaxis] for name, latent in self.latents.items()}


def invert_request(
    model: str,
    image: AnyPicture,
    *,
    start: str | None = None,
    latent: ArrayLike | None = None,
    samples: int | None = None,
    seed: int | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    label: Label | None = None,
    numbers: Mapping[str, float] | None = None,
    size: str | None = None,
    background: tuple[int, int, int] | None = None,
    progress_every: int | None = None,
    previews: bool = False,
    progress_latents: bool = False,
    task: str | None = None,
    version: int | None = None,
    format: str | None = None,  # noqa: A002 - the word for it
    quality: int | None = None,
) -> inversion_pb2.InvertRequest:
    """The message. Raises :class:`InvalidArgument` for what no message can hold; the server judges the rest."""
    request = inversion_pb2.InvertRequest(
        model=model,
        version=integer("version", version or 0),
        task=task or "",
        image=image_message("image", image),
        size=size_policy(size),
        start=_start(start, latent),
        samples=integer("samples", samples or 0, bits=32),
        steps=integer("steps", steps or 0, bits=32),
        seconds=seconds or 0.0,
        numbers=numbers,
        progress_every=integer("progress_every", progress_every or 0, bits=32),
        previews=previews,
        progress_latents=progress_latents,
        output=output_options(format, quality),
    )
    if latent is not None:
        request.latent.CopyFrom(tensor_message("latent", latent))
    if background is not None:
        request.background.CopyFrom(color_message(background))
    if seed is not None:
        request.seed = integer("seed", seed, signed=False)
    if label is not None:
        request.label.CopyFrom(label_message("label", label))
    return request


def heard(options: InvertOptions, progress: Progress | None) -> InvertOptions:
    """``options`` with progress told every :data:`EVERY` steps where somebody hears it and nothing else was said."""
    if progress is None or options.get("progress_every") is not None:
        return options
    return {**options, "progress_every": EVERY}


def invert_reply_of(response: inversion_pb2.InvertResponse) -> InvertProgress | Inversion:
    """What a message of the stream tells."""
    if response.HasField("result"):
        return _inversion(response.result)
    said = response.progress
    return InvertProgress(
        step=said.step,
        steps=said.steps,
        loss=said.loss,
        seconds=said.seconds,
        preview=Media(**media_fields(said.preview)) if said.HasField("preview") else None,
        latent=array_of(said.latent) if said.HasField("latent") else None,
    )


def _inversion(result: inversion_pb2.InvertResult) -> Inversion:
    told, drawn = result.quality, result.seed if result.HasField("seed") else None
    return Inversion(
        **media_fields(result.reconstruction),
        latents={name: array_of(latent) for name, latent in result.latents.items()},
        quality=Quality(
            psnr=told.psnr,
            ssim=told.ssim if told.HasField("ssim") else None,
            ms_ssim=told.ms_ssim if told.HasField("ms_ssim") else None,
            perceptual=told.perceptual if told.HasField("perceptual") else None,
        ),
        loss=result.loss,
        steps=result.steps,
        stopped_early=result.stopped_early,
        start=name_of("START_", inversion_pb2.Start, result.start),
        seed=drawn.seed if drawn else None,
        index=drawn.index if drawn else None,
        read=read_image_of(result.image),
        served=served_of(result.served),
    )


def _start(name: str | None, latent: ArrayLike | None) -> str:
    if name is None:
        return "START_UNSPECIFIED" if latent is None else STARTS["given"]
    if name not in STARTS:
        raise InvalidArgument.of("start", f"{name!r} is unknown; expected one of {', '.join(STARTS)}")
    return STARTS[name]

"""Pictures of prompts: what a caller asks for, as a message, and what the server answers."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from numpy.typing import ArrayLike

from ganserve.client.request import integer, output_options
from ganserve.client.samples import Sample, Samples, fields_of, served_of
from ganserve.client.tensors import tensor_message
from ganserve.errors import InvalidArgument
from ganserve.v1 import text_pb2


class ImagineOptions(TypedDict, total=False):
    """The options of ``imagine`` and ``imagine_stream``; all may be left out."""

    seed: int | None
    """Picture j of every prompt is drawn from (seed, first_index + j). Without it the server chooses one, and every picture tells it."""
    first_index: int
    """The index of the first picture of each prompt."""
    seeds: Sequence[int]
    """A seed for each picture of a prompt instead of ``seed``."""
    truncation: float | None
    """Truncation of the noise."""
    whole: bool
    """Refuse a prompt with more tokens than the model reads, instead of cutting it."""
    numbers: Mapping[str, float]
    """Other values that the task reads."""
    tensors: Mapping[str, ArrayLike]
    """Tensors given instead of computed, by the name that the task gives them: [1, ...] for all pictures, or one for each."""
    task: str | None
    """The task; needed only where a model has several."""
    version: int | None
    """The model's version; the latest by default."""
    format: str | None
    """How images are encoded: png (the default), jpeg, webp, raw, npy or npy-float."""
    quality: int | None
    """1 to 100, for jpeg and webp."""
    returns: Sequence[str]
    """Tensors of the task to return beside each picture (``text`` is a prompt's vector)."""


class Imagined(Sample, frozen=True, kw_only=True, eq=False):
    """A :class:`Sample` of a prompt."""

    prompt: int
    """The number of its prompt among those asked for."""
    truncated: bool
    """Whether the model read only the beginning of it."""


def imagine_request(
    model: str,
    prompts: str | Sequence[str],
    n: int | None,
    *,
    max_reply_bytes: int,
    seed: int | None = None,
    first_index: int = 0,
    seeds: Sequence[int] = (),
    truncation: float | None = None,
    whole: bool = False,
    numbers: Mapping[str, float] | None = None,
    tensors: Mapping[str, ArrayLike] | None = None,
    task: str | None = None,
    version: int | None = None,
    format: str | None = None,  # noqa: A002 - the word for it
    quality: int | None = None,
    returns: Sequence[str] = (),
) -> text_pb2.TextToImageRequest:
    """The message for ``n`` pictures of each prompt; without ``n`` one for each of ``seeds``, else one.

    Raises :class:`InvalidArgument` for what no message can hold; the server judges the rest.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    request = text_pb2.TextToImageRequest(
        model=model,
        version=integer("version", version or 0),
        task=task or "",
        prompts=[plain(f"prompts[{number}]", text) for number, text in enumerate(texts)],
        count=integer("count", n or 0, bits=32),
        long_prompt=text_pb2.LONG_PROMPT_REFUSE if whole else text_pb2.LONG_PROMPT_TRUNCATE,
        first_index=integer("first_index", first_index, signed=False),
        seeds=[integer(f"seeds[{row}]", one, signed=False) for row, one in enumerate(seeds)],
        truncation=truncation,
        numbers=numbers,
        tensors={name: tensor_message(f"tensors[{name}]", value) for name, value in (tensors or {}).items()},
        output=output_options(format, quality),
        return_tensors=returns,
        max_reply_bytes=max_reply_bytes,
    )
    if seed is not None:
        request.seed = integer("seed", seed, signed=False)
    return request


def plain(field: str, text: str) -> str:
    """``text``, which UTF-8 can hold; else :class:`InvalidArgument`, for no message can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument.of(field, f"is no text in Unicode: {error.reason} at {error.start}") from error
    return text


def imagined_of(response: text_pb2.TextToImageResponse) -> Samples:
    """The pictures of a unary reply, each an :class:`Imagined`."""
    served = served_of(response.served)
    rows = (
        Imagined(**fields_of(image), served=served, prompt=image.prompt, truncated=image.truncated)
        for image in response.images
    )
    return Samples(rows, served)


def streamed_imagined_of(response: text_pb2.TextToImageStreamResponse) -> Imagined:
    """The picture of one message of a stream."""
    image = response.image
    served = served_of(response.served)
    return Imagined(**fields_of(image), served=served, prompt=image.prompt, truncated=image.truncated)

"""Messages of TextToImage ↔ the values of :mod:`ganserve.serving.call`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np

from ganserve.codecs import GivenPrompt, PromptDecoder
from ganserve.codecs.tokens import VALUE
from ganserve.errors import InvalidArgument, Violation
from ganserve.serving.call import SEED, Ask, Call
from ganserve.serving.model import Model
from ganserve.serving.results import Result
from ganserve.serving.task import LoadedTask
from ganserve.serving.wire import OUTPUT_FIELDS, OWN_FIELDS, common_of, fill, filled, seeds_of
from ganserve.v1 import text_pb2 as pb

_LONG = {pb.LONG_PROMPT_UNSPECIFIED: False, pb.LONG_PROMPT_TRUNCATE: False, pb.LONG_PROMPT_REFUSE: True}
"""Whether a prompt must be read whole."""

Wrong = list[Violation]


class Wish(msgspec.Struct, frozen=True, eq=False):
    """A request of TextToImage, right in form: its ask, of whose rows ``each`` are of every prompt."""

    ask: Ask
    prompts: Sequence[GivenPrompt]
    each: int


def wish_of(request: pb.TextToImageRequest, model: Model, task: LoadedTask, most: int) -> Wish:
    """What ``request`` asks for; :class:`InvalidArgument` lists every field that is wrong in form, not only the first."""
    wrong: Wrong = []
    common = common_of(request, task, wrong)
    if request.long_prompt not in _LONG:
        wrong.append(Violation("long_prompt", f"{request.long_prompt} is unknown; expected 0 to {max(_LONG)}"))
    whole = _LONG.get(request.long_prompt, False)
    prompts = [GivenPrompt(text=text, whole=whole) for text in request.prompts]
    each = request.count or len(request.seeds) or 1
    rows = len(prompts) * each
    if not prompts:
        wrong.append(Violation("prompts", "empty; say what to show"))
    elif not 1 <= rows <= most:
        wrong.append(
            Violation("count", f"{each} pictures of {len(prompts)} prompts asked for; expected 1 to {most} in all")
        )
    elif bad := [name for name, array in common.tensors.items() if len(array) not in (1, rows)]:
        wrong += [
            Violation(f"tensors[{name}]", f"{len(common.tensors[name])} rows; expected 1 or {rows}") for name in bad
        ]
    seeds = seeds_of(request, each, "pictures of a prompt", wrong) if 1 <= rows <= most else None
    wrong += [
        Violation(f"numbers[{name}]", f"{name} has a field of its own")
        for name in request.numbers
        if name in OWN_FIELDS
    ]
    if wrong:
        raise InvalidArgument(wrong)
    values: dict[str, Any] = {VALUE: [prompt for prompt in prompts for _ in range(each)]}
    values |= {} if seeds is None else {SEED: np.tile(seeds, (len(prompts), 1))}
    values |= {"truncation": [request.truncation] * rows} if request.HasField("truncation") else {}
    values |= {name: [number] * rows for name, number in request.numbers.items()}
    ask = Ask(
        model=model,
        task=task,
        rows=rows,
        values=values,
        tensors={name: filled(array, rows) for name, array in common.tensors.items()},
        returns=common.returns,
        encode=common.encode,
    )
    return Wish(ask, prompts, each)


def text_field(each: int, name: str) -> str:
    """The field of a TextToImageRequest with ``each`` pictures a prompt for ``name``, a value with or without its row, or a tensor."""
    base, bracket, row = name.partition("[")
    if base == VALUE:
        return f"prompts[{int(row.rstrip(']')) // each}]" if bracket else "prompts"
    own = {"seed": "seed", "truncation": "truncation", **OUTPUT_FIELDS}
    return name if base == "tensors" else own.get(base, f"numbers[{base}]")


def field_of(wish: Wish) -> Callable[[str], str]:
    """:func:`text_field` for ``wish``."""
    return partial(text_field, wish.each)


def cuts_of(wish: Wish) -> Sequence[bool]:
    """Whether each prompt of ``wish``, all of which have been decoded, is cut."""
    decoders = [one for one in wish.ask.task.decoders.values() if isinstance(one, PromptDecoder)]
    return [any(decoder.cuts(prompt) for decoder in decoders) for prompt in wish.prompts]


def fill_imagined(message: pb.Imagined, result: Result, call: Call, wish: Wish, cuts: Sequence[bool]) -> None:
    """Write what is to be told of a picture of ``wish`` into ``message``."""
    fill(message, result, call)
    message.prompt = result.row // wish.each
    message.truncated = cuts[message.prompt]

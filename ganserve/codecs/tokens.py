"""Prompts → token ids and their mask, by a ``tokenizer.json`` that the bundle carries."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np

from ganserve.codecs import GivenPrompt, refused
from ganserve.codecs.enlarging import MOST_TIMES, times_longer
from ganserve.errors import BundleError, InvalidArgument, PluginError, SpecError
from ganserve.spec import Input, Tensor

REMEMBERED = 1024
"""So many texts a tokenizer remembers: a prompt is asked for several times, and callers repeat theirs."""

VALUE = "prompt"
"""The request value that the codec reads."""

EXAMPLES = (
    "a red heart",
    "two cats asleep on the roof of a house, under a full moon",
    "cheese",
    "señor café, 3 × 4 = 12!",
    "красная машина",
    "一只黑色的猫",
    "🍎",
    "a grinning face with one large and one small eye, and medium-dark skin tone",
)
"""The prompts of examples, short and long, in several scripts."""

MOST_AROUND = 32
"""The most tokens that begin and end a text. With many more, each of the parts that a long text is cut into would be mostly those."""

NOT_ITS_OWN = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What is raised while the tokenizers library runs, and not by it. It raises Exception itself, and PanicException, which is none."""


class Tokens(NamedTuple):
    """Tokenized texts: ``ids`` and ``mask`` int64 [n, length], where mask 0 is padding, and whether each text was ``cut`` short."""

    ids: np.ndarray
    mask: np.ndarray
    cut: tuple[bool, ...]


class Tokenizer:
    """A ``tokenizer.json`` of the tokenizers library: texts → at most ``most`` tokens each, those that begin and end a text among them."""

    def __init__(self, file: Path, most: int) -> None:
        """Read ``file`` and try it; :class:`BundleError` where it is no tokenizer, lengthens texts too much or fails at :data:`EXAMPLES`.

        :class:`PluginError` where the library is missing.
        """
        # A text is tokenized in the thread that asks for it: in the library's own threads one that is slow would keep others waiting.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            import tokenizers
        except ImportError as error:
            raise PluginError(
                f"{file.name} is read by the tokenizers library, which is missing: pip install 'ganserve[text]' ({error})"
            ) from error
        self._name = file.name
        try:
            # Before it is used: reading the file already normalizes the tokens that it adds.
            if (times := times_longer(data := file.read_bytes())) > MOST_TIMES:
                raise BundleError(
                    f"{file.name}: what it declares may make a text {times:.4g} times as long, and the memory for that is not to be had; "
                    f"at most {MOST_TIMES:g} times is accepted: take an encoder with another tokenizer"
                )
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
            # What the file says of padding and cutting is of another use; here the longest text of a request decides.
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(max_length=most)
            around = self._tokenizer.num_special_tokens_to_add(is_pair=False)
            if around > MOST_AROUND or around >= most:
                raise ValueError(f"it puts {around} tokens around a text of at most {most}")
            self._tokenizer.encode_batch(list(EXAMPLES))
        except (*NOT_ITS_OWN, BundleError):
            raise
        except BaseException as error:
            raise BundleError(
                f"{file.name} is no tokenizer that the tokenizers library can use: {error}; "
                "put the encoder's own in its place and export again"
            ) from error
        self._encode = lru_cache(REMEMBERED)(self._encode_anew)

    def __call__(self, texts: Sequence[str], multiple: int = 1) -> Tokens:
        """``texts`` padded to the longest of them, and on to a multiple of ``multiple`` tokens."""
        found = [self._encode(text) for text in texts]
        length = -(-max((len(ids) for ids, _ in found), default=0) // multiple) * multiple
        ids, mask = np.zeros((2, len(found), length), np.int64)
        for row, (own, _) in enumerate(found):
            ids[row, : len(own)] = own
            mask[row, : len(own)] = 1
        return Tokens(ids, mask, tuple(cut for _, cut in found))

    def _encode_anew(self, text: str) -> tuple[list[int], bool]:
        try:
            # By ``encode`` no other thread of Python would run meanwhile.
            (found,) = self._tokenizer.encode_batch([text])
        except NOT_ITS_OWN:
            raise
        except BaseException as error:
            # What the library says may hold the text, which is nobody's but the caller's.
            raise BundleError(
                f"{self._name} fails at a text of {len(text)} characters ({type(error).__name__} of the tokenizers library); "
                "put the encoder's own in its place and export again"
            ) from None
        return found.ids, bool(found.overflowing)


class TokensOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of codec ``tokens``: what it ``gives``, the most ``tokens`` that the graph reads, and the most ``characters`` of a prompt."""

    gives: Literal["ids", "mask"]
    tokens: Annotated[int, msgspec.Meta(ge=3, le=65536)]
    characters: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 2000


class TokensDecoder:
    """Codec ``tokens``: the request value ``prompt`` (a :class:`GivenPrompt` a row) → token ids, or their mask, int64 ``[n, length]``.

    All rows of a request are padded to its longest prompt, and on to the tensor's multiple. Raises :class:`SpecError` when made for any
    other tensor, without a tokenizer among the input's files, or where the most tokens are no such multiple; and what making a
    :class:`Tokenizer` does.
    """

    value = VALUE

    def __init__(self, source: Input, tensor: Tensor, folder: Path) -> None:
        where = f"input {source.tensor!r}, codec tokens"
        try:
            self._options = msgspec.convert(dict(source.options), TokensOptions)
        except msgspec.ValidationError as error:
            raise SpecError(f"{where}: options {dict(source.options)}: {error}") from error
        if source.reads != (VALUE,) or len(source.files) != 1:
            raise SpecError(
                f"{where}: reads {list(source.reads)} by {list(source.files)}; it reads {VALUE!r} by one tokenizer"
            )
        if tensor.dtype != "int64" or len(tensor.shape) != 1 or isinstance(tensor.shape[0], int):
            raise SpecError(f"{where}: tensor is {tensor.dtype}{list(tensor.shape)}; expected int64 of one free size")
        if self._options.tokens % tensor.multiple:
            raise SpecError(f"{where}: at most {self._options.tokens} tokens; expected a multiple of {tensor.multiple}")
        self._multiple, file = tensor.multiple, folder / source.files[0]
        try:
            stat = file.stat()
        except OSError as error:
            raise BundleError(f"{where}: {file.name} cannot be read: {error.strerror}") from error
        version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        self._tokenizer = _shared_tokenizer(file, self._options.tokens, version)

    def decode(self, values: Mapping[str, Sequence[Any]], rows: int) -> np.ndarray:
        """The ids or the mask of each row's prompt; :class:`InvalidArgument` for one that is empty, too long or not plain text."""
        prompts = values.get(VALUE)
        if prompts is None:
            raise InvalidArgument.of(VALUE, "is missing: this model needs to be told what to show")
        problems = {row: why for row, prompt in enumerate(prompts) if (why := self._problem(prompt))}
        if problems:
            raise refused(VALUE, list(problems), lambda row: problems[row])
        tokens = self._tokenizer([normalized(prompt.text) for prompt in prompts], self._multiple)
        if wrong := [row for row, prompt in enumerate(prompts) if tokens.cut[row] and prompt.whole]:
            most = self._options.tokens
            raise refused(VALUE, wrong, lambda row: f"has more than {most} tokens; shorten it, or let it be cut")
        return tokens.ids if self._options.gives == "ids" else tokens.mask

    def cuts(self, given: GivenPrompt) -> bool:
        """Whether the model reads only the beginning of ``given``."""
        return self._tokenizer([normalized(given.text)]).cut[0]

    def example(self, pairs: np.ndarray) -> np.ndarray:
        """Prompts of :data:`EXAMPLES`, in the order of the pairs' indices."""
        texts = [GivenPrompt(text=EXAMPLES[int(index) % len(EXAMPLES)]) for _, index in pairs]
        return self.decode({VALUE: texts}, len(texts))

    def describe(self) -> Mapping[str, Any]:
        """How long a prompt may be."""
        return {VALUE: {"tokens": self._options.tokens, "characters": self._options.characters}}

    def _problem(self, prompt: GivenPrompt) -> str | None:
        most, text = self._options.characters, prompt.text
        if len(text) > most:
            return f"has {len(text)} characters; expected at most {most}"
        if odd := next((one for one in text if unicodedata.category(one) in UNWRITTEN and one not in "\t\n\r"), None):
            return f"has the control character U+{ord(odd):04X}; expected text"
        return None if normalized(text) else "is empty; expected words"


UNWRITTEN = ("Cc", "Cs")
"""Unicode's categories of what is no text: control characters and lone surrogates."""


def normalized(text: str) -> str:
    """``text`` in Unicode's normal form NFC, every run of white space a single space: what captions and prompts have in common."""
    return " ".join(unicodedata.normalize("NFC", text).split())


@lru_cache(16)
def _shared_tokenizer(file: Path, most: int, version: tuple[int, ...]) -> Tokenizer:
    """The tokenizer of a ``version`` of ``file``, which several inputs of a model use."""
    return Tokenizer(file, most)

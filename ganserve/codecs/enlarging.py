"""By how much a ``tokenizer.json`` may lengthen a text before it is cut into tokens, found from what the file declares, before it is used.

Lengths are bytes of UTF-8. What is found is a bound: no text becomes longer, and most do not become nearly as long.
"""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

MOST_TIMES = 128.0
"""A text may become so many times as long. The tokenizers of known encoders stay below: BERT's 3, CLIP's 27, those of XLM-RoBERTa and T5 88."""

_LENGTH = 10_000
"""How long the text is that a bound is found for; what is put in front of a text matters the less, the longer it is."""

_TIMES: Mapping[str, float] = {
    # The longest that Unicode's tables make of one character.
    "NFC": 3,
    "NFD": 3,
    "NFKC": 11,
    "NFKD": 11,
    "Lowercase": 1.5,
    "BertNormalizer": 3,
    # Each byte becomes two, and a space is put in front of every part.
    "ByteLevel": 3,
    **dict.fromkeys(("Nmt", "Strip", "StripAccents"), 1),
    **dict.fromkeys(("BertPreTokenizer", "CharDelimiterSplit", "Digits", "FixedLength", "Punctuation"), 1),
    **dict.fromkeys(("Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"), 1),
}
_MOST_KEY = 5
"""The longest part of a text, in bytes, that a step ``Precompiled`` looks up."""


class _File(msgspec.Struct):
    """The parts of the file that change a text."""

    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None


def times_longer(file: bytes) -> float:
    """How many times as long a text may become; raises where ``file`` is no tokenizer, or has a step that is not known here."""
    declared, length = msgspec.json.decode(file, type=_File), float(_LENGTH)
    for step in (*_steps(declared.normalizer), *_steps(declared.pre_tokenizer)):
        length = _after(step, length)
    return length / _LENGTH


def _steps(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if step is None:
        return
    if step.get("type") != "Sequence":
        yield step
        return
    for one in step.get("normalizers") or step.get("pretokenizers") or ():
        yield from _steps(one)


def _after(step: dict[str, Any], length: float) -> float:
    """How long a text of ``length`` may be after ``step``."""
    kind = str(step.get("type"))
    if kind == "Prepend":
        return length + _size(step["prepend"])
    if kind == "Replace":
        found, content = step["pattern"].get("String"), _size(step["content"])
        # A pattern may match nothing at all, which is there before every byte and at the end.
        return length * max(1.0, content / _size(found)) if found else length + content * (length + 1)
    if kind == "Metaspace":
        return length * (1 + _size(step["replacement"]))
    if kind == "Precompiled":
        return length * _precompiled(base64.b64decode(step["precompiled_charsmap"]))
    if kind not in _TIMES:
        raise ValueError(f"how much its step {kind!r} lengthens a text is not known")
    return length * _TIMES[kind]


def _precompiled(charsmap: bytes) -> float:
    """The most by which an entry of a map of SentencePiece's lengthens what it replaces: a double array of the keys, then the texts."""
    end = 4 + int.from_bytes(charsmap[:4], "little")
    units = np.frombuffer(charsmap[4:end], "<u4").astype(np.int64)
    # A text goes on to the next zero, or to the end.
    zeros = np.flatnonzero(np.frombuffer(charsmap[end:] + b"\0", np.uint8) == 0)
    index, label, offset = np.arange(len(units)), units & 0x800000FF, units >> 10 << ((units & 0x200) >> 6)
    before, most = np.where((label > 0) & (label < 256), index ^ label, len(units)), 1.0
    nodes = offset[:1]
    for key in range(1, _MOST_KEY + 1):
        # A unit is below a node where its place differs from the node's by its label.
        found = index[np.isin(before, nodes)]
        nodes = found ^ offset[found]
        starts = units[nodes[units[found] >> 8 & 1 == 1]] & 0x7FFFFFFF
        starts = starts[starts <= zeros[-1]]
        most = max(most, float((zeros[np.searchsorted(zeros, starts)] - starts).max(initial=0)) / key)
    return most


def _size(text: str) -> int:
    return len(text.encode())

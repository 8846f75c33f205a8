"""Class labels: an index or a name a row, or one drawn from the seed."""

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from ganserve.codecs import refused
from ganserve.codecs.seeds import MOST_DRAWN, draw_labels, seed_pairs
from ganserve.errors import InvalidArgument, SpecError
from ganserve.spec import Input, Tensor

_LONGEST_GUESS = 64


class LabelOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of codec ``label``: the number of classes and, in order of index, their names if they have any.

    ``counts`` is how often each comes up among those that are drawn, out of their sum, at most 2**32; without them all do alike.
    """

    classes: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    names: tuple[str, ...] = ()
    counts: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] = ()


class LabelDecoder:
    """Codec ``label``: the request value ``label`` (an index or a name a row) → int64 ``[n]``.

    If the input reads ``seed`` too, a request without labels gets drawn ones (``docs/seeds.md``). Raises :class:`SpecError`
    when made with names that are repeated or not one a class, with such counts, or for any other tensor.
    """

    def __init__(self, source: Input, tensor: Tensor, folder: Path) -> None:
        where = f"input {source.tensor!r}, codec label"
        try:
            options = msgspec.convert(dict(source.options), LabelOptions)
        except msgspec.ValidationError as error:
            raise SpecError(f"{where}: options {dict(source.options)}: {error}") from error
        if "label" not in source.reads or not set(source.reads) <= {"label", "seed"}:
            raise SpecError(f"{where}: reads {list(source.reads)}; it reads 'label' and may read 'seed'")
        if tensor.dtype != "int64" or tensor.shape:
            raise SpecError(f"{where}: tensor is {tensor.dtype}{list(tensor.shape)}; expected one int64 a row")
        self._classes, self._names = options.classes, options.names
        self._indices = {name: index for index, name in enumerate(options.names)}
        if options.names and not len(options.names) == len(self._indices) == options.classes:
            raise SpecError(
                f"{where}: {len(options.names)} names, {len(self._indices)} of them different, for {options.classes} classes; "
                "give each class its own name, or none"
            )
        if options.counts and not (len(options.counts) == options.classes and 0 < sum(options.counts) <= MOST_DRAWN):
            raise SpecError(
                f"{where}: {len(options.counts)} counts, {sum(options.counts)} together, for {options.classes} classes; "
                f"give each class its own, 1 to {MOST_DRAWN} together, or none"
            )
        self._counts = options.counts
        self._draws = "seed" in source.reads
        self.instead: Mapping[str, tuple[str, ...]] = {"label": ("seed",)} if self._draws else {}

    def decode(self, values: Mapping[str, Sequence[Any]], rows: int) -> np.ndarray:
        """The class of each row, int64 ``[rows]``; :class:`InvalidArgument` for labels that are missing, unknown or out of range."""
        labels = values.get("label")
        if labels is None:
            if not self._draws:
                raise InvalidArgument.of("label", f"is missing: this model needs one, {self._expected()}")
            return self.example(seed_pairs(values["seed"]))
        indices = [self._index(label) for label in labels]
        if wrong := [row for row, index in enumerate(indices) if index is None]:
            raise refused("label", wrong, lambda row: self._explain(labels[row]))
        return np.array(indices, dtype=np.int64)

    def example(self, pairs: np.ndarray) -> np.ndarray:
        """The labels that ``pairs`` draw."""
        return draw_labels(pairs, self._classes, self._counts)

    def describe(self) -> Mapping[str, Any]:
        """The classes and their names, and whether a label may be left out."""
        return {"label": {"classes": self._classes, "names": list(self._names), "optional": self._draws}}

    def _index(self, label: Any) -> int | None:
        if isinstance(label, str):
            return self._indices.get(label)
        valid = isinstance(label, int | np.integer) and 0 <= label < self._classes
        return int(label) if valid else None

    def _expected(self) -> str:
        indices = f"an index from 0 to {self._classes - 1}"
        return f"{indices} or a name such as {self._names[0]!r}" if self._names else indices

    def _explain(self, label: Any) -> str:
        text = f"{reprlib.repr(label)} is no class of this model: expected {self._expected()}"
        if isinstance(label, str) and len(label) <= _LONGEST_GUESS:
            folded = {name.casefold(): name for name in self._names}
            guesses = difflib.get_close_matches(label.casefold(), folded, n=3)
            if guesses:
                text += f"; did you mean {' or '.join(repr(folded[guess]) for guess in guesses)}?"
        return text

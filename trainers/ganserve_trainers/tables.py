"""Tables of things that a preset chooses by name."""

from collections.abc import Mapping
from typing import TypeVar

from ganserve.errors import TrainingError

Value = TypeVar("Value")


class Table(dict[str, Value]):
    """Name → value, where asking for an unknown name raises :class:`TrainingError` with the names there are."""

    def __init__(self, kind: str, values: Mapping[str, Value]) -> None:
        """``kind`` is what the values are called in the error."""
        super().__init__(values)
        self.kind = kind

    def __missing__(self, name: str) -> Value:
        """Refuse ``name``."""
        raise TrainingError(f"there is no {self.kind} {name!r}: choose one of {', '.join(sorted(self))}")

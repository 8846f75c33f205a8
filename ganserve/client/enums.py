"""Protobuf enum values ↔ the names that people type: ``IMAGE_FORMAT_NPY_FLOAT`` is ``npy-float``."""

from typing import Any


def choices(prefix: str, enum: Any) -> dict[str, str]:
    """The values of ``enum`` that may be asked for: typed name → protobuf name."""
    return {_short(prefix, name): name for name in enum.keys() if not name.endswith("_UNSPECIFIED")}  # noqa: SIM118


def name_of(prefix: str, enum: Any, number: int) -> str:
    """The typed name of ``number``; its digits where a newer server knows more than this client."""
    return _short(prefix, enum.Name(number)) if number in enum.values() else str(number)


def _short(prefix: str, name: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", "-")

"""Inputs that are kept, by target: one for each of many answers, and what once did harm. The tests try them again, and fuzzing begins with them."""

import hashlib
from pathlib import Path

CORPUS = Path(__file__).parents[2] / "tests" / "corpus"

MOST = 120
"""The most inputs that are kept of a target."""


def kept(name: str) -> list[bytes]:
    """The inputs of the target ``name``."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*.bin"))]


def keep(folder: Path, data: bytes) -> Path:
    """``data`` as a file of ``folder`` whose name is its digest, so that nothing is there twice."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:12]}.bin"
    path.write_bytes(data)
    return path

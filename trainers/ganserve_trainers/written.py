"""Files of a run, written so that a crash or a full disk costs nothing that was there before."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ganserve.errors import TrainingError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The temporary name under which ``path`` is to be written, in a folder that exists; renamed at the end.

    Where that fails, ``path`` is what it was, nothing else is left, and :class:`TrainingError` says so.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with told(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Within it, a failure of the disk is a :class:`TrainingError` about ``path``."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written: {error.strerror or error}; checkpoints are as they were: make room, and go on with --resume"
        ) from error

"""What was read from files that may be replaced while the server runs: tokens, keys, certificates."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from ganserve.errors import GanserveError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Watched(Generic[T]):
    """What ``read`` makes of ``files``, made again after one of them has changed; what cannot be read leaves what there was.

    Made the first time at once: the :class:`GanserveError` that ``read`` raises then is raised. The files are looked at when they are
    asked for, at most once in ``every`` seconds.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[], T], every: float = 1.0) -> None:
        self._files, self._read, self._every = files, read, every
        self._stamps = self._look()
        self._value = read()
        self._next = time.monotonic() + every
        self._complaint = ""

    def get(self) -> T:
        """What the files say now."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + self._every
            self._refresh()
        return self._value

    def _refresh(self) -> None:
        try:
            if (stamps := self._look()) == self._stamps:
                return
            self._value, self._stamps, self._complaint = self._read(), stamps, ""
        except (GanserveError, OSError) as error:
            # Two files are not replaced at one moment: the next look may find both. Told once for each reason.
            if (complaint := str(error)) != self._complaint:
                log.error("%s: keeping what was read before", complaint)
                self._complaint = complaint
        else:
            log.info("read %s again", ", ".join(map(str, self._files)))

    def _look(self) -> list[tuple[int, int, int]]:
        """What tells a file from the one that replaces it; a link is followed. A file that is missing is for ``read`` to tell of."""
        found = [path.stat() for path in self._files if path.exists()]
        return [(one.st_mtime_ns, one.st_size, one.st_ino) for one in found]

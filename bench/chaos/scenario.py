"""What a scenario is: a fault, what must hold while it is there, and a function that does it and tells what it saw."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import msgspec


class Outcome(msgspec.Struct, frozen=True):
    """What came of a scenario, and what was ``measured``.

    ``right`` is what must be so on any machine, ``calm`` what can be so only where nothing else runs: times, memory.
    """

    right: bool
    measured: str
    calm: bool = True

    @property
    def held(self) -> bool:
        """Whether all held that must."""
        return self.right and self.calm


class Scenario(msgspec.Struct, frozen=True):
    """One kind of fault. ``run`` takes the scale: 1 is the full size, less is as much smaller, down to a least size of each.

    It is ended after ``limit`` seconds.
    """

    fault: str
    must_hold: str
    run: Callable[[float], Outcome]
    limit: float = 900.0

    def outcome(self, scale: float) -> Outcome:
        """Run it, or raise :class:`TimeoutError`; what it started ends with it."""
        with _ended_after(self.limit):
            return self.run(scale)


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    def end(*_: Any) -> None:
        raise TimeoutError(f"it was not over after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def sized(full: int, scale: float, least: int) -> int:
    """How many of something a run at ``scale`` has."""
    return max(least, round(full * scale))

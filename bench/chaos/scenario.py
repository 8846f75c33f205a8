"""What a scenario is: a fault, what must hold while it is there, and a function that does it and tells what it saw."""

from collections.abc import Callable

import msgspec


class Outcome(msgspec.Struct, frozen=True):
    """What came of a scenario: whether what must hold ``held``, and what was ``measured``."""

    held: bool
    measured: str


class Scenario(msgspec.Struct, frozen=True):
    """One kind of fault. ``run`` takes the scale: 1 is the full size, less is as much smaller, down to a least size of each."""

    fault: str
    must_hold: str
    run: Callable[[float], Outcome]


def sized(full: int, scale: float, least: int) -> int:
    """How many of something a run at ``scale`` has."""
    return max(least, round(full * scale))

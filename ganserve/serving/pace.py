"""How long a stage's batches take, learned from those that ran: what deadlines are judged by, and how large a batch should be."""

import math

_REFUSED_DISCOUNT = 0.9
"""What an estimate is multiplied by when a job fails for it: else one slow batch could refuse all that would correct it."""

_RUNS_TO_JUDGE = 8
"""How many batches of a size tell how fast it is: by the fastest, since all else on the machine can only slow one down."""

_WORTHWHILE = 0.9
"""Smaller batches are made where a row of theirs takes at most this part of what it takes in large ones."""

_SMALLER_IN_A_ROW = 31
"""How many of them are made before a full one is tried again."""


class Pace:
    """The pace of batches of at most ``most_rows`` rows."""

    __slots__ = ("fastest", "most_rows", "seconds", "smaller", "swift")

    def __init__(self, most_rows: int) -> None:
        self.most_rows = self.swift = most_rows
        self.seconds: dict[int, float] = {}
        self.fastest: dict[int, tuple[int, float]] = {}
        self.smaller = 0

    def estimate(self, rows: int) -> float:
        """Seconds that a batch of ``rows`` takes, from the nearest size that has run (in proportion, if larger); 0 before any has."""
        if not self.seconds:
            return 0.0
        nearest = min(self.seconds, key=lambda size: abs(size - rows))
        return self.seconds[nearest] * min(1.0, rows / nearest)

    def needs(self, rows: int) -> float:
        """Seconds that ``rows`` take at least, if nobody else is served."""
        full, rest = divmod(rows, self.most_rows)
        return full * self.estimate(self.most_rows) + (self.estimate(rest) if rest else 0.0)

    def observe(self, rows: int, seconds: float) -> None:
        """Remember how long a batch took (moving average, so that a slow moment passes)."""
        old = self.seconds.get(rows, seconds)
        self.seconds[rows] = old + 0.2 * (seconds - old)
        runs, least = self.fastest.get(rows, (0, math.inf))
        self.fastest[rows] = runs + 1, min(least, seconds)
        paces = {size: least / size for size, (runs, least) in self.fastest.items() if runs >= _RUNS_TO_JUDGE}
        best = min(paces, key=paces.__getitem__, default=self.most_rows)
        self.swift = best if paces and paces[best] < _WORTHWHILE * paces[max(paces)] else self.most_rows

    def room(self) -> int:
        """The rows that the next batch may have: fewer than could be where batches of fewer have been faster row by row.

        A network of large activations may outgrow a CPU's caches. Now and then a full batch tells whether that still holds.
        """
        if self.swift == self.most_rows or self.smaller == _SMALLER_IN_A_ROW:
            self.smaller = 0
            return self.most_rows
        self.smaller += 1
        return self.swift

    def doubt(self) -> None:
        """Lower the estimates, for one of them has refused a job."""
        self.seconds = {size: seconds * _REFUSED_DISCOUNT for size, seconds in self.seconds.items()}

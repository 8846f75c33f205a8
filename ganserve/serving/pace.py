"""How long a stage's batches take, learned from those that ran: what deadlines are judged by."""

_REFUSED_DISCOUNT = 0.9
"""What an estimate is multiplied by when a job fails for it: else one slow batch could refuse all that would correct it."""


class Pace:
    """The pace of batches of at most ``most_rows`` rows."""

    __slots__ = ("most_rows", "seconds")

    def __init__(self, most_rows: int) -> None:
        self.most_rows = most_rows
        self.seconds: dict[int, float] = {}

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

    def doubt(self) -> None:
        """Lower the estimates, for one of them has refused a job."""
        self.seconds = {size: seconds * _REFUSED_DISCOUNT for size, seconds in self.seconds.items()}

"""What each model has done since the server started, version by version: plain numbers, for protocols that ask for them.

:class:`ganserve.metrics.Metrics` fills them with what it is told anyway, so nothing is measured for them.
"""

import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import msgspec

PARTS: Mapping[str, str] = MappingProxyType(
    {"queue": "queue", "decode": "compute_input", "engine": "compute_infer", "encode": "compute_output"}
)
"""The parts of a call's time that are added up, as calls name them, and the field of :class:`Counts` that each goes to."""


class Duration(msgspec.Struct):
    """How often something was done, and how many seconds it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Once more."""
        self.count += 1
        self.seconds += seconds


class Counts(msgspec.Struct):
    """One version of a model.

    ``success`` and ``failures``, these by their gRPC status, count requests over their whole time. ``queue`` and the three parts that follow count calls that gave all
    their rows; a batch that a call shared with others counts whole. ``rows`` are those of such calls. ``batches`` are by their size.
    ``last`` is when a call last ended, in seconds since 1970; 0 for never.
    """

    success: Duration = msgspec.field(default_factory=Duration)
    failures: dict[str, Duration] = {}
    queue: Duration = msgspec.field(default_factory=Duration)
    compute_input: Duration = msgspec.field(default_factory=Duration)
    compute_infer: Duration = msgspec.field(default_factory=Duration)
    compute_output: Duration = msgspec.field(default_factory=Duration)
    rows: int = 0
    batches: dict[int, Duration] = {}
    last: float = 0.0

    @property
    def fail(self) -> Duration:
        """All failures."""
        failures = list(self.failures.values())
        return Duration(sum(one.count for one in failures), sum(one.seconds for one in failures))

    @property
    def runs(self) -> int:
        """All batches."""
        return sum(duration.count for duration in list(self.batches.values()))

    def request(self, code: str, seconds: float) -> None:
        """A request has ended with the gRPC status ``code``."""
        (self.success if code == "OK" else self.failures.setdefault(code, Duration())).add(seconds)

    def call(self, rows: int, seconds: Mapping[str, float]) -> None:
        """A call has given all its ``rows``, after these ``seconds`` by part."""
        self.rows += rows
        self.last = time.time()
        for part, field in PARTS.items():
            duration: Duration = getattr(self, field)
            duration.add(seconds.get(part, 0.0))

    def batch(self, rows: int, seconds: float) -> None:
        """A batch has run."""
        self.batches.setdefault(rows, Duration()).add(seconds)


class Statistics:
    """The counts of every model and version that was loaded or asked for. Written on the event loop; other threads may read."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], Counts] = {}

    def __iter__(self) -> Iterator[tuple[str, int, Counts]]:
        """Name, version and counts, in order."""
        return iter([(name, version, self._counts[name, version]) for name, version in sorted(self._counts)])

    def of(self, model: str, version: int) -> Counts:
        """The counts of a model's version."""
        found = self._counts.get((model, version))
        if found is None:
            found = self._counts[model, version] = Counts()
        return found

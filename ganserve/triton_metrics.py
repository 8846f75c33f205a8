"""What Triton calls the numbers of :mod:`ganserve.statistics`, for dashboards and autoscalers that know its names.

Nothing is counted for it: each scrape reads what is there. ``docs/prometheus.md`` says what each series means here.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from ganserve.statistics import Counts, Statistics

REASONS: Mapping[str, str] = MappingProxyType(
    {
        "RESOURCE_EXHAUSTED": "REJECTED",
        "UNAVAILABLE": "REJECTED",
        "DEADLINE_EXCEEDED": "REJECTED",
        "CANCELLED": "CANCELED",
        "INTERNAL": "BACKEND",
    }
)
"""What Triton calls the gRPC statuses of requests that failed; the others are :data:`OTHER`."""

OTHER = "OTHER"

_LABELS = ("model", "version")

_COUNTS: tuple[tuple[str, str, Callable[[Counts], float]], ...] = (
    ("nv_inference_request_success", "Requests that ended well.", lambda counts: counts.success.count),
    ("nv_inference_count", "Rows given by calls that ended well.", lambda counts: counts.rows),
    ("nv_inference_exec_count", "Batches that an engine ran.", lambda counts: counts.runs),
    (
        "nv_inference_request_duration_us",
        "Whole time of requests in the server, in microseconds.",
        lambda counts: _microseconds(counts.success.seconds + counts.fail.seconds),
    ),
    (
        "nv_inference_queue_duration_us",
        "Time that calls waited for batches, in microseconds.",
        lambda counts: _microseconds(counts.queue.seconds),
    ),
    (
        "nv_inference_compute_input_duration_us",
        "Time that calls decoded pictures, in microseconds.",
        lambda counts: _microseconds(counts.compute_input.seconds),
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Time that calls were on an engine, in microseconds.",
        lambda counts: _microseconds(counts.compute_infer.seconds),
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Time that calls encoded results, in microseconds.",
        lambda counts: _microseconds(counts.compute_output.seconds),
    ),
)


class TritonMetrics(Collector):
    """The series ``nv_inference_*`` of ``statistics`` and of the requests that are ``pending``, by model and version."""

    # Triton's counters do not end in _total, as a counter must for the client library and in the OpenMetrics format. Of unknown type they
    # keep their names in both formats; Prometheus computes rates of either.

    def __init__(self, statistics: Statistics, pending: Callable[[], Mapping[tuple[str, int], int]]) -> None:
        self._statistics, self._pending = statistics, pending

    def collect(self) -> Iterator[Metric]:
        """The series as they are now; every version that was loaded has all of them, at 0 before its first call."""
        known = [((model, str(version)), counts) for model, version, counts in self._statistics]
        for name, meaning, number in _COUNTS:
            family = UnknownMetricFamily(name, meaning, labels=_LABELS)
            for labels, counts in known:
                family.add_metric(labels, number(counts))
            yield family
        failures = UnknownMetricFamily(
            "nv_inference_request_failure", "Requests that failed.", labels=(*_LABELS, "reason")
        )
        for labels, counts in known:
            for reason, count in _failures(counts).items():
                failures.add_metric((*labels, reason), count)
        yield failures
        waiting = GaugeMetricFamily(
            "nv_inference_pending_request_count", "Requests with rows that wait for a batch.", labels=_LABELS
        )
        pending = self._pending()
        for model, version, _ in self._statistics:
            waiting.add_metric((model, str(version)), pending.get((model, version), 0))
        yield waiting


def _failures(counts: Counts) -> dict[str, int]:
    found = dict.fromkeys((*REASONS.values(), OTHER), 0)
    for code, duration in list(counts.failures.items()):
        found[REASONS.get(code, OTHER)] += duration.count
    return found


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)

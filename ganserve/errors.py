"""Every error that ganserve raises on purpose.

::

    GanserveError
    ├── SpecError              a plugin's or bundle's description contradicts itself
    ├── PluginError            a plugin is missing, misspelt or claims a taken name
    ├── BundleError            a bundle's files are damaged, hostile or of another format
    ├── ExportError            a network breaks a rule of export
    ├── EngineError            an engine cannot run here
    │   └── GoldenError        an engine's numbers are wrong
    ├── TrainingError          a run cannot start, go on or be resumed
    │   └── DataError          a data set has a broken file or label
    └── RequestError           what a caller is told; carries a gRPC status
        ├── InvalidArgument    INVALID_ARGUMENT, with the violations field by field
        ├── NotFound           NOT_FOUND
        ├── Unauthenticated    UNAUTHENTICATED
        ├── PermissionDenied   PERMISSION_DENIED
        ├── QueueFull          RESOURCE_EXHAUSTED, with the delay after which to retry
        ├── QuotaExceeded      RESOURCE_EXHAUSTED, likewise
        ├── DeadlineExceeded   DEADLINE_EXCEEDED
        ├── Cancelled          CANCELLED
        ├── Unavailable        UNAVAILABLE
        ├── LoadFailed         FAILED_PRECONDITION
        └── InternalError      INTERNAL, with an id that the log explains

A message says what happened, the value, what was expected and what to do next.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

__all__ = [
    "BundleError",
    "Cancelled",
    "DataError",
    "DeadlineExceeded",
    "EngineError",
    "ExportError",
    "GanserveError",
    "GoldenError",
    "InternalError",
    "InvalidArgument",
    "LoadFailed",
    "NotFound",
    "PermissionDenied",
    "PluginError",
    "QueueFull",
    "QuotaExceeded",
    "RequestError",
    "SpecError",
    "TrainingError",
    "Unauthenticated",
    "Unavailable",
    "Violation",
]


class GanserveError(Exception):
    """Base of every error that ganserve raises on purpose."""


class SpecError(GanserveError, ValueError):
    """A plugin's or bundle's description contradicts itself. A ValueError, so that msgspec names the JSON path."""


class PluginError(GanserveError):
    """A plugin is missing, failed, misspells a hook or claims a taken name."""


class BundleError(GanserveError):
    """A bundle's files are damaged, hostile or of another format."""


class ExportError(GanserveError):
    """A network breaks a rule of export, or its ONNX form differs from torch."""


class EngineError(GanserveError):
    """An engine cannot run here, cannot load a graph, or failed its golden rows."""


class GoldenError(EngineError):
    """An engine did not reproduce a graph's golden rows."""


class TrainingError(GanserveError):
    """A training run cannot start, go on or be resumed."""


class DataError(TrainingError):
    """A data set has a broken file, a wrong label or an unknown layout."""


class Violation(NamedTuple):
    """One field of a request and what is wrong with it."""

    field: str
    description: str


class RequestError(GanserveError):
    """What a caller is told. ``code`` is the name of a ``grpc.StatusCode``."""

    code: ClassVar[str] = "UNKNOWN"


class InvalidArgument(RequestError):
    """The request cannot be served as written; ``violations`` says why, field by field."""

    code = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{field}: {description}" for field, description in self.violations))

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidArgument":
        """An error about a single field."""
        return cls([Violation(field, description)])


class NotFound(RequestError):
    """There is no such model, version or task."""

    code = "NOT_FOUND"


class Unauthenticated(RequestError):
    """The caller showed no token, or one that is not valid."""

    code = "UNAUTHENTICATED"


class PermissionDenied(RequestError):
    """The caller may not do that, or not on this port."""

    code = "PERMISSION_DENIED"


class QueueFull(RequestError):
    """The queue has no room for the rows asked for; ``retry_after`` is in seconds."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QuotaExceeded(RequestError):
    """The caller has asked for more than it may; ``retry_after`` is in seconds, infinite where waiting does not help."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(RequestError):
    """The caller's deadline passed, or cannot be met any more."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(RequestError):
    """The caller has gone."""

    code = "CANCELLED"


class Unavailable(RequestError):
    """The server or the model is starting, draining or failed to load; another replica may answer."""

    code = "UNAVAILABLE"


class LoadFailed(RequestError):
    """A model could not be loaded as asked; what served before still does. Asking again helps once its bundle has been mended."""

    code = "FAILED_PRECONDITION"


class InternalError(RequestError):
    """Something failed that is not the caller's fault; the log has the cause under ``error_id``."""

    code = "INTERNAL"

    def __init__(self, error_id: str) -> None:
        super().__init__(f"internal error {error_id}: the server's log has the cause under this id")
        self.error_id = error_id

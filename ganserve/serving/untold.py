"""What the log may say of a failure: of what kind it was, and where. An exception's own words may repeat what a caller sent."""

from ganserve.errors import GanserveError, RequestError

_MOST_CAUSES = 8


def words_of(error: BaseException) -> str:
    """What ``error`` says, where that is nothing of a caller's: ganserve's own errors, unless they are for a caller, and the system's."""
    if isinstance(error, OSError):
        return error.strerror or ""
    own = isinstance(error, GanserveError) and not isinstance(error, RequestError)
    return str(error) if own or isinstance(error, MemoryError) else ""


def named(error: BaseException) -> str:
    """``error`` in a line of the log."""
    kind, words = type(error).__name__, words_of(error)
    return f"{kind}: {words}" if words else kind


def untold(error: BaseException, causes: int = _MOST_CAUSES) -> BaseException:
    """``error`` and what caused it for a traceback: the same kinds and places, without the words that :func:`words_of` leaves out."""
    kind, words = type(error), words_of(error)
    like: type[Exception] = type(kind.__name__, (Exception,), {"__module__": kind.__module__})
    shown = like(words) if words else like()
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and causes:
        told = untold(cause, causes - 1)
        if error.__cause__ is None:
            shown.__context__ = told
        else:
            shown.__cause__ = told
    shown.__traceback__ = error.__traceback__
    return shown

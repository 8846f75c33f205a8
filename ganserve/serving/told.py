"""How refusals name what is wrong: inside by values and rows, outside by the fields of the caller's message."""

from collections.abc import Callable
from types import TracebackType

from ganserve.errors import InvalidArgument, Violation


class told_by:  # noqa: N801 - read like contextlib.suppress
    """Refusals inside, which name values (label[3]), leave naming what ``field`` makes of those names: fields of the request.

    Where that is one field for several rows, its first violation is told.
    """

    __slots__ = ("_field",)

    def __init__(self, field: Callable[[str], str]) -> None:
        self._field = field

    def __enter__(self) -> None:
        """Refusals are told from here on."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Raise what is told in the place of a refusal."""
        if isinstance(error, InvalidArgument):
            told: dict[str, str] = {}
            for name, text in error.violations:
                told.setdefault(self._field(name), text)
            raise InvalidArgument([Violation(name, text) for name, text in told.items()]) from error

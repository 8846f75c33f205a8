"""How refusals name what is wrong: inside by values and rows, outside by the fields of the caller's message."""

import contextlib
from collections.abc import Callable, Iterator

from ganserve.errors import InvalidArgument, Violation


@contextlib.contextmanager
def told_by(field: Callable[[str], str]) -> Iterator[None]:
    """Refusals inside, which name values (label[3]), leave naming what ``field`` makes of those names: fields of the request.

    Where that is one field for several rows, its first violation is told.
    """
    try:
        yield
    except InvalidArgument as error:
        told: dict[str, str] = {}
        for name, text in error.violations:
            told.setdefault(field(name), text)
        raise InvalidArgument([Violation(name, text) for name, text in told.items()]) from error

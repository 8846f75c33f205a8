"""What stands in for a session that hangs and could not be replaced."""

from collections.abc import Mapping, Sequence

import numpy as np

from ganserve.engines import Value
from ganserve.errors import Unavailable


class Lost:
    """A session that runs nothing: rows that come to it are told ``reason``."""

    batch_invariant = True

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def upload(self, array: np.ndarray) -> Value:
        """``array`` as it is."""
        return array

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Mapping[str, Value]:
        """:class:`ganserve.errors.Unavailable`."""
        raise Unavailable(self._reason)

    def download(self, value: Value) -> np.ndarray:
        """``value`` as it is."""
        return np.asarray(value)

    def close(self) -> None:
        """Nothing: it holds nothing."""

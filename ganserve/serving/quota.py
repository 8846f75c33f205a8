"""How much one client may ask for: calls and rows per time, and calls at a time, refused beyond it with when to come back."""

import math
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import msgspec

from ganserve.errors import QuotaExceeded, SpecError

_SECONDS: Mapping[str, int] = MappingProxyType({"second": 1, "minute": 60, "hour": 3600, "day": 86400})
_RATE = re.compile(r"([1-9][0-9]{0,11})/(second|minute|hour|day)")

_MOST_CLIENTS = 4096
"""How many clients are remembered before those that have used nothing of late are forgotten."""

_STREAM_SECONDS = 1.0
"""After which a client is told to try again that has as many calls at a time as it may; when one of them ends is not known."""


class Rate(msgspec.Struct, frozen=True):
    """So many of something in so many seconds; as many at once after as long a rest. Written ``1000/minute``."""

    amount: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """The rate that ``text`` stands for, or :class:`SpecError`."""
        if (found := _RATE.fullmatch(text)) is None:
            raise SpecError(f"{text!r} is no rate: write a whole number and a unit, such as 100/second or 5000/minute")
        return cls(int(found[1]), _SECONDS[found[2]])


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may ask for: ``calls`` and ``rows``, and ``streams``: calls at a time. None does not bound them."""

    calls: Rate | None = None
    rows: Rate | None = None
    streams: int | None = None

    def over(self, others: "Quota") -> "Quota":
        """This quota, and that of ``others`` where this one bounds nothing."""
        streams = others.streams if self.streams is None else self.streams
        return Quota(calls=self.calls or others.calls, rows=self.rows or others.rows, streams=streams)


class Meter:
    """Takes from the quotas of clients by their names.

    Rates are kept by the generic cell rate algorithm: one number for each client and thing.
    """

    # The number is when the client will have rested long enough to have used nothing. It is never behind the clock where it
    # matters, so a client that is forgotten then is as good as one that is remembered.

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rested: dict[tuple[str, str], float] = {}
        self._most = _MOST_CLIENTS
        self._running: dict[str, int] = {}

    def take(self, client: str, what: str, rate: Rate | None, amount: int = 1) -> None:
        """Take ``amount`` of ``what`` (calls, rows) from the ``rate`` of ``client``; :class:`QuotaExceeded` takes nothing."""
        if rate is None:
            return
        told = f"the quota of {client!r} is {rate.amount} {what} in {rate.seconds} s"
        if amount > rate.amount:
            raise QuotaExceeded(f"{amount} {what} asked for at once: {told}; ask for fewer", math.inf)
        now, key = self._clock(), (client, what)
        rested = max(now, self._rested.get(key, now)) + amount * rate.seconds / rate.amount
        if (wait := rested - now - rate.seconds) > 1e-9:
            raise QuotaExceeded(f"{told}: try again in {wait:.1f} s", wait)
        self._rested[key] = rested
        if len(self._rested) > self._most:
            self._rested = {key: when for key, when in self._rested.items() if when > now}
            self._most = max(_MOST_CLIENTS, 2 * len(self._rested))

    def enter(self, client: str, most: int | None) -> Callable[[], None]:
        """Count a call that begins, and give what to call when it has ended.

        :class:`QuotaExceeded` counts none where ``most`` of ``client`` run; None bounds nothing.
        """
        running = self._running.get(client, 0)
        if most is not None and running >= most:
            raise QuotaExceeded(
                f"the quota of {client!r} is {most} calls at a time: try again when one of them has ended",
                _STREAM_SECONDS,
            )
        self._running[client] = running + 1
        return partial(self._leave, client)

    def _leave(self, client: str) -> None:
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]

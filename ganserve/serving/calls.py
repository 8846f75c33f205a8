"""The call log: a line for a call that has ended. Of what its caller sent it holds an id and nothing else."""

import logging
import re
import secrets
from collections.abc import Iterable
from typing import Literal, Protocol, TypeAlias

log = logging.getLogger(__name__)

Logged: TypeAlias = Literal["off", "failed", "all"]
"""Which calls have a line; ``failed`` are those that ended with another status than OK."""

REQUEST_ID = "x-request-id"
"""The metadata in which a caller, or a proxy, gives a call an id, and the trailer that tells the one that the log has."""

UNKNOWN = "unknown"
"""What has no model, or no task, yet."""

# Nothing that could end a line, or make a trailer too long: a caller writes it.
_ID = re.compile(r"[!-~]{1,128}")

_MOST_CHARACTERS = 128


class Origin(Protocol):
    """Where a call came from: gRPC's context."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """What came beside the request."""

    def peer(self) -> str:
        """The address of the other end of the connection."""


class Ended(Protocol):
    """A call that has ended, or one request of a stream."""

    rpc: str
    peer: str
    client: str
    model: str
    version: int
    task: str
    rows: int

    def request_id(self) -> str:
        """Its id."""


def id_of(origin: Origin | None) -> str:
    """The id that the metadata of ``origin`` give the call; a new one where they give none, or none that can be written to a log."""
    given = () if origin is None else origin.invocation_metadata() or ()
    value = next((value for key, value in given if key == REQUEST_ID), None)
    return value if isinstance(value, str) and _ID.fullmatch(value) else secrets.token_hex(8)


def write(call: Ended, code: str, seconds: float) -> None:
    """Write the line of ``call``, which took ``seconds`` and ended with the gRPC status ``code``. What is not known is left out."""
    told = {
        "request_id": call.request_id(),
        "method": call.rpc,
        "code": code,
        "seconds": round(seconds, 6),
        "model": call.model,
        "version": call.version,
        "task": call.task,
        "rows": call.rows,
        # A certificate, or an identity provider, may call its client anything.
        "client": "".join(one if one.isprintable() else "?" for one in call.client[:_MOST_CHARACTERS]),
        "peer": call.peer,
    }
    told = {name: value for name, value in told.items() if value not in ("", 0, UNKNOWN)}
    log.info("call %s", " ".join(f"{name}={value}" for name, value in told.items()), extra=told)

"""Who may call what on one port, and how much. Nothing is asked of a call where nothing is configured."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple, TypeAlias

import grpc

from ganserve.errors import PermissionDenied, Unauthenticated
from ganserve.serving.methods import METHODS, Kind
from ganserve.serving.principal import Authority, Principal
from ganserve.serving.quota import Meter, Quota
from ganserve.serving.traffic import note_client

Revoked: TypeAlias = Callable[[], bool]
"""Whether what let a call in has been taken back since."""


class Visit(NamedTuple):
    """A call that was let in: whether that has been taken back since (None where it cannot be), and what to call when it has ended."""

    revoked: Revoked | None
    leave: Callable[[], None]


Guard: TypeAlias = Callable[[grpc.aio.ServicerContext], Awaitable[Visit]]
"""What a call has to pass; raises a :class:`ganserve.errors.RequestError`."""

EVERYTHING = frozenset(Kind)

LOOK_SECONDS = 1.0
"""How often a stream that runs looks whether its token has been revoked."""

_SCHEME = "bearer "


class _Client(NamedTuple):
    """Who makes the running call, and where its rows are taken from."""

    name: str
    quota: Quota
    meter: Meter


_client: ContextVar[_Client | None] = ContextVar("client", default=None)


def charge(rows: int) -> str | None:
    """Take ``rows`` from the quota of the running call's client, and give its name; None where no one is asked for it.

    Raises :class:`ganserve.errors.QuotaExceeded`.
    """
    if (client := _client.get()) is None:
        return None
    client.meter.take(client.name, "rows", client.quota.rows, rows)
    return client.name


class Gate:
    """What calls of one port have to pass.

    ``offers`` are the kinds of rpc that are answered, ``refusal`` is what callers of the others are told. With ``authorities`` a call
    needs a bearer token that one of them knows, and management calls one that allows them. ``quota`` is a client's, but for what it
    has bounds of its own for. A client is a principal; without tokens the name in its TLS certificate, if callers have to show
    ``certificates``, or else its address.
    """

    def __init__(
        self,
        offers: Collection[Kind] = EVERYTHING,
        refusal: str = "",
        authorities: Sequence[Authority] = (),
        quota: Quota | None = None,
        meter: Meter | None = None,
        *,
        certificates: bool = False,
    ) -> None:
        self._offers, self._refusal, self._authorities = offers, refusal, authorities
        self._name = _certified if certificates else _address
        self._quota, self._meter = quota or Quota(), meter or Meter()
        self._asks = bool(authorities) or self._quota != Quota()
        # A bound on calls at a time asks nobody for rows, and leaves batches shared among connections.
        self._bills = bool(authorities) or self._quota.calls is not None or self._quota.rows is not None

    def guard(self, method: str) -> Guard | None:
        """What a call of ``method`` has to pass; None where that is nothing."""
        kind = METHODS.get(method)
        if kind is None:
            return _refuse(f"{method} is not among the methods that this server knows the access of")
        if kind is Kind.HEALTH:
            return None
        if kind not in self._offers:
            return _refuse(f"{method} is of the kind {kind.value}: {self._refusal}")
        return partial(self._enter, kind) if self._asks else None

    async def _enter(self, kind: Kind, context: grpc.aio.ServicerContext) -> Visit:
        principal, revoked = await self._principal(context)
        note_client(principal.name)
        if kind is Kind.MANAGEMENT and self._authorities and not principal.manages:
            raise PermissionDenied(f"{principal.name!r} may not manage this server: use a token that allows it")
        quota = self._quota if principal.quota is None else principal.quota.over(self._quota)
        self._meter.take(principal.name, "calls", quota.calls)
        leave = self._meter.enter(principal.name, quota.streams)
        if self._bills:
            _client.set(_Client(principal.name, quota, self._meter))
        return Visit(revoked, leave)

    async def _principal(self, context: grpc.aio.ServicerContext) -> tuple[Principal, Revoked | None]:
        if not self._authorities:
            return Principal(name=self._name(context)), None
        token = _token(context)
        for authority in self._authorities:
            if (found := await authority.principal(token)) is not None:
                return found, partial(authority.revoked, token)
        raise Unauthenticated(
            "the token is not known to this server: it may have been revoked; ask the operator for another"
        )


@contextlib.asynccontextmanager
async def until(revoked: Revoked | None) -> AsyncIterator[None]:
    """A block that ends with :class:`Unauthenticated` soon after ``revoked``; what it awaits is cancelled then."""
    if revoked is None:
        yield
        return
    task = asyncio.current_task()
    assert task is not None, "a call runs in a task"

    async def look() -> None:
        while not revoked():
            await asyncio.sleep(LOOK_SECONDS)
        task.cancel()

    looking = asyncio.create_task(look())
    try:
        yield
    except asyncio.CancelledError:
        # The caller may have gone at the same time.
        if not looking.done() or task.uncancel():
            raise
        raise Unauthenticated("the token was revoked while the call ran; ask the operator for another") from None
    finally:
        looking.cancel()


def _refuse(message: str) -> Guard:
    async def guard(context: grpc.aio.ServicerContext) -> Visit:
        raise PermissionDenied(message)

    return guard


def _token(context: grpc.aio.ServicerContext) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            if isinstance(value, str) and value[: len(_SCHEME)].lower() == _SCHEME:
                return value[len(_SCHEME) :].strip()
            raise Unauthenticated("the metadata 'authorization' holds no bearer token: send 'Bearer TOKEN'")
    raise Unauthenticated("this server asks for a token: send the metadata 'authorization: Bearer TOKEN'")


def _certified(context: grpc.aio.ServicerContext) -> str:
    """What a client is called by the certificate that it has shown; it need not have, where the port has no TLS."""
    identities = context.peer_identities()
    return f"cert:{bytes(next(iter(identities))).decode(errors='replace')}" if identities else _address(context)


def _address(context: grpc.aio.ServicerContext) -> str:
    """A client's address without the port."""
    return str(context.peer()).rpartition(":")[0]

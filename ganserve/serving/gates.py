"""What an operator says of access to a server, and the gates of its ports that follow."""

import logging
from functools import partial
from pathlib import Path

import msgspec

from ganserve.errors import GanserveError
from ganserve.names import is_loopback
from ganserve.serving.access import EVERYTHING, Gate
from ganserve.serving.jwks import Provider, WebTokens
from ganserve.serving.methods import Kind
from ganserve.serving.principal import Authority
from ganserve.serving.quota import Meter, Quota
from ganserve.serving.tls import Tls
from ganserve.serving.tokens import Tokens

log = logging.getLogger(__name__)

MANAGEMENT_HOST = "127.0.0.1"
"""Where the management port listens, whatever address the server has."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Who may reach what. By default anyone who reaches the port may infer and nobody may manage.

    ``management_port`` is one of its own on :data:`MANAGEMENT_HOST` (0: a free one), or the server's port; None is none.
    """

    tls: Tls | None = None
    token_file: Path | None = None
    provider: Provider | None = None
    quota: Quota = Quota()
    management_port: int | None = None


class Gates(msgspec.Struct, frozen=True):
    """The gate of the server's port, and that of the management port, if there is one of its own."""

    public: Gate
    management: Gate | None


async def gates(access: Access, host: str, port: int) -> Gates:
    """The gates of a server on ``host`` and ``port``; :class:`GanserveError` for settings that contradict each other."""
    authorities = await _authorities(access)
    shared = access.management_port is not None and access.management_port == port != 0
    if shared and not authorities:
        raise GanserveError(
            f"port {port} is to answer management calls too: that needs tokens; give --token-file, or another --management-port"
        )
    if not is_loopback(host) and not authorities and (access.tls is None or access.tls.client_ca is None):
        log.warning(
            "anyone who reaches %s may call: give --token-file, --jwt-keys or --tls-client-ca to know who does", host
        )
    own = access.management_port is not None and not shared
    where = (
        f"the management port on {MANAGEMENT_HOST} answers it" if own else "set --management-port to have it answered"
    )
    gate = partial(
        Gate,
        authorities=authorities,
        quota=access.quota,
        meter=Meter(),
        certificates=access.tls is not None and access.tls.client_ca is not None,
    )
    public = gate(EVERYTHING if shared else EVERYTHING - {Kind.MANAGEMENT}, where)
    management = gate(EVERYTHING - {Kind.INFERENCE}, "call it on the server's own port")
    return Gates(public, management if own else None)


async def _authorities(access: Access) -> list[Authority]:
    found: list[Authority] = []
    if access.token_file is not None:
        found.append(Tokens(access.token_file))
    if access.provider is not None:
        web = WebTokens(access.provider)
        await web.start()
        found.append(web)
    return found

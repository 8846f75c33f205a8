"""Who calls, and who says so."""

from typing import Protocol

import msgspec

from ganserve.serving.quota import Quota


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody known: by what name, whether management calls are allowed, and a quota of its own (None: the server's for everybody)."""

    name: str
    manages: bool = False
    quota: Quota | None = None


class Authority(Protocol):
    """Knows whom a bearer token stands for."""

    async def principal(self, token: str) -> Principal | None:
        """Who shows ``token``; None if it is no token of this authority's, :class:`ganserve.errors.Unauthenticated` if it is not valid."""

    def revoked(self, token: str) -> bool:
        """Whether ``token``, which was valid when its call came, has been taken back since."""

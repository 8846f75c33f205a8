"""JSON Web Tokens of an identity provider (OpenID Connect), verified by PyJWT with the keys that the provider publishes."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from ganserve.errors import GanserveError, Unauthenticated
from ganserve.names import is_loopback
from ganserve.serving.principal import Principal

if TYPE_CHECKING:
    from jwt import PyJWK

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures that are made with a private key. Never HMAC, whose key would be the public one, and never none."""

MANAGE = "ganserve:manage"
"""The word in the claim ``scope`` that allows management calls."""

LEEWAY = 30
"""Seconds by which clocks may differ."""

LIFETIME = 300.0
"""Seconds after which keys are fetched again, so that a key that the provider has withdrawn is forgotten."""

PAUSE = 10.0
"""Seconds between two fetches at least: anyone can show a token of an unknown key."""

TIMEOUT = 10.0
"""Seconds that a fetch may take."""


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """Whose tokens are believed: ``keys`` is the file or the https URL of the provider's JWK set, ``audience`` what this server is
    called in the claim ``aud``, ``issuer`` the claim ``iss``."""

    keys: str
    audience: str
    issuer: str


class WebTokens:
    """The authority on the tokens of a :class:`Provider`."""

    def __init__(self, provider: Provider) -> None:
        try:
            import jwt
        except ImportError as error:
            raise GanserveError("JSON Web Tokens need PyJWT: pip install 'ganserve[jwt]'") from error
        self._jwt, self._provider = jwt, provider
        self._published = _published(provider.keys)
        self._keys: Mapping[str, PyJWK] = {}
        self._fetched = self._tried = -LIFETIME
        self._fetching = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Fetch the keys, so that the first caller need not wait; a provider that does not answer is asked again by later calls."""
        await self._fetch()

    async def principal(self, token: str) -> Principal | None:
        """Who shows ``token``: its claim ``sub``, in the name space of ``jwt:``."""
        if token.count(".") != 2:
            return None
        jwt = self._jwt
        try:
            key = await self._key(str(jwt.get_unverified_header(token).get("kid", "")))
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._provider.audience,
                issuer=self._provider.issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "sub", "aud", "iss"]},
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"the token is not valid: {error}") from error
        return Principal(name=f"jwt:{claims['sub']}", manages=MANAGE in str(claims.get("scope", "")).split())

    def revoked(self, token: str) -> bool:
        """Never: a provider tells of no token that it takes back, and one that expires has let its call in."""
        return False

    async def _key(self, name: str) -> "PyJWK":
        """The key called ``name``."""
        if name not in self._keys:
            await self._fetch()
        elif time.monotonic() - self._fetched > LIFETIME and not self._fetching.locked():
            # The key that is there serves meanwhile, and for as long as the provider does not answer.
            self._refreshing = asyncio.create_task(self._fetch())
        if (key := self._keys.get(name)) is None:
            raise Unauthenticated(f"the token is signed with key {name!r}, which its provider does not publish")
        return key

    async def _fetch(self) -> None:
        async with self._fetching:
            if time.monotonic() - self._tried < PAUSE:
                return
            self._tried = time.monotonic()
            try:
                keys = await asyncio.to_thread(self._published)
            except (self._jwt.PyJWTError, OSError, ValueError) as error:
                log.error(
                    "keys of tokens from %s: %s; keeping the %d there are", self._provider.keys, error, len(self._keys)
                )
                return
            self._keys = {str(key.key_id): key for key in keys}
            self._fetched = time.monotonic()


def _published(keys: str) -> "Callable[[], Sequence[PyJWK]]":
    """What reads the JWK set at ``keys``; :class:`GanserveError` for an URL that others on the way could answer, and a file that is missing."""
    import jwt

    url = urlsplit(keys)
    if url.scheme == "https" or (url.scheme == "http" and is_loopback(url.hostname or "")):
        return jwt.PyJWKClient(keys, cache_jwk_set=False, timeout=TIMEOUT).get_signing_keys
    if url.scheme:
        raise GanserveError(f"keys of tokens {keys}: expected a file, or a URL that begins with https://")
    if not (file := Path(keys)).is_file():
        raise GanserveError(f"keys of tokens {keys}: there is no such file; give the provider's JWK set")
    return lambda: [
        key
        for key in jwt.PyJWKSet.from_json(file.read_text()).keys
        if key.key_id and key.public_key_use in ("sig", None)
    ]

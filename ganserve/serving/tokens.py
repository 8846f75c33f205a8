"""Bearer tokens of the operator's own: made here, kept as hashes in a file that may be replaced while the server runs.

A token is 256 random bits, so its plain SHA-256 cannot be turned back; no salt or slow hash is needed, as it is for passwords.
"""

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from ganserve.errors import GanserveError, SpecError
from ganserve.names import Name, check_name
from ganserve.serving.principal import Principal
from ganserve.serving.quota import Quota, Rate
from ganserve.serving.watched import Watched

PREFIX = "gan_"
"""How every token begins, so that people and scanners of leaked secrets know one when they see it."""

Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Holder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the file: the hashes of the tokens that a principal may show, and what it may do."""

    sha256: Annotated[tuple[Digest, ...], msgspec.Meta(min_length=1)]
    manage: bool = False
    calls: str | None = None
    rows: str | None = None
    streams: Annotated[int, msgspec.Meta(ge=1)] | None = None

    def principal(self, name: str) -> Principal:
        """Who shows one of the tokens; without bounds of its own the server's hold."""
        quota = Quota(calls=_rate(self.calls), rows=_rate(self.rows), streams=self.streams)
        return Principal(name=name, manages=self.manage, quota=None if quota == Quota() else quota)


class Tokens:
    """The authority on the tokens in a file; :class:`GanserveError` if it cannot be read."""

    def __init__(self, file: Path) -> None:
        self._principals = Watched([file], lambda: _principals(read(file), file))

    async def principal(self, token: str) -> Principal | None:
        """Who shows ``token``."""
        # Found by its hash: how long that takes tells nothing of a token that is not there.
        return self._principals.get().get(hash_of(token))

    def revoked(self, token: str) -> bool:
        """Whether the file has ``token`` no more."""
        return hash_of(token) not in self._principals.get()


def hash_of(token: str) -> str:
    """What the file keeps of ``token``."""
    return hashlib.sha256(token.encode()).hexdigest()


def read(file: Path) -> dict[Name, Holder]:
    """The entries of ``file`` by the principals' names."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[Name, Holder])
    except (OSError, msgspec.DecodeError) as error:
        raise GanserveError(
            f"tokens {file}: {error}; make the file with `ganserve token NAME --file {file}`"
        ) from error


def add(
    file: Path,
    name: str,
    *,
    manage: bool = False,
    calls: str | None = None,
    rows: str | None = None,
    streams: int | None = None,
    revoke: bool = False,
) -> str:
    """A new token for ``name``, whose hash is added to ``file``, made if it is not there, readable by its owner alone.

    Older tokens of the name stay valid, unless they are to be revoked; what it may do is replaced.
    """
    check_name("principal", name)
    holders = read(file) if file.exists() else {}
    token = PREFIX + secrets.token_urlsafe(32)
    kept = holders[name].sha256 if name in holders and not revoke else ()
    holder = Holder(sha256=(*kept, hash_of(token)), manage=manage, calls=calls, rows=rows, streams=streams)
    holder.principal(name)  # rates are checked before anything is written
    _write(file, {**holders, name: holder})
    return token


def _write(file: Path, holders: Mapping[str, Holder]) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(holders), indent=2) + b"\n")
    temporary.replace(file)


def _principals(holders: Mapping[str, Holder], file: Path) -> dict[str, Principal]:
    found: dict[str, Principal] = {}
    for name, holder in holders.items():
        try:
            principal = holder.principal(name)
        except SpecError as error:
            raise GanserveError(f"tokens {file}: {name}: {error}") from error
        for digest in holder.sha256:
            if digest in found:
                raise GanserveError(
                    f"tokens {file}: {name} and {found[digest].name} have a token in common; remove one"
                )
            found[digest] = principal
    return found


def _rate(text: str | None) -> Rate | None:
    return None if text is None else Rate.parse(text)

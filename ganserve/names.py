"""What things may be called, and how a record refers to code without importing it."""

import ipaddress
import re
from typing import Annotated, TypeAlias

import msgspec

from ganserve.errors import SpecError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""What a bundle, graph, task or tensor may be called; safe as a file name on every system."""

Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]


def check_name(kind: str, name: str) -> str:
    """Return ``name`` if it is a valid name for a ``kind`` of thing, else raise :class:`SpecError`."""
    if not re.match(NAME_PATTERN, name) or name.endswith("\n"):
        raise SpecError(
            f"{kind} name {name!r} is not allowed: use 1 to 128 letters, digits, '.', '_' or '-', not starting with '.', '_' or '-'"
        )
    return name


def is_loopback(host: str) -> bool:
    """Whether ``host``, a name or an address, is this machine itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_reference(what: str, reference: str) -> None:
    """Raise :class:`SpecError` unless ``reference`` reads ``"module:attribute"``."""
    module, _, attribute = reference.partition(":")
    if not all(part.isidentifier() for part in module.split(".")) or not attribute.isidentifier():
        raise SpecError(f"{what}: {reference!r} is not a reference; write 'package.module:attribute'")

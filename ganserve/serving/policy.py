"""Which versions of a model serve, and what may be loaded: what an operator decides about a repository."""

import re
from collections.abc import Mapping

import msgspec

from ganserve.errors import SpecError

OTHERS = ""
"""Where :attr:`Lifecycle.versions` keeps the rule for models that have none of their own."""


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """A rule: the newest ``latest`` versions that load serve, or those in ``only``; where neither is given, all."""

    latest: int | None = None
    only: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Versions":
        """The rule written as ``all``, ``latest``, ``latest:2`` or ``1,3``; :class:`SpecError` for anything else."""
        if text == "all":
            return cls()
        if found := re.fullmatch(r"latest(?::([1-9][0-9]{0,8}))?", text):
            return cls(latest=int(found[1] or 1))
        if re.fullmatch(r"[1-9][0-9]{0,17}(,[1-9][0-9]{0,17})*", text):
            return cls(only=frozenset(map(int, text.split(","))))
        raise SpecError(f"{text!r} names no versions; write all, latest, latest:2, or numbers such as 1,3")

    def __str__(self) -> str:
        if self.latest is not None:
            return "latest" if self.latest == 1 else f"latest:{self.latest}"
        return ",".join(map(str, sorted(self.only))) or "all"

    def allows(self, version: int) -> bool:
        """Whether ``version`` may serve at all."""
        return not self.only or version in self.only


class Lifecycle(msgspec.Struct, frozen=True, kw_only=True):
    """What comes and goes while a server runs."""

    versions: Mapping[str, Versions] = {}
    """By model, :data:`OTHERS` for the rest; without a rule all versions serve."""
    lazy: bool = False
    """Whether a model is loaded at its first call instead of at the start."""
    max_model_bytes: int | None = None
    """The most bytes that the weights of loaded models take; None is no bound. Beyond it those not called for longest make room."""
    watch: float | None = None
    """How often the folders are looked at for changes; None is never."""

    def versions_of(self, model: str) -> Versions:
        """The rule for ``model``."""
        return self.versions.get(model) or self.versions.get(OTHERS) or Versions()

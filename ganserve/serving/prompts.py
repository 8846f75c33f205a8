"""Which prompts are served: every policy of the operator is asked before anything is computed."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor as Pool

import msgspec

from ganserve.codecs.tokens import normalized
from ganserve.errors import InvalidArgument, PermissionDenied
from ganserve.plugins import Plugins, resolve
from ganserve.prompts import Check

log = logging.getLogger(__name__)


MOST_CHARACTERS = 10_000
"""Of a prompt, unless the operator says otherwise; a model may take fewer."""


class PolicyChoice(msgspec.Struct, frozen=True):
    """A policy to ask, and its argument. Written ``block-list=words.txt``."""

    name: str
    argument: str = ""

    @classmethod
    def parse(cls, text: str) -> "PolicyChoice":
        """The choice that ``text`` stands for."""
        name, _, argument = text.partition("=")
        return cls(name, argument)


class Guard:
    """Asks ``checks``, by the policies' names, about prompts of at most ``most`` characters, in ``pool``; with ``logs`` it writes them to the log."""

    def __init__(
        self, checks: Mapping[str, Check], pool: Pool, logs: bool = False, most: int = MOST_CHARACTERS
    ) -> None:
        self._checks, self._pool, self._logs, self._most = checks, pool, logs, most

    async def let_pass(self, model: str, prompts: Mapping[str, str]) -> None:
        """Raise :class:`PermissionDenied` for the first of ``prompts`` of a request, by their fields, that a policy refuses.

        Raises what :meth:`check_length` does, before any policy reads one.
        """
        self.check_length(prompts)
        if self._logs:
            for field, prompt in prompts.items():
                log.info("%s, %s: %r", model, field, prompt)
        if self._checks and prompts:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._ask, model, prompts)

    def check_length(self, prompts: Mapping[str, str]) -> None:
        """Raise :class:`InvalidArgument` for the first of ``prompts`` that is too long; to be asked before one is tokenized."""
        for field, prompt in prompts.items():
            if len(prompt) > self._most:
                raise InvalidArgument.of(field, f"has {len(prompt)} characters; this server takes at most {self._most}")

    def _ask(self, model: str, prompts: Mapping[str, str]) -> None:
        for field, prompt in prompts.items():
            for policy, check in self._checks.items():
                if reason := check(normalized(prompt), model):
                    raise PermissionDenied(f"{field}: refused by the policy {policy}: {reason}")


def load_policies(plugins: Plugins, choices: Sequence[PolicyChoice]) -> dict[str, Check]:
    """The checks of ``choices``, by their policies' names; raises what a policy does that cannot use its argument."""
    return {
        f"{choice.name}={choice.argument}" if choice.argument else choice.name: resolve(
            plugins.prompt_policy(choice.name).load
        )(choice.argument)
        for choice in choices
    }

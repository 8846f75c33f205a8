"""Policies about prompts: what an operator lets a server refuse. The block list is the one that comes along."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import msgspec

from ganserve import hookimpl
from ganserve.errors import GanserveError
from ganserve.names import check_name, check_reference

Check: TypeAlias = Callable[[str, str], str | None]
"""Takes a prompt and the name of the model that it is for; gives the reason to refuse it, which its caller is told, or None.

It is called from several threads."""


class PromptPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A way to judge prompts. ``load`` refers to a callable ``(argument) -> Check``, called once, when a server starts.

    The argument is what the operator wrote behind the policy's name, empty if nothing.
    """

    name: str
    summary: str
    load: str

    def __post_init__(self) -> None:
        """Check name and reference."""
        check_name("prompt policy", self.name)
        check_reference(f"prompt policy {self.name!r}, load", self.load)


class BlockList:
    """Refuses prompts that hold a word or phrase of a file: UTF-8, one a line, ``#`` begins a remark.

    Words are compared whole, in any case, in Unicode's form NFKC; punctuation and white space between them do not matter.
    """

    def __init__(self, argument: str) -> None:
        """Read the file ``argument``; :class:`GanserveError` where it cannot be read or says nothing."""
        try:
            lines = Path(argument).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise GanserveError(
                f"the block list {argument!r} cannot be read: {error}; write block-list=FILE"
            ) from error
        phrases = [words for line in lines if (words := _words(line.partition("#")[0]))]
        if not phrases:
            raise GanserveError(f"the block list {argument!r} has no words: write one word or phrase a line")
        self._phrases = tuple(f" {phrase} " for phrase in dict.fromkeys(phrases))

    def __call__(self, prompt: str, model: str) -> str | None:
        """The reason, which does not repeat the words."""
        text = f" {_words(prompt)} "
        return "it has words that this server does not serve" if any(one in text for one in self._phrases) else None


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


@hookimpl
def ganserve_prompt_policies() -> Iterable[PromptPolicy]:
    """The policy that comes with ganserve."""
    return [
        PromptPolicy(
            name="block-list",
            summary="refuses prompts with a word or phrase of a file: block-list=FILE",
            load="ganserve.prompts:BlockList",
        )
    ]

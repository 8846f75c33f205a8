"""What a plugin may say. A hook is a question asked of every plugin; the answers are records of :mod:`ganserve.spec`."""

from collections.abc import Iterable

import click
import pluggy

from ganserve.prompts import PromptPolicy
from ganserve.spec import Codec, Engine, Family

hookspec = pluggy.HookspecMarker("ganserve")


@hookspec
def ganserve_families() -> Iterable[Family]:  # type: ignore[empty-body]
    """The GAN families that this plugin trains and exports."""


@hookspec
def ganserve_engines() -> Iterable[Engine]:  # type: ignore[empty-body]
    """The runtimes that this plugin can run a bundle's graphs on."""


@hookspec
def ganserve_codecs() -> Iterable[Codec]:  # type: ignore[empty-body]
    """The codecs by which this plugin turns request values into tensors, or tensors into media."""


@hookspec
def ganserve_prompt_policies() -> Iterable[PromptPolicy]:  # type: ignore[empty-body]
    """The policies by which this plugin can refuse prompts, for an operator to choose from."""


@hookspec
def ganserve_commands(cli: click.Group) -> None:
    """Add commands to the ``ganserve`` command line."""

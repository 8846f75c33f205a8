"""Commands as the command line parses them."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from ganserve.cli import cli


def command_of(name: str) -> click.Command:
    command = cli.get_command(root(), name)
    assert command is not None, f"there is no command ganserve {name}"
    return command


def parsed(name: str, given: Sequence[str]) -> Mapping[str, Any]:
    """The parameters that the command ``name`` reads from ``given``; a wrong option fails."""
    # Below its group: click keeps the help option that a command had at first, and only the group calls it -h.
    return command_of(name).make_context(name, list(given), root()).params


def root() -> click.Context:
    return click.Context(cli, **cli.context_settings)

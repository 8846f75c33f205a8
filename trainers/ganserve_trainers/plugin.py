"""Commands that need torch. This module imports none of it: torch is imported when a command runs."""

import click

from ganserve import hookimpl
from ganserve_trainers.command import train
from ganserve_trainers.encoder_command import train_encoder
from ganserve_trainers.export_command import export


@hookimpl
def ganserve_commands(cli: click.Group) -> None:
    """Add ``train``, ``train-encoder`` and ``export``."""
    cli.add_command(train)
    cli.add_command(train_encoder)
    cli.add_command(export)

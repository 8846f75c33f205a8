"""The ``ganserve`` command: the built-in commands of :mod:`ganserve.commands`, and those that plugins add."""

import importlib
from typing import Any

import click

from ganserve import __version__
from ganserve.errors import GanserveError

BUILT_IN = (
    "bench",
    "compile",
    "demo",
    "directions",
    "fetch",
    "generate",
    "imagine",
    "inspect",
    "invert",
    "mix",
    "models",
    "plugins",
    "sample",
    "serve",
    "token",
    "translate",
    "walk",
)
"""The modules of :mod:`ganserve.commands`; each holds a command ``command``, imported when it is asked for."""

FROM_TRAINERS = ("train", "export")
"""Commands that need torch, and so another distribution."""


class Commands(click.Group):
    """The group. A command that plugins may add is looked for among them only if it is not built in: plugins take time to load."""

    _asked = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, by name."""
        self._ask_plugins()
        return sorted({*BUILT_IN, *FROM_TRAINERS, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command called ``cmd_name``; one that explains itself where the trainers are missing."""
        if cmd_name in BUILT_IN:
            return _with_variables(importlib.import_module(f"ganserve.commands.{cmd_name}").command, cmd_name)
        self._ask_plugins()
        if command := self.commands.get(cmd_name):
            return _with_variables(command, cmd_name)
        return _missing(cmd_name) if cmd_name in FROM_TRAINERS else None

    def invoke(self, ctx: click.Context) -> Any:
        """Run; what ganserve raises on purpose becomes one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except GanserveError as error:
            raise click.ClickException(str(error)) from error

    def _ask_plugins(self) -> None:
        from ganserve.plugins import installed

        if not self._asked:
            self._asked = True
            installed().add_commands(self)


def _with_variables(command: click.Command, name: str) -> click.Command:
    """``command`` with an environment variable for each option, called like the option (click's own are called like the argument)."""
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None:
            longest = max(option.opts, key=len).lstrip("-")
            option.envvar = f"GANSERVE_{name}_{longest}".upper().replace("-", "_")
    return command


def _missing(name: str) -> click.Command:
    from ganserve.plugins import installed

    hint = f"`ganserve {name}` needs the trainers: pip install 'ganserve[train]'"
    failed = [plugin for plugin in installed() if plugin.name == "trainers" and plugin.status != "active"]
    if failed:
        hint = f"`ganserve {name}` comes from the plugin trainers, which is {failed[0].status}: {failed[0].reason}"

    @click.command(name, context_settings={"ignore_unknown_options": True}, short_help="(not installed)", help=hint)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        raise click.ClickException(hint)

    return command


@click.group(
    cls=Commands,
    context_settings={
        "auto_envvar_prefix": "GANSERVE",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.version_option(__version__, prog_name="ganserve")
def cli() -> None:
    """Train, export and serve any GAN.

    A training run becomes a bundle, a folder of ONNX graphs and a manifest; a server answers calls for images from it over gRPC.
    Every option can also be set by an environment variable, GANSERVE_<COMMAND>_<OPTION>: GANSERVE_SERVE_PORT=9000.

    \b
    Examples:
      ganserve demo                                   see it work
      ganserve serve bundles                          serve every bundle in a folder
      ganserve sample dcgan-fashion --n 16 --seed 7   ask the server for images
      ganserve train dcgan --help                     train a model of your own
    """


def main() -> None:
    """Run the command line."""
    cli(prog_name="ganserve")

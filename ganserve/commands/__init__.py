"""The commands, one module each, and their reference."""

import click

TITLE = """# Command line

Made from the commands themselves by `make docs`; `ganserve COMMAND --help` says the same. Every option can also be set by an
environment variable: `GANSERVE_` + the command + the option in capitals, as in `GANSERVE_SERVE_MAX_BATCH=8`; values of an
option that may be repeated are separated by spaces.
"""


def reference() -> str:
    """``docs/cli.md``: the help of every command."""
    from ganserve.cli import cli

    root = _context(cli, "ganserve", None)
    sections = [TITLE, _section(root)]
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        if command is not None and not command.hidden:
            sections.append(_section(_context(command, name, root)))
    return "\n".join(sections)


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(command, parent, name, terminal_width=100, **command.context_settings)


def _section(context: click.Context) -> str:
    return f"## {context.command_path}\n\n```text\n{context.get_help()}\n```\n"

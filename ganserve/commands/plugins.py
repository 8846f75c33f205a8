"""``ganserve plugins``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganserve.commands.options import json_option, plugins_dir_option
from ganserve.commands.output import console, print_json, table

if TYPE_CHECKING:
    from ganserve.plugins import Plugins
    from ganserve.spec import Engine


@click.command(short_help="List plugins and what they bring.")
@json_option
@plugins_dir_option
def command(as_json: bool, plugins_dir: Path | None) -> None:
    """List every plugin that was found, whether it works and why not, and the families, engines and codecs that plugins bring.

    Set GANSERVE_PLUGINS to a comma-separated list of names to allow only those.

    \b
    Examples:
      ganserve plugins
      ganserve plugins --json
      ganserve plugins --plugins-dir ./my-plugins
      GANSERVE_PLUGINS=codecs,onnxruntime ganserve plugins
    """
    from ganserve.plugins import load

    plugins = load(plugins_dir)
    # Asked for the failures alone: a plugin whose commands are broken is listed so.
    plugins.add_commands(click.Group())
    engines = {name: _unavailable(engine) for name, engine in plugins.engines.items()}
    if as_json:
        print_json(
            {
                "plugins": list(plugins),
                "families": [
                    {
                        "name": family.name,
                        "summary": family.summary,
                        "paper": family.paper,
                        "presets": list(family.presets),
                    }
                    for family in plugins.families.values()
                ],
                "engines": [
                    {"name": engine.name, "summary": engine.summary, "unavailable": engines[engine.name]}
                    for engine in plugins.engines.values()
                ],
                "codecs": [{"name": codec.name, "summary": codec.summary} for codec in plugins.codecs.values()],
            }
        )
    else:
        _print_tables(plugins, engines)


def _unavailable(engine: "Engine") -> str | None:
    """Why ``engine`` cannot run here, or None."""
    from ganserve.errors import PluginError
    from ganserve.plugins import resolve

    try:
        reason: str | None = resolve(engine.available)()
    except PluginError as error:
        return str(error)
    return reason


def _print_tables(plugins: "Plugins", engines: Mapping[str, str | None]) -> None:
    from rich.markup import escape

    listing = table("plugin", "version", "status", "distribution", "hooks")
    for plugin in plugins:
        hooks = ", ".join(hook.removeprefix("ganserve_") for hook in plugin.hooks)
        colour = {"active": "green", "disabled": "yellow", "failed": "red"}[plugin.status]
        listing.add_row(
            plugin.name,
            plugin.version,
            f"[{colour}]{plugin.status}[/{colour}]",
            escape(plugin.distribution),
            escape(plugin.reason or hooks),
        )
    families = table("family", "presets", "summary")
    for family in plugins.families.values():
        families.add_row(family.name, ", ".join(family.presets), escape(family.summary))
    runtimes = table("engine", "here", "summary")
    for engine in plugins.engines.values():
        here = "[green]yes[/green]" if engines[engine.name] is None else "[yellow]no[/yellow]"
        runtimes.add_row(engine.name, here, escape(engines[engine.name] or engine.summary))
    codecs = table("codec", "summary")
    for codec in plugins.codecs.values():
        codecs.add_row(codec.name, escape(codec.summary))
    output = console()
    for one in (listing, families, runtimes, codecs):
        output.print(one)
        output.print()

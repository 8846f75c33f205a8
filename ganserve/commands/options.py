"""The options that several commands share."""

from pathlib import Path

import click

server_option = click.option(
    "--server", default="localhost:8001", show_default=True, metavar="HOST:PORT", help="The server to ask."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
plugins_dir_option = click.option(
    "--plugins-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Also load the plugin packages in this folder, straight from disk.",
)

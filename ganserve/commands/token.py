"""``ganserve token``."""

from pathlib import Path

import click

from ganserve.commands.access import RateText


@click.command(short_help="Make a bearer token for clients of a server.")
@click.argument("name")
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The file of hashes that `ganserve serve --token-file` reads; made if it is not there.",
)
@click.option("--manage", is_flag=True, help="Allow management calls too.")
@click.option("--calls", type=RateText(), help="A bound of its own, such as 100/second [the server's].")
@click.option("--rows", type=RateText(), help="A bound of its own, such as 5000/minute [the server's].")
@click.option("--streams", type=click.IntRange(min=1), help="A bound of its own on calls at a time [the server's].")
@click.option("--revoke", is_flag=True, help="Revoke the tokens that NAME has so far.")
def command(
    name: str, file: Path, manage: bool, calls: str | None, rows: str | None, streams: int | None, revoke: bool
) -> None:
    """Make a bearer token for NAME, print it, and add its hash to a file. The token itself is kept nowhere: it cannot be told again.

    A server that runs takes up the file within a second. A NAME may have several tokens, so that an old one is revoked once the new one is
    in use; --manage, --calls, --rows and --streams hold for all of them.

    \b
    Examples:
      ganserve token alice --file tokens.json
      ganserve token alice --file tokens.json --rows 5000/minute --revoke
      GANSERVE_TOKEN=$(ganserve token batch-job --file tokens.json) ganserve sample dcgan-fashion --n 16
    """
    from ganserve.serving.tokens import add

    click.echo(add(file, name, manage=manage, calls=calls, rows=rows, streams=streams, revoke=revoke))

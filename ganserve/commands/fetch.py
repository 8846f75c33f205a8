"""``ganserve fetch``."""

from pathlib import Path

import click


@click.command(short_help="Bring a bundle from a store or registry.")
@click.argument("source")
@click.option(
    "--sha256", required=True, metavar="HEX", help="Of the bundle's manifest.json, which vouches for the rest."
)
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bundles"),
    show_default=True,
    help="The folder of bundles; it comes to lie in <name>/<version>.",
)
@click.option("--insecure", is_flag=True, help="Ask an OCI registry over plain HTTP.")
def command(source: str, sha256: str, into: Path, insecure: bool) -> None:
    """Bring the bundle at SOURCE into a folder of bundles, verified before a byte of it is parsed.

    SOURCE is oci://REGISTRY/REPOSITORY:TAG, a URL such as s3://BUCKET/FOLDER or https://HOST/FOLDER, or a folder. Credentials are found where
    the AWS SDK and docker login keep them. A server that watches the folder (serve --watch) loads it.

    \b
    Examples:
      sha256sum bundles/dcgan-fashion/manifest.json
      ganserve fetch s3://models/dcgan-fashion --sha256 6ab1… --into models
      ganserve fetch oci://registry.example/gans/dcgan-fashion:1 --sha256 6ab1…
    """
    from ganserve.fetch import fetch

    click.echo(fetch(source, into, sha256.lower(), insecure=insecure))

"""The options that say what files of pictures tell of themselves."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

_file = click.Path(dir_okay=False, path_type=Path)

_OPTIONS = (
    click.option(
        "--provenance/--no-provenance",
        default=True,
        show_default=True,
        help="Say in PNG, JPEG and WebP files that a model made the picture, which one, and from which seed.",
    ),
    click.option("--c2pa-cert", type=_file, metavar="FILE", help="Sign that as C2PA has it: the certificate with its issuers', PEM."),
    click.option("--c2pa-key", type=_file, metavar="FILE", help="The certificate's key, PEM (PKCS #8)."),
)  # fmt: skip


def marks_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to ``command``, which gets what they say as ``provenance`` and ``signer``."""

    @wraps(command)
    def collected(provenance: bool, c2pa_cert: Path | None, c2pa_key: Path | None, **given: Any) -> None:
        signer = None
        if c2pa_cert is not None and c2pa_key is not None:
            if not provenance:
                raise click.UsageError("--c2pa-cert signs what --no-provenance leaves out: drop one of them")
            from ganserve.codecs.credentials import Credentials

            signer = Credentials(c2pa_cert, c2pa_key)
        elif c2pa_cert is not None or c2pa_key is not None:
            raise click.UsageError("signed pictures need both --c2pa-cert and --c2pa-key")
        command(**given, provenance=provenance, signer=signer)

    for option in reversed(_OPTIONS):
        collected = option(collected)
    return collected

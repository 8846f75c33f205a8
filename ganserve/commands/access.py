"""The options of ``ganserve serve`` that say who may reach what, and what a connection may cost."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ganserve.serving.gates import Access

_file = click.Path(dir_okay=False, path_type=Path)


class RateText(click.ParamType[str]):
    """An amount in a time, such as 100/second."""

    name = "AMOUNT/UNIT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check ``value``, and leave it as it is."""
        from ganserve.errors import SpecError
        from ganserve.serving.quota import Rate

        try:
            Rate.parse(value)
        except SpecError as error:
            self.fail(str(error), param, ctx)
        return str(value)


_OPTIONS = (
    click.option(
        "--management-port",
        type=click.IntRange(-1, 65535),
        default=8003,
        show_default=True,
        help="Port of 127.0.0.1 for calls that change what is served; 0: a free one, -1: none, that of --port: there, with a token.",
    ),
    click.option("--tls-cert", type=_file, metavar="FILE", help="The server's certificate with its chain, PEM; read again when it changes."),
    click.option("--tls-key", type=_file, metavar="FILE", help="The certificate's key, PEM; read again when it changes."),
    click.option("--tls-client-ca", type=_file, metavar="FILE", help="Ask clients for certificates that one of these authorities signed."),
    click.option("--token-file", type=_file, metavar="FILE", help="Ask for bearer tokens, those of `ganserve token`; read again when it changes."),
    click.option("--jwt-keys", metavar="FILE|URL", help="Ask for tokens of an identity provider, whose JWK set this is."),
    click.option("--jwt-audience", metavar="NAME", help="What the identity provider calls this server (claim aud)."),
    click.option("--jwt-issuer", metavar="NAME", help="What the identity provider calls itself (claim iss)."),
    click.option("--client-calls", type=RateText(), help="The most calls of one client, such as 100/second."),
    click.option("--client-rows", type=RateText(), help="The most rows of one client, such as 5000/minute."),
    click.option("--client-streams", type=click.IntRange(min=1), default=4096, show_default=True, help="The most calls of one client at a time."),
    click.option("--max-connections", type=click.IntRange(min=1), default=1024, show_default=True, help="The most connections of a port."),
    click.option(
        "--client-connections",
        type=click.IntRange(min=1),
        default=256,
        show_default=True,
        help="The most connections of one address; the newest beyond are shut down.",
    ),
    click.option("--max-streams", type=click.IntRange(min=1), default=1024, show_default=True, help="The most calls of a connection at a time."),
    click.option(
        "--ping-seconds",
        type=click.FloatRange(min=0),
        default=10.0,
        show_default=True,
        help="The least time between keepalive pings; a connection that pings more often is closed.",
    ),
)  # fmt: skip


_ACCESS = (
    "management_port",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "token_file",
    "jwt_keys",
    "jwt_audience",
    "jwt_issuer",
    "client_calls",
    "client_rows",
    "client_streams",
)
_CONNECTIONS = ("max_connections", "client_connections", "max_streams", "ping_seconds")


def access_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to ``command``, which gets what they say as ``access`` and ``connections``."""

    @wraps(command)
    def collected(**given: Any) -> None:
        from ganserve.serving.ports import Connections

        access = _access(**{name: given.pop(name) for name in _ACCESS})
        connections = Connections(**{name: given.pop(name) for name in _CONNECTIONS})
        command(**given, access=access, connections=connections)

    for option in reversed(_OPTIONS):
        collected = option(collected)
    return collected


def _access(
    management_port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    token_file: Path | None,
    jwt_keys: str | None,
    jwt_audience: str | None,
    jwt_issuer: str | None,
    client_calls: str | None,
    client_rows: str | None,
    client_streams: int,
) -> "Access":
    from ganserve.serving.gates import Access
    from ganserve.serving.jwks import Provider
    from ganserve.serving.quota import Quota, Rate
    from ganserve.serving.tls import Tls

    tls = provider = None
    if tls_cert is not None and tls_key is not None:
        tls = Tls(cert=tls_cert, key=tls_key, client_ca=tls_client_ca)
    elif tls_cert is not None or tls_key is not None or tls_client_ca is not None:
        raise click.UsageError("TLS needs both --tls-cert and --tls-key")
    if jwt_keys is not None and jwt_audience is not None and jwt_issuer is not None:
        provider = Provider(keys=jwt_keys, audience=jwt_audience, issuer=jwt_issuer)
    elif jwt_keys is not None or jwt_audience is not None or jwt_issuer is not None:
        raise click.UsageError("tokens of an identity provider need all of --jwt-keys, --jwt-audience and --jwt-issuer")
    return Access(
        tls=tls,
        token_file=token_file,
        provider=provider,
        quota=Quota(
            calls=None if client_calls is None else Rate.parse(client_calls),
            rows=None if client_rows is None else Rate.parse(client_rows),
            streams=client_streams,
        ),
        management_port=None if management_port < 0 else management_port,
    )

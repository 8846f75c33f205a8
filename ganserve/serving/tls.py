"""The server's side of TLS: its certificate and key, and whose certificates it asks of clients."""

import ssl
from pathlib import Path

import grpc
import msgspec

from ganserve.errors import GanserveError
from ganserve.serving.watched import Watched


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """Files in PEM: the certificate with its chain, its key, and with ``client_ca`` the authorities one of which must have signed a
    client's certificate. A file that is replaced holds for the next connection."""

    cert: Path
    key: Path
    client_ca: Path | None = None


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """The credentials of a port; :class:`GanserveError` for files that are missing, no PEM, or do not belong together."""
    files = [tls.cert, tls.key, *([tls.client_ca] if tls.client_ca else [])]
    watched = Watched(files, lambda: _read(tls))
    return grpc.dynamic_ssl_server_credentials(
        watched.get(), watched.get, require_client_authentication=tls.client_ca is not None
    )


def _read(tls: Tls) -> grpc.ServerCertificateConfiguration:
    try:
        # gRPC would take anything, and refuse every connection then.
        check = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        check.load_cert_chain(tls.cert, tls.key, password=b"")
        if tls.client_ca is not None:
            check.load_verify_locations(tls.client_ca)
        pair = tls.key.read_bytes(), tls.cert.read_bytes()
        authorities = tls.client_ca.read_bytes() if tls.client_ca else None
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = f"certificate {tls.cert}, key {tls.key}" + (f", authorities {tls.client_ca}" if tls.client_ca else "")
        raise GanserveError(
            f"TLS with {files}: {error}; expected PEM files, the key unencrypted and that of the certificate"
        ) from error
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)

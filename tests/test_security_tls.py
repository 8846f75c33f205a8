"""TLS and mutual TLS: who is let in, and certificates that are replaced while the server runs."""

import asyncio
import logging
import ssl
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ganserve import AsyncClient, Client
from ganserve.cli import cli
from ganserve.client import Tls as ClientTls
from ganserve.errors import GanserveError, Unavailable
from ganserve.serving.gates import Access
from ganserve.serving.quota import Quota, Rate
from ganserve.serving.tls import Tls, server_credentials
from ganserve.testing.server import serving

from .certificates import CertificateAuthority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


def names(address: str, **options: object) -> list[str]:
    with Client(address, timeout=5, **options) as client:  # type: ignore[arg-type]
        return [model.name for model in client.models()]


def serial(address: str) -> int:
    """The number of the certificate that a server shows."""
    host, _, port = address.partition(":")
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((host, int(port))).encode()).serial_number


def test_a_certificate_is_checked_and_plain_text_refused(echo: Path, authority: CertificateAuthority) -> None:
    cert, key = authority.issue("server")
    with serving(echo, access=Access(tls=Tls(cert=cert, key=key))) as server:
        assert names(server.address, tls=ClientTls(ca=authority.file)) == ["echo"]

        async def awaited() -> int:
            async with AsyncClient(server.address, tls=ClientTls(ca=authority.file)) as client:
                return len(await client.sample("echo", 2, task="sample"))

        assert asyncio.run(awaited()) == 2
        with pytest.raises(Unavailable):
            names(server.address)
        with pytest.raises(Unavailable, match=r"(?i)certificate|handshake"):
            names(server.address, tls=True)
        done = CliRunner().invoke(cli, ["models", "--server", server.address, "--tls-ca", str(authority.file)])
        assert (done.exit_code, "echo" in done.output) == (0, True)


def test_a_certificate_that_is_replaced_holds_for_the_next_connection(
    echo: Path, authority: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = authority.issue("turning")
    with serving(echo, access=Access(tls=Tls(cert=cert, key=key))) as server:
        first = serial(server.address)
        with Client(server.address, tls=ClientTls(ca=authority.file)) as kept:
            assert kept.models()
            old = key.read_bytes()
            authority.issue("turning")
            new, other = key.read_bytes(), cert.read_bytes()
            # Only one of the two has been replaced so far: they do not belong together.
            key.write_bytes(old)
            time.sleep(1.1)
            with caplog.at_level(logging.ERROR):
                assert serial(server.address) == first
            assert "the key unencrypted and that of the certificate" in caplog.text
            key.write_bytes(new)
            time.sleep(1.1)
            assert serial(server.address) == x509.load_pem_x509_certificate(other).serial_number != first
            assert kept.models(), "a connection that was open stays"


def test_clients_are_asked_for_certificates_of_the_authority(
    echo: Path, authority: CertificateAuthority, tmp_path: Path
) -> None:
    cert, key = authority.issue("server")
    known, stranger = authority.issue("camera-7"), CertificateAuthority(tmp_path, "stranger").issue("camera-7")
    access = Access(
        tls=Tls(cert=cert, key=key, client_ca=authority.file), quota=Quota(calls=Rate(amount=1, seconds=3600))
    )
    with serving(echo, access=access) as server:
        assert names(server.address, tls=ClientTls(ca=authority.file, cert=known[0], key=known[1])) == ["echo"]
        for refused in (
            ClientTls(ca=authority.file),
            ClientTls(ca=authority.file, cert=stranger[0], key=stranger[1]),
        ):
            with pytest.raises(Unavailable):
                names(server.address, tls=refused)
        with pytest.raises(GanserveError, match="the quota of 'cert:camera-7' is 1 calls"):
            names(server.address, tls=ClientTls(ca=authority.file, cert=known[0], key=known[1]))


def test_authorities_of_clients_that_are_replaced_hold_for_the_next_connection(
    echo: Path, authority: CertificateAuthority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = authority.issue("server")
    other = CertificateAuthority(tmp_path, "other")
    before, after = (
        ClientTls(ca=authority.file, cert=pair[0], key=pair[1])
        for pair in (authority.issue("camera-8"), other.issue("camera-8"))
    )
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(authority.file.read_bytes())
    with (
        serving(echo, access=Access(tls=Tls(cert=cert, key=key, client_ca=trusted))) as server,
        Client(server.address, tls=before) as kept,
    ):
        assert kept.models()
        with pytest.raises(Unavailable):
            names(server.address, tls=after)
        trusted.write_text("no PEM")
        time.sleep(1.1)
        with caplog.at_level(logging.ERROR):
            assert names(server.address, tls=before) == ["echo"]
        assert str(trusted) in caplog.text
        trusted.write_bytes(other.file.read_bytes())
        time.sleep(1.1)
        assert names(server.address, tls=after) == ["echo"]
        with pytest.raises(Unavailable):
            names(server.address, tls=before)
        assert kept.models(), "a connection that was open stays"


def test_files_that_cannot_serve_are_refused_at_the_start(authority: CertificateAuthority, tmp_path: Path) -> None:
    cert, key = authority.issue("one")
    _, other = authority.issue("other")
    (text := tmp_path / "text").write_text("no PEM")
    secret = serialization.load_pem_private_key(key.read_bytes(), None)
    (locked := tmp_path / "locked").write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"a password that nobody is asked for"),
        )
    )
    for wrong in (
        Tls(cert=cert, key=other),
        Tls(cert=text, key=key),
        Tls(cert=cert, key=locked),
        Tls(cert=cert, key=tmp_path / "none"),
        Tls(cert=cert, key=key, client_ca=text),
    ):
        with pytest.raises(GanserveError, match="expected PEM files, the key unencrypted and that of the certificate"):
            server_credentials(wrong)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--tls-cert", "a"], "needs both --tls-cert and --tls-key"),
        (["--tls-client-ca", "a"], "needs both --tls-cert and --tls-key"),
        (["--tls-cert", "/nowhere/a", "--tls-key", "/nowhere/b"], "/nowhere/a"),
    ],
)
def test_options_that_contradict_each_other_are_refused(echo: Path, options: list[str], text: str) -> None:
    ports = ["--port", "0", "--metrics-port", "-1", "--management-port", "-1"]
    done = CliRunner().invoke(cli, ["serve", str(echo), *ports, *options])
    assert done.exit_code != 0
    assert text in done.output

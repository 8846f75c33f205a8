"""Bundles from elsewhere: from a real S3 protocol, a registry over HTTP, a web server and a folder; only what was promised arrives."""

import base64
import hashlib
import http.server
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner
from moto.server import ThreadedMotoServer

from ganserve.bundle import MANIFEST, read
from ganserve.cli import cli
from ganserve.errors import BundleError
from ganserve.fetch import fetch
from ganserve.testing.echo import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("fetch") / "m", name="m", version=3, tasks=("sample",))


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


class Registry(http.server.BaseHTTPRequestHandler):
    """The pull side of the OCI distribution protocol, for one artifact at gans/m:3; ``blobs`` are served by their digests."""

    def __init__(self, blobs: dict[str, bytes], *arguments: Any) -> None:
        self.blobs = blobs
        super().__init__(*arguments)

    def do_GET(self) -> None:
        *_, kind, reference = self.path.split("/")
        data = self.blobs.get(reference)
        self.send_response(200 if data is not None and self.path.startswith("/v2/gans/m/") else 404)
        self.send_header(
            "Content-Type",
            "application/vnd.oci.image.manifest.v1+json" if kind == "manifests" else "application/octet-stream",
        )
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class PrivateRegistry(Registry):
    """A registry that wants a token, and gives one to whoever has logged in as user:secret."""

    def do_GET(self) -> None:
        basic, bearer = f"Basic {base64.b64encode(b'user:secret').decode()}", "Bearer just-this"
        if self.path.startswith("/v2/"):
            allowed = self.headers["Authorization"] == bearer
            if allowed:
                super().do_GET()
                return
            challenge = (
                f'Bearer realm="http://{self.headers["Host"]}/token",service="gans",scope="repository:gans/m:pull"'
            )
            self._answer(401, {}, {"WWW-Authenticate": challenge})
        elif self.headers["Authorization"] == basic:
            self._answer(200, {"token": bearer.removeprefix("Bearer ")}, {})
        else:
            self._answer(401, {}, {})

    def _answer(self, status: int, told: dict[str, str], headers: dict[str, str]) -> None:
        data = json.dumps(told).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def oci(folder: Path) -> dict[str, bytes]:
    """What ``oras push`` would make of the files in ``folder``: blobs by digest, and the manifest under its tag."""
    blobs = {f"sha256:{hashlib.sha256(data).hexdigest()}": data for data in map(Path.read_bytes, folder.iterdir())}
    layers = [
        {
            "mediaType": "application/octet-stream",
            "digest": f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
            "size": path.stat().st_size,
            "annotations": {"org.opencontainers.image.title": path.name},
        }
        for path in folder.iterdir()
    ]
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": "sha256:" + "0" * 64, "size": 2}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": empty,
        "layers": layers,
    }
    return {**blobs, "3": json.dumps(manifest).encode()}


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[..., http.server.BaseHTTPRequestHandler]], str]]:
    """``serve(handler)``: the host and port at which it answers."""
    servers = []

    def start(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_bundle_comes_from_a_folder_and_only_once(tmp_path: Path, bundle: Path) -> None:
    place = fetch(str(bundle), tmp_path / "models", sha256(bundle))
    assert place == tmp_path / "models" / "m" / "3"
    assert read(place).manifest == read(bundle).manifest
    before = (place / MANIFEST).stat().st_mtime_ns
    assert fetch(str(bundle), tmp_path / "models", sha256(bundle)) == place
    assert (place / MANIFEST).stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["m"], "nothing else stays"


def test_a_bundle_comes_from_a_registry(tmp_path: Path, bundle: Path, serve: Callable[..., str]) -> None:
    blobs = oci(bundle)
    address = serve(partial(Registry, blobs))
    place = fetch(f"oci://{address}/gans/m:3", tmp_path, sha256(bundle), insecure=True)
    assert read(place).manifest == read(bundle).manifest
    with pytest.raises(BundleError, match="cannot be read"):
        fetch(f"oci://{address}/gans/other:3", tmp_path, sha256(bundle), insecure=True)
    # A registry that lies about a blob is found out by the bundle's own digests.
    name = next(iter(json.loads((bundle / MANIFEST).read_text())["files"]))
    digest = f"sha256:{hashlib.sha256((bundle / name).read_bytes()).hexdigest()}"
    blobs[digest] = b"x" * len(blobs[digest])
    with pytest.raises(BundleError, match=f"{name} has sha256 .*, expected .*; nothing of it was parsed"):
        fetch(f"oci://{address}/gans/m:3", tmp_path / "second", sha256(bundle), insecure=True)
    assert list((tmp_path / "second").iterdir()) == []


@pytest.mark.parametrize("password", ["secret", "wrong", None])
def test_a_private_registry_is_asked_as_docker_login_says(
    tmp_path: Path, bundle: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    address = serve(partial(PrivateRegistry, oci(bundle)))
    monkeypatch.setenv("HOME", str(tmp_path))
    if password is not None:
        (tmp_path / ".docker").mkdir()
        auth = base64.b64encode(f"user:{password}".encode()).decode()
        (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}}))
    take = partial(fetch, f"oci://{address}/gans/m:3", tmp_path / "models", sha256(bundle), insecure=True)
    if password == "secret":
        assert read(take()).manifest == read(bundle).manifest
    else:
        with pytest.raises(BundleError, match=r"cannot be read: .*; expected .* a `docker login` where it is private"):
            take()
        assert not (tmp_path / "models").exists(), "nothing is there that was not promised"


def test_a_registry_that_says_nothing_is_given_up(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ganserve.fetch.REPLY_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(BundleError, match="ReadTimeout"):
        fetch(f"oci://127.0.0.1:{silent.getsockname()[1]}/gans/m:3", tmp_path, sha256(bundle), insecure=True)


def test_a_bundle_comes_from_an_s3_store(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        store = boto3.client("s3")
        store.create_bucket(Bucket="models")
        for path in bundle.iterdir():
            store.upload_file(str(path), "models", f"gans/m/{path.name}")
        place = fetch("s3://models/gans/m", tmp_path, sha256(bundle))
        assert read(place).manifest == read(bundle).manifest
        with pytest.raises(BundleError, match=r"manifest\.json cannot be fetched: FileNotFoundError"):
            fetch("s3://models/gans/other", tmp_path, sha256(bundle))
    finally:
        server.stop()


def test_a_bundle_comes_from_a_web_server(tmp_path: Path, bundle: Path, serve: Callable[..., str]) -> None:

    class Files(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    address = serve(partial(Files, directory=str(bundle)))
    assert read(fetch(f"http://{address}", tmp_path, sha256(bundle)))


@pytest.mark.parametrize("how", ["another manifest", "a changed file", "a longer file", "no file", "a hostile name"])
def test_what_was_not_promised_does_not_arrive(tmp_path: Path, bundle: Path, how: str) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    expected = sha256(bundle)
    if how == "another manifest":
        (copy / MANIFEST).write_bytes((copy / MANIFEST).read_bytes() + b" ")
        message = r"manifest\.json has sha256 .*, expected .*; nothing of it was parsed, and nothing is kept"
    elif how == "a changed file":
        data = (copy / "mapping.onnx").read_bytes()
        (copy / "mapping.onnx").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        message = r"mapping\.onnx has sha256"
    elif how == "a longer file":
        (copy / "mapping.onnx").write_bytes(bytes(1 << 22))
        message = r"mapping\.onnx has more than \d+ bytes; it is not the file that was promised"
    elif how == "no file":
        (copy / "golden.npz").unlink()
        message = r"golden\.npz cannot be fetched: FileNotFoundError"
    else:
        text = (copy / MANIFEST).read_text()
        (copy / MANIFEST).write_text(text.replace("golden.npz", "../golden.npz"))
        expected, message = sha256(copy), "is not a manifest"
    with pytest.raises(BundleError, match=message):
        fetch(str(copy), tmp_path / "models", expected)
    assert list((tmp_path / "models").iterdir()) == []
    assert not (tmp_path / "golden.npz").exists()


def test_another_bundle_of_a_version_is_not_written_over(tmp_path: Path, bundle: Path) -> None:
    fetch(str(bundle), tmp_path / "models", sha256(bundle))
    other = write_bundle(tmp_path / "other", name="m", version=3, shift=2.0, tasks=("sample",))
    with pytest.raises(BundleError, match="holds another bundle of this version"):
        fetch(str(other), tmp_path / "models", sha256(other))
    assert sha256(tmp_path / "models" / "m" / "3") == sha256(bundle)


def test_the_command_prints_where_it_lies(tmp_path: Path, bundle: Path) -> None:
    run = partial(CliRunner().invoke, cli)
    done = run(["fetch", str(bundle), "--sha256", sha256(bundle).upper(), "--into", str(tmp_path / "models")])
    assert (done.exit_code, done.output.strip()) == (0, str(tmp_path / "models" / "m" / "3"))
    wrong = run(["fetch", "nowhere://x", "--sha256", "0" * 64, "--into", str(tmp_path)])
    assert wrong.exit_code == 1
    assert "nowhere://x cannot be opened" in wrong.output

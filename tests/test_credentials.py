"""Content Credentials: what files of pictures say is signed, bound to their bytes, and read back by the standard's own library."""

import io
import json
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image

from ganserve import Client
from ganserve.cli import cli
from ganserve.codecs import EncodeOptions, Origin
from ganserve.codecs.credentials import TYPES, Credentials
from ganserve.codecs.image import ImageEncoder
from ganserve.codecs.provenance import SOURCE_TYPE
from ganserve.errors import GanserveError
from ganserve.spec import Output, Tensor
from ganserve.testing.server import serving

from .certificates import CertificateAuthority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def files(authority: CertificateAuthority) -> tuple[Path, Path]:
    return authority.signer("studio", ec.generate_private_key(ec.SECP256R1()))


def read(data: bytes, name: str) -> dict[str, Any]:
    """The manifest of a file, whose hash and signature must be right."""
    with c2pa.Reader(TYPES[name], io.BytesIO(data)) as reader:
        told = json.loads(reader.json())
    assert told["validation_state"] == "Valid", told["validation_results"]
    manifest: dict[str, Any] = told["manifests"][told["active_manifest"]]
    return manifest


def created(manifest: dict[str, Any]) -> dict[str, Any]:
    (actions,) = manifest["assertions"]
    (action,) = actions["data"]["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", SOURCE_TYPE)
    found: dict[str, Any] = action
    return found


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("size", [(1, 1), (23, 17)], ids=["dot", "small"])
def test_a_file_is_signed_and_has_the_same_pixels(files: tuple[Path, Path], name: str, size: tuple[int, int]) -> None:
    tensor = Tensor(name="image", dtype="uint8", shape=("h", "w", 3))
    codec = ImageEncoder(Output(tensor="image", codec="image"), tensor)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    options = EncodeOptions(format=name, origin=Origin('a"/><b', 3), signer=Credentials(*files))
    largest = codec.check(options).drawn_from(2**64 - 1, 2**64 - 1)
    data = codec.encode(pixels, largest).data
    assert len(data) <= codec.most_bytes(pixels.shape, codec.check(options))
    manifest = read(data, name)
    assert manifest["signature_info"]["common_name"] == "studio"
    assert created(manifest)["softwareAgent"] == {"name": 'a"/><b', "version": "3"}
    assert created(manifest)["parameters"] == {"ganserve.seed": str(2**64 - 1), "ganserve.index": str(2**64 - 1)}
    plain = codec.encode(pixels, codec.check(EncodeOptions(format=name))).data
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(Image.open(io.BytesIO(plain))))


def test_a_changed_file_is_no_longer_valid(files: tuple[Path, Path]) -> None:
    data = Credentials(*files).signed(_png(np.zeros((8, 8, 3), np.uint8)), "png", Origin("echo", 1))
    other = _png(np.full((8, 8, 3), 9, np.uint8))
    # The manifest of one picture in the file of another.
    moved = data[: data.index(b"IDAT") - 4] + other[other.index(b"IDAT") - 4 :]
    with c2pa.Reader("image/png", io.BytesIO(moved)) as reader:
        told = json.loads(reader.json())
    assert told["validation_state"] == "Invalid"
    assert "assertion.dataHash.mismatch" in {one["code"] for one in told["validation_status"]}


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "Ed25519", "RSA"],
)
def test_other_kinds_of_keys_sign_too(authority: CertificateAuthority, key: Any) -> None:
    signer = Credentials(*authority.signer("other", key))
    assert created(read(signer.signed(_png(np.zeros((4, 4, 3), np.uint8)), "png", Origin("echo", 1)), "png"))


def test_a_server_signs_what_it_makes_in_many_threads(files: tuple[Path, Path], echo: Path) -> None:
    with serving(echo, signer=Credentials(*files), encode_threads=4) as server, Client(server.address) as client:
        made = client.sample("echo", task="sample", n=32, seed=2**63, first_index=5)
        raw = client.sample("echo", task="sample", n=1, seed=2**63, first_index=5, format="raw")
    assert len(raw[0].data) == 48
    for place, one in enumerate(made):
        found = created(read(one.data, "png"))
        assert found["softwareAgent"] == {"name": "echo", "version": "1"}
        assert found["parameters"] == {"ganserve.seed": str(2**63), "ganserve.index": str(5 + place)}
    assert np.array_equal(np.asarray(made[0].image()), np.asarray(raw[0].image()))


def test_generate_signs_and_keeps_signed_runs_apart(files: tuple[Path, Path], echo: Path, tmp_path: Path) -> None:
    signs = ("--c2pa-cert", str(files[0]), "--c2pa-key", str(files[1]))
    common = (
        "generate",
        str(echo),
        "--task",
        "sample",
        "--threads",
        "1",
        "--count",
        "3",
        "--seed",
        "7",
        "--out",
        str(tmp_path),
    )
    assert CliRunner().invoke(cli, [*common, *signs]).exit_code == 0
    (part,) = tmp_path.glob("echo-*")
    assert created(read((part / "000000002.png").read_bytes(), "png"))["parameters"]["ganserve.index"] == "2"
    refused = CliRunner().invoke(cli, [*common, "--no-provenance"])
    assert refused.exit_code == 1
    assert "holds parts of another run (marks 'signed', now 'none')" in refused.output.replace("\n", " ")


def test_without_provenance_bulk_files_say_nothing(echo: Path, tmp_path: Path) -> None:
    common = ("generate", str(echo), "--task", "sample", "--threads", "1", "--count", "1", "--out", str(tmp_path))
    assert CliRunner().invoke(cli, [*common, "--no-provenance"]).exit_code == 0
    with Image.open(tmp_path / "echo-000000" / "000000000.png") as image:
        assert image.info == {}


def test_keys_and_certificates_that_cannot_sign_are_named(
    authority: CertificateAuthority, files: tuple[Path, Path], tmp_path: Path
) -> None:
    certificate, key = files
    other = authority.signer("another", ec.generate_private_key(ec.SECP256R1()))[1]
    web = authority.issue("web")[0], authority.issue("web")[1]
    wrong = authority.signer("odd", ec.generate_private_key(ec.SECP256K1()))[1]
    (tmp_path / "none").write_bytes(b"none")
    for pair, told in {
        (certificate, tmp_path / "missing"): "No such file",
        (certificate, tmp_path / "none"): "cannot be signed with",
        (tmp_path / "none", key): "cannot be signed with",
        (certificate, other): "does not match",
        (certificate, wrong): "expected one on the curve P-256",
        web: "extended key usage such as emailProtection",
    }.items():
        with pytest.raises(GanserveError, match=told) as error:
            Credentials(*pair)
        assert "BEGIN" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--c2pa-cert", "a.pem"), "signed pictures need both --c2pa-cert and --c2pa-key"),
        (("--c2pa-cert", "a", "--c2pa-key", "b", "--no-provenance"), "signs what --no-provenance leaves out"),
        (
            ("--c2pa-cert", "/nowhere/a", "--c2pa-key", "/nowhere/b"),
            "cannot be signed with the certificates /nowhere/a",
        ),
    ],
    ids=["half", "nothing-to-sign", "missing"],
)
def test_options_that_make_no_sense_end_the_start(echo: Path, given: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(cli, ["serve", str(echo), "--port", "0", *given])
    assert result.exit_code in (1, 2)
    assert told in " ".join(result.output.split())


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()

"""Regenerates ganserve/v1 and ganserve/inference from protos/, and checks the protos: lint, breaking changes, stubs in step.

``python -m tools.protos`` writes; ``--check`` fails if it would write anything, if ``buf lint`` finds fault, or if the protos
break a client built from the committed descriptor image (``--accept`` replaces that image: after a release, and with a new proto,
which has to be in it).
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).parent.parent
IMAGE = ROOT / "protos" / "released.binpb"
SOURCES = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos" / "ganserve").rglob("*.proto"))
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")

INFERENCE = "inference/open_inference.proto"
"""A protocol that others have stubs of, too: :mod:`ganserve.inference` makes its messages of this one's descriptors."""
DESCRIPTORS, TYPES = "ganserve/inference/descriptors.binpb", "ganserve/inference/messages.pyi"


def generate(out: Path) -> None:
    """Write the stubs of every proto below ``out``."""
    flags = [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    _protoc(*flags, *SOURCES)
    (out / DESCRIPTORS).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        _protoc(f"--descriptor_set_out={out / DESCRIPTORS}", f"--pyi_out={folder}", INFERENCE)
        shutil.copy(Path(folder, INFERENCE.replace(".proto", "_pb2.pyi")), out / TYPES)


def _protoc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", *arguments], cwd=ROOT, check=True)


def differing(out: Path) -> list[str]:
    """The stubs that differ between ``out`` and the repository."""
    names = [source.removesuffix(".proto") + suffix for source in SOURCES for suffix in SUFFIXES]
    names += [DESCRIPTORS, TYPES]
    return [
        name for name in names if not (ROOT / name).exists() or (ROOT / name).read_bytes() != (out / name).read_bytes()
    ]


def unguarded() -> list[str]:
    """The protos that the committed image lacks, so that nobody would notice what breaks in them."""
    image = FileDescriptorSet.FromString(IMAGE.read_bytes())
    return sorted({*SOURCES, INFERENCE} - {file.name for file in image.file})


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail where the repository is out of step.")
@click.option("--accept", is_flag=True, help="Make the present protos the ones that later changes must not break.")
def main(check: bool, accept: bool) -> None:
    """Regenerate or check the gRPC stubs."""
    if accept:
        subprocess.run(["buf", "build", "-o", str(IMAGE)], cwd=ROOT, check=True)
    if not check:
        generate(ROOT)
        return
    subprocess.run(["buf", "lint"], cwd=ROOT, check=True)
    if new := unguarded():
        raise click.ClickException(
            f"{', '.join(new)} not in {IMAGE.name}: run `python -m tools.protos --accept` and commit it"
        )
    subprocess.run(["buf", "breaking", "--against", str(IMAGE)], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        if stale := differing(Path(folder)):
            raise click.ClickException(
                f"{', '.join(stale)} out of step with protos/: run `make protos` and commit the result"
            )


if __name__ == "__main__":
    main()

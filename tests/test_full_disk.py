"""A full disk: one clear line, what was there before stays, and nothing half-written is left.

A limit on the size of files stands for it, which also ends a write in its middle. Built engines: test_engine_cache.py; bulk runs:
test_generate.py; checkpoints: trainers/tests/test_checkpoint.py.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from ganserve.bundle import MANIFEST, digest
from ganserve.testing.server import serving

LIMIT = 64
"""Bytes, less than any picture takes."""


def ganserve(*arguments: str, limit: int) -> subprocess.CompletedProcess[str]:
    """A command of ganserve that cannot write files of more than ``limit`` bytes."""
    script = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); from ganserve.cli import main; main()"
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)


def test_a_picture_that_cannot_be_written_leaves_the_one_before(echo: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"the one before")
    with serving(echo) as server:
        arguments = ("sample", "echo", "--task", "sample", "--n", "4", "--grid", str(sheet), "--server", server.address)
        done = ganserve(*arguments, limit=LIMIT)
        assert (done.returncode, done.stderr) == (
            1,
            f"Error: {sheet} cannot be written: File too large; make room, or choose another place\n",
        )
        assert sheet.read_bytes() == b"the one before"
        assert list(tmp_path.iterdir()) == [sheet]
        assert ganserve(*arguments, limit=1 << 20).returncode == 0
        assert sheet.read_bytes().startswith(b"\x89PNG")


def test_a_bundle_that_cannot_be_fetched_is_not_there(echo: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    done = ganserve(
        "fetch", str(echo), "--sha256", digest(echo / MANIFEST).sha256, "--into", str(tmp_path / "models"), limit=LIMIT
    )
    assert done.returncode == 1
    assert "cannot be fetched: OSError: [Errno 27] File too large" in done.stderr
    assert [path for path in (tmp_path / "models").rglob("*") if path.is_file()] == []

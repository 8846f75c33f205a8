"""What engines have built is kept for this user alone, whole, and checked before it is used."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ganserve.engines import Options, cache, openvino
from ganserve.errors import EngineError
from ganserve.testing import graphs


def test_what_was_kept_is_read_again_and_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "one.engine"
    assert cache.read(path) is None
    cache.write(path, b"an engine")
    assert cache.read(path) == b"an engine"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path], "nothing temporary stays"
    cache.write(path, b"another")
    assert cache.read(path) == b"another"


@pytest.mark.parametrize("how", ["cut", "emptied", "flipped", "readable", "linked", "a folder"])
def test_what_is_not_whole_or_may_be_somebody_elses_is_not_read(tmp_path: Path, how: str) -> None:
    path = tmp_path / "one.engine"
    cache.write(path, b"an engine")
    whole = path.read_bytes()
    if how == "cut":
        path.write_bytes(whole[:-1])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "flipped":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif how == "readable":
        path.chmod(0o640)
    elif how == "linked":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.unlink()
        path.mkdir(mode=0o600)
    assert cache.read(path) is None


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "one.engine"
    cache.write(path, b"an engine")
    limit = os.sysconf("SC_PAGE_SIZE")
    script = (
        "import resource, signal\n"
        "from pathlib import Path\n"
        "from ganserve.engines import cache\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"cache.write(Path({str(path)!r}), b'x' * {4 * limit})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert cache.read(path) == b"an engine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_others_may_write_to_keeps_nothing(tmp_path: Path) -> None:
    assert cache.private_folder(tmp_path / "mine") == tmp_path / "mine"
    (tmp_path / "mine").chmod(0o777)
    with pytest.raises(EngineError, match="others may write to it; make it a folder of this user's: chmod 700"):
        cache.private_folder(tmp_path / "mine")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(EngineError, match="others may write to it"):
        cache.private_folder(tmp_path / "link")


def test_openvino_keeps_what_it_compiled_in_a_folder_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    tiny = graphs.synthesis(tmp_path)
    openvino.load(tiny.file, Options(graph=tiny.graph, cache_dir=tmp_path / "cache")).close()
    assert stat.S_IMODE((tmp_path / "cache" / "openvino").stat().st_mode) == 0o700
    assert list((tmp_path / "cache" / "openvino").iterdir())

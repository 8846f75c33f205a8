"""What engines have built is kept for this user alone, whole, and checked before it is used."""

import contextlib
import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ganserve.engines import Options, cache, openvino, tensorrt
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
        f"cache.{{}}(Path({str(path)!r}), b'x' * {4 * limit})\n"
    )
    said = f"the built engine of {4 * limit} bytes cannot be kept at {path}: File too large; make room there, or name another folder"
    for does, told in (("write", f"ganserve.errors.EngineError: {said}"), ("keep", f"{said}; until then the engine")):
        done = subprocess.run([sys.executable, "-c", script.format(does)], capture_output=True, text=True, check=False)
        assert done.returncode == (does == "write")
        assert told in done.stderr
        assert cache.read(path) == b"an engine"
        assert list(tmp_path.iterdir()) == [path]


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_engine_that_cannot_be_kept_serves_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(cache, "_write", no_room)
    tiny = graphs.synthesis(tmp_path)
    session = openvino.load(tiny.file, Options(graph=tiny.graph, cache_dir=tmp_path / "cache"))
    feeds = {name: session.upload(array) for name, array in tiny.rows(0, 2).items()}
    outputs = [tensor.name for tensor in tiny.graph.outputs]
    assert all(np.isfinite(session.download(value)).all() for value in session.run(feeds, outputs).values())
    session.close()
    assert "No space left on device; make room there" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_compile_says_that_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = graphs.synthesis(tmp_path)

    monkeypatch.setattr(cache, "_write", no_room)
    monkeypatch.setattr(tensorrt, "_place", lambda *_: (tmp_path / "one.engine", "none"))
    monkeypatch.setattr(tensorrt, "_found", lambda *_: (b"an engine", False))
    with pytest.raises(
        EngineError, match=r"engine of 9 bytes cannot be kept at .*: No space left on device; make room"
    ):
        tensorrt.compile(tiny.file, tmp_path, Options(graph=tiny.graph))


def test_a_folder_that_others_may_write_to_keeps_nothing(tmp_path: Path) -> None:
    assert cache.private_folder(tmp_path / "mine") == tmp_path / "mine"
    (tmp_path / "mine").chmod(0o777)
    with pytest.raises(EngineError, match="others may write to it; make it a folder of this user's: chmod 700"):
        cache.private_folder(tmp_path / "mine")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(EngineError, match="others may write to it"):
        cache.private_folder(tmp_path / "link")


def test_openvino_takes_what_it_compiled_and_nothing_that_is_damaged_or_anothers(tmp_path: Path) -> None:
    ov = pytest.importorskip("openvino")
    tiny = graphs.synthesis(tmp_path)
    outputs = [tensor.name for tensor in tiny.graph.outputs]
    options = Options(graph=tiny.graph, cache_dir=tmp_path / "cache")
    compiled: list[int] = []

    def loaded(options: Options = options) -> list[np.ndarray]:
        """What a session makes of three rows and of one; each is a size of its own."""
        with pytest.MonkeyPatch.context() as patch:
            compile_model = ov.Core.compile_model
            patch.setattr(ov.Core, "compile_model", lambda *given: compiled.append(1) or compile_model(*given))
            session = openvino.load(tiny.file, options)
            made = []
            for rows in (3, 1):
                feeds = {name: session.upload(array) for name, array in tiny.rows(0, rows).items()}
                made += [session.download(value) for value in session.run(feeds, outputs).values()]
            session.close()
        return made

    first = loaded()
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == len(compiled) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    compiled.clear()
    assert all((one == other).all() for one, other in zip(first, loaded(), strict=True))
    assert not compiled, "the second start finds what the first one built"

    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    files[1].chmod(0o644)
    assert all((one == other).all() for one, other in zip(first, loaded(), strict=True))
    assert len(compiled) == 2
    assert all(cache.read(path) is not None for path in files), "what was damaged is built anew"

    loaded(Options(graph=tiny.graph, cache_dir=tmp_path / "cache", threads=2))
    assert len(sorted((tmp_path / "cache").iterdir())) == 4, "other settings, other engines"


def test_another_openvino_another_machine_or_another_precision_finds_nothing(tmp_path: Path) -> None:
    ov = pytest.importorskip("openvino")
    tiny = graphs.synthesis(tmp_path)
    options = Options(graph=tiny.graph, cache_dir=tmp_path / "cache")
    get_property = ov.Core.get_property

    def kept(options: Options = options) -> set[Path]:
        """The files there are after a session was loaded, and one row's graph compiled."""
        openvino.load(tiny.file, options).close()
        return set((tmp_path / "cache").iterdir())

    def answers(name: str, value: object) -> Callable[..., object]:
        return lambda core, *asked: value if asked[1:] == (name,) else get_property(core, *asked)

    number = len(kept())
    assert number == len(kept()) == 1
    for name, value in (("FULL_DEVICE_NAME", "another processor"), ("OPTIMIZATION_CAPABILITIES", ["FP32"])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ov.Core, "get_property", answers(name, value))
            number += 1
            assert len(kept()) == len(kept()) == number, name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ov, "__version__", f"{ov.__version__}.1")
        number += 1
        assert len(kept()) == len(kept()) == number, "another version"
    with contextlib.suppress(EngineError):  # where the processor has no bf16; that is seen in what was compiled
        kept(msgspec.structs.replace(options, precision="bf16"))
    assert len(kept()) == number + 1, "another precision"

"""The engine tensorrt. Building is real wherever TensorRT RTX is installed; running needs a GPU, and is skipped without one."""

import os
import stat
import typing
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from ganserve.engines import Options, Precision, tensorrt
from ganserve.errors import EngineError
from ganserve.testing import graphs
from ganserve.testing.engines import EngineConformance

trt = pytest.importorskip("tensorrt_rtx_bindings")


class TestTensorRt(EngineConformance):
    engine = "tensorrt"
    device = "cuda:0"
    tolerance = 1e-3


def built(tmp_path: Path, max_rows: int = 16) -> tuple[graphs.TinyGraph, tensorrt.Built]:
    tiny = graphs.synthesis(tmp_path)
    return tiny, tensorrt.compile(tiny.file, tmp_path / "engines", Options(graph=tiny.graph, max_rows=max_rows))


def test_an_engine_is_built_without_a_gpu(tmp_path: Path) -> None:
    _, engine = built(tmp_path)
    weights = (tmp_path / "synthesis.bin").stat().st_size
    assert weights < engine.size < 10 * weights, "the weights, from their own file, are in it, and once"
    assert engine.builder.startswith("tensorrt_rtx_bindings 1.")
    assert not engine.cached
    assert engine.path.read_bytes()


def test_a_built_engine_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    _, engine = built(tmp_path)
    assert stat.S_IMODE(engine.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(engine.path.parent.stat().st_mode) == 0o700
    assert list(engine.path.parent.iterdir()) == [engine.path], "nothing temporary stays behind"
    before = engine.path.stat().st_mtime_ns
    _, again = built(tmp_path)
    assert again.cached
    assert (again.path, again.path.stat().st_mtime_ns) == (engine.path, before)


def test_an_engine_that_others_could_have_written_is_built_anew(tmp_path: Path) -> None:
    _, engine = built(tmp_path)
    engine.path.write_bytes(b"not an engine")
    engine.path.chmod(0o666)
    _, again = built(tmp_path)
    assert not again.cached
    assert again.size == engine.size
    assert stat.S_IMODE(again.path.stat().st_mode) == 0o600


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    _, engine = built(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    engine.path.rename(elsewhere)
    engine.path.symlink_to(elsewhere)
    _, again = built(tmp_path)
    assert not again.cached
    assert not again.path.is_symlink()


def test_an_engine_of_free_sizes_is_built_without_a_gpu_for_a_range_of_them(tmp_path: Path) -> None:
    tiny = graphs.translation(tmp_path)
    options = [Options(graph=tiny.graph, max_rows=4, max_side=side) for side in (1024, 512)]
    engines = [tensorrt.compile(tiny.file, tmp_path / "engines", one) for one in options]
    assert engines[0].path != engines[1].path
    assert all(engine.size > 0 for engine in engines)


def test_the_sizes_that_an_engine_is_built_for_are_multiples(tmp_path: Path) -> None:
    (picture,) = graphs.translation(tmp_path).graph.inputs
    options = Options(graph=graphs.translation(tmp_path).graph, max_rows=4, typical_side=65, max_side=127)
    assert tensorrt._shapes(picture, options) == [(1, 2, 2, 3), (4, 64, 64, 3), (4, 126, 126, 3)]
    least = msgspec.structs.replace(options, typical_side=1, max_side=1)
    assert tensorrt._shapes(picture, least) == [(1, 2, 2, 3), (4, 2, 2, 3), (4, 2, 2, 3)]


def test_other_weights_sizes_or_precisions_are_other_engines(tmp_path: Path) -> None:
    tiny, engine = built(tmp_path)
    _, wider = built(tmp_path, max_rows=32)
    weights = bytearray((tmp_path / "synthesis.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "synthesis.bin").write_bytes(bytes(weights))
    changed = tensorrt.compile(tiny.file, tmp_path / "engines", Options(graph=tiny.graph, max_rows=16))
    assert len({engine.path, wider.path, changed.path}) == 3
    # TensorRT RTX would refuse to build the others.
    options = [Options(graph=tiny.graph, max_rows=16, precision=name) for name in typing.get_args(Precision)]
    places = {tensorrt._place(tiny.file, engine.path.parent, one)[0] for one in options}
    assert changed.path in places
    assert len(places) == len(options) == 3


def test_another_version_of_tensorrt_is_another_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, engine = built(tmp_path)
    options = Options(graph=tiny.graph, max_rows=16, cache_dir=engine.path.parent)
    assert not tensorrt.must_build(tiny.file, options)
    monkeypatch.setattr(trt, "__version__", f"{trt.__version__}.1")
    assert tensorrt.must_build(tiny.file, options)
    _, newer = built(tmp_path)
    assert not newer.cached
    assert newer.path != engine.path


def test_an_engine_fits_the_kind_of_gpu_that_built_it_but_one_of_rtx_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = graphs.synthesis(tmp_path)

    def places(package: str) -> set[Path]:
        """Where engines of ``package`` are kept on three GPUs, of two kinds."""
        monkeypatch.setattr(tensorrt, "_tensorrt", lambda: SimpleNamespace(__name__=package, __version__="10.0"))
        found = set()
        for capability in ((8, 0), (9, 0), (9, 0)):
            monkeypatch.setattr(
                tensorrt, "_device", lambda options, is_of=capability: SimpleNamespace(capability=is_of)
            )
            found.add(tensorrt._place(tiny.file, tmp_path, Options(graph=tiny.graph))[0])
        return found

    assert len(places("tensorrt")) == 2
    assert len(places("tensorrt_rtx_bindings")) == 1
    assert not places("tensorrt") & places("tensorrt_rtx_bindings")


def test_reduced_precision_is_refused_where_the_graph_decides(tmp_path: Path) -> None:
    tiny = graphs.mapping(tmp_path)
    with pytest.raises(EngineError, match="runs this one in fp32, not fp16"):
        tensorrt.compile(tiny.file, tmp_path, Options(graph=tiny.graph, precision="fp16"))


def test_a_damaged_graph_is_named(tmp_path: Path) -> None:
    tiny = graphs.mapping(tmp_path)
    tiny.file.write_bytes(tiny.file.read_bytes()[:-100])
    with pytest.raises(EngineError, match=r"mapping\.onnx"):
        tensorrt.compile(tiny.file, tmp_path, Options(graph=tiny.graph))


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a GPU here")
def test_running_without_a_gpu_says_what_is_missing_and_what_to_do(tmp_path: Path) -> None:
    tiny = graphs.mapping(tmp_path)
    with pytest.raises(
        EngineError,
        match=r"needs an NVIDIA GPU of compute capability 8\.0.*no NVIDIA driver.*ganserve compile.*onnxruntime",
    ):
        tensorrt.load(tiny.file, Options(graph=tiny.graph))


def test_an_engine_that_the_disk_has_damaged_is_built_anew(tmp_path: Path) -> None:
    tiny, engine = built(tmp_path)
    options = Options(graph=tiny.graph, max_rows=16, cache_dir=engine.path.parent)
    assert not tensorrt.must_build(tiny.file, options)
    data = bytearray(engine.path.read_bytes())
    data[len(data) // 2] ^= 1
    engine.path.write_bytes(bytes(data))
    assert tensorrt.must_build(tiny.file, options)
    _, again = built(tmp_path)
    assert not again.cached
    assert not tensorrt.must_build(tiny.file, options)
    assert tensorrt.must_build(tiny.file, msgspec.structs.replace(options, cache_dir=None))

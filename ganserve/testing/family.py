"""What every family must hold, as tests to inherit. A family's test file is three lines::

    from ganserve.testing import FamilyConformance

    class TestMine(FamilyConformance):
        family = "mine"

The family is driven as its users drive it: `ganserve train` and `ganserve export` on its ``tiny`` preset, then engines, a server
and a client on the bundle. Needs the trainers and pytest.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from ganserve import golden
from ganserve.bundle import Bundle, read
from ganserve.client import Client
from ganserve.engines import Options, Session
from ganserve.plugins import installed, resolve
from ganserve.spec import Family, Graph, Tensor, tensors_of
from ganserve.testing.server import serving

BATCHES = (1, 2, 3, 8)
"""Rows of a batch that are compared with their singles."""


class FamilyConformance:
    """Inherit, and set ``family``. The tests share one short training run and the bundle exported from it."""

    family: ClassVar[str]
    data: ClassVar[str] = "digits:"
    """What ``ganserve train --data`` is given for the tiny preset."""
    parameters: ClassVar[Mapping[tuple[str, str], int]] = {}
    """(preset, network) → the number of parameters that follows from the paper's tables."""

    @pytest.fixture(scope="class")
    @classmethod
    def record(cls) -> Family:
        """The family as its plugin gave it."""
        return installed().family(cls.family)

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A run of four steps."""
        folder = tmp_path_factory.mktemp(cls.family) / "four"
        cls._train(folder, steps=4)
        return folder

    @pytest.fixture(scope="class")
    @classmethod
    def bundle(cls, run: Path) -> Bundle:
        """The bundle exported from the run."""
        out = run.parent / "bundle"
        _ganserve("export", str(run), "--out", str(out), "--name", cls.family)
        return read(out)

    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, bundle: Bundle) -> Iterator[Client]:
        """A client of a server that serves the bundle."""
        with serving(bundle.folder) as server, Client(server.address) as client:
            yield client

    def test_it_registers_without_torch(self) -> None:
        """Listing families is a matter for the torch-free half."""
        listing = f"from ganserve.plugins import load; assert {self.family!r} in load().families"
        code = f"import sys; {listing}; assert 'torch' not in sys.modules, 'registering imported torch'"
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_every_reference_resolves(self, record: Family) -> None:
        """What registration only names is there."""
        for reference in (record.build, record.train, record.export):
            assert callable(resolve(reference)), f"{reference} is not callable"

    def test_every_preset_has_a_spec(self, record: Family) -> None:
        """Specs are checked when made."""
        for preset in record.presets:
            assert record.spec(record.config(preset)).tasks, f"preset {preset} has no task"

    def test_networks_have_the_papers_parameters(self, record: Family) -> None:
        """Counted on the networks as built."""
        for (preset, network), expected in self.parameters.items():
            networks = resolve(record.build)(record.config(preset))
            count = sum(parameter.numel() for parameter in networks[network].parameters())
            assert count == expected, f"{preset}, {network}: {count} parameters; the paper's tables give {expected}"

    def test_two_steps_and_two_more_equal_four(self, run: Path) -> None:
        """A run that was stopped and resumed ends with the same bits."""
        folder = run.parent / "two-and-two"
        self._train(folder, steps=2)
        self._train(folder, steps=4, resume=True)
        four, resumed = _newest(run), _newest(folder)
        weights = sorted(path.name for path in four.glob("*.safetensors"))
        assert weights, f"{four} holds no weights"
        for name in weights:
            assert (four / name).read_bytes() == (resumed / name).read_bytes(), f"{name} differs after a resume"

    def test_the_bundle_declares_the_spec(self, record: Family, bundle: Bundle) -> None:
        """Export keeps names, types and shapes."""
        spec = record.spec(record.config("tiny"))
        declared = [(graph.name, graph.inputs, graph.outputs) for graph in bundle.manifest.graphs]
        assert declared == [(graph.name, graph.inputs, graph.outputs) for graph in spec.graphs]
        assert bundle.manifest.tasks == spec.tasks

    def test_onnx_equals_torch(self, bundle: Bundle) -> None:
        """On every batch size, within the tolerance that serving allows; the export's own figure is stricter."""
        for graph in bundle.manifest.graphs:
            assert graph.parity < golden.FP32_FLOAT
            onnx, torch = (_session(bundle, graph, engine) for engine in ("onnxruntime", "torch"))
            for rows in BATCHES:
                feeds = _feeds(graph, rows)
                for output, expected in _run(torch, graph, feeds).items():
                    found = _run(onnx, graph, feeds)[output].astype(np.float64)
                    apart = np.abs(found - expected.astype(np.float64)).max()
                    allowed = 1.0 if expected.dtype == np.uint8 else golden.FP32_FLOAT
                    assert apart <= allowed, f"{graph.name}.{output} at {rows} rows differs by {apart}"

    def test_a_batch_equals_its_singles(self, bundle: Bundle) -> None:
        """Bit for bit, on the engine that promises it."""
        for graph in bundle.manifest.graphs:
            if not graph.batchable:
                continue
            session = _session(bundle, graph, "onnxruntime")
            feeds = _feeds(graph, max(BATCHES))
            singles = [
                _run(session, graph, {name: a[i : i + 1] for name, a in feeds.items()}) for i in range(max(BATCHES))
            ]
            for rows in BATCHES:
                for output, array in _run(session, graph, {name: a[:rows] for name, a in feeds.items()}).items():
                    expected = np.concatenate([single[output] for single in singles[:rows]])
                    assert np.array_equal(array, expected), f"{graph.name}.{output} depends on its batch of {rows}"

    def test_tensorrt_builds_it(self, bundle: Bundle, tmp_path: Path) -> None:
        """A real engine with a dynamic batch, for which no GPU is needed."""
        pytest.importorskip(
            "tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: pip install 'ganserve[rtx]'"
        )
        from ganserve.engines.tensorrt import compile as build

        for graph in bundle.manifest.graphs:
            built = build(bundle.path(graph.file), tmp_path, Options(graph=graph))
            assert built.path.stat().st_size > 0

    def test_a_call_returns_what_the_spec_declares(self, bundle: Bundle, client: Client) -> None:
        """Sample tasks, through a real server."""
        for task in bundle.manifest.tasks:
            if task.kind != "sample":
                continue
            samples = client.sample(self.family, 3, seed=5, task=task.name, format="npy")
            image = tensors_of({graph.name: graph for graph in bundle.manifest.graphs}, task)[task.output.tensor]
            for array in samples.arrays():
                assert image.accepts(array.shape)
                assert array.dtype == image.dtype

    def test_the_same_seed_gives_the_same_bytes(self, bundle: Bundle, client: Client) -> None:
        """Alone, and among others."""
        for task in bundle.manifest.tasks:
            if task.kind != "sample":
                continue
            together = client.sample(self.family, 4, seed=5, task=task.name)
            alone = client.sample(self.family, 1, seed=5, first_index=2, task=task.name)
            assert alone[0].data == together[2].data
            assert together[0].data != together[1].data, "two indices of one seed gave one image"

    @classmethod
    def _train(cls, folder: Path, *, steps: int, resume: bool = False) -> None:
        batch = int(installed().family(cls.family).config("tiny")["batch"])
        options = ["--out", str(folder), "--kimg", str(steps * batch / 1000), "--device", "cpu", "--threads", "1"]
        start = ["--resume"] if resume else [cls.family, "--preset", "tiny", "--data", cls.data, "--seed", "3"]
        _ganserve("train", *start, *options)


def _ganserve(*arguments: str) -> None:
    result = subprocess.run([sys.executable, "-m", "ganserve", *arguments], capture_output=True, text=True)
    assert result.returncode == 0, f"ganserve {' '.join(arguments)} ended with {result.returncode}:\n{result.stderr}"


def _newest(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def _session(bundle: Bundle, graph: Graph, engine: str) -> Session:
    found = next(one for one in bundle.manifest.graphs if one.name == graph.name)
    session: Session = resolve(installed().engine(engine).load)(
        bundle.path(found.file), Options(graph=found, threads=1)
    )
    return session


def _feeds(graph: Graph, rows: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(11)
    return {tensor.name: _values(tensor, rows, generator) for tensor in graph.inputs}


def _values(tensor: Tensor, rows: int, generator: np.random.Generator) -> np.ndarray:
    shape = (rows, *(size if isinstance(size, int) else 8 for size in tensor.shape))
    if tensor.dtype.startswith("float"):
        return generator.standard_normal(shape).astype(tensor.dtype)
    return generator.integers(0, 2, shape).astype(tensor.dtype)


def _run(session: Session, graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    outputs = [tensor.name for tensor in graph.outputs]
    made = session.run({name: session.upload(np.ascontiguousarray(array)) for name, array in feeds.items()}, outputs)
    return {name: session.download(made[name]) for name in outputs}

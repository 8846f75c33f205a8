"""What every family must hold, as tests to inherit. A family's test file is three lines::

    from ganserve.testing import FamilyConformance

    class TestMine(FamilyConformance):
        family = "mine"

The family is driven as its users drive it: `ganserve train` and `ganserve export` on its ``tiny`` preset, then engines, a server
and a client on the bundle. Needs the trainers and pytest.
"""

import io
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from PIL import Image

from ganserve import golden
from ganserve.bundle import Bundle, ExportedGraph, read
from ganserve.cli import cli
from ganserve.client import Client, Translation
from ganserve.codecs import Decoder, PictureDecoder
from ganserve.engines import Options, Session
from ganserve.errors import InvalidArgument
from ganserve.plugins import installed, resolve
from ganserve.spec import Family, Graph, Task, tensors_of
from ganserve.testing.captions import write_captions, write_text_encoder
from ganserve.testing.domains import write_domains
from ganserve.testing.server import serving

BATCHES = (1, 2, 3, 8)
"""Rows of a batch that are compared with their singles."""


class FamilyConformance:
    """Inherit, and set ``family``. The tests share one short training run and the bundle exported from it."""

    family: ClassVar[str]
    data: ClassVar[str] = ""
    """What ``ganserve train --data`` is given for the tiny preset: by default digits, pairs or domains of them, or captioned pictures, as the preset says."""
    parameters: ClassVar[Mapping[tuple[str, str], int]] = {}
    """(preset, network) → the number of parameters that follows from the paper's tables."""

    @pytest.fixture(scope="class")
    @classmethod
    def record(cls) -> Family:
        """The family as its plugin gave it."""
        return installed().family(cls.family)

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, record: Family, tmp_path_factory: pytest.TempPathFactory) -> str:
        """The data that the tiny preset is trained on."""
        kind = record.config("tiny").get("data", "images")
        if cls.data or kind == "images":
            return cls.data or "digits:"
        if kind == "captions":
            return str(write_captions(tmp_path_factory.mktemp(kind)))
        return str(write_domains(tmp_path_factory.mktemp(kind), paired=kind == "pairs"))

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A run of four steps."""
        folder = tmp_path_factory.mktemp(cls.family) / "four"
        cls._train(folder, source, steps=4)
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
        """Counted on the networks as built, where the class gives ``parameters``."""
        if not self.parameters:
            pytest.skip(f"no counts to compare with: give {type(self).__name__}.parameters")
        for (preset, network), expected in self.parameters.items():
            networks = resolve(record.build)(record.config(preset))
            count = sum(parameter.numel() for parameter in networks[network].parameters())
            assert count == expected, f"{preset}, {network}: {count} parameters; the paper's tables give {expected}"

    def test_two_steps_and_two_more_equal_four(self, run: Path, source: str) -> None:
        """A run that was stopped and resumed ends with the same bits."""
        folder = run.parent / "two-and-two"
        self._train(folder, source, steps=2)
        self._train(folder, source, steps=4, resume=True)
        four, resumed = _newest(run), _newest(folder)
        weights = sorted(path.name for path in four.glob("*.safetensors"))
        assert weights, f"{four} holds no weights"
        for name in weights:
            assert (four / name).read_bytes() == (resumed / name).read_bytes(), f"{name} differs after a resume"

    def test_the_bundle_declares_the_spec(self, record: Family, bundle: Bundle) -> None:
        """Export keeps names, types and shapes; all that it adds is what the data says of classes."""
        spec = record.spec(record.config("tiny"))
        declared = [(graph.name, graph.inputs, graph.outputs) for graph in bundle.manifest.graphs]
        assert declared == [(graph.name, graph.inputs, graph.outputs) for graph in spec.graphs]
        assert [_apart_from_data(task) for task in bundle.manifest.tasks] == [
            _apart_from_data(task) for task in spec.tasks
        ]

    def test_onnx_equals_torch(self, bundle: Bundle) -> None:
        """On every batch size and, where sizes are free, at several, within the tolerance of serving; the export's own figure is stricter."""
        for graph in bundle.manifest.graphs:
            assert graph.parity < golden.FP32_FLOAT
            onnx, torch = (_session(bundle, graph, engine) for engine in ("onnxruntime", "torch"))
            for whole in _feeds(bundle, graph):
                for rows in BATCHES:
                    feeds = _rows(whole, 0, rows)
                    made = _run(onnx, graph, feeds)
                    for output, expected in _run(torch, graph, feeds).items():
                        apart = np.abs(made[output].astype(np.float64) - expected.astype(np.float64)).max()
                        floats = expected.dtype.kind == "f"
                        allowed = golden.FP32_FLOAT * golden.size(expected) if floats else 1.0
                        assert apart <= allowed, f"{graph.name}.{output} {expected.shape} differs by {apart}"

    def test_a_batch_equals_its_singles(self, bundle: Bundle) -> None:
        """Bit for bit, on the engine that promises it."""
        for graph in bundle.manifest.graphs:
            if not graph.batchable:
                continue
            session = _session(bundle, graph, "onnxruntime")
            for whole in _feeds(bundle, graph):
                singles = [_run(session, graph, _rows(whole, row, row + 1)) for row in range(max(BATCHES))]
                for rows in BATCHES:
                    for output, array in _run(session, graph, _rows(whole, 0, rows)).items():
                        expected = np.concatenate([single[output] for single in singles[:rows]])
                        assert np.array_equal(array, expected), (
                            f"{graph.name}.{output} {array.shape} depends on its batch"
                        )

    def test_tensorrt_builds_it(self, bundle: Bundle, tmp_path: Path) -> None:
        """A real engine for any number of rows and all free sizes, for which no GPU is needed."""
        pytest.importorskip(
            "tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: pip install 'ganserve[rtx]'"
        )
        from ganserve.engines.tensorrt import compile as build

        for graph in bundle.manifest.graphs:
            built = build(bundle.path(graph.file), tmp_path, Options(graph=graph))
            assert built.path.stat().st_size > 0

    def test_a_call_returns_what_the_spec_declares(self, bundle: Bundle, client: Client) -> None:
        """Sample tasks, through a real server."""
        for task in _tasks(bundle, "sample"):
            samples = client.sample(self.family, 3, seed=5, task=task.name, format="npy")
            image = tensors_of(_graphs(bundle), task)[task.output.tensor]
            for array in samples.arrays():
                assert image.accepts(array.shape)
                assert array.dtype == image.dtype

    def test_the_same_seed_gives_the_same_bytes(self, bundle: Bundle, client: Client) -> None:
        """Alone, and among others."""
        for task in _tasks(bundle, "sample"):
            together = client.sample(self.family, 4, seed=5, task=task.name)
            alone = client.sample(self.family, 1, seed=5, first_index=2, task=task.name)
            assert alone[0].data == together[2].data
            first, second = together[0].array(), together[1].array()
            assert (first != second).any(), "two indices of one seed gave one image"

    def test_a_translation_is_what_the_spec_declares(self, bundle: Bundle, client: Client) -> None:
        """Translate tasks, through a real server: of a picture of the task's own size, and of any where sizes are free."""
        for task in _tasks(bundle, "translate"):
            result = tensors_of(_graphs(bundle), task)[task.output.tensor]
            pictures = _pictures(bundle, task, 1)
            made = client.translate(self.family, **_given(task, pictures, 0)).array()
            assert result.accepts(made.shape)
            assert made.dtype == result.dtype
            if task.output.codec != "image" or not _takes_any_size(bundle, task):
                continue
            height, width = next(iter(pictures.values())).shape[1:3]
            scale = made.shape[0] // height, made.shape[1] // width
            for sides in ((height + 1, width // 2 + 1), (1, 3 * width - 1)):
                other = {name: _resized(rows, sides) for name, rows in pictures.items()}
                found = client.translate(self.family, **_given(task, other, 0), size="native").array()
                assert found.shape[:2] == (sides[0] * scale[0], sides[1] * scale[1]), f"{task.name} at {sides}"

    def test_the_same_picture_gives_the_same_bytes(self, bundle: Bundle, client: Client) -> None:
        """Alone, and while others are translated; other pictures give others."""
        for task in _tasks(bundle, "translate"):
            pictures = _pictures(bundle, task, 6)

            def translate(row: int, task: Task = task, pictures: Mapping[str, np.ndarray] = pictures) -> Translation:
                return client.translate(self.family, **_given(task, pictures, row))

            alone = [translate(row).data for row in range(6)]
            with ThreadPoolExecutor(6) as threads:
                together = list(threads.map(translate, list(range(6)) * 2))
            exact = all(one.served.determinism == "bit-exact" for one in together)
            assert not exact or [one.data for one in together] == alone * 2, f"{task.name} depends on its neighbours"
            assert len(set(alone)) > 1, f"{task.name} gives every picture the same result"

    def test_a_wrong_picture_is_refused(self, bundle: Bundle, client: Client) -> None:
        """By name, and the next one is served all the same."""
        for task in _tasks(bundle, "translate"):
            pictures = _pictures(bundle, task, 1)
            for name, rows in pictures.items():
                file = io.BytesIO()
                Image.fromarray(rows[0].squeeze()).save(file, "PNG")
                for wrong in (b"no picture", file.getvalue()[:-30]):
                    given = _given(task, pictures, 0)
                    given["images"] = {**given["images"], name: wrong}
                    with pytest.raises(InvalidArgument, match=rf"images\[{name}\]"):
                        client.translate(self.family, **given)
                if not _takes_any_size(bundle, task):
                    other = {**pictures, name: _resized(rows, (rows.shape[1] + 1, rows.shape[2]))}
                    with pytest.raises(InvalidArgument, match=rf"images\[{name}\].*{rows.shape[1] + 1}"):
                        client.translate(self.family, **_given(task, other, 0), size="exact")
                assert client.translate(self.family, **_given(task, pictures, 0)).data

    def test_a_prompt_is_answered_as_the_spec_declares(self, bundle: Bundle, client: Client) -> None:
        """Text-to-image tasks, through a real server: prompts and seeds both matter, and neither what else is asked for."""
        for task in _tasks(bundle, "text_to_image"):
            image = tensors_of(_graphs(bundle), task)[task.output.tensor]
            prompts = ["a red heart", "the left half blue, and a great deal more to read", "cheese"]
            made = client.imagine(self.family, prompts, 2, seed=5, task=task.name, format="npy")
            assert all(image.accepts(array.shape) and array.dtype == image.dtype for array in made.arrays())
            assert len(set(made.data)) == len(made) == 6, f"{task.name} gives one picture for several prompts or seeds"
            alone = client.imagine(self.family, prompts[2], seed=5, first_index=1, task=task.name, format="npy")
            assert made.served.determinism != "bit-exact" or alone[0].data == made[5].data

    def test_a_walk_passes_through_its_keys(self, bundle: Bundle, client: Client) -> None:
        """Tasks with latents, but those with classes: the frames at two seeds are their samples, and the one between is neither."""
        for task in _tasks(bundle, "sample"):
            if "label" in task.values():
                continue
            ends = client.sample(self.family, 2, seed=5, format="raw", task=task.name).data
            for latent in task.latents:
                options: dict[str, Any] = {"latent": latent.tensor, "format": "raw", "task": task.name}
                first, between, last = client.interpolate(self.family, [(5, 0), (5, 1)], 2, **options)
                assert [first.data, last.data] == ends, f"{task.name} does not meet its samples in {latent.tensor}"
                assert between.data not in ends

    def test_an_inversion_comes_nearer_and_goes_back_into_sample(self, bundle: Bundle, client: Client) -> None:
        """Invert tasks, but those with classes: of a picture that the model made."""
        for task in _tasks(bundle, "invert"):
            if "label" in task.values():
                continue
            target = client.sample(self.family, 1, seed=5, format="raw")[0].array()
            begun, found = (
                client.invert(self.family, target, seed=1, steps=steps, format="raw", task=task.name)
                for steps in (1, 20)
            )
            assert found.loss < begun.loss, f"{task.name} comes no nearer in 20 steps"
            again = client.sample(self.family, 1, tensors=found.tensors, format="raw")
            assert (again[0].array() == found.array()).all(), "the latent found is not that of the picture shown"

    @classmethod
    def _train(cls, folder: Path, source: str, *, steps: int, resume: bool = False) -> None:
        batch = int(installed().family(cls.family).config("tiny")["batch"])
        options = ["--out", str(folder), "--kimg", str(steps * batch / 1000), "--device", "cpu", "--threads", "1"]
        start = ["--resume"] if resume else [cls.family, "--preset", "tiny", "--data", source, "--seed", "3"]
        if not resume and installed().family(cls.family).config("tiny").get("data") == "captions":
            start += ["--text-encoder", str(write_text_encoder(folder.with_name("encoder")))]
        if resume:
            # In another process than before: nothing but the run's files can help.
            subprocess.run([sys.executable, "-m", "ganserve", "train", *start, *options], check=True)
        else:
            _ganserve("train", *start, *options)


def _ganserve(*arguments: str) -> None:
    cli.main(list(arguments), prog_name="ganserve", standalone_mode=False)


def _apart_from_data(task: Task) -> Task:
    """``task`` without the names and counts of classes, which a data set may have given."""
    inputs = (
        msgspec.structs.replace(
            source, options={name: value for name, value in source.options.items() if name not in ("names", "counts")}
        )
        for source in task.inputs
    )
    return msgspec.structs.replace(task, inputs=tuple(inputs))


def _newest(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def _session(bundle: Bundle, graph: ExportedGraph, engine: str) -> Session:
    session: Session = resolve(installed().engine(engine).load)(
        bundle.path(graph.file), Options(graph=graph, threads=1)
    )
    return session


def _graphs(bundle: Bundle) -> dict[str, Graph]:
    return {graph.name: graph for graph in bundle.manifest.graphs}


def _tasks(bundle: Bundle, kind: str) -> list[Task]:
    return [task for task in bundle.manifest.tasks if task.kind == kind]


def _feeds(bundle: Bundle, graph: ExportedGraph) -> list[dict[str, np.ndarray]]:
    """Rows for ``graph``: the golden ones and, so that there are enough, their mirror images; also at other sizes where they are free."""
    rows = {name: _with_mirrored(array) for name, array in golden.inputs(bundle, graph).items()}
    free = {size: tensor.multiple for tensor in graph.inputs for size in tensor.shape if isinstance(size, str)}
    if not free:
        return [rows]
    smallest, unequal = free, {name: (2 + place) * step for place, (name, step) in enumerate(free.items())}
    return [rows, *(_at_sizes(graph, rows, sizes) for sizes in (smallest, unequal))]


def _with_mirrored(array: np.ndarray) -> np.ndarray:
    # Numbers keep their rows: the step of a search belongs to its moments.
    turned = array[:, ::-1] if array.ndim > 1 else array
    return np.resize(np.concatenate([array, turned]), (max(BATCHES), *array.shape[1:]))


def _at_sizes(graph: Graph, rows: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    made = dict(rows)
    for tensor in graph.inputs:
        for axis, name in enumerate(tensor.shape, 1):
            if isinstance(name, str):
                made[tensor.name] = made[tensor.name].take(np.arange(sizes[name]), axis, mode="wrap")
    return made


def _rows(feeds: Mapping[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {name: array[start:stop] for name, array in feeds.items()}


def _pictures(bundle: Bundle, task: Task, rows: int) -> dict[str, np.ndarray]:
    """Pictures such as ``task`` takes, by the request value that brings them."""
    pairs = np.array([(17, row) for row in range(rows)], np.uint64)
    found = {}
    for decoder in _decoders(bundle, task):
        if isinstance(decoder, PictureDecoder):
            found[decoder.value] = decoder.example(pairs)
    return found


def _decoders(bundle: Bundle, task: Task) -> list[Decoder]:
    tensors = tensors_of(_graphs(bundle), task)
    return [
        resolve(installed().codec(source.codec).decode or "")(source, tensors[source.tensor], bundle.folder)
        for source in task.inputs
    ]


def _given(task: Task, pictures: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
    """The arguments that ask for row ``row`` of ``pictures``, as numbers."""
    seed = {"seed": 5, "index": row} if "seed" in task.values() else {}
    return {"task": task.name, "images": {name: rows[row] for name, rows in pictures.items()}, "format": "npy", **seed}


def _takes_any_size(bundle: Bundle, task: Task) -> bool:
    tensors = tensors_of(_graphs(bundle), task)
    return any(isinstance(size, str) for source in task.inputs for size in tensors[source.tensor].shape)


def _resized(rows: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Pictures cut, or repeated from their start, to ``sides``."""
    for axis, side in enumerate(sides, 1):
        rows = rows.take(np.arange(side), axis, mode="wrap")
    return rows


def _run(session: Session, graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    outputs = [tensor.name for tensor in graph.outputs]
    made = session.run({name: session.upload(np.ascontiguousarray(array)) for name, array in feeds.items()}, outputs)
    return {name: session.download(made[name]) for name in outputs}

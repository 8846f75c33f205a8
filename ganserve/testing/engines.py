"""The tests that every engine must pass. An engine's test file is three lines of inheritance::

class TestMyEngine(EngineConformance):
    engine = "my-engine"

One that does not read any ONNX file also says, by the fixture ``make``, how it comes by the graphs.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from ganserve import plugins
from ganserve.engines import Options, Precision, Session
from ganserve.errors import EngineError
from ganserve.testing import graphs
from ganserve.testing.graphs import GraphName, TinyGraph

Load = Callable[[TinyGraph], Session]


class Make(Protocol):
    """Gives one of the tiny graphs in a folder of the test's own, and example rows: ``make("translation", rows, height, width)``."""

    def __call__(self, name: GraphName, *sizes: int) -> TinyGraph:
        """The graph called ``name``; a second call gives the same graph, with rows of other ``sizes``."""


BATCHES = (1, 2, 3, 8)

SIDES = ((8, 12), (12, 8), (2, 2), (26, 34), (8, 12))
"""(height, width) of pictures that one session runs, in this order."""


class EngineConformance:
    """What any engine promises, as tests. They are skipped, with the engine's own reason, where it cannot run."""

    engine: str
    """The engine's registered name."""
    precision: Precision = "fp32"
    device: str = "cpu"
    provider: str | None = None
    tolerance: float = 1e-5
    """The most that a float output may differ from the reference, on [-1, 1]; bytes may differ by that and a rounding step."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        """Makes the graphs of :mod:`ganserve.testing.graphs`, as ONNX files.

        The tests of an engine that does not read just any of those make, in its place, graphs that it reads: of the same declaration
        and the same maths, of whatever weights. A :class:`TinyGraph` whose ``file`` is not ONNX also says what is ``expected``.
        """
        return lambda name, *sizes: graphs.make(name, tmp_path, *sizes)

    @pytest.fixture
    def load(self, tmp_path: Path) -> Iterator[Load]:
        """Loads graphs through the registered engine, and closes the sessions in the end."""
        record = plugins.load().engine(self.engine)
        if reason := plugins.resolve(record.available)():
            pytest.skip(f"{self.engine}: {reason}")
        sessions = []

        def load(tiny: TinyGraph) -> Session:
            options = Options(
                graph=tiny.graph,
                device=self.device,
                precision=self.precision,
                provider=self.provider,
                threads=1,
                cache_dir=tmp_path / "cache",
                max_rows=max(BATCHES),
            )
            session: Session = plugins.resolve(record.load)(tiny.file, options)
            sessions.append(session)
            return session

        yield load
        for session in sessions:
            session.close()

    def test_values_survive_the_round_trip(self, load: Load, make: Make) -> None:
        """Upload, then download, gives the same array, for every dtype."""
        tiny = make("types")
        session = load(tiny)
        for array in tiny.inputs.values():
            back = session.download(session.upload(array))
            assert back.dtype == array.dtype
            np.testing.assert_array_equal(back, array)

    def test_an_array_that_may_not_be_written_to_is_read_all_the_same(self, load: Load, make: Make) -> None:
        """A caller's bytes are such an array."""
        tiny = make("mapping")
        z = tiny.inputs["z"]
        theirs = np.frombuffer(z.tobytes(), z.dtype).reshape(z.shape)
        self._close(_run(load(tiny), tiny, {"z": theirs}), tiny.expected())

    def test_every_dtype_goes_in_and_comes_out(self, load: Load, make: Make) -> None:
        """float32, uint8, int64 and bool are inputs and outputs alike."""
        tiny = make("types")
        self._close(_run(load(tiny), tiny, tiny.inputs), tiny.expected())

    def test_a_small_generator_gives_the_reference_numbers(self, load: Load, make: Make) -> None:
        """Matrix product, transposed convolution, tanh and bytes agree with ONNX's reference."""
        tiny = make("synthesis")
        self._close(_run(load(tiny), tiny, tiny.inputs), tiny.expected())

    def test_rows_of_a_batch_equal_their_singles(self, load: Load, make: Make) -> None:
        """1, 2, 3 and 8 rows: bit for bit if the session calls itself batch invariant, within tolerance otherwise."""
        tiny = make("synthesis")
        session = load(tiny)
        singles = [_run(session, tiny, tiny.rows(row, row + 1)) for row in range(max(BATCHES))]
        for rows in BATCHES:
            together = _run(session, tiny, tiny.rows(0, rows))
            alone = {name: np.concatenate([single[name] for single in singles[:rows]]) for name in together}
            if session.batch_invariant:
                for name, array in together.items():
                    np.testing.assert_array_equal(array, alone[name])
            self._close(together, alone)

    def test_the_order_of_rows_does_not_matter(self, load: Load, make: Make) -> None:
        """A row gives the same wherever it stands."""
        tiny = make("synthesis")
        session = load(tiny)
        forth = _run(session, tiny, tiny.inputs)
        back = _run(session, tiny, {name: array[::-1] for name, array in tiny.inputs.items()})
        self._close({name: array[::-1] for name, array in back.items()}, forth)

    def test_free_sizes_give_the_reference_numbers_at_every_size(self, load: Load, make: Make) -> None:
        """One session runs pictures of several sizes, of one row and of more, and each row is that of its single."""
        session = load(make("translation"))
        for height, width in SIDES:
            tiny = make("translation", 3, height, width)
            whole = _run(session, tiny, tiny.inputs)
            self._close(whole, tiny.expected())
            for row in range(3):
                alone = _run(session, tiny, tiny.rows(row, row + 1))
                self._close(alone, {name: array[row : row + 1] for name, array in whole.items()})
                if session.batch_invariant:
                    for name, array in alone.items():
                        np.testing.assert_array_equal(array[0], whole[name][row])

    def test_threads_run_pictures_of_different_sizes(self, load: Load, make: Make) -> None:
        """Four threads on one session, each with sizes of its own."""
        pictures = [make("translation", rows, *sides) for rows in (1, 2, 3) for sides in SIDES]
        session = load(pictures[0])
        alone = [_run(session, tiny, tiny.inputs) for tiny in pictures]
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(lambda tiny: _run(session, tiny, tiny.inputs), pictures * 5))
        for found, want in zip(together, alone * 5, strict=True):
            self._close(found, want)

    def test_a_picture_with_other_channels_is_refused(self, load: Load, make: Make) -> None:
        """Free sizes free nothing else."""
        session = load(make("translation"))
        with pytest.raises(EngineError, match="translation"):
            session.run({"picture": session.upload(np.zeros((1, 8, 8, 4), np.uint8))}, ["image"])

    def test_only_the_outputs_asked_for_come_back(self, load: Load, make: Make) -> None:
        """An output that nobody needs stays away."""
        tiny = make("synthesis")
        made = _run(load(tiny), tiny, tiny.inputs, ["image"])
        assert list(made) == ["image"]
        self._close(made, {"image": tiny.expected()["image"]})

    def test_a_chain_hands_on_its_own_values(self, load: Load, make: Make) -> None:
        """One session's output is another's input as it is, without a way over the host."""
        first, second = make("mapping"), make("synthesis")
        one, two = load(first), load(second)
        made = one.run({"z": one.upload(first.inputs["z"])}, ["w"])
        assert not isinstance(made["w"], np.ndarray)
        chained = {name: two.download(value) for name, value in two.run(made, ["features", "image"]).items()}
        self._close(chained, _run(two, second, {"w": one.download(made["w"])}))

    def test_a_value_outlives_later_runs(self, load: Load, make: Make) -> None:
        """A session never writes over a value that it has handed out."""
        tiny = make("synthesis")
        session = load(tiny)
        first = session.run({"w": session.upload(tiny.inputs["w"][:2])}, ["image"])["image"]
        before = session.download(first)
        session.run({"w": session.upload(tiny.inputs["w"][2:4])}, ["image"])
        np.testing.assert_array_equal(session.download(first), before)

    def test_a_downloaded_array_is_the_callers(self, load: Load, make: Make) -> None:
        """Writing to a downloaded array changes nothing else."""
        tiny = make("synthesis")
        session = load(tiny)
        value = session.run({"w": session.upload(tiny.inputs["w"])}, ["image"])["image"]
        mine = session.download(value)
        kept = mine.copy()
        mine[:] = 0
        np.testing.assert_array_equal(session.download(value), kept)

    def test_an_unknown_output_is_named(self, load: Load, make: Make) -> None:
        """Asking for an output that is not there names it, and those that are."""
        tiny = make("mapping")
        session = load(tiny)
        with pytest.raises(EngineError, match=r"'psi'.*outputs are \['w'\]"):
            session.run({"z": session.upload(tiny.inputs["z"])}, ["psi"])

    def test_a_missing_input_is_named(self, load: Load, make: Make) -> None:
        """A run without an input names the inputs there are."""
        session = load(make("mapping"))
        with pytest.raises(EngineError, match=r"expected exactly \['z'\]"):
            session.run({}, ["w"])

    def test_an_input_of_the_wrong_shape_is_refused(self, load: Load, make: Make) -> None:
        """A row of another shape is an EngineError, not a crash or a guess."""
        session = load(make("mapping"))
        with pytest.raises(EngineError, match="mapping"):
            session.run({"z": session.upload(np.zeros((2, 17), np.float32))}, ["w"])

    def test_an_input_that_could_be_stretched_is_refused(self, load: Load, make: Make) -> None:
        """A row of one number is not repeated until it fits the others."""
        tiny = make("types")
        session = load(tiny)
        with pytest.raises(EngineError, match="types"):
            _run(session, tiny, {**tiny.inputs, "x": tiny.inputs["x"][:, :1]})

    def test_a_damaged_file_is_refused_by_name(self, load: Load, make: Make) -> None:
        """A cut-off graph is an EngineError that names the file."""
        tiny = make("mapping")
        tiny.file.write_bytes(tiny.file.read_bytes()[:-100])
        with pytest.raises(EngineError, match=re.escape(tiny.file.name)):
            load(tiny)

    def test_missing_weights_are_refused_by_name(self, load: Load, make: Make) -> None:
        """A graph without its external weights is an EngineError that names a file."""
        tiny = make("synthesis")
        assert tiny.weights is not None
        tiny.weights.unlink()
        with pytest.raises(EngineError, match=f"{re.escape(tiny.file.name)}|{re.escape(tiny.weights.name)}"):
            load(tiny)

    def test_threads_share_a_session(self, load: Load, make: Make) -> None:
        """Four threads on one session, batches of several sizes mixed, each get their own rows."""
        tiny = make("synthesis")
        session = load(tiny)
        batches = [tiny.rows(start, start + rows) for start in range(5) for rows in (1, 2, 3)]
        alone = [_run(session, tiny, feeds) for feeds in batches]
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(lambda feeds: _run(session, tiny, feeds), batches * 5))
        for found, want in zip(together, alone * 5, strict=True):
            self._close(found, want)

    def test_a_closed_session_says_so(self, load: Load, make: Make) -> None:
        """A run after close is an EngineError."""
        tiny = make("mapping")
        session = load(tiny)
        value = session.upload(tiny.inputs["z"])
        session.close()
        with pytest.raises(EngineError, match="closed"):
            session.run({"z": value}, ["w"])

    def _close(self, found: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> None:
        assert found.keys() == want.keys()
        for name, array in want.items():
            assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
            if array.dtype == np.uint8:
                steps = np.abs(found[name].astype(int) - array.astype(int)).max()
                assert steps <= 1 + self.tolerance * 127.5, f"{name}: {steps} grey levels"
            elif array.dtype.kind == "f":
                scale = max(1.0, float(np.abs(array).max()))
                np.testing.assert_allclose(found[name], array, rtol=0, atol=self.tolerance * scale, err_msg=name)
            else:
                np.testing.assert_array_equal(found[name], array, err_msg=name)


def _run(
    session: Session, tiny: TinyGraph, arrays: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    names = outputs or [tensor.name for tensor in tiny.graph.outputs]
    values = session.run({name: session.upload(array) for name, array in arrays.items()}, names)
    return {name: session.download(value) for name, value in values.items()}

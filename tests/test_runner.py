"""Plans, stages, loops and the executor, with the echo bundle's graphs on a real engine."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ganserve.bundle import read
from ganserve.codecs import EncodeOptions
from ganserve.codecs.label import draw_labels
from ganserve.codecs.seeds import draw
from ganserve.engines import Session
from ganserve.errors import EngineError, InvalidArgument, QueueFull, Unavailable
from ganserve.metrics import Metrics
from ganserve.plugins import installed
from ganserve.serving.batcher import Batcher
from ganserve.serving.call import Ask, Call, Workers
from ganserve.serving.edits import EditSegment
from ganserve.serving.executor import Executor
from ganserve.serving.jobs import Arrays, Job
from ganserve.serving.model import Model, Settings, load_model
from ganserve.serving.plan import LoopSegment, Plan, make_plan
from ganserve.serving.results import Result
from ganserve.serving.runner import Flow, Times
from ganserve.serving.stage import GraphRun, LoadedGraph, Stage
from ganserve.serving.task import LoadedTask
from ganserve.spec import Graph, Input, Loop, Output, Step, Task, Tensor
from ganserve.testing.echo import LABELS, SIZE, WALK_NOISE, Z_NOISE, image_of


class Watched:
    """A real session that counts what crosses between host and engine, and can be held to let rows pile up before it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.batch_invariant = session.batch_invariant
        self.free = threading.Event()
        self.free.set()
        self.uploads = self.downloads = 0
        self.batches: list[int] = []

    def upload(self, array: np.ndarray) -> Any:
        self.uploads += 1
        return self.session.upload(array)

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> Mapping[str, Any]:
        assert self.free.wait(60)
        self.batches.append(len(self.session.download(next(iter(feeds.values())))))
        return self.session.run(feeds, outputs)

    def download(self, value: Any) -> np.ndarray:
        self.downloads += 1
        return self.session.download(value)

    def close(self) -> None:
        self.session.close()


@pytest.fixture(scope="module")
def loaded(echo: Path) -> Iterator[Model]:
    model = load_model(read(echo), installed(), Settings(threads=1, max_batch=8))
    yield model
    model.close()


@pytest.fixture
def model(loaded: Model, echo: Path) -> Model:
    """The echo model with watched sessions, and no plans made yet."""
    graphs = {name: LoadedGraph(one.graph, one.engine, Watched(one.session)) for name, one in loaded.graphs.items()}
    return Model(read(echo), graphs, loaded.tasks, max_batch=8)


def watched(model: Model, graph: str) -> Watched:
    session = model.graphs[graph].session
    assert isinstance(session, Watched)
    return session


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    with ThreadPoolExecutor(1) as pool:
        metrics = Metrics()
        executor = Executor(Batcher(512), metrics)
        yield Workers(executor, pool, metrics)
        await executor.close()


RAW = EncodeOptions(format="raw")


def pairs(seed: int, rows: int, first: int = 0) -> np.ndarray:
    return np.array([(seed, first + row) for row in range(rows)], np.uint64)


def ask(model: Model, task: str | LoadedTask, rows: int, **given: Any) -> Ask:
    loaded = model.task(task, "sample") if isinstance(task, str) else task
    return Ask(
        model=model,
        task=loaded,
        rows=rows,
        **{"values": {}, "tensors": {}, "encode": RAW, **given},
    )


async def results(workers: Workers, wish: Ask) -> list[Result]:
    with closing(Call(wish, workers).results()) as found:
        return [result async for result in found]


def pixels(found: Sequence[Result]) -> np.ndarray:
    return np.stack([np.frombuffer(one.media.data, np.uint8).reshape(SIZE, SIZE, 3) for one in found])


def z_of(seeds: np.ndarray) -> np.ndarray:
    return draw(Z_NOISE, seeds, (SIZE,))


def w_of(seeds: np.ndarray) -> np.ndarray:
    return z_of(seeds) + draw_labels(seeds, len(LABELS))[:, None].astype(np.float32)


def walk_of(seeds: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """What the task ``walk`` says it does, one row at a time."""
    ends = []
    for row, count in enumerate(steps):
        one = seeds[row : row + 1]
        x = z_of(one)
        for step in range(count):
            x = x * np.float32(0.5) + draw(WALK_NOISE, one, (SIZE,), step=step)
        ends.append(x[0])
    return np.stack(ends)


async def test_a_chain_makes_what_its_formula_says(model: Model, workers: Workers) -> None:
    found = await results(workers, ask(model, "sample", 20, values={"seed": pairs(5, 20)}))
    assert [one.row for one in found] == list(range(20))
    assert (pixels(found) == image_of(w_of(pairs(5, 20)))).all()


async def test_between_the_graphs_of_a_chain_tensors_stay_on_the_engine(model: Model, workers: Workers) -> None:
    await results(workers, ask(model, "sample", 8, values={"seed": pairs(5, 8)}))
    mapping, synthesis = watched(model, "mapping"), watched(model, "synthesis")
    assert (mapping.batches, synthesis.batches) == ([8], [8])
    assert mapping.uploads == 2, "z and label go up"
    assert mapping.downloads + synthesis.uploads == 0, "w stays where it is"
    assert synthesis.downloads == 1, "the image comes back"


async def test_any_tensor_may_be_returned_and_only_then_comes_back(model: Model, workers: Workers) -> None:
    seeds = pairs(5, 3)
    found = await results(
        workers, ask(model, "sample", 3, values={"seed": seeds}, returns=("z", "label", "w", "image"))
    )
    assert (np.stack([one.tensors["z"] for one in found]) == z_of(seeds)).all()
    assert (np.stack([one.tensors["label"] for one in found]) == draw_labels(seeds, len(LABELS))).all()
    assert (np.stack([one.tensors["w"] for one in found]) == w_of(seeds)).all()
    assert (np.stack([one.tensors["image"] for one in found]) == pixels(found)).all()
    assert watched(model, "synthesis").downloads == 2


async def test_a_chain_may_be_entered_in_the_middle_and_what_is_before_is_not_run(
    model: Model, workers: Workers
) -> None:
    w = np.linspace(-3, 3, 5 * SIZE, dtype=np.float32).reshape(5, SIZE)
    found = await results(workers, ask(model, "sample", 5, tensors={"w": w}))
    assert (pixels(found) == image_of(w)).all()
    assert watched(model, "mapping").batches == []


async def test_the_answer_itself_may_be_given(model: Model, workers: Workers) -> None:
    image = np.arange(2 * SIZE * SIZE * 3, dtype=np.uint8).reshape(2, SIZE, SIZE, 3)
    assert (pixels(await results(workers, ask(model, "sample", 2, tensors={"image": image}))) == image).all()


async def test_a_loop_runs_each_row_its_own_number_of_steps_with_fresh_noise(model: Model, workers: Workers) -> None:
    steps = [1, 4, 2, 1, 50, 3, 3, 7, 1, 2, 5]
    seeds = pairs(9, len(steps), first=3)
    found = await results(
        workers, ask(model, "walk", len(steps), values={"seed": seeds, "steps": steps}, returns=("x_end",))
    )
    assert [one.row for one in found] == list(range(len(steps)))
    assert (np.stack([one.tensors["x_end"] for one in found]) == walk_of(seeds, steps)).all()
    assert (pixels(found) == image_of(walk_of(seeds, steps))).all()
    assert sum(watched(model, "walk").batches) == sum(steps)


async def test_a_loop_may_start_from_a_given_state(model: Model, workers: Workers) -> None:
    z = np.full((1, SIZE), 8, np.float32)
    wish = ask(model, "walk", 1, tensors={"z": z}, values={"steps": [2], "seed": pairs(4, 1)}, returns=("x_end",))
    noise = [draw(WALK_NOISE, pairs(4, 1), (SIZE,), step=step) for step in (0, 1)]
    expected = (z * np.float32(0.5) + noise[0]) * np.float32(0.5) + noise[1]
    assert ((await results(workers, wish))[0].tensors["x_end"] == expected).all()


async def test_a_loop_with_a_done_output_lets_each_row_go_when_it_is_done(model: Model, workers: Workers) -> None:
    z = np.array([[0.15] * SIZE, [6.0] * SIZE, [0.01] * SIZE, [1.0] * SIZE], np.float32)
    found = await results(workers, ask(model, "settle", 4, tensors={"z": z}, returns=("x_end",)))
    ends = np.stack([one.tensors["x_end"] for one in found])[:, 0]
    assert ends.tolist() == [np.float32(0.15) / 2, 6 / 64, np.float32(0.01) / 2, 1 / 16]
    # 1, 6, 1 and 4 runs: the batch shrinks as rows end, and rows that ended are not run again.
    assert watched(model, "settle").batches == [4, 2, 2, 2, 1, 1]


async def test_results_come_in_order_though_rows_end_out_of_order(model: Model, workers: Workers) -> None:
    z = np.array([[6.0] * SIZE, [0.01] * SIZE, [1.0] * SIZE], np.float32)
    found = await results(workers, ask(model, "settle", 3, tensors={"z": z}))
    assert [one.row for one in found] == [0, 1, 2]


async def test_rows_of_a_graph_that_is_not_batchable_never_meet(model: Model, workers: Workers) -> None:
    calls = [results(workers, ask(model, "alone", 5, values={"seed": pairs(seed, 5)})) for seed in range(4)]
    for seed, found in enumerate(await asyncio.gather(*calls)):
        assert (pixels(found) == image_of(w_of(pairs(seed, 5)))).all()
    assert watched(model, "alone").batches == [1] * 20


async def pile_up(model: Model, graph: str, workers: Workers, wishes: Sequence[Ask]) -> list[Any]:
    """The answers to ``wishes``, whose rows wait together for ``graph`` while it is busy with a row of another request."""
    session = watched(model, graph)
    session.free.clear()
    first = asyncio.create_task(results(workers, wishes[0]))
    await asyncio.sleep(0)  # it submits now
    while workers.executor.batcher.waiting:
        await asyncio.sleep(0.001)
    tasks = [asyncio.create_task(results(workers, wish)) for wish in wishes[1:]]
    while workers.executor.batcher.waiting < sum(wish.rows for wish in wishes[1:]):
        await asyncio.sleep(0.001)
    session.free.set()
    answers: list[Any] = await asyncio.gather(first, *tasks, return_exceptions=True)
    return answers


async def test_requests_with_and_without_labels_and_truncation_share_batches(model: Model, workers: Workers) -> None:
    wishes = [
        ask(model, "sample", 1, values={"seed": pairs(0, 1)}, caller="first"),
        ask(model, "sample", 2, values={"seed": pairs(1, 2)}, caller="a"),
        ask(model, "sample", 2, values={"seed": pairs(2, 2), "label": [1, "star"]}, caller="b"),
        ask(model, "sample", 2, values={"seed": pairs(3, 2), "truncation": [0.5, 0.7]}, caller="c"),
    ]
    answers = await pile_up(model, "mapping", workers, wishes)
    assert watched(model, "mapping").batches == [1, 6]
    labelled = z_of(pairs(2, 2)) + np.array([[1], [2]], np.float32)
    assert (pixels(answers[2]) == image_of(labelled)).all()
    assert (pixels(answers[1]) == image_of(w_of(pairs(1, 2)))).all()


async def test_a_row_that_breaks_its_batch_fails_alone(
    model: Model, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    wishes = [
        ask(model, "fragile", rows, values={"seed": pairs(seed, rows), "hurt": hurt}, caller=seed)
        for seed, (rows, hurt) in enumerate([(1, [0]), (2, [0, 0]), (2, [0, 1]), (3, [0, 0, 0])])
    ]
    answers = await pile_up(model, "mapping", workers, wishes)
    assert watched(model, "fragile").batches[:2] == [1, 7]
    assert watched(model, "fragile").batches[2:] == [1] * 7
    for seed in (0, 1, 3):
        assert (pixels(answers[seed]) == image_of(w_of(pairs(seed, wishes[seed].rows)))).all()
    assert isinstance(answers[2], EngineError)
    assert "a batch of 7 rows raised" in caplog.text


async def test_what_a_single_row_took_is_measured_and_not_what_its_broken_batch_took(
    model: Model, workers: Workers
) -> None:
    wish = ask(model, "fragile", 2, values={"seed": pairs(1, 2), "hurt": [0, 1]})
    with pytest.raises(EngineError):
        await results(workers, wish)
    rows = {s.name: s.value for f in workers.metrics.batch_rows.collect() for s in f.samples}
    times = {s.name: s.value for f in workers.metrics.engine_time.collect() for s in f.samples}
    assert rows["ganserve_batch_rows_count"] == times["ganserve_engine_seconds_count"]
    assert times["ganserve_engine_seconds_sum"] > 0


async def test_an_error_after_a_batch_ends_that_request_alone(model: Model, workers: Workers) -> None:
    # The loop reads its number of steps only once the stage before it has run.
    loop = Loop(
        graph="walk",
        inputs={"x": "w"},
        outputs={"next": "x_end"},
        state={"next": "x"},
        steps="steps",
        max_steps=50,
        counter="step",
        noise={"noise": WALK_NOISE},
    )
    plan = plan_of(model, (Step(graph="mapping"), loop), given={"z", "label", "steps"}, wanted={"x_end"})

    async def walk(steps: list[int]) -> list[int]:
        rows = len(steps)
        tensors = {"z": z_of(pairs(1, rows)), "label": np.zeros(rows, np.int64), "steps": np.array(steps, np.int64)}
        flow = Flow(plan, workers.executor, rows=rows, tensors=tensors, seeds=pairs(1, rows), times=Times(), caller="a")
        return sorted([int(row) async for piece in flow.pieces() for row in piece.rows])

    wrong, right = await asyncio.gather(walk([3, 51]), walk([3, 50]), return_exceptions=True)
    assert isinstance(wrong, InvalidArgument)
    assert [one.field for one in wrong.violations] == ["steps"]
    assert right == [0, 1]


async def test_a_caller_that_goes_saves_the_rows_that_wait(model: Model, workers: Workers) -> None:
    session = watched(model, "mapping")
    session.free.clear()
    task = asyncio.create_task(results(workers, ask(model, "sample", 100, values={"seed": pairs(1, 100)})))
    while workers.executor.batcher.waiting != 92:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert workers.executor.batcher.waiting == 0
    session.free.set()
    await results(workers, ask(model, "sample", 1, values={"seed": pairs(1, 1)}))
    assert workers.metrics.cancelled_rows._value.get() == 92
    assert session.batches == [8, 1]


async def test_a_full_queue_is_met_before_anything_is_drawn(
    model: Model, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = noted(model.tasks["sample"].decoders["z"], monkeypatch)
    session = watched(model, "mapping")
    session.free.clear()
    busy = asyncio.create_task(results(workers, ask(model, "sample", 512, values={"seed": pairs(1, 512)})))
    while workers.executor.batcher.waiting != 504 or not drawn:
        await asyncio.sleep(0.001)
    with pytest.raises(QueueFull, match="504 rows are waiting and 9 more"):
        await results(workers, ask(model, "sample", 9, values={"seed": pairs(1, 9)}))
    assert drawn == [("executor-cpu", 8)]
    session.free.set()
    assert len(await busy) == 512


def noted(decoder: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A list in which ``decoder`` tells from now on in which thread it makes how many rows."""
    made: list[tuple[str, int]] = []
    real = decoder.make

    def make(parts: Sequence[Any]) -> np.ndarray:
        rows: np.ndarray = real(parts)
        made.append((threading.current_thread().name, len(rows)))
        return rows

    monkeypatch.setattr(decoder, "make", make)
    return made


async def test_noise_is_drawn_by_the_batch_in_the_devices_thread(
    model: Model, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = noted(model.tasks["sample"].decoders["z"], monkeypatch)
    session = watched(model, "mapping")
    session.free.clear()
    first = asyncio.create_task(results(workers, ask(model, "sample", 1, values={"seed": pairs(1, 1)})))
    while session.uploads == 0:
        await asyncio.sleep(0.001)
    others = [
        asyncio.create_task(results(workers, ask(model, "sample", rows, values={"seed": pairs(rows, rows)})))
        for rows in (2, 3)
    ]
    # Rows whose z is given meet those whose z is drawn.
    given = ask(model, "sample", 2, values={}, tensors={"z": z_of(pairs(9, 2))})
    others.append(asyncio.create_task(results(workers, given)))
    while workers.executor.batcher.waiting != 7:
        await asyncio.sleep(0.001)
    session.free.set()
    await asyncio.gather(first, *others)
    assert drawn == [("executor-cpu", 1), ("executor-cpu", 5)]
    assert session.batches == [1, 7]
    for rows, made in zip((2, 3), others, strict=False):
        assert (pixels(made.result()) == image_of(w_of(pairs(rows, rows)))).all()


async def test_noise_that_is_asked_for_is_drawn_at_once(
    model: Model, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = noted(model.tasks["sample"].decoders["z"], monkeypatch)
    (result,) = await results(workers, ask(model, "sample", 1, values={"seed": pairs(4, 1)}, returns=("z",)))
    assert drawn == [("MainThread", 1)]
    assert np.array_equal(result.tensors["z"], z_of(pairs(4, 1))[0])


async def test_closing_an_executor_tells_the_jobs_that_still_wait(model: Model) -> None:
    executor = Executor(Batcher(), Metrics())
    session = watched(model, "mapping")
    session.free.clear()
    plan = model.plan(model.task("sample", "sample").task, frozenset({"z", "label"}), (), frozenset({"image"}))
    tensors = {"z": z_of(pairs(1, 20)), "label": np.zeros(20, np.int64)}
    flow = Flow(plan, executor, rows=20, tensors=tensors, seeds=None, times=Times(), caller="a")
    rows: list[int] = []

    async def consume() -> None:
        async for piece in flow.pieces():
            rows.extend(piece.rows.tolist())

    task = asyncio.create_task(consume())
    while executor.batcher.waiting != 12:
        await asyncio.sleep(0.001)
    closing = asyncio.create_task(executor.close())
    await asyncio.sleep(0)
    session.free.set()
    await closing
    with pytest.raises(Unavailable):
        await asyncio.wait_for(task, 10)
    assert rows == list(range(8)), "the batch that ran was delivered"
    assert executor.batcher.waiting == 0
    job = Job(plan.segments[0], tensors, rows=20, caller="b", deliver=print, fail=print)  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        executor.submit(job)


async def test_a_job_is_told_of_its_first_error_and_nothing_after_it(workers: Workers) -> None:
    class Broken(Stage, frozen=True, eq=False):
        def run(self, feeds: Arrays) -> Arrays:
            raise EngineError("always")

    told: list[Exception] = []
    stage = Broken("echo", "onnxruntime", 1, (), ("x",), ("y",))
    jobs = [
        Job(
            stage, {"x": np.zeros(3)}, rows=3, caller="a", deliver=lambda *_: pytest.fail("delivered"), fail=told.append
        )
        for _ in range(2)
    ]
    for job in jobs:
        workers.executor.submit(job)
    workers.executor.cancel(jobs[1])
    while workers.executor.batcher.waiting:
        await asyncio.sleep(0.001)
    await workers.executor.close()
    assert [str(error) for error in told] == ["always"]


def test_a_stage_that_changes_the_number_of_rows_is_refused(model: Model) -> None:
    class Half(Watched):
        def download(self, value: Any) -> np.ndarray:
            return super().download(value)[::2]

    loaded = LoadedGraph(model.graphs["synthesis"].graph, "onnxruntime", Half(watched(model, "synthesis").session))
    stage = Stage("echo", "onnxruntime", 8, (GraphRun(loaded, {"w": "w"}, {"image": "image"}),), ("w",), ("image",))
    with pytest.raises(EngineError, match=r"made \(2, 4, 4, 3\) for 'image' of 4 rows"):
        stage.run({"w": np.zeros((4, SIZE), np.float32)})


def test_kinds_of_request_are_kept_but_not_without_end(model: Model) -> None:
    task = model.task("sample", "sample").task
    first = model.plan(task, frozenset(), ("seed",), frozenset({"image"}))
    assert model.plan(task, frozenset(), ["seed"], frozenset({"image"})) is first
    assert model.plan(task, frozenset(), ("seed", *map(str, range(999))), frozenset({"image"})) is first
    for number in range(400):
        model.plan(task, frozenset({f"t{number}"}), ("seed",), frozenset({"image"}))
    assert len(model._plans) == 256


@pytest.mark.parametrize("name", ["sample", "walk", "settle"])
def test_rows_of_every_kind_of_request_meet_in_the_same_stages(model: Model, name: str) -> None:
    task = model.task(name, "sample").task

    def stages(*values: str) -> list[Stage]:
        segments = model.plan(task, frozenset(), values, frozenset({"image"})).segments
        return [
            one.stage if isinstance(one, LoopSegment) else one for one in segments if not isinstance(one, EditSegment)
        ]

    first = stages("seed", "steps")
    assert first
    for values in (
        ("seed", "steps", "truncation"),
        ("seed", "steps", "label"),
        ("label", "steps", "seed", "truncation"),
    ):
        assert all(one is other for one, other in zip(first, stages(*values), strict=True))


def plan_of(
    model: Model,
    steps: tuple[Step | Loop, ...],
    *,
    given: set[str] | None = None,
    decodable: set[str] | None = None,
    wanted: set[str],
    inputs: tuple[Input, ...] = (),
    graphs: Mapping[str, LoadedGraph] | None = None,
) -> Plan:
    task = Task(
        name="made", kind="sample", inputs=inputs, steps=steps, output=Output(tensor=min(wanted), codec="array")
    )
    return make_plan(
        task,
        graphs or model.graphs,
        model="echo",
        max_rows=8,
        given=frozenset(given or ()),
        decodable=frozenset(decodable or ()),
        wanted=frozenset(wanted),
    )


def graph_names(plan: Plan) -> list[list[str]]:
    stages = (one.stage if isinstance(one, LoopSegment) else one for one in plan.segments)
    return [[run.loaded.graph.name for run in stage.runs] for stage in stages]


VECTOR: tuple[int, ...] = (SIZE,)


def declared(name: str, reads: str, makes: str) -> LoadedGraph:
    """A graph that is only planned with, never run."""
    inputs = tuple(Tensor(name=one, dtype="float32", shape=VECTOR) for one in reads.split())
    outputs = tuple(Tensor(name=one, dtype="float32", shape=VECTOR) for one in makes.split())
    session: Any = SimpleNamespace(batch_invariant=True)
    return LoadedGraph(Graph(name=name, inputs=inputs, outputs=outputs), "onnxruntime", session)


STYLE = {
    "encode": declared("encode", "style", "z"),
    "mapping": declared("mapping", "seed_noise", "z"),
    "paint": declared("paint", "z", "image"),
}
STYLE_STEPS = (Step(graph="encode"), Step(graph="mapping"), Step(graph="paint"))


@pytest.mark.parametrize(
    ("given", "decodable", "expected"),
    [
        ({"style"}, set(), [["encode", "paint"]]),
        (set(), {"seed_noise"}, [["mapping", "paint"]]),
        ({"style"}, {"seed_noise"}, [["encode", "paint"]]),
        ({"style", "seed_noise"}, set(), [["encode", "paint"]]),
        ({"z"}, {"seed_noise"}, [["paint"]]),
    ],
)
def test_where_two_steps_make_one_tensor_the_first_that_can_run_does(
    model: Model, given: set[str], decodable: set[str], expected: list[list[str]]
) -> None:
    plan = plan_of(model, STYLE_STEPS, graphs=STYLE, given=given, decodable=decodable, wanted={"image"})
    assert graph_names(plan) == expected


def test_what_is_missing_is_named_by_the_first_value_that_would_help(model: Model) -> None:
    inputs = (Input(tensor="style", codec="image", reads=("reference",)),)
    with pytest.raises(InvalidArgument) as error:
        plan_of(model, STYLE_STEPS, graphs=STYLE, wanted={"image"}, inputs=inputs)
    (violation,) = error.value.violations
    assert violation == (
        "reference",
        "task 'made' needs reference, or the tensor 'style' itself; the request has neither",
    )


def test_steps_run_after_those_they_need_in_whatever_order_they_are_declared(model: Model) -> None:
    plan = plan_of(model, STYLE_STEPS[::-1], graphs=STYLE, given={"style"}, wanted={"image"})
    assert graph_names(plan) == [["encode", "paint"]]


def test_steps_that_undo_each_other_make_no_circle(model: Model) -> None:
    graphs = {"there": declared("there", "x", "y"), "back": declared("back", "y", "x")}
    steps = (Step(graph="there"), Step(graph="back"))
    for wanted, given, expected in (("y", {"x"}, "there"), ("x", {"y"}, "back")):
        assert graph_names(plan_of(model, steps, graphs=graphs, given=given, wanted={wanted})) == [[expected]]
    plan = plan_of(model, steps, graphs=graphs, decodable={"x"}, wanted={"y"})
    assert graph_names(plan) == [["there"]]
    assert graph_names(plan_of(model, steps, graphs=graphs, decodable={"x", "y"}, wanted={"y"})) == [["there"]]
    with pytest.raises(InvalidArgument, match="cannot make it from what is given"):
        plan_of(model, steps, graphs=graphs, wanted={"y"})


def test_a_given_tensor_is_not_replaced_by_a_step_that_makes_it_beside_another(model: Model) -> None:
    graphs = {"both": declared("both", "x", "y z"), "last": declared("last", "y z", "end")}
    steps = (Step(graph="both"), Step(graph="last"))
    plan = plan_of(model, steps, graphs=graphs, given={"x", "z"}, wanted={"end"})
    (stage,) = plan.segments
    assert isinstance(stage, Stage)
    assert set(stage.reads) == {"x", "z"}
    assert dict(stage.runs[0].outputs) == {"y": "y"}


def test_a_cut_ends_a_stage_and_so_does_a_graph_whose_rows_must_not_meet(model: Model) -> None:
    chain = (Step(graph="mapping", cut=True), Step(graph="synthesis"))
    plan = plan_of(model, chain, given={"z", "label"}, wanted={"image"})
    assert graph_names(plan) == [["mapping"], ["synthesis"]]
    plan = plan_of(model, (Step(graph="mapping"), Step(graph="alone")), given={"z", "label"}, wanted={"image"})
    assert [stage.max_rows for stage in plan.segments if isinstance(stage, Stage)] == [8, 1]


def test_a_graph_may_appear_twice(model: Model) -> None:
    steps = (
        Step(graph="mapping", outputs={"w": "once"}),
        Step(graph="mapping", inputs={"z": "once"}, outputs={"w": "twice"}),
    )
    plan = plan_of(model, steps, given={"z", "label"}, wanted={"twice"})
    (stage,) = plan.segments
    assert isinstance(stage, Stage)
    z, label = z_of(pairs(1, 4)), np.arange(4, dtype=np.int64)
    column = label[:, None].astype(np.float32)
    made = stage.run({"z": z, "label": label})["twice"]
    assert (made == (z + column) + column).all()


async def test_values_that_the_result_does_not_depend_on_are_refused(model: Model, workers: Workers) -> None:
    z = z_of(pairs(1, 1))
    wish = ask(model, "sample", 1, tensors={"w": z, "z": z}, values={"seed": pairs(1, 1), "hurt": [0.0]})
    with pytest.raises(InvalidArgument) as error:
        Call(wish, workers)
    assert [one.field for one in error.value.violations] == ["seed", "hurt", "tensors[z]"]


async def test_seeds_are_chosen_where_none_is_given_and_told(model: Model, workers: Workers) -> None:
    first, second = (Call(ask(model, "sample", 3), workers) for _ in range(2))
    assert first.seeds is not None
    assert second.seeds is not None
    assert first.seeds[:, 1].tolist() == [0, 1, 2]
    assert first.seeds[0, 0] != second.seeds[0, 0], "one in 2^32 that they agree"
    with closing(first.results()) as made:
        found = [result async for result in made]
    assert (pixels(found) == image_of(w_of(first.seeds))).all()

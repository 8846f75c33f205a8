"""What `ganserve bench` measures: rows that the engine alone runs, and requests that a server answers with as many."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from ganserve import bench
from ganserve.bench_task import measured
from ganserve.cli import cli
from ganserve.errors import GanserveError
from ganserve.testing.echo import SIZE
from ganserve.testing.echo_text import write_text_bundle
from ganserve.testing.server import Serving, serving


@pytest.fixture(scope="module")
def server(echo: Path) -> Iterator[Serving]:
    with serving(echo) as running:
        yield running


def test_the_first_task_that_is_a_single_graph_is_measured(echo: Path) -> None:
    target = measured(echo)
    assert (target.task.kind, target.task.name) == ("translate", "negative")
    assert [graph.name for graph in target.graphs] == ["negative"]
    assert measured(echo, "noisy").task.name == "noisy"


@pytest.mark.parametrize("task", ["sample", "settle", "nothing"])
def test_a_task_of_several_steps_or_none_is_refused(echo: Path, task: str) -> None:
    with pytest.raises(GanserveError, match=rf"no task '{task}' that can be measured, among .*negative.*single graph"):
        measured(echo, task)


def test_pictures_are_loaded_by_four_callers_and_their_batches_stay_small(echo: Path) -> None:
    assert bench.loads(echo) == (bench.Load(rows=1, concurrency=4, largest=4),)


@pytest.mark.parametrize("task", ["negative", "noisy", "blend", "fixed"])
def test_the_server_answers_what_the_engine_alone_makes(echo: Path, server: Serving, task: str) -> None:
    target = measured(echo, task)
    made = target.runs("onnxruntime", threads=1)(5)()
    assert len(made) == 5
    with grpc.insecure_channel(server.address) as channel:
        media = target.call(channel)(target.request(3, 0, 1), timeout=20).translation.media
    answer = np.frombuffer(media.image.data, np.uint8)
    assert answer.size == made[0].size
    if task in ("negative", "fixed"):
        np.testing.assert_array_equal(answer, made[0].reshape(-1))


def test_prompts_are_measured_through_both_graphs(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    folder = write_text_bundle(tmp_path / "echo-text")
    target = measured(folder)
    assert [graph.name for graph in target.graphs] == ["text", "generator"]
    assert target.runs("onnxruntime", threads=1)(5)().shape == (5, SIZE, SIZE, 3)
    with serving(folder) as server, grpc.insecure_channel(server.address) as channel:
        reply = target.call(channel)(target.request(3, 7, 2), timeout=20)
    assert [image.seed.seed for image in reply.images] == [3, 3]
    assert len({prompt for index in range(3) for prompt in target.request(0, index, 1).prompts}) == 3


def test_the_engine_alone_runs_in_a_process_of_its_own(echo: Path) -> None:
    command = [sys.executable, "-m", "ganserve.bench", str(echo), "0.1", "negative", "onnxruntime", "2"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) > 0


def test_a_bundle_is_measured_beside_the_engine_alone(echo: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("the server has one core, and its caller another")
    before = os.sched_getaffinity(0)
    command = ["bench", str(echo), "--task", "noisy", "--seconds", "0.5", "--rounds", "2", "--json"]
    result = CliRunner().invoke(cli, [*command, "--at-least", "1=9"], catch_exceptions=False)
    found = json.loads(result.stdout)
    (load,) = found["served"]
    figures = load["figures"]
    assert len(figures["ratios"]) == 2
    assert load["ratio"] == pytest.approx(sum(figures["ratios"]) / 2)
    # A median of two is their mean; that of the ratios is about that of the rates.
    assert load["ratio"] == pytest.approx(figures["rows_per_second"] / figures["raw_rows_per_second"], rel=0.5)
    assert 0 < load["ratio"] < 2
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert found["start"]["ready_seconds"] > 0
    assert not found["start"]["imports_torch"]
    assert found["png_64_ms"] > 0
    assert os.sched_getaffinity(0) == before
    # Nothing serves nine times as fast as what it is served by.
    assert result.exit_code == 1
    assert f"calls of 1 rows are served at {load['ratio']:.3f} of the engine alone, 9 was asked for" in result.stderr


@pytest.mark.parametrize(
    ("bar", "told"),
    [
        ("1", "'1' is not ROWS=RATIO"),
        ("1=nan", "has no finite ratio"),
        ("x=1", "is not ROWS=RATIO"),
        ("7=0.5", "no calls of 7 rows"),
    ],
)
def test_a_bar_that_is_none_is_refused_before_anything_is_measured(echo: Path, bar: str, told: str) -> None:
    result = CliRunner().invoke(cli, ["bench", str(echo), "--at-least", bar], catch_exceptions=False)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())


def test_one_core_is_too_few_and_is_named(echo: Path) -> None:
    (core, *_) = os.sched_getaffinity(0)
    result = subprocess.run(
        [sys.executable, "-m", "ganserve", "bench", str(echo), "--task", "noisy"],
        preexec_fn=partial(os.sched_setaffinity, 0, {core}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "needs Linux and two cores, and finds 1" in result.stderr
    assert "Traceback" not in result.stderr

"""Damaged messages, bundles and caches: clean refusals only. What `python -m bench.chaos.fuzz` found answers for is tried again."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.chaos import guided
from bench.chaos.fuzz_targets import Target, target
from bench.chaos.mutation import Mutator
from ganserve.v1 import generation_pb2

CORPUS = Path(__file__).parent / "corpus"
TAKEN = ("taken", "served", "read")
"""How the answer to a sound input ends."""

FRESH = {"messages": (1500, 40), "inference": (1500, 20), "caches": (200, 1), "bundles": (60, 8)}
"""By target: how many fresh inputs are tried, and how many answers there are at least, for damage must reach every depth."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Target]:
    found: dict[str, Target] = {}

    def make(name: str) -> Target:
        if name not in found:
            found[name] = target(name, tmp_path_factory.mktemp(name))
        return found[name]

    return make


@pytest.mark.parametrize("name", FRESH)
def test_damaged_inputs_are_refused_cleanly(made: Callable[[str], Target], name: str) -> None:
    found = made(name)
    assert all(found.judge(seed).endswith(TAKEN) for seed in found.seeds)
    for path in sorted((CORPUS / name).glob("*.bin")):
        assert found.judge(path.read_bytes()), path.name
    mutator, answers = Mutator(found.seeds, 0, found.message), Counter[str]()
    inputs, kinds = FRESH[name]
    for _ in range(inputs):
        data = mutator.next()
        answers[answer := found.judge(data)] += 1
        mutator.answered(data, answer)
    assert len(answers) >= kinds


def test_inputs_led_by_coverage_are_refused_cleanly(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 alone")
    inputs, reached, clean = guided.attempt("messages", 4, 0, tmp_path)
    assert clean, list(tmp_path.iterdir())
    assert inputs > 1000
    assert reached > 300


def test_the_corpus_is_small_and_there() -> None:
    files = list(CORPUS.rglob("*.bin"))
    assert {path.parent.name for path in files} >= {"messages", "inference", "bundles"}
    assert sum(path.stat().st_size for path in files) < 200_000


def test_damage_can_be_repeated() -> None:
    def inputs(seed: int) -> list[bytes]:
        mutator = Mutator([b"some bytes", b"others"], seed)
        return [mutator.next() for _ in range(50)]

    assert inputs(1) == inputs(1)
    assert inputs(1) != inputs(2)


def test_a_strength_that_no_float_holds_is_refused_without_a_warning(made: Callable[[str], Target]) -> None:
    request = generation_pb2.SampleRequest(task="sample", seed=1, count=1)
    request.labels.add(index=1)
    request.directions["brighter"].values.append(1e300)
    assert (
        made("messages")
        .judge(b"\1" + request.SerializeToString())
        .startswith("SampleRequest refused directions is out")
    )

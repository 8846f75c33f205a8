"""Damaged messages, bundles, caches and pictures: clean refusals only. What `python -m bench.chaos.fuzz` has kept is tried again."""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.chaos import corpus, fuzz, guided
from bench.chaos.fuzz_targets import target
from bench.chaos.mutation import Mutator, Target
from ganserve.v1 import generation_pb2

TAKEN = ("taken", "served", "read", "decoded")
"""How the answer to a sound input ends."""

FRESH = {"messages": (1500, 40), "inference": (1500, 20), "caches": (200, 4), "bundles": (60, 8), "pictures": (500, 20)}
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
    assert all(found.judge(data) for data in corpus.kept(name))
    mutator, answers = Mutator(found, 0), Counter[str]()
    inputs, kinds = FRESH[name]
    for _ in range(inputs):
        data = mutator.next()
        answers[answer := found.judge(data)] += 1
        mutator.answered(data, answer)
    assert len(answers) >= kinds


def test_inputs_led_by_coverage_are_refused_cleanly(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 alone")
    inputs, reached, clean = guided.attempt("messages", 4, 0, tmp_path)
    assert clean, list(tmp_path.rglob("*"))
    assert inputs > 1000
    assert reached > 300


def test_every_target_has_a_small_corpus_in_which_nothing_is_twice() -> None:
    files = list(corpus.CORPUS.rglob("*.bin"))
    assert {path.parent.name for path in files} == set(fuzz.SHARES)
    assert set(FRESH) == set(fuzz.SHARES)
    assert sum(path.stat().st_size for path in files) < 500_000
    assert [path for path in files if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem)] == []


PYTHON = """#!{python}
# In the place of Python: the same fuzzing, of a target that two bytes harm.
import os, pathlib, sys
sys.path.insert(0, {root!r})
from bench.chaos import fuzz
from bench.chaos.mutation import Target

def judge(data):
    if b"v" in data:
        os.abort()
    return str(1 // (0 not in data))

fuzz.corpus.CORPUS = pathlib.Path("of no target")
fuzz.target = lambda name, folder: Target([b"w23"], judge)
sys.argv = sys.argv[2:]
fuzz.main()
"""


def test_what_does_harm_is_saved_even_if_it_kills_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(PYTHON.format(python=sys.executable, root=str(Path(__file__).parents[1])))
    python.chmod(0o700)
    monkeypatch.setattr(fuzz.sys, "executable", str(python))
    _, harm = fuzz.attempt("caches", 200, 0, tmp_path)
    found = {path.read_bytes(): path.with_suffix(".txt").read_text() for path in (tmp_path / "caches").glob("*.bin")}
    raised = [data for data, why in found.items() if "ZeroDivisionError" in why]
    killed = [data for data, why in found.items() if "the process ended with -6" in why]
    assert len(raised) + len(killed) == len(found) <= harm
    assert raised
    assert all(0 in data for data in raised)
    assert killed
    assert all(b"v" in data for data in killed)


def test_finds_and_inputs_for_new_answers_are_added_to_the_corpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(corpus, "CORPUS", tmp_path / "corpus")
    monkeypatch.setattr(fuzz, "attempt", lambda *_: (1, 0))
    find = corpus.keep(tmp_path / "finds" / "caches", b"a find")
    find.with_suffix(".txt").write_text("why")
    for _ in range(2):
        assert not CliRunner().invoke(fuzz.main, ["caches", "--keep", "--finds", str(tmp_path / "finds")]).exit_code
    assert corpus.kept("caches") == [b"a find"]
    assert (tmp_path / "corpus" / "caches" / find.name).exists()
    fuzz._keep("caches", {"an answer": b"one", "another": b"two", "a long one": bytes(fuzz.SHORTEST_LONG)})
    assert sorted(corpus.kept("caches")) == [b"a find", b"one", b"two"]
    fuzz._keep("caches", {str(number): bytes([number]) for number in range(256)})
    assert len(corpus.kept("caches")) == corpus.MOST


def test_damage_can_be_repeated() -> None:
    def inputs(seed: int) -> list[bytes]:
        mutator = Mutator(Target([b"some bytes", b"others"], str), seed)
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

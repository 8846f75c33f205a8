"""What docs/security.md promises: every test that it names is there, every limit is the server's, and no source makes code of data."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ganserve.cli import cli

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()
SOURCES = sorted(
    path
    for folder in ("ganserve", "trainers/ganserve_trainers", "plugins")
    for path in (ROOT / folder).rglob("*.py")
    if not {"v1", "tests"} & set(path.relative_to(ROOT).parts)
)


def table(heading: str) -> list[list[str]]:
    """The rows of the table under ``heading``, without its head."""
    text = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@functools.cache
def defined(path: Path) -> set[str]:
    """The tests of a file that are sure to run."""
    tests = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return {node.name for node in tests if not any("skip" in ast.unparse(one) for one in node.decorator_list)}


@pytest.mark.parametrize("heading", ["Limits", "Promises"])
def test_every_promise_has_its_test(heading: str) -> None:
    rows = table(heading)
    assert rows
    for row in rows:
        named = re.findall(r"`([\w/.]+\.py)::(test_\w+)`", row[-1])
        assert named, f"no test shows: {row[0]}"
        for file, test in named:
            assert test in defined(ROOT / file), f"{row[0]}: there is no {file}::{test}"


def test_every_limit_is_told_with_its_default() -> None:
    command = cli.get_command(click.Context(cli), "serve")
    assert command is not None
    options = {max(one.opts, key=len): one for one in command.params if isinstance(one, click.Option)}
    told = {row[1].strip("`"): row[2] for row in table("Limits")}
    for option, default in told.items():
        value = options[option].default
        shown = f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, int) else "–"
        assert default == shown, option
    bounds = {option for option in options if re.match(r"--(max|queue|client|stream|ping)-", option)}
    assert bounds - {"--max-batch"} == set(told)


# What turns bytes into code, or writes where an archive says. `exec` of a plugin's folder is importlib's, which the operator asks for.
_CALLS = re.compile(
    r"(^|\.)(eval|exec|__import__|literal_exec|system|popen|extractall|unsafe_load|full_load|unpickle)$"
)
_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "pty"}


def hazards(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {one.name}" for one in node.names if one.name.split(".")[0] in _MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _MODULES:
            yield f"from {node.module} import"
        elif isinstance(node, ast.Call):
            yield from _hazards_of(
                ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}, node
            )


def _hazards_of(name: str, options: dict[str | None, str], call: ast.Call) -> Iterator[str]:
    # A network's `eval()` takes nothing to make code of.
    harmless = name.endswith(".eval") and not (call.args or call.keywords)
    if _CALLS.search(name) and not harmless:
        yield f"{name}(...)"
    if name in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
        yield f"{name} without allow_pickle=False"
    if name == "torch.load" and options.get("weights_only") != "True":
        yield f"{name} without weights_only=True"
    if options.get("shell", "False") != "False":
        yield f"{name}(shell=...)"


def test_no_source_file_makes_code_of_data() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {hazard}" for path in SOURCES for hazard in hazards(ast.parse(path.read_text()))
    }
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from dill import loads",
        "eval(text)",
        "builtins.exec(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "archive.extractall(folder)",
        "subprocess.run(line, shell=True)",
        "os.system(line)",
    ],
)
def test_what_can_make_code_of_data_is_found(text: str) -> None:
    assert list(hazards(ast.parse(text)))


def test_what_is_harmless_is_not_found() -> None:
    for text in (
        "network.eval()",
        "re.compile(text)",
        "np.load(path, allow_pickle=False)",
        "torch.load(p, weights_only=True)",
    ):
        assert not list(hazards(ast.parse(text)))

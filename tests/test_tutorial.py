"""docs/tutorial-family.md, done as it says: every file is written, every command and script run, in an empty folder.

The environment is one of its own on top of this one, so that `pip install -e .` is real and leaves nothing behind. The server's
ports are the only thing that the page does not decide.
"""

import os
import re
import signal
import site
import socket
import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from ganserve import Client
from ganserve.plugins import load

PAGE = Path(__file__).parents[1] / "docs" / "tutorial-family.md"

BLOCK = re.compile(r"^(?:`(?P<path>[^`\n]+)`:\n\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
"""A fenced block; a file where its path stands alone on the line before."""

COMMANDS = ("ganserve", "pip", "pytest")
"""The commands that the page uses."""

pytestmark = pytest.mark.timeout(900)  # seconds where nothing else runs, but many trainings may share the machine


class Tutorial:
    """A reader who does what the page says, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.python = make_environment(folder.parent / "venv")
        self.port = free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ,
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PIP_NO_INDEX": "1",  # everything is here already
            "PIP_NO_BUILD_ISOLATION": "0",  # pip's way of saying: without isolation
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "GANSERVE_TRAIN_DEVICE": "cpu",
            "GANSERVE_SERVE_PORT": str(self.port),
            "GANSERVE_SERVE_METRICS_PORT": "0",
            "GANSERVE_SERVE_THREADS": "1",
            "GANSERVE_MODELS_SERVER": self.address,
            "GANSERVE_SAMPLE_SERVER": self.address,
        }

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def follow(self, page: str) -> str:
        """Do everything on ``page``, in order; what the commands printed."""
        told = []
        for block in BLOCK.finditer(page):
            path, language, text = block["path"], block["language"], block["text"]
            if path:
                (self.folder / path).parent.mkdir(exist_ok=True)
                (self.folder / path).write_text(text)
            elif language == "python":
                told.append(self.run(str(self.python), "-c", text.replace("localhost:8001", self.address)))
            elif language == "sh":
                for command in text.splitlines():
                    if command.startswith("ganserve serve"):
                        self.serve(command)
                    else:
                        told.append(self.run("bash", "-c", command))
        return "\n".join(told)

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command[-1]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def serve(self, command: str) -> None:
        with (self.folder / "server.log").open("wb") as log:
            self.server = subprocess.Popen(command.split(), cwd=self.folder, env=self.environment, stderr=log)
        with Client(self.address) as client:
            client.wait_ready(120)

    def stop(self) -> int | None:
        """End the server as the page's reader would; its exit code."""
        if self.server is None:
            return None
        self.server.send_signal(signal.SIGTERM)
        try:
            return self.server.wait(60)
        finally:
            self.server.kill()


def make_environment(folder: Path) -> Path:
    """A virtual environment that sees this one's packages and has their commands; its Python."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    packages = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    parents = "; ".join(f"site.addsitedir({path!r})" for path in site.getsitepackages())
    (Path(packages) / "parent.pth").write_text(f"import site; {parents}\n")
    for command in COMMANDS:
        (entry,) = metadata.entry_points(group="console_scripts", name=command)
        script = python.with_name(command)
        script.write_text(
            f"#!{python}\nimport sys\nfrom {entry.module} import {entry.attr}\nsys.exit({entry.attr}())\n"
        )
        script.chmod(0o755)
    return python


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Followed(NamedTuple):
    """The page, done: what its commands printed, what the server said to a wrong one, and how it ended."""

    folder: Path
    told: str
    refusal: str
    exit_code: int | None


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    reader = Tutorial(tmp_path_factory.mktemp("tutorial") / "scribble")
    try:
        told = reader.follow(PAGE.read_text())
        wrong = subprocess.run(
            ["ganserve", "sample", "scribble", "--label", "12"],
            cwd=reader.folder,
            env=reader.environment,
            capture_output=True,
            text=True,
        )
        assert wrong.returncode == 1
        yield Followed(reader.folder, told, wrong.stderr, reader.stop())
    finally:
        if reader.server:
            reader.server.kill()


def test_the_page_has_the_files_that_it_announces() -> None:
    files = [block["path"] for block in BLOCK.finditer(PAGE.read_text()) if block["path"]]
    (announced,) = (block["text"] for block in BLOCK.finditer(PAGE.read_text()) if block["language"] == "text")
    assert files == [line.split()[0] for line in announced.splitlines()]
    assert len(files) == 5


def test_the_plugin_is_listed_and_conforms(followed: Followed) -> None:
    rows = [line.split() for line in followed.told.splitlines()]
    (row,) = (row for row in rows if row[:1] == ["scribble"] and "ganserve-scribble" in row)
    assert row[:3] == ["scribble", "0.1.0", "active"]
    summary = re.search(r"^(\d+) passed", followed.told, re.MULTILINE)
    assert summary, followed.told
    assert int(summary[1]) >= 10
    assert "failed" not in followed.told


def test_the_installation_stayed_in_its_own_environment(followed: Followed) -> None:
    assert "scribble" not in load().families


def test_the_files_are_there_that_the_page_names(followed: Followed) -> None:
    for name in ("run/samples/fakes-000050.png", "run/samples/reals.png"):
        assert f"`{Path(name).name}`" in PAGE.read_text() or f"`{name}`" in PAGE.read_text()
        assert (followed.folder / name).is_file()
    bundle = sorted(path.name for path in (followed.folder / "bundles" / "scribble").iterdir())
    assert bundle == ["generator.onnx", "golden.npz", "manifest.json", "weights.bin"]


def test_the_server_makes_the_digits_that_were_asked_for(followed: Followed) -> None:
    digits = load_digits()
    judge = KNeighborsClassifier(3).fit(digits.data, digits.target)
    labels = np.arange(100) % 10
    assert (judge.predict(tiles(followed.folder / "digits.png", 10)) == labels).mean() > 0.7
    threes = tiles(followed.folder / "threes.png", 4)
    assert (judge.predict(threes) == 3).mean() > 0.7
    # Sixteen threes, not one three sixteen times: real ones differ by 2.6 of 16 levels.
    assert threes.std(axis=0).mean() > 0.8


def test_a_wrong_label_is_refused_as_the_page_says(followed: Followed) -> None:
    (message,) = re.findall(r"`(labels\[0\]: [^`]+)`", PAGE.read_text())
    assert message in followed.refusal


def test_the_server_ended_well(followed: Followed) -> None:
    assert followed.exit_code == 0, (followed.folder / "server.log").read_text()


def tiles(path: Path, columns: int) -> np.ndarray:
    """The images of a grid, with scikit-learn's range of 0 to 16: [n, 64]."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode == "L"
        assert image.size == (columns * 10 - 2,) * 2
        pixels = np.asarray(image)
    cells = [pixels[y : y + 8, x : x + 8] for y in range(0, len(pixels), 10) for x in range(0, len(pixels), 10)]
    return np.stack(cells).reshape(-1, 64) / 255 * 16

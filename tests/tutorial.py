"""Whoever does what a tutorial page says: every file is written, every command and script run, in an empty folder.

The environment is one of its own on top of this one, so that `pip install -e .` is real and leaves nothing behind. The server's
ports are the only thing that a page does not decide.
"""

import os
import re
import signal
import site
import socket
import subprocess
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

from ganserve import Client

BLOCK = re.compile(r"^(?:`(?P<path>[^`\n]+)`:\n\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
"""A fenced block; a file where its path stands alone on the line before."""

COMMANDS = ("ganserve", "pip", "pytest")
"""The commands that the pages use beside python."""


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
            "GANSERVE_TRANSLATE_SERVER": self.address,
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

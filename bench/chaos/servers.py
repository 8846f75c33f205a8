"""Real servers on ports that stay theirs: started, asked to end, started again."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ganserve import Client
from ganserve.commands.process import PATIENCE, free_port

ONE_THREAD = ("--threads", "1", "--max-batch", "8")


class Place(msgspec.Struct, frozen=True):
    """Where a server runs, whichever process it is just now: what it serves, its ports, its log, its options."""

    bundles: Path
    port: int
    metrics_port: int
    management_port: int
    log: Path
    options: tuple[str, ...] = ONE_THREAD
    live_port: int | None = None
    """Where it tells how much memory it uses (:mod:`bench.chaos.live`); None: nowhere."""

    @classmethod
    def free(cls, bundles: Path, log: Path, *options: str) -> "Place":
        """One on free ports."""
        return cls(bundles, free_port(), free_port(), free_port(), log, (*ONE_THREAD, *options))

    @property
    def address(self) -> str:
        """Where it answers calls."""
        return f"127.0.0.1:{self.port}"

    @property
    def management(self) -> str:
        """Where it answers management calls."""
        return f"127.0.0.1:{self.management_port}"

    def start(self) -> subprocess.Popen[bytes]:
        """A server here, as an operator starts it; it is not ready yet."""
        program = ("ganserve",) if self.live_port is None else ("bench.chaos.live", str(self.live_port))
        command = [sys.executable, "-m", *program, "serve", str(self.bundles), *self.options]
        ports = {"port": self.port, "metrics-port": self.metrics_port, "management-port": self.management_port}
        for name, port in ports.items():
            command += [f"--{name}", str(port)]
        environment = {**os.environ, **({} if self.live_port is None else {"PYTHONMALLOC": "malloc"})}
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def wait_ready(self, model: str = "") -> None:
        """Return once it answers, or ``model`` does."""
        with Client(self.address) as client:
            client.wait_ready(PATIENCE, model=model)


def end(process: subprocess.Popen[bytes]) -> int:
    """Ask a server to end, as an orchestrator does; its exit status."""
    process.send_signal(signal.SIGTERM)
    return process.wait(PATIENCE)


@contextlib.contextmanager
def server(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """A ready server at ``place``, killed if it is still there at the end."""
    process = place.start()
    try:
        place.wait_ready()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()

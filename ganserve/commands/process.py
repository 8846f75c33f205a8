"""A server as a process of its own: started, watched, ended as an orchestrator ends it."""

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

PATIENCE = 60.0
"""Seconds that the server may take to be ready, and to stop."""


@contextlib.contextmanager
def server(bundles: Path, log: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """``ganserve serve`` as a process of its own, logging to ``log``, and its address; killed if it is still there at the end."""
    port = free_port()
    command = [sys.executable, "-m", "ganserve", "serve", str(bundles), "--port", str(port)]
    command.extend(("--metrics-port", "0", "--management-port", "-1"))
    command.extend(options)
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    try:
        yield process, f"127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[bytes], log: Path) -> None:
    """End the server as an orchestrator does, and insist that it ends well."""
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        raise click.ClickException(f"the server did not stop within {PATIENCE:.0f} s; {tail(log)}") from None
    if code:
        raise click.ClickException(f"the server stopped with code {code} instead of 0; {tail(log)}")


def tail(log: Path) -> str:
    """The last lines of a server's log, for an error message."""
    lines = log.read_text(errors="replace").splitlines()[-5:]
    return "\n".join([f"the end of {log}:", *lines])

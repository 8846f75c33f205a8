"""What a server process takes and does, seen from outside: memory, open files, and its own metrics."""

import os
import re
import urllib.request
from pathlib import Path

import msgspec


class Watched(msgspec.Struct, frozen=True):
    """A process and where its metrics are."""

    pid: int
    metrics_port: int

    @property
    def resident(self) -> int:
        """Bytes of memory that it holds."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def files(self) -> int:
        """Open files and sockets."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def sum(self, series: str) -> float:
        """The values of ``series``, whatever its labels, added up."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as answer:
            page = answer.read().decode()
        return sum(float(value) for value in re.findall(rf"^{series}(?:{{.*}})? (\S+)$", page, re.M))

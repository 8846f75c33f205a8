"""The comparison of the training loop with a bare one runs; what it shows means something on a quiet machine only."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "bench" / "training.py"


def test_the_loop_is_compared_with_a_bare_one_and_a_bound_is_kept() -> None:
    command = [sys.executable, str(SCRIPT), "--preset", "tiny", "--batch", "8", "--steps", "2", "--rounds", "1"]
    done = subprocess.run([*command, "--at-least", "1000"], capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r"tiny, batch 8: (\d+\.\d+) of a bare loop's images a second", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) > 0
    assert done.returncode == 1
    assert "that is less than 1000" in done.stderr

"""A full disk while a checkpoint, an engine's cache, a picture, a bundle or a bulk run is written: the tests of it, run here as they are."""

import subprocess
import sys
from pathlib import Path

from bench.chaos.scenario import Outcome, Scenario

ROOT = Path(__file__).parents[2]
TESTS = (
    "trainers/tests/test_checkpoint.py::test_a_full_disk_leaves_the_older_checkpoint_and_nothing_else",
    "tests/test_engine_cache.py::test_a_full_disk_leaves_what_was_there",
    "tests/test_full_disk.py",
    "trainers/tests/test_train_command.py::test_a_full_disk_at_the_start_is_told",
    "trainers/tests/test_train_command.py::test_a_disk_that_fills_under_the_log_costs_what_came_after_the_last_checkpoint",
    "tests/test_generate.py::test_a_full_disk_is_told_and_what_is_complete_stays",
)


def run(scale: float) -> Outcome:
    """Run the tests; they have one size."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return Outcome(done.returncode == 0, done.stdout.strip().splitlines()[-1].strip("= "))


SCENARIO = Scenario(
    "disk full while a checkpoint, cache or output is written",
    "clear error, previous file intact, nothing left over",
    run,
)

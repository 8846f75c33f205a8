"""On a single core the threads of a server take turns."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="scheduling policies are Linux's")

PROGRAM = """
import json, os, sys, threading
from ganserve.serving.cores import take_turns
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, cores[:{cores}])
os.sched_setscheduler(0, os.{policy}, os.sched_param(0))
take_turns()
found = []
thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
print(json.dumps([os.sched_getscheduler(0), *found]))
"""


def policies(cores: int, policy: str) -> list[int]:
    """The policies of a process that takes turns, and of a thread that it starts then; it had ``policy``, and some ``cores``."""
    program = PROGRAM.format(cores=cores, policy=policy)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    found: list[int] = json.loads(done.stdout)
    return found


def test_threads_of_one_core_do_not_interrupt_each_other() -> None:
    assert policies(1, "SCHED_OTHER") == [os.SCHED_BATCH] * 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_of_several_cores_are_let_be() -> None:
    assert policies(2, "SCHED_OTHER") == [os.SCHED_OTHER] * 2


def test_a_policy_that_was_chosen_stays() -> None:
    assert policies(1, "SCHED_IDLE") == [os.SCHED_IDLE] * 2

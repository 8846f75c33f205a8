"""The cores that this process may use, and how its threads share a single one."""

import contextlib
import os


def has_one_core() -> bool:
    """Whether all threads of this process have to share one core, and can say when another may go on."""
    return hasattr(os, "sched_yield") and hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1


def take_turns() -> None:
    """On a single core, have no thread that starts from now on interrupt another as it wakes; the calling one neither.

    gRPC's threads wake five times in a call, each time for microseconds: what they interrupt loses more than that. The policy is Linux's
    for work of which nobody waits for single steps (``SCHED_BATCH``); one that an operator has chosen is let be.
    """
    if has_one_core() and hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        # Where a sandbox forbids it, all works as well, only slower.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

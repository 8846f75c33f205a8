import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from ganserve.errors import TrainingError
from ganserve.plugins import Plugins
from ganserve_trainers import checkpoint
from ganserve_trainers.checkpoint import Checkpoint, State
from ganserve_trainers.distributed import make_fabric
from ganserve_trainers.run import resume_run

SCRIPT = Path(__file__).parent / "two_processes.py"


def train_two(folder: Path, batch: int, kimg: float) -> Checkpoint:
    """Train the toy family on two gloo processes started by torchrun and return the last checkpoint."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, str(SCRIPT), str(folder), str(batch), str(kimg)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return last(folder)


def last(folder: Path) -> Checkpoint:
    saved = checkpoint.latest(folder / "checkpoints")
    assert saved is not None
    return saved


def difference(one: Checkpoint, other: Checkpoint) -> float:
    """The largest difference of any weight or average."""
    pairs = [
        (mine[network][key], theirs[network][key])
        for mine, theirs in ((one.networks, other.networks), (one.averages, other.averages))
        for network in mine
        for key in mine[network]
    ]
    assert len(pairs) == 12
    return max(float((a - b).abs().max()) for a, b in pairs)


def test_two_processes_give_the_weights_of_one_with_twice_the_batch_and_resume_on_one(
    tmp_path: Path, train_toy: Callable[..., State], families: Plugins
) -> None:
    two = train_two(tmp_path / "two", batch=8, kimg=0.64)
    train_toy(tmp_path / "one", config={"d_steps": 2, "clip": 1.0}, batch=16, kimg=0.64, grid=4, mirror=True)
    one = last(tmp_path / "one")
    assert two.state.step == one.state.step == 20
    assert two.state.images == one.state.images == 640
    assert difference(two, one) < 1e-5
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1  # only the first process logs
    # The batch belongs to the run, so it may go on with another number of processes.
    for folder in ("one", "two"):
        resume_run(make_fabric("cpu"), tmp_path / folder, {"kimg": 0.96}, Console(quiet=True), families)
    assert last(tmp_path / "two").state.step == 30
    assert difference(last(tmp_path / "two"), last(tmp_path / "one")) < 1e-5


def test_a_device_that_is_not_there_is_an_error_that_says_what_works() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(TrainingError, match=r"cannot start 1 processes on device 'cuda': .*--device cpu always works"):
        make_fabric("cuda")

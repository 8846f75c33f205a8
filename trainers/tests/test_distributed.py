import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from ganserve.errors import TrainingError
from ganserve.plugins import installed
from ganserve_trainers import checkpoint
from ganserve_trainers.checkpoint import Checkpoint
from ganserve_trainers.distributed import make_fabric
from ganserve_trainers.loop import Settings
from ganserve_trainers.run import DataSource, read_record, resume_run, start_run

SCRIPT = Path(__file__).parent / "two_processes.py"


def train_two(folder: Path, batch: int, kimg: float) -> Checkpoint:
    """Train the GAN of 2014 on two gloo processes started by torchrun and return the last checkpoint."""
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
    assert pairs
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes have trained the run ``two``."""
    folder = tmp_path_factory.mktemp("distributed")
    train_two(folder / "two", batch=8, kimg=0.64)
    return folder


def test_two_processes_give_the_weights_of_one_with_twice_the_batch_and_resume_on_one(two: Path) -> None:
    family = installed().family("gan")
    config = {**family.config("tiny"), "d_steps": 2}  # no batch normalization, no dropout: rows do not meet
    settings = Settings(seed=3, batch=16, kimg=0.64, grid=4, mirror=True)
    fabric, source, quiet = make_fabric("cpu"), DataSource(where="digits:"), Console(quiet=True)
    start_run(fabric, family, "tiny", config, source, two / "one", settings, console=quiet)
    both, one = last(two / "two"), last(two / "one")
    assert both.state.step == one.state.step == 20
    assert both.state.images == one.state.images == 640
    assert difference(both, one) < 1e-5
    assert len(list((two / "two" / "tensorboard").iterdir())) == 1  # only the first process logs
    assert read_record(two / "two").command.startswith("torchrun --nproc-per-node 2 -m ganserve ")
    # The batch belongs to the run, so it may go on with another number of processes.
    for name in ("one", "two"):
        resume_run(make_fabric("cpu"), two / name, {"kimg": 0.96}, quiet)
    assert last(two / "two").state.step == 30
    assert difference(last(two / "two"), last(two / "one")) < 1e-5


def test_a_signal_saves_and_stops_both_processes_however_far_the_next_log_entry_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ganserve"]
    options = ["--preset", "tiny", "--data", "digits:", "--out", str(run), "--kimg", "100000", "--device", "cpu"]
    seldom = ["--log-every", "10000000", "--snapshot-kimg", "90000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with (tmp_path / "log").open("w") as log:
        training = subprocess.Popen([*launcher, "train", "gan", *options, *seldom], stderr=log, env=environment)
    try:
        # The first grid is drawn when the signals are listened to.
        deadline = time.monotonic() + 120
        while not list((run / "samples").glob("fakes-*")):
            assert training.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # One process draws it; the other one may be a moment behind.
        time.sleep(1)
    finally:
        # Its processes end with it: by themselves, or by its hand 30 s later.
        training.terminate()
        training.wait(60)
    assert last(run).state.step > 0, "saved, and not killed by torchrun after 30 s"


def test_running_statistics_are_averaged_and_other_buffers_are_each_process_s_own(two: Path) -> None:
    for rank in (0, 1):
        buffers = json.loads((two / f"buffers-{rank}.json").read_text())
        assert buffers.pop("running_mean") == buffers.pop("running_var") == 1.5
        assert buffers == {"num_batches_tracked": rank + 1, "pictures": rank + 1}


def test_a_device_that_is_not_there_is_an_error_that_says_what_works() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(TrainingError, match=r"cannot start 1 processes on device 'cuda': .*--device cpu always works"):
        make_fabric("cuda")

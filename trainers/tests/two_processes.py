"""What each process of test_distributed.py runs: ``two_processes.py FOLDER BATCH KIMG`` trains the toy family."""

import sys
from pathlib import Path

import torch
from rich.console import Console

from ganserve import plugins
from ganserve_trainers.distributed import make_fabric
from ganserve_trainers.loop import Settings
from ganserve_trainers.run import DataSource, start_run

folder, batch, kimg = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
torch.set_num_threads(1)
families = plugins.load(plugins_dir=Path(__file__).parent / "families")
fabric, quiet = make_fabric("cpu"), Console(quiet=True)
family = families.family("toy")
config = {**family.config("tiny"), "d_steps": 2, "clip": 1.0}
settings = Settings(seed=3, batch=batch, kimg=kimg, grid=4, mirror=True)
start_run(fabric, family, "tiny", config, DataSource(where="digits:"), folder, settings, console=quiet)

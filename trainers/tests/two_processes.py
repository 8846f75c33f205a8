"""What each process of test_distributed.py runs: ``two_processes.py FOLDER BATCH KIMG`` averages buffers, then trains a GAN."""

import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from ganserve import plugins
from ganserve_trainers.distributed import average_buffers, make_fabric
from ganserve_trainers.loop import Settings
from ganserve_trainers.run import DataSource, start_run

folder, batch, kimg = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
torch.set_num_threads(1)
fabric, quiet = make_fabric("cpu"), Console(quiet=True)

network = nn.BatchNorm1d(1)
network.register_buffer("pictures", torch.zeros(1))
for name in ("running_mean", "running_var", "num_batches_tracked", "pictures"):
    network.get_buffer(name).fill_(fabric.global_rank + 1)
average_buffers({"network": network})
buffers = {name: buffer.item() for name, buffer in network.named_buffers()}
folder.with_name(f"buffers-{fabric.global_rank}.json").write_text(json.dumps(buffers))

family = plugins.installed().family("gan")
config = {**family.config("tiny"), "d_steps": 2}
settings = Settings(seed=3, batch=batch, kimg=kimg, grid=4, mirror=True)
start_run(fabric, family, "tiny", config, DataSource(where="digits:"), folder, settings, console=quiet)

"""Processes that train together: how they start, and how their gradients become one."""

import os
from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from ganserve.errors import TrainingError
from ganserve_trainers.ema import RUNNING

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
"""Names of precisions → Lightning Fabric's: ``bf16`` keeps float32 weights and computes under autocast."""


def make_fabric(
    device: str = "auto", devices: int | None = None, nodes: int | None = None, precision: str = "fp32"
) -> Fabric:
    """A launched :class:`Fabric`: one process for each device, found through torchrun's environment if it is set.

    ``device`` is ``auto``, ``cpu``, ``cuda`` or ``mps``; ``devices`` and ``nodes`` default to what torchrun says, else 1.
    """
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun's; Fabric's own launcher sets WORLD_SIZE alone
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        devices, nodes = devices or local, nodes or int(os.environ["WORLD_SIZE"]) // local
    devices, nodes = devices or 1, nodes or 1
    try:
        fabric = Fabric(
            accelerator=device,
            devices=devices,
            num_nodes=nodes,
            strategy="ddp" if devices * nodes > 1 else "auto",
            precision=PRECISIONS[precision],  # type: ignore[arg-type]
        )
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"cannot start {devices * nodes} processes on device {device!r}: {error}; "
            "--device cpu always works, and torchrun starts several processes"
        ) from error
    return fabric


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over all processes, in one all-reduce; nothing to do where there is one process.

    Done by hand after the backward pass, since a wrapper of the networks would miss gradient penalties (which differentiate
    twice) and critics that are called several times in one loss.
    """
    if not dist.is_initialized():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)])


@torch.no_grad()
def average_buffers(networks: Mapping[str, nn.Module]) -> None:
    """Replace running statistics by their mean over all processes, so that they agree on one state; other buffers stay.

    What else a network buffers is no statistic: vectors of spectral normalization are the same everywhere, and a history of
    generated images is each process's own.
    """
    if not dist.is_initialized():
        return
    for network in networks.values():
        for name, buffer in network.named_buffers():
            if name.rpartition(".")[2] in RUNNING:
                dist.all_reduce(buffer)
                buffer /= dist.get_world_size()


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of ``value`` over all processes."""
    if dist.is_initialized():
        dist.all_reduce(value)
        value = value / dist.get_world_size()
    return value


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is set in any process."""
    if not dist.is_initialized():
        return flag
    shared = torch.tensor(float(flag), device=device)
    dist.all_reduce(shared)
    return bool(shared.item())

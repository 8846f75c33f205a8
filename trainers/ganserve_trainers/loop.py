"""The training loop: one function, read from top to bottom. It knows phases and networks, and nothing of GANs.

Every random number is a pure function of the run's seed and the place where it is used, and so is the order of the data:
a run that was stopped and resumed gives the weights of one that was not, bit for bit on a CPU, and two processes give the
weights of one with twice the batch, to rounding.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from ganserve.errors import TrainingError
from ganserve_trainers import checkpoint
from ganserve_trainers.checkpoint import Checkpoint, State
from ganserve_trainers.data import Dataset
from ganserve_trainers.data.order import batches, mirrored
from ganserve_trainers.distributed import any_process, average_buffers, average_gradients
from ganserve_trainers.ema import Averages
from ganserve_trainers.grid import save_grid
from ganserve_trainers.interrupt import Interrupt
from ganserve_trainers.log import Log, Meter
from ganserve_trainers.recipe import Batch, Phase, Recipe, Source
from ganserve_trainers.seeding import generator, seed_global

STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
"""Buffers of batch normalization; what else a network buffers may matter to its gradient."""

COLLAPSE_CHECKS = 3
"""So many previews in a row must look alike before a run counts as collapsed."""

COLLAPSE_GRACE = 0.25
"""A generator that never made varied images counts as collapsed only after this share of the run."""


@dataclass(frozen=True)
class Settings:
    """How a run goes, whatever the family.

    ``batch`` is the number of images a process and update; lengths are in thousands of images, ``log_every`` in steps.
    ``grid`` is the number of preview images. ``compile`` compiles the networks that can be (see :func:`_compilable`). ``keep`` checkpoints stay. A run whose previews vary less than ``collapse`` times
    as much as the real images (see :func:`spread`) is stopped; 0 never stops it. ``clip_gradients`` bounds the gradient's norm
    in phases that do not say their own ``clip``; None leaves gradients alone.
    """

    seed: int
    batch: int
    kimg: float
    snapshot_kimg: float = 50.0
    log_every: int = 50
    grid: int = 64
    keep: int = 3
    mirror: bool = False
    channels_last: bool = False
    compile: bool = False
    collapse: float = 0.02
    clip_gradients: float | None = None


def train(
    fabric: Fabric,
    networks: Mapping[str, nn.Module],
    recipe: Recipe,
    data: Dataset,
    folder: Path,
    settings: Settings,
    start: State,
    resumed: Checkpoint | None = None,
    console: Console | None = None,
) -> State:
    """Train ``networks`` by ``recipe`` on ``data`` until ``settings.kimg`` or a signal, and return where the run ended.

    Logs, sample grids and checkpoints go to ``folder``. ``start`` is the state of a new run; ``resumed`` overrides it.
    Raises :class:`TrainingError` where losses or weights stop being finite or the previews collapse; checkpoints saved
    before that stay.
    """
    _check_recipe(recipe, networks)
    device, rank, world = fabric.device, fabric.global_rank, fabric.world_size
    updates = max(phase.repeats for phase in recipe.phases)  # batches a step
    images_a_step = updates * settings.batch * world
    steps = math.ceil(round(settings.kimg * 1000) / images_a_step)
    every = max(1, round(settings.snapshot_kimg * 1000))
    optimizers = list({id(phase.optimizer): phase.optimizer for phase in recipe.phases}.values())
    rates = {id(optimizer): [group["lr"] for group in optimizer.param_groups] for optimizer in optimizers}
    trainable = {name: [p for p in network.parameters() if p.requires_grad] for name, network in networks.items()}
    averages = Averages(networks, recipe.averaged)
    if resumed:
        start = resumed.state
        checkpoint.restore(networks, resumed.networks, resumed.path)
        checkpoint.restore(averages.networks, resumed.averages, resumed.path)
        checkpoint.restore_optimizers(optimizers, resumed)
    for network in networks.values():
        network.train()
        if settings.compile and _compilable(network):
            network.compile()
    state = start
    feed = _feed(data, settings, state.step * updates, rank, world, device)
    logging: AbstractContextManager[Log | None] = nullcontext()
    if rank == 0:
        logging = Log(folder, steps * images_a_step, console or Console(), state.step, state.images)
    meter = Meter()

    with Interrupt() as interrupt, logging as log:
        if log is not None:
            preview = Preview(recipe, {**networks, **averages.networks}, data, settings, device)
            if not resumed:
                save_grid(preview.real, folder / "samples" / "reals.png")
                preview.save(folder, state, log)
        for step in range(start.step, steps):
            step_batches = list(itertools.islice(feed, updates))
            for phase in recipe.phases:
                if step % phase.every:
                    continue
                parameters = _thaw(phase, trainable)
                _set_rates(phase, rates[id(phase.optimizer)], step / steps)
                clip = settings.clip_gradients if phase.clip is None else phase.clip
                for repeat, tensors in enumerate(step_batches[: phase.repeats]):
                    # One update: its random numbers, its loss, and its gradient averaged over the processes.
                    place = (settings.seed, "noise", step, phase.name, repeat)
                    seed_global(device, *place, rank)  # dropout, and whatever else draws by itself
                    source = Source(generator(*place), settings.batch, rank, world, device)
                    with fabric.autocast():
                        loss, values = phase.loss(Batch(tensors, source))
                    phase.optimizer.zero_grad(set_to_none=True)
                    _backward(loss)
                    average_gradients(parameters)
                    if clip is not None:
                        nn.utils.clip_grad_norm_(parameters, clip)
                    phase.optimizer.step()
                    if phase.after is not None:
                        phase.after()
                    meter.add({"loss": loss, **values}, phase.name)
            seen = state.images + images_a_step
            averages.update(images_a_step, seen)
            state = msgspec.structs.replace(state, step=step + 1, images=seen)

            # Everything below happens once an interval, or when a signal asks for it.
            ends = state.step == steps
            snapshot = ends or seen // every > (seen - images_a_step) // every
            tick = snapshot or state.step % settings.log_every == 0
            # Processes have to agree, for which a GPU would have to be waited for; torchrun kills what has not ended after 30 s.
            stop = (tick or world == 1 or device.type == "cpu") and any_process(interrupt.wanted, device)
            if not (tick or stop):
                continue
            means = meter.take()
            _check_losses(means, state)
            if snapshot or stop:
                average_buffers(networks)
                _check_weights(networks, state)
            if log is not None:
                if snapshot:
                    with log.aside():
                        means["preview/variety"] = preview.save(folder, state, log)
                    state = _judge(state, means["preview/variety"], state.step / steps, settings.collapse)
                log.write(state.step, state.images, means)
            if any_process(state.collapsed >= COLLAPSE_CHECKS, device):
                raise TrainingError(_collapse_message(state, settings))
            if log is not None and (ends or stop or (snapshot and not state.collapsed)):
                with log.aside():
                    checkpoint.save(
                        folder / "checkpoints", state, networks, averages.networks, optimizers, settings.keep
                    )
            if stop:
                break
        fabric.barrier()
    return state


class Preview:
    """The sample grid: always the same real data and random numbers, so that only the networks change."""

    def __init__(
        self,
        recipe: Recipe,
        networks: Mapping[str, nn.Module],
        data: Dataset,
        settings: Settings,
        device: torch.device,
    ) -> None:
        """Pick ``settings.grid`` rows for a preview of ``networks`` (averages where there are any)."""
        self._recipe, self._networks, self._seed, self._device = recipe, networks, settings.seed, device
        rows = min(settings.grid, len(data))
        orders = (_few(settings.seed, walk.rows, rows, number) for number, walk in enumerate(data.walks))
        tensors = next(data.feed(*([order] for order in orders)))
        self.batch = Batch({name: _ready(tensor, device) for name, tensor in tensors.items()}, self._source(rows))
        if recipe.compares not in tensors:
            raise TrainingError(
                f"the recipe compares previews with {recipe.compares!r}: the data has {', '.join(sorted(tensors))}"
            )
        self.real = self.batch.tensors[recipe.compares]
        self._spread = spread(self.real)

    def save(self, folder: Path, state: State, log: Log) -> float:
        """Write the grid of ``state`` and return its variety: :func:`spread` of the previews over that of the real images."""
        seed_global(self._device, self._seed, "preview")
        modes = {name: network.training for name, network in self._networks.items()}
        for network in self._networks.values():
            network.eval()
        with torch.no_grad():
            batch = replace(self.batch, source=self._source(self.batch.rows))
            images = self._recipe.preview(self._networks, batch)
            shows = self._recipe.shows
            columns = [images] if shows is None else shows(self._networks, batch, images)
        for name, network in self._networks.items():
            network.train(modes[name])
        shown = torch.stack([column.float() for column in columns], dim=1).flatten(0, 1)
        save_grid(shown, folder / "samples" / f"fakes-{state.images // 1000:06d}.png", group=len(columns))
        log.images("samples", shown, state.step)
        return spread(images) / self._spread if self._spread > 0 else math.inf

    def _source(self, rows: int) -> Source:
        return Source(generator(self._seed, "preview"), rows, device=self._device)


def _few(seed: int, images: int, rows: int, walk: int) -> Tensor:
    """The indices ``[rows]`` of a preview; where a domain has fewer images they come again."""
    order = torch.randperm(images, generator=generator(seed, "preview", *([walk] if walk else [])))
    return order[torch.arange(rows) % images]


def spread(images: Tensor) -> float:
    """How much images ``[n, C, H, W]`` differ from one another: the standard deviation over the images, averaged over the pixels."""
    return float(images.detach().float().std(dim=0).mean())


def _feed(
    data: Dataset, settings: Settings, start: int, rank: int, world: int, device: torch.device
) -> Iterator[Mapping[str, Tensor]]:
    """The batches of process ``rank`` from number ``start`` on, on ``device``, pictures in [-1, 1]."""
    orders = [
        batches(settings.seed, walk.rows, settings.batch, start, rank, world, which)
        for which, walk in enumerate(data.walks)
    ]
    for number, pixels in zip(itertools.count(start), data.feed(*orders), strict=False):
        tensors = {name: _ready(tensor, device) for name, tensor in pixels.items()}
        if settings.mirror:
            for which, walk in enumerate(data.walks):
                flips = mirrored(settings.seed, number, settings.batch, rank, world, which).to(device)
                tensors |= {name: _flip(tensors[name], flips) for name in walk.tensors if tensors[name].ndim == 4}
        if settings.channels_last:
            tensors = {
                name: tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
                for name, tensor in tensors.items()
            }
        yield tensors


def _ready(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``: pictures, the uint8 ones, as floats in [-1, 1], labels as they are."""
    moved = tensor.to(device, non_blocking=True)
    return moved.float().div_(127.5).sub_(1) if tensor.dtype == torch.uint8 else moved


def _flip(images: Tensor, flips: Tensor) -> Tensor:
    return torch.where(flips[:, None, None, None], images.flip(3), images)


def _set_rates(phase: Phase, initial: Sequence[float], progress: float) -> None:
    """Give every parameter group its initial learning rate times the phase's factor: what a checkpoint holds never compounds."""
    factor = 1.0 if phase.rate is None else phase.rate(progress)
    for group, rate in zip(phase.optimizer.param_groups, initial, strict=True):
        group["lr"] = rate * factor


def _backward(loss: Tensor) -> None:
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "double backward" in str(error):
            raise TrainingError(
                f"this loss differentiates twice, which compiled networks cannot ({error}): train without --compile"
            ) from error
        raise


def _thaw(phase: Phase, trainable: Mapping[str, Sequence[nn.Parameter]]) -> list[nn.Parameter]:
    """Freeze all but the networks of ``phase``, and return the parameters that its optimizer moves."""
    for name, parameters in trainable.items():
        for parameter in parameters:
            parameter.requires_grad_(name in phase.networks)
    return [parameter for group in phase.optimizer.param_groups for parameter in group["params"]]


def _compilable(network: nn.Module) -> bool:
    """Whether a compiled ``network`` may be called twice before the backward pass.

    It may not if it changes buffers that its gradient needs (spectral normalization's vectors): the compiled backward pass
    reads them after the second call has overwritten them. Batch normalization's running statistics are no such buffers.
    """
    return all(name.rpartition(".")[2] in STATISTICS for name, _ in network.named_buffers())


def _check_recipe(recipe: Recipe, networks: Mapping[str, nn.Module]) -> None:
    for name in {name for phase in recipe.phases for name in phase.networks} | set(recipe.averaged):
        if name not in networks:
            raise TrainingError(f"the recipe names a network {name!r}: the family builds {', '.join(sorted(networks))}")


def _check_losses(means: Mapping[str, float], state: State) -> None:
    broken = {name: value for name, value in means.items() if not math.isfinite(value)}
    if broken:
        raise TrainingError(
            f"training diverged before step {state.step}: {_list(broken)}, which is not finite; {_ADVICE}"
        )


def _check_weights(networks: Mapping[str, nn.Module], state: State) -> None:
    for name, network in networks.items():
        tensors = [tensor.detach() for tensor in network.state_dict().values() if tensor.is_floating_point()]
        if tensors and not torch.stack(torch._foreach_norm(tensors)).isfinite().all():
            raise TrainingError(
                f"training diverged before step {state.step}: weights of {name!r} are not finite; {_ADVICE}"
            )


_ADVICE = (
    "the last good checkpoint is kept: lower the learning rate or clip gradients (--clip-gradients), and train again"
)


def _list(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def _judge(state: State, variety: float, progress: float, threshold: float) -> State:
    """``state`` with the collapse check's memory brought up to date."""
    alike = variety < threshold and (state.diverse or progress >= COLLAPSE_GRACE)
    return msgspec.structs.replace(
        state, diverse=state.diverse or variety >= threshold, collapsed=state.collapsed + 1 if alike else 0
    )


def _collapse_message(state: State, settings: Settings) -> str:
    return (
        f"the generator collapsed: at step {state.step} {COLLAPSE_CHECKS} previews in a row varied less than "
        f"{settings.collapse:g} times as much as the real images; the last good checkpoint is kept: "
        "train with another seed, loss or learning rate, or switch the check off with --collapse 0"
    )

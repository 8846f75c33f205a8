"""Checkpoints: folders of safetensors and JSON that appear all at once or not at all. Nothing is ever pickled.

::

    checkpoints/step-00001234/
      networks.safetensors     network/parameter
      averages.safetensors     the moving averages, likewise
      optimizers.safetensors   optimizer/parameter/moment, each a number or the optimizer's own name
      state.json               where the run was, the optimizers' numbers, and size and SHA-256 of the files above
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ganserve.errors import TrainingError
from ganserve_trainers.layers.widening import fitted

logger = logging.getLogger(__name__)

FORMAT = 1
STATE = "state.json"
FILES = ("networks.safetensors", "averages.safetensors", "optimizers.safetensors")
_NAME = re.compile(r"^step-(\d{8,})$")


class FileRecord(msgspec.Struct, frozen=True):
    """Size in bytes and SHA-256 of one file of a checkpoint."""

    size: int
    sha256: str


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a run is: what ``state.json`` holds.

    ``step`` steps were done and ``images`` real images seen; ``diverse`` and ``collapsed`` are the collapse check's memory.
    ``optimizers`` holds the optimizers' settings and non-tensor state; ``files`` is filled in by :func:`save`.
    """

    step: int = 0
    images: int = 0
    seed: int
    family: str
    preset: str
    config: Mapping[str, Any]
    diverse: bool = False
    collapsed: int = 0
    format: int = FORMAT
    optimizers: tuple[Mapping[str, Any], ...] = ()
    files: Mapping[str, FileRecord] = {}


class Checkpoint(msgspec.Struct, frozen=True):
    """A checkpoint that was read and verified."""

    path: Path
    state: State
    networks: Mapping[str, Mapping[str, Tensor]]
    averages: Mapping[str, Mapping[str, Tensor]]
    optimizers: Mapping[str, Tensor]


def save(
    folder: Path,
    state: State,
    networks: Mapping[str, nn.Module],
    averages: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    keep: int = 3,
) -> Path:
    """Write a checkpoint under ``folder`` and return its path; of the older ones only the newest ``keep - 1`` stay.

    The files are written and synced under a temporary name, which is then renamed: a crash leaves the older ones as they were, and so
    does a full disk, which raises :class:`TrainingError` and leaves nothing else.
    """
    path = folder / f"step-{state.step:08d}"
    temporary = folder / f".{path.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write(temporary, state, networks, averages, optimizers)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise TrainingError(
            f"checkpoint {path} cannot be written: {error}; the older ones are as they were: make room, and go on with --resume"
        ) from error
    if path.exists():
        shutil.rmtree(path)
    os.rename(temporary, path)
    _sync(folder)
    for old in list_checkpoints(folder)[keep:]:
        shutil.rmtree(old)
    return path


def _write(
    folder: Path,
    state: State,
    networks: Mapping[str, nn.Module],
    averages: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    tensors, numbers = _optimizer_tensors(optimizers)
    for name, content in zip(FILES, (_tensors(networks), _tensors(averages), tensors), strict=True):
        save_file(content, folder / name)
        _sync(folder / name)
    files = {name: _record(folder / name) for name in FILES}
    state = msgspec.structs.replace(state, optimizers=tuple(numbers), files=files)
    (folder / STATE).write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    _sync(folder / STATE)
    _sync(folder)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints under ``folder``, newest first, verified or not."""
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _NAME.match(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def load(path: Path) -> Checkpoint:
    """The checkpoint at ``path``; :class:`TrainingError` if a file is missing, truncated or altered."""
    state = _state(path)
    for name in FILES:
        if name not in state.files:
            raise TrainingError(f"checkpoint {path.name}: {STATE} does not record {name}; use an older checkpoint")
        _verify(path / name, state.files[name])
    try:
        networks, averages, optimizers = (load_file(path / name) for name in FILES)
    except SafetensorError as error:
        raise TrainingError(f"checkpoint {path.name} is not safetensors: {error}; use an older checkpoint") from error
    return Checkpoint(path, state, _by_network(networks), _by_network(averages), optimizers)


def _state(path: Path) -> State:
    try:
        state = msgspec.json.decode((path / STATE).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError) as error:
        raise TrainingError(
            f"checkpoint {path.name}: {STATE} cannot be read: {error}; use an older checkpoint"
        ) from error
    if state.format != FORMAT:
        raise TrainingError(f"checkpoint {path.name} has format {state.format}: this version reads format {FORMAT}")
    return state


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint under ``folder`` that verifies; damaged ones are named in the log and passed over.

    None where there is no checkpoint; :class:`TrainingError` where there are some but none verifies.
    """
    problems = []
    for path in list_checkpoints(folder):
        try:
            return load(path)
        except TrainingError as error:
            logger.warning("%s", error)
            problems.append(str(error))
    if problems:
        raise TrainingError(f"no checkpoint under {folder} can be used: {'; '.join(problems)}")
    return None


def of_images(folder: Path, images: int) -> Checkpoint:
    """The checkpoint under ``folder`` at ``images`` images; :class:`TrainingError` tells at how many there are some."""
    states = {path: _state(path) for path in list_checkpoints(folder)}
    found = [path for path, state in states.items() if state.images == images]
    if not found:
        seen = ", ".join(f"{state.images / 1000:g}" for state in states.values()) or "none"
        raise TrainingError(f"{folder} has no checkpoint at {images / 1000:g} kimg; there are: {seen}")
    return load(found[0])


def restore(networks: Mapping[str, nn.Module], saved: Mapping[str, Mapping[str, Tensor]], where: Path) -> None:
    """Put ``saved`` tensors into ``networks``; :class:`TrainingError` where names or shapes differ."""
    if set(networks) != set(saved):
        raise TrainingError(f"{where.name} holds networks {sorted(saved)}, the family has {sorted(networks)}")
    _fill(networks, saved, where)


def begin_from(networks: Mapping[str, nn.Module], checkpoint: Checkpoint, grow: bool = False) -> None:
    """Give ``networks`` the weights of those that ``checkpoint`` has by the same names; the others stay as they are.

    With ``grow`` that is so of each tensor too: one that the checkpoint lacks, or has in another shape, stays as it is, but a layer that is
    wider now keeps what it knew (:mod:`ganserve_trainers.layers.widening`). Raises :class:`TrainingError` where names or shapes in a
    network differ without ``grow``, or where nothing at all is the same.
    """
    common = {name: network for name, network in networks.items() if name in checkpoint.networks}
    saved = {name: checkpoint.networks[name] for name in common}
    if grow:
        saved = {name: _grown(common[name], tensors, name, checkpoint.path) for name, tensors in saved.items()}
    _fill(common, saved, checkpoint.path)


def _grown(network: nn.Module, saved: Mapping[str, Tensor], name: str, where: Path) -> Mapping[str, Tensor]:
    """All tensors of ``network``, those of ``saved`` in place of its own where they have the same names and fit."""
    own = network.state_dict()
    known = {key: fitted(network, key, own[key], tensor) for key, tensor in saved.items() if key in own}
    fits = {key: tensor for key, tensor in known.items() if tensor is not None}
    if own and not fits:
        raise TrainingError(
            f"{where.name} does not fit network {name!r}: no tensor has the name and shape of one in it"
        )
    return own | fits


def _fill(networks: Mapping[str, nn.Module], saved: Mapping[str, Mapping[str, Tensor]], where: Path) -> None:
    for name, network in networks.items():
        try:
            network.load_state_dict(dict(saved[name]))
        except RuntimeError as error:
            raise TrainingError(f"{where.name} does not fit network {name!r}: {error}") from error


def restore_optimizers(optimizers: Sequence[torch.optim.Optimizer], checkpoint: Checkpoint) -> None:
    """Put a checkpoint's moments and settings into ``optimizers``; :class:`TrainingError` where their number differs."""
    if len(optimizers) != len(checkpoint.state.optimizers):
        raise TrainingError(
            f"{checkpoint.path.name} holds {len(checkpoint.state.optimizers)} optimizers, the recipe has {len(optimizers)}"
        )
    for number, (optimizer, saved) in enumerate(zip(optimizers, checkpoint.state.optimizers, strict=True)):
        states: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in saved["state"].items()}
        for key, tensor in checkpoint.optimizers.items():
            owner, index, moment = key.split("/")
            if int(owner) == number:
                states.setdefault(int(index), {})[moment] = tensor
        groups = [
            _like(now, then) for now, then in zip(optimizer.state_dict()["param_groups"], saved["groups"], strict=True)
        ]
        optimizer.load_state_dict({"state": states, "param_groups": groups})


def _like(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter group as it was, with the tuples that JSON turned into lists."""
    return {key: tuple(then[key]) if isinstance(value, tuple) else then[key] for key, value in now.items()}


def _optimizer_tensors(
    optimizers: Iterable[torch.optim.Optimizer],
) -> tuple[dict[str, Tensor], list[Mapping[str, Any]]]:
    tensors: dict[str, Tensor] = {}
    numbers: list[Mapping[str, Any]] = []
    for number, optimizer in enumerate(optimizers):
        content = optimizer.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for index, values in content["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{number}/{index}/{key}"] = _plain(value)
                else:
                    plain.setdefault(str(index), {})[key] = value
        numbers.append({"groups": content["param_groups"], "state": plain})
    return tensors, numbers


def _tensors(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": _plain(tensor)
        for name, network in networks.items()
        for key, tensor in network.state_dict().items()
    }


def _plain(tensor: Tensor) -> Tensor:
    # A copy of its own: safetensors refuses views, shared storage and channels_last strides.
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _by_network(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    networks: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, parameter = key.partition("/")
        networks.setdefault(name, {})[parameter] = tensor
    return networks


def _record(path: Path) -> FileRecord:
    with open(path, "rb") as file:
        return FileRecord(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _verify(path: Path, record: FileRecord) -> None:
    if not path.is_file():
        raise TrainingError(f"checkpoint {path.parent.name}: {path.name} is missing; use an older checkpoint")
    if (size := path.stat().st_size) != record.size:
        raise TrainingError(
            f"checkpoint {path.parent.name}: {path.name} has {size} bytes, {record.size} were written; use an older checkpoint"
        )
    if _record(path) != record:
        raise TrainingError(
            f"checkpoint {path.parent.name}: {path.name} was altered (its SHA-256 differs); use an older checkpoint"
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

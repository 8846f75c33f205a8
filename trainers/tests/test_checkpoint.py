import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ganserve.errors import TrainingError
from ganserve_trainers import checkpoint
from ganserve_trainers.checkpoint import State, list_checkpoints

STATE = State(seed=1, family="toy", preset="tiny", config={"z": 4})


def trained(optimizer: Callable[..., torch.optim.Optimizer], seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network and its optimizer after two updates."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    mover = optimizer(network.parameters(), lr=0.01)
    for _ in range(2):
        mover.zero_grad()
        network(torch.randn(2, 3, 5, 5)).square().mean().backward()
        mover.step()
    return network, mover


def ordered(optimizer: torch.optim.Optimizer) -> list[tuple[int, str, object]]:
    """Everything an optimizer remembers about its parameters."""
    state = optimizer.state_dict()["state"]
    return sorted(
        (index, key, value.tolist())
        for index, values in state.items()
        for key, value in values.items()
        if value is not None
    )


def flip_last_bit(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def save(folder: Path, step: int = 1, keep: int = 3) -> Path:
    network, optimizer = trained(torch.optim.Adam, step)
    state = State(seed=1, family="toy", preset="tiny", config={}, step=step, images=step * 500)
    return checkpoint.save(folder, state, {"g": network}, {"g": network}, [optimizer], keep)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.SGD])
def test_what_is_saved_is_restored(tmp_path: Path, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    network, mover = trained(optimizer, 0)
    checkpoint.save(tmp_path, STATE, {"g": network}, {"g": network}, [mover])
    saved = checkpoint.latest(tmp_path)
    assert saved is not None
    other, other_mover = trained(optimizer, 1)
    checkpoint.restore({"g": other}, saved.networks, saved.path)
    checkpoint.restore_optimizers([other_mover], saved)
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert other_mover.state_dict()["param_groups"] == mover.state_dict()["param_groups"]
    assert str(ordered(other_mover)) == str(ordered(mover))
    assert (saved.state.config, saved.state.seed) == ({"z": 4}, 1)


def test_only_safetensors_and_json_are_written(tmp_path: Path) -> None:
    path = save(tmp_path)
    names = sorted(file.name for file in path.iterdir())
    assert names == ["averages.safetensors", "networks.safetensors", "optimizers.safetensors", "state.json"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda file: file.write_bytes(file.read_bytes()[:-8]),
            r"networks.safetensors has \d+ bytes, \d+ were written",
        ),
        (lambda file: file.write_bytes(flip_last_bit(file.read_bytes())), r"networks.safetensors was altered"),
        (lambda file: file.unlink(), r"networks.safetensors is missing"),
        (lambda file: (file.parent / "state.json").write_text("{"), r"state.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(
    tmp_path: Path, damage: Callable[[Path], object], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    damage(newer / "networks.safetensors")
    with pytest.raises(TrainingError, match=message):
        checkpoint.load(newer)
    latest = checkpoint.latest(tmp_path)
    assert latest is not None
    assert latest.path == older
    assert "checkpoint step-00000002" in caplog.text


def test_when_no_checkpoint_is_whole_all_are_named(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step) / "networks.safetensors").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"no checkpoint under .*step-00000002.*step-00000001"):
        checkpoint.latest(tmp_path)


def test_a_crash_before_the_rename_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = save(tmp_path, 1)

    def crash(*paths: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", crash)
        with pytest.raises(OSError, match="power cut"):
            save(tmp_path, 2)
    latest = checkpoint.latest(tmp_path)
    assert latest is not None
    assert latest.path == older
    assert checkpoint.load(save(tmp_path, 2)).state.step == 2  # the remains are no obstacle


def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    older = save(tmp_path, step=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As a full disk does, this fails in the middle of a file: EFBIG instead of ENOSPC.
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
    try:
        with pytest.raises(TrainingError, match=r"step-00000002 cannot be written: .*go on with --resume"):
            save(tmp_path, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [older]
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.path == older


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        save(tmp_path, step, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000100", "step-00000010"]


def test_a_checkpoint_is_found_by_the_images_seen(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert checkpoint.of_images(tmp_path, 1000).state.step == 2
    with pytest.raises(TrainingError, match=r"no checkpoint at 1.2 kimg; there are: 1.5, 1, 0.5"):
        checkpoint.of_images(tmp_path, 1200)


def test_a_folder_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "nothing") is None


def test_a_checkpoint_of_other_networks_is_refused(tmp_path: Path) -> None:
    saved = checkpoint.load(save(tmp_path))
    with pytest.raises(TrainingError, match=r"step-00000001 holds networks \['g'\], the family has \['d'\]"):
        checkpoint.restore({"d": nn.Linear(1, 1)}, saved.networks, saved.path)
    with pytest.raises(TrainingError, match="does not fit network 'g'"):
        checkpoint.restore({"g": nn.Linear(1, 1)}, saved.networks, saved.path)
    with pytest.raises(TrainingError, match="holds 1 optimizers, the recipe has 0"):
        checkpoint.restore_optimizers([], saved)


def test_tied_weights_survive(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    path = checkpoint.save(tmp_path, STATE, {"g": network}, {}, [])
    tensors = checkpoint.load(path).networks["g"]
    assert torch.equal(tensors["0.weight"], tensors["1.weight"])

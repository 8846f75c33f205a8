import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from ganserve.errors import TrainingError
from ganserve.plugins import Plugins, resolve
from ganserve_trainers import checkpoint
from ganserve_trainers.checkpoint import State
from ganserve_trainers.data import DataOptions, load
from ganserve_trainers.distributed import make_fabric
from ganserve_trainers.interrupt import Interrupt
from ganserve_trainers.loop import Settings, spread, train
from ganserve_trainers.run import DataSource, load_run, read_record, resume_run, start_run

Train = Callable[..., State]

COLLAPSE = {"sabotage": "collapse", "lr": 2e-2}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint of the run in ``folder``."""
    saved = checkpoint.latest(folder / "checkpoints")
    assert saved is not None
    flat = {f"{part}/{name}": value for part in ("networks", "averages") for name, value in _flat(getattr(saved, part))}
    return flat | dict(saved.optimizers)


def _flat(networks: dict[str, dict[str, torch.Tensor]]) -> list[tuple[str, torch.Tensor]]:
    return [(f"{name}/{key}", value) for name, tensors in networks.items() for key, value in tensors.items()]


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def resume(folder: Path, families: Plugins, **changes: object) -> State:
    return resume_run(make_fabric("cpu"), folder, changes, Console(quiet=True), families)


def test_a_run_learns(tmp_path: Path, train_toy: Train, families: Plugins) -> None:
    train_toy(tmp_path, kimg=12.0)
    real = load("digits:", DataOptions(size=(8, 8), channels=1)).tensors["image"].float() / 127.5 - 1
    run = load_run(tmp_path, families)
    torch.manual_seed(0)
    untrained = resolve(run.family.build)(run.config)["generator"]

    def distance(generator: torch.nn.Module) -> float:
        """Between the mean and standard deviation images of fakes and reals: root mean square over the pixels."""
        with torch.no_grad():
            fakes = generator(torch.randn(1000, 8, generator=torch.Generator().manual_seed(0)))
        return (fakes.mean(0) - real.mean(0)).square().mean().sqrt().item() + (
            fakes.std(0) - real.std(0)
        ).square().mean().sqrt().item()

    assert distance(run.networks["generator"]) < 0.4 * distance(untrained)


def test_a_stopped_and_resumed_run_equals_an_unstopped_one_bit_for_bit(
    tmp_path: Path, train_toy: Train, families: Plugins
) -> None:
    train_toy(tmp_path / "whole", "dropout", kimg=2.0, mirror=True)
    train_toy(tmp_path / "parts", "dropout", kimg=0.7, mirror=True)
    half = weights(tmp_path / "parts")
    state = resume(tmp_path / "parts", families, kimg=2.0)
    assert state.images == 2016  # 63 steps of 2 batches of 16
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert any(not torch.equal(half[name], value) for name, value in weights(tmp_path / "parts").items())


def test_a_signal_saves_and_stops_and_the_resumed_run_equals_an_unstopped_one(
    tmp_path: Path, train_toy: Train, families: Plugins
) -> None:
    train_toy(tmp_path / "whole", kimg=6.0)
    before = signal.getsignal(signal.SIGTERM)

    def terminate() -> None:
        while not (tmp_path / "parts" / "log.jsonl").exists():
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    stopped = train_toy(tmp_path / "parts", kimg=6.0)
    thread.join()
    assert 0 < stopped.images < 6000
    assert signal.getsignal(signal.SIGTERM) is before
    resume(tmp_path / "parts", families)
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_a_second_signal_acts_at_once() -> None:
    # A process started in the background inherits that SIGINT is ignored; this one must not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGINT)
            assert interrupt.wanted
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_resumed_log_has_no_entry_twice(tmp_path: Path, train_toy: Train, families: Plugins) -> None:
    train_toy(tmp_path, kimg=0.5)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step":40,"images":640}\n{"step":50,"ima')  # written after the checkpoint, then a crash
    resume(tmp_path, families, kimg=1.0)
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [10, 20, 30, 32, 40, 50, 60, 63]
    assert {"discriminator/loss", "generator/loss", "discriminator/real", "images_per_second"} <= entries[4].keys()


def test_a_loss_that_is_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path, train_toy: Train) -> None:
    with pytest.raises(TrainingError, match=r"diverged before step 40: .*discriminator/loss = nan"):
        train_toy(tmp_path, config={"sabotage": "nan"}, snapshot_kimg=0.16)
    saved = checkpoint.latest(tmp_path / "checkpoints")
    assert saved is not None
    assert saved.state.step == 30
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def test_a_collapsed_generator_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, train_toy: Train
) -> None:
    with pytest.raises(TrainingError, match=r"the generator collapsed: at step \d+ 3 previews in a row"):
        train_toy(tmp_path, config=COLLAPSE, snapshot_kimg=0.32, kimg=4.0)
    saved = checkpoint.latest(tmp_path / "checkpoints")
    assert saved is not None
    assert saved.state.collapsed == 0
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["preview/variety"] < 0.02


def test_the_collapse_check_can_be_switched_off(tmp_path: Path, train_toy: Train) -> None:
    state = train_toy(tmp_path, config=COLLAPSE, snapshot_kimg=0.32, kimg=3.2, collapse=0.0)
    assert state.images == 3200


def test_spread_is_the_mean_standard_deviation_over_the_images() -> None:
    images = torch.tensor([[[[0.0, 1.0]]], [[[2.0, 1.0]]]])
    assert spread(images) == pytest.approx((2**0.5 + 0) / 2)


def test_a_run_folder_holds_grids_log_and_record(tmp_path: Path, train_toy: Train) -> None:
    train_toy(tmp_path, kimg=2.0, snapshot_kimg=1.0)
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["fakes-000000.png", "fakes-000001.png", "fakes-000002.png", "reals.png"]
    with Image.open(tmp_path / "samples" / "fakes-000001.png") as grid:
        assert (grid.size, grid.mode) == ((32, 32), "L")
        assert np.asarray(grid).std() > 1
    assert list((tmp_path / "tensorboard").glob("events.*"))
    record = read_record(tmp_path)
    assert (record.family, record.preset, record.seed, record.data.images) == ("toy", "tiny", 3, 1797)
    assert record.config["image"] == (8, 8, 1)
    assert not list(tmp_path.rglob("*.tmp")) + list(tmp_path.rglob("*.pt"))


def test_previews_always_use_the_same_seeds(tmp_path: Path, train_toy: Train, families: Plugins) -> None:
    """Where nothing learns all grids of a run are one, also after a resume; another seed gives another grid."""

    def grids(run: str) -> list[bytes]:
        return [path.read_bytes() for path in sorted((tmp_path / run / "samples").glob("fakes-*.png"))]

    still = {"config": {"lr": 0.0}, "kimg": 2.0, "snapshot_kimg": 1.0}
    train_toy(tmp_path / "one", **still)
    assert len(grids("one")) == 3
    resume(tmp_path / "one", families, kimg=4.0)
    assert len(grids("one")) == 5
    assert len(set(grids("one"))) == 1
    train_toy(tmp_path / "two", **still, seed=4)
    assert not set(grids("one")) & set(grids("two"))


@pytest.mark.parametrize(("precision", "computed"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_convolutions_train_in_the_precision_that_is_said(
    tmp_path: Path, families: Plugins, precision: str, computed: torch.dtype
) -> None:
    """Those of both networks, on their way through training; what is kept is float32 either way."""
    family = families.family("dcgan")
    config = family.config("tiny")
    settings = Settings(seed=0, batch=8, kimg=0.2, grid=4, channels_last=True)
    found: dict[type[nn.Module], set[torch.dtype]] = {nn.Conv2d: set(), nn.ConvTranspose2d: set()}

    def note(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        for kind, types in found.items():
            if module.training and isinstance(module, kind):
                types.add(output.dtype)

    hook = nn.modules.module.register_module_forward_hook(note)
    try:
        state = start_run(
            make_fabric("cpu", precision=precision),
            family,
            "tiny",
            config,
            DataSource(where="digits:"),
            tmp_path,
            settings,
            console=Console(quiet=True),
        )
    finally:
        hook.remove()
    assert found == {nn.Conv2d: {computed}, nn.ConvTranspose2d: {computed}}
    assert state.step == 25
    networks = checkpoint.latest(tmp_path / "checkpoints").networks  # type: ignore[union-attr]
    assert all(value.dtype != torch.bfloat16 for tensors in networks.values() for value in tensors.values())


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """torch.compile traces and differentiates as always but builds no machine code; lists what was compiled."""
    compiled: list[nn.Module] = []
    original = nn.Module.compile

    def compile_module(self: nn.Module) -> None:
        compiled.append(self)
        original(self, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_module)
    return compiled


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")  # torch's own, of its compiler
def test_a_compiled_run_gives_the_weights_of_an_eager_one(
    tmp_path: Path, train_toy: Train, quick_compiler: list[nn.Module]
) -> None:
    train_toy(tmp_path / "eager", kimg=0.32)
    assert not quick_compiler
    train_toy(tmp_path / "compiled", kimg=0.32, compile=True)
    assert len(quick_compiler) == 2
    eager, compiled = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    assert eager.keys() == compiled.keys()
    assert max(float((eager[name] - compiled[name]).abs().max()) for name in eager) < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")
def test_networks_with_spectral_norm_stay_eager_when_compiling(
    tmp_path: Path, families: Plugins, quick_compiler: list[nn.Module]
) -> None:
    family = families.family("dcgan")
    settings = Settings(seed=0, batch=8, kimg=0.08, grid=4, compile=True)
    source, quiet = DataSource(where="digits:"), Console(quiet=True)
    start_run(make_fabric("cpu"), family, "tiny", family.config("tiny"), source, tmp_path, settings, console=quiet)
    assert [type(network).__name__ for network in quick_compiler] == ["Generator"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")
@pytest.mark.usefixtures("quick_compiler")
def test_compiling_under_a_gradient_penalty_is_refused_with_the_way_out(tmp_path: Path, families: Plugins) -> None:
    family = families.family("dcgan")
    config = {**family.config("tiny"), "d_norm": "none", "loss": "wasserstein", "penalty": 10.0}
    settings = Settings(seed=0, batch=8, kimg=0.08, grid=4, compile=True)
    source, quiet = DataSource(where="digits:"), Console(quiet=True)
    with pytest.raises(TrainingError, match=r"differentiates twice.*train without --compile"):
        start_run(make_fabric("cpu"), family, "tiny", config, source, tmp_path, settings, console=quiet)


def test_a_recipe_that_names_an_unknown_network_is_refused(tmp_path: Path, families: Plugins) -> None:
    family = families.family("toy")
    networks = resolve(family.build)(family.config("tiny"))
    recipe = replace(resolve(family.train)(family.config("tiny"), networks), averaged={"mapping": 1.0})
    data = load("digits:", DataOptions(size=(8, 8), channels=1))
    state = State(seed=0, family="toy", preset="tiny", config={})
    with pytest.raises(TrainingError, match="names a network 'mapping': the family builds discriminator, generator"):
        train(make_fabric("cpu"), networks, recipe, data, tmp_path, Settings(seed=0, batch=8, kimg=1), state)


def lengths_of_a_step(
    folder: Path, families: Plugins, clip_gradients: float | None, clip: float | None = None
) -> dict[str, float]:
    """How far one step of gradient descent, at a learning rate of 1, moves each network; ``clip`` is the generator's own."""
    family = families.family("toy")
    torch.manual_seed(0)
    networks = resolve(family.build)(family.config("tiny"))
    recipe = resolve(family.train)(family.config("tiny"), networks)
    phases = tuple(
        replace(
            phase,
            optimizer=torch.optim.SGD(networks[phase.name].parameters(), lr=1.0),
            clip=clip if phase.name == "generator" else None,
        )
        for phase in recipe.phases
    )
    before = {name: nn.utils.parameters_to_vector(network.parameters()) for name, network in networks.items()}
    train(
        make_fabric("cpu"),
        networks,
        replace(recipe, phases=phases),
        load("digits:", DataOptions(size=(8, 8), channels=1)),
        folder,
        Settings(seed=0, batch=16, kimg=0.016, grid=4, clip_gradients=clip_gradients),
        State(seed=0, family="toy", preset="tiny", config={}),
        console=Console(quiet=True),
    )
    after = {name: nn.utils.parameters_to_vector(network.parameters()) for name, network in networks.items()}
    return {name: float((after[name] - before[name]).detach().norm()) for name in networks}


def test_the_gradient_of_every_phase_is_no_longer_than_the_run_says(tmp_path: Path, families: Plugins) -> None:
    free = lengths_of_a_step(tmp_path / "free", families, None)
    assert min(free.values()) > 0.01
    clipped = lengths_of_a_step(tmp_path / "clipped", families, 1e-3)
    assert clipped == pytest.approx(dict.fromkeys(free, 1e-3), rel=1e-3)
    assert lengths_of_a_step(tmp_path / "loose", families, 1e3) == free


def test_a_phase_that_says_its_own_clip_keeps_it(tmp_path: Path, families: Plugins) -> None:
    moved = lengths_of_a_step(tmp_path, families, 1e-3, clip=2e-3)
    assert moved == pytest.approx({"discriminator": 1e-3, "generator": 2e-3}, rel=1e-3)


def test_a_run_may_not_start_where_another_is(tmp_path: Path, train_toy: Train) -> None:
    train_toy(tmp_path, kimg=0.1)
    with pytest.raises(TrainingError, match="already holds a run: pass --resume"):
        train_toy(tmp_path, kimg=0.1)


def test_changed_data_is_refused_on_resume(tmp_path: Path, train_toy: Train, families: Plugins) -> None:
    train_toy(tmp_path, kimg=0.1)
    text = (tmp_path / "run.json").read_text()
    fingerprint = json.loads(text)["data"]["fingerprint"]
    (tmp_path / "run.json").write_text(text.replace(fingerprint, "0" * 16))
    with pytest.raises(TrainingError, match="the data at digits: has changed since the run began"):
        resume(tmp_path, families)


def test_load_run_gives_the_averages_and_where_the_model_comes_from(
    tmp_path: Path, train_toy: Train, families: Plugins
) -> None:
    train_toy(tmp_path, kimg=1.0)
    run = load_run(tmp_path, families)
    saved = checkpoint.latest(tmp_path / "checkpoints")
    assert saved is not None
    key = "body.0.weight"
    assert torch.equal(run.networks["generator"].state_dict()[key], saved.averages["generator"][key])
    assert not torch.equal(saved.networks["generator"][key], saved.averages["generator"][key])
    assert not run.networks["generator"].training
    provenance = json.loads(json.dumps(run.provenance))
    assert (provenance["steps"], provenance["images_seen"], provenance["seed"]) == (63, 1008, 3)
    assert provenance["data"]["images"] == 1797
    assert str(tmp_path) not in json.dumps({key: value for key, value in provenance.items() if key != "command"})


def test_load_run_of_a_folder_without_a_run_says_so(tmp_path: Path, families: Plugins) -> None:
    with pytest.raises(TrainingError, match=r"holds no run: there is no run.json"):
        load_run(tmp_path, families)

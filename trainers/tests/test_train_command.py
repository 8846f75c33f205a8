import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result

from ganserve import plugins
from ganserve.errors import TrainingError
from ganserve.plugins import Plugins
from ganserve_trainers import checkpoint
from ganserve_trainers.command import parse_overrides, train
from ganserve_trainers.export_command import export
from ganserve_trainers.run import load_run, read_record

PRESET = {"image": (8, 8, 1), "batch": 16, "lr": 2e-3, "loss": "hinge", "clip": None, "flag": True}


@pytest.fixture(autouse=True)
def toy_is_installed(families: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "installed", lambda: families)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(train, [str(argument) for argument in arguments])


def start(out: Path, *more: str | Path) -> Result:
    fast = ("--kimg", "0.32", "--grid", "4", "--threads", "1", "--device", "cpu")
    return invoke("toy", "--preset", "tiny", "--data", "digits:", "--out", out, *fast, *more)


def test_train_then_resume(tmp_path: Path) -> None:
    first = start(tmp_path, "--seed", "5", "--batch", "8", "--set", "hidden=32", "--licence", "BSD", "--mirror")
    assert first.exit_code == 0, first.output
    assert "0.3 kimg, 40 steps" in first.output
    assert f"ganserve train --resume --out {tmp_path}" in first.output.replace("\n", "")
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["seed"], record["batch"], record["config"]["hidden"], record["threads"]) == (5, 8, 32, 1)
    assert record["data"]["licence"] == "BSD"
    assert record["settings"]["mirror"] is True
    second = invoke("--resume", "--out", tmp_path, "--kimg", "0.4", "--device", "cpu")
    assert second.exit_code == 0, second.output
    assert "0.4 kimg, 50 steps" in second.output


@pytest.mark.parametrize("known", [True, False])
def test_gradients_are_clipped_as_the_run_records(tmp_path: Path, known: bool) -> None:
    """A gradient so short moves nothing, even divided by Adam's root of its square; a record without the field clips none."""
    assert start(tmp_path, "--clip-gradients", "1e-12").exit_code == 0
    record = json.loads((tmp_path / "run.json").read_text())
    clip = record["settings"].pop("clip_gradients")
    assert clip == 1e-12
    if not known:
        (tmp_path / "run.json").write_text(json.dumps(record))
    resumed = invoke("--resume", "--out", tmp_path, "--kimg", "0.64", "--device", "cpu")
    assert resumed.exit_code == 0, resumed.output
    last, first = map(checkpoint.load, checkpoint.list_checkpoints(tmp_path / "checkpoints"))
    before, after = (saved.networks["generator"] for saved in (first, last))
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert moved < 1e-5 if known else moved > 1e-3


def test_a_run_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    known = plugins.installed()
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    assert start(one, "--seed", "5").exit_code == 0
    for folder, origin in ((two, one), (three, two)):
        # So little is learnt in one step that the weights still show where they come from.
        more = ("--seed", "6", "--begin-from", origin, "--set", "lr=1e-6", "--kimg", "0.016")
        done = start(folder, *more)
        assert done.exit_code == 0, done.output
    saved = [checkpoint.latest(folder / "checkpoints") for folder in (one, two)]
    before, after = (one.networks for one in saved if one is not None)
    for network, tensors in before.items():
        torch.testing.assert_close(after[network], tensors, rtol=0, atol=1e-4)
    told = load_run(three, known).provenance["begun_from"]
    assert (told["family"], told["preset"], told["images"]) == ("toy", "tiny", 320 + 16)
    assert (told["begun_from"]["images"], told["begun_from"].get("begun_from")) == (320, None)
    assert [told["command"], told["begun_from"]["command"]] == [read_record(run).command for run in (two, one)]
    assert load_run(three, known).provenance["images_seen"] == 16
    assert "begun_from" not in load_run(one, known).provenance


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ((), "holds no run"),
        (("--set", "hidden=48"), "does not fit network 'generator'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, changes: tuple[str, ...], message: str) -> None:
    if changes:
        assert start(tmp_path / "one").exit_code == 0
    done = start(tmp_path / "two", "--begin-from", tmp_path / "one", *changes)
    assert done.exit_code == 1
    assert message in done.output
    assert isinstance(done.exception, SystemExit)


def test_weights_of_another_family_are_refused(tmp_path: Path) -> None:
    assert start(tmp_path / "one").exit_code == 0
    record = tmp_path / "one" / "run.json"
    record.write_text(record.read_text().replace('"toy"', '"play"'))
    done = start(tmp_path / "two", "--begin-from", tmp_path / "one")
    assert done.exit_code == 1
    assert "is a run of play: begin from one of toy" in done.output
    assert not (tmp_path / "two").exists()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As a full disk does, this ends a write in its middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_at_the_start_is_told(tmp_path: Path) -> None:
    with files_of_at_most(200):
        done = start(tmp_path / "run")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)  # what click makes of its own errors
    assert f"{tmp_path / 'run/run.json'} cannot be written: File too large; checkpoints are as they were" in done.output
    assert list((tmp_path / "run").iterdir()) == []
    assert start(tmp_path / "run").exit_code == 0


def test_a_disk_that_fills_under_the_log_costs_what_came_after_the_last_checkpoint(tmp_path: Path) -> None:
    assert start(tmp_path).exit_code == 0
    log, grids = tmp_path / "log.jsonl", sorted(path.name for path in (tmp_path / "samples").iterdir())
    entries = log.read_bytes()
    more = ("--resume", "--out", tmp_path, "--kimg", "0.64", "--device", "cpu", "--log-every", "4")
    with files_of_at_most(len(entries) + 20):
        failed = invoke(*more)
    assert failed.exit_code == 1
    assert f"{log} cannot be written: File too large" in failed.output
    assert "go on with --resume" in failed.output
    assert log.read_bytes().startswith(entries)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == grids
    assert invoke(*more).exit_code == 0
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 40


def test_a_folder_of_images_with_a_broken_one(tmp_path: Path) -> None:
    from PIL import Image

    data = tmp_path / "data"
    data.mkdir()
    for index in range(20):
        Image.new("L", (10, 10), index * 12).save(data / f"{index}.png")
    (data / "bad.png").write_bytes(b"no png")
    options = ("--preset", "tiny", "--data", data, "--kimg", "0.032", "--device", "cpu", "--grid", "4")
    refused = invoke("toy", *options, "--out", tmp_path / "run")
    assert refused.exit_code == 1
    assert "Error: 1 of 21 images in data are broken: bad.png" in refused.output
    assert not (tmp_path / "run").exists()
    skipped = invoke("toy", *options, "--out", tmp_path / "run", "--broken", "skip")
    assert skipped.exit_code == 0, skipped.output
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["data"]["images"], record["data"]["skipped"]) == (20, ["bad.png"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give FAMILY and --data, or --resume"),
        (("toy", "--data", "digits:"), "give --preset: toy has tiny, dropout"),
        (("toy", "--data", "digits:", "--preset", "huge"), "family 'toy' has no preset 'huge'"),
        (("tyo", "--data", "digits:", "--preset", "tiny"), "no plugin provides the family 'tyo'"),
        (("toy", "--resume"), "--resume goes on with the run in --out, whose own these are: leave out FAMILY"),
        (("--resume",), "holds no run"),
        (("toy", "--data", "nowhere", "--preset", "tiny"), "there is no data at nowhere"),
        (("toy", "--data", "digits:", "--preset", "tiny", "--set", "hiden=3"), "did you mean 'hidden'?"),
        (("toy", "--data", "digits:", "--preset", "tiny", "--clip-gradients", "0"), "0.0 is not in the range x>0"),
        (
            ("toy", "--data", "digits:", "--preset", "tiny", "--background", "reddish"),
            "'reddish' is no colour: write #RRGGBB",
        ),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = invoke(*arguments, "--out", tmp_path / "run")
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    "option",
    [
        ("--seed", "0"),
        ("--precision", "fp32"),
        ("--set", "lr=1"),
        ("--batch", "16"),
        ("--mirror",),
        ("--broken", "skip"),
        ("--memory", "1"),
        ("--licence", "MIT"),
        ("--no-channels-last",),
        ("--no-compile",),
        ("--clip-gradients", "1"),
    ],
)
def test_what_a_resumed_run_would_ignore_is_refused(tmp_path: Path, option: tuple[str, ...]) -> None:
    result = invoke("--resume", "--out", tmp_path / "run", *option)
    assert result.exit_code == 2
    name = "--channels-last" if option == ("--no-channels-last",) else option[0].replace("--no-", "--")
    assert f"leave out {name}, or start a new run" in " ".join(result.output.split())


def test_all_that_a_resumed_run_would_ignore_is_named_at_once(tmp_path: Path) -> None:
    result = invoke("toy", "--resume", "--out", tmp_path / "run", "--seed", "1", "--kimg", "2", "--workers", "1")
    assert "leave out FAMILY, --seed, --workers, or start a new run" in " ".join(result.output.split())


def test_a_family_is_loaded_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, families: Plugins) -> None:
    without = plugins.load()
    monkeypatch.setattr(plugins, "installed", lambda: without)
    unknown = start(tmp_path / "run")
    assert "no plugin provides the family 'toy'" in unknown.output
    folder = ("--plugins-dir", Path(__file__).parent / "families")
    assert start(tmp_path / "run", *folder).exit_code == 0
    resumed = invoke("--resume", "--out", tmp_path / "run", "--kimg", "0.4", "--device", "cpu", *folder)
    assert resumed.exit_code == 0, resumed.output
    bundle = (str(tmp_path / "run"), "--out", str(tmp_path / "run"))
    unknown, known = (CliRunner().invoke(export, [*bundle, *map(str, more)]) for more in ((), folder))
    assert "no plugin provides the family 'toy'" in unknown.output
    assert "exists: choose another folder" in known.output  # a later complaint: the family was found


def test_overrides_take_the_type_of_the_preset() -> None:
    settings = ("lr=1", "batch=32", "loss=wasserstein", "image=[32, 32, 3]", "clip=0.5", "flag=false")
    assert parse_overrides(PRESET, settings) == {
        "image": (32, 32, 3),
        "batch": 32,
        "lr": 1.0,
        "loss": "wasserstein",
        "clip": 0.5,
        "flag": False,
    }
    assert PRESET["batch"] == 16


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch", "expected key=value"),
        ("bacth=3", "the preset has no 'bacth'; did you mean 'batch'?"),
        ("batch=many", "'many' is no int, like the preset's 16"),
        ("batch=1.5", "'1.5' is no int"),
        ("flag=1", "'1' is no bool"),
        ("image=3", "'3' is no tuple"),
    ],
)
def test_wrong_overrides_are_refused(setting: str, message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        parse_overrides(PRESET, (setting,))
    assert message in str(caught.value)


def test_help_teaches() -> None:
    text = invoke("--help").output
    assert "ganserve train dcgan --preset fashion-32 --data" in text
    assert all(option.help for option in train.params if isinstance(option, click.Option) and option.name != "device")


def test_the_plugin_adds_the_command_without_importing_torch() -> None:
    program = (
        "import sys, click\n"
        "from ganserve_trainers import plugin\n"
        "group = click.Group()\n"
        "plugin.ganserve_commands(group)\n"
        "assert 'train' in group.commands\n"
        "assert not {'torch', 'lightning_fabric'} & set(sys.modules), 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr

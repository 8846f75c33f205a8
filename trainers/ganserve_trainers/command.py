"""``ganserve train``: options in, a run folder out."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from ganserve import plugins
from ganserve.commands.options import Colour, plugins_dir_option
from ganserve.errors import GanserveError, TrainingError
from ganserve.spec import Family

DEFAULT_KIMG = 1000.0
"""The length of a run where neither the command nor the preset has one, in thousands of images."""

RESUMABLE = frozenset(
    {"out", "resume", "plugins_dir", "device", "devices", "nodes", "threads"}
    | {"kimg", "snapshot_kimg", "keep", "grid", "log_every", "collapse"}
)
"""What may be said beside ``--resume``; all else is the run's own, and would be ignored."""

HELP = """Train a GAN of FAMILY on your images.

\b
A first run, on Fashion-MNIST's idx files:
  ganserve train dcgan --preset fashion-32 --data /usr/share/datasets/fashion-mnist --out runs/fashion
Look at it while it trains:
  runs/fashion/samples/fakes-*.png, or: tensorboard --logdir runs/fashion
Stop it with Ctrl-C (it saves first) and go on later, with the very weights an unstopped run would have had:
  ganserve train --resume --out runs/fashion
Train longer:
  ganserve train --resume --out runs/fashion --kimg 4000
Fine-tune what another run has learnt, on other images or with other settings:
  ganserve train dcgan --preset fashion-32 --data more/ --begin-from runs/fashion --out runs/more
Go on at a higher resolution, where the family's networks of the lower one are a part of the larger ones:
  ganserve train stylegan2 --preset emoji-64 --data PATH --begin-from runs/small --grow --out runs/large
On two processes (--batch counts the images of one):
  torchrun --nproc-per-node 2 -m ganserve train dcgan --preset ...

\b
--data takes
  a folder or .zip of images, at any depth, with labels in an optional dataset.json
      {"labels": [["a/b.png", 3], ...], "names": ["heart", ...]}   (the classes' names, if you like)
  a folder of MNIST-like idx files, or one images-idx3-ubyte[.gz]
  a folder of CIFAR-10's data_batch_*.bin, or one .bin file
  digits:   scikit-learn's 1,797 handwritten digits
for families that translate, a folder or .zip of
  trainA and trainB (or A/train and B/train, or A and B), matched by name where the preset wants pairs
  pairs side by side in one image, A left and B right
for families that read captions, a folder of images with
  metadata.jsonl, lines such as {"file_name": "1.png", "text": "a red heart"} ("text" may be a list)
  or a .txt file beside each image, one caption a line
Images are cut to the preset's aspect ratio and resized with Lanczos' filter; 28x28 on black is padded to 32x32.
"""


def parse_overrides(config: Mapping[str, Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """``config`` with ``key=value`` settings applied, each typed like the value it replaces.

    Raises :class:`TrainingError` for a key the preset does not have, or a value of another type.
    """
    changed = dict(config)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise TrainingError(f"--set {setting}: expected key=value")
        if key not in config:
            near = difflib.get_close_matches(key, config, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise TrainingError(
                f"--set {setting}: the preset has no {key!r}; {hint}its keys are {', '.join(sorted(config))}"
            )
        changed[key] = _typed(setting, text, config[key])
    return changed


def _typed(setting: str, text: str, old: Any) -> Any:
    if isinstance(old, str):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if isinstance(old, tuple) and isinstance(value, list):
        value = _tuples(value)
    if old is not None and type(value) is not type(old):
        raise TrainingError(f"--set {setting}: {text!r} is no {type(old).__name__}, like the preset's {old!r}")
    return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


@click.command(help=HELP, short_help="Train a family on a folder, zip or data set of images.")
@click.argument("family", required=False)
@click.option("--preset", help="Which of the family's configurations (the message without it lists them).")
@click.option("--data", "where", metavar="PATH", help="The real images; see above.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The run's folder.")
@click.option(
    "--resume", is_flag=True, help="Go on with the run in --out; family, preset, data, seed and precision are its own."
)
@click.option(
    "--begin-from",
    "begin",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="RUN",
    help="Begin with the weights of another run, to fine-tune them; networks that it lacks are drawn.",
)
@click.option(
    "--grow",
    is_flag=True,
    help="With --begin-from: layers that RUN lacks are drawn too, wider ones keep what RUN's knew.",
)
@click.option(
    "--kimg",
    type=click.FloatRange(min=0, min_open=True),
    help="Length in thousands of real images (default: the preset's, else 1000).",
)
@click.option("--batch", type=click.IntRange(min=1), help="Images an update and process (default: the preset's).")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same run.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of the preset; repeatable."
)
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True, help="bf16: autocast."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True)
@click.option("--devices", type=click.IntRange(min=1), help="Processes on this machine (default: torchrun's, else 1).")
@click.option("--nodes", type=click.IntRange(min=1), help="Machines (default: torchrun's, else 1).")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads a process (default: PyTorch's choice).")
@click.option("--channels-last/--no-channels-last", default=None, help="Memory layout (default: on for bf16).")
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=False,
    help="torch.compile networks without spectral norm; no penalties.",
)
@click.option(
    "--clip-gradients",
    type=click.FloatRange(min=0, min_open=True),
    metavar="NORM",
    help="Scale the gradient of an update down to this norm where it is longer; off unless given.",
)
@click.option("--mirror", is_flag=True, help="Flip half of the images left to right.")
@click.option(
    "--broken",
    type=click.Choice(["refuse", "skip"]),
    default="refuse",
    show_default=True,
    help="Broken images, and those without a partner.",
)
@click.option("--background", type=Colour(), default="#ffffff", show_default=True, help="Behind transparent pixels.")
@click.option(
    "--memory", type=click.FloatRange(min=0), default=4.0, show_default=True, help="GiB of images kept decoded."
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes that decode the rest."
)
@click.option(
    "--text-encoder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="For captions: the folder of a sentence encoder, as sentence-transformers publishes it or as model.onnx, with its tokenizer.json.",
)
@click.option("--licence", default="", help="The data's licence, for the model's provenance.")
@click.option("--attribution", default="", help="Whom the data's licence asks to credit.")
@click.option(
    "--snapshot-kimg", type=click.FloatRange(min=0, min_open=True), help="Grid and checkpoint every so often [50]."
)
@click.option("--keep", type=click.IntRange(min=1), help="Checkpoints that stay [3].")
@click.option("--grid", type=click.IntRange(min=2), help="Images in a sample grid [64].")
@click.option("--log-every", type=click.IntRange(min=1), help="Steps between log entries [50].")
@click.option(
    "--collapse", type=click.FloatRange(min=0), help="Stop if previews vary less than this share of the real [0.02]."
)
@plugins_dir_option
def train(
    family: str | None,
    preset: str | None,
    where: str | None,
    out: Path,
    resume: bool,
    begin: Path | None,
    grow: bool,
    seed: int,
    overrides: tuple[str, ...],
    batch: int | None,
    precision: str,
    device: str,
    devices: int | None,
    nodes: int | None,
    threads: int | None,
    channels_last: bool | None,
    compiled: bool,
    clip_gradients: float | None,
    mirror: bool,
    broken: str,
    background: tuple[int, int, int],
    memory: float,
    workers: int,
    text_encoder: Path | None,
    licence: str,
    attribution: str,
    plugins_dir: Path | None,
    **changes: Any,
) -> None:
    """Train a new run or go on with one."""
    console = Console()
    if resume:
        _check_resumable(click.get_current_context())
    elif grow and begin is None:
        raise click.UsageError("--grow says how to begin from another run: give --begin-from too")
    elif family is None or where is None:
        raise click.UsageError("give FAMILY and --data, or --resume; `ganserve train --help` has examples")
    changes = {name: value for name, value in changes.items() if value is not None}
    try:
        import torch

        from ganserve_trainers import run
        from ganserve_trainers.distributed import make_fabric
        from ganserve_trainers.loop import Settings

        if resume:
            record = run.read_record(out)
            precision, threads = record.precision, threads or record.threads
        if threads:
            torch.set_num_threads(threads)
        known = plugins.load(plugins_dir) if plugins_dir else plugins.installed()
        fabric = make_fabric(device, devices, nodes, precision)
        console.quiet = fabric.global_rank > 0
        if resume:
            state = run.resume_run(fabric, out, changes, console, known)
        else:
            assert family is not None
            assert where is not None
            chosen = known.family(family)
            config = parse_overrides(_preset(chosen, preset), overrides)
            state = run.start_run(
                fabric,
                chosen,
                preset or "",
                config,
                run.DataSource(
                    where=where,
                    text_encoder=str(text_encoder or ""),
                    broken=broken,  # type: ignore[arg-type]
                    background=background,
                    memory=int(memory * 2**30),
                    workers=workers,
                    licence=licence,
                    attribution=attribution,
                ),
                out,
                Settings(
                    seed=seed,
                    batch=batch or config["batch"],
                    mirror=mirror,
                    compile=compiled,
                    clip_gradients=clip_gradients,
                    channels_last=precision == "bf16" if channels_last is None else channels_last,
                    **{"kimg": config.get("kimg", DEFAULT_KIMG), **changes},
                ),
                precision=precision,
                threads=threads,
                console=console,
                begin=begin,
                grow=grow,
            )
    except GanserveError as error:
        raise click.ClickException(str(error)) from error
    console.print(f"{state.images / 1000:.1f} kimg, {state.step} steps: {out}/samples shows them, and", highlight=False)
    console.print(f"  ganserve train --resume --out {out} [--kimg MORE]   goes on", highlight=False, markup=False)
    console.print(f"  ganserve export {out} --out BUNDLE   makes a bundle to serve", highlight=False)


def _check_resumable(context: click.Context) -> None:
    """Refuse what a resumed run would ignore; an option's default is no wish."""
    named = [
        "FAMILY" if isinstance(option, click.Argument) else max(option.opts, key=len)
        for option in context.command.params
        if option.name not in RESUMABLE
        and context.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT
    ]
    if named:
        raise click.UsageError(
            f"--resume goes on with the run in --out, whose own these are: leave out {', '.join(named)}, or start a new run"
        )


def _preset(family: Family, preset: str | None) -> Mapping[str, Any]:
    if preset is None:
        raise click.UsageError(f"give --preset: {family.name} has {', '.join(family.presets)}")
    return family.config(preset)

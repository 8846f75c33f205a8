"""A run's folder: what it records about itself, how training starts or resumes in it, and how its result is read back.

::

    run.json        family, preset, configuration, data, seed, versions, settings (see RunRecord)
    checkpoints/    see ganserve_trainers.checkpoint
    text/           of families that read captions: the sentence encoder, and the captions' vectors
    samples/        reals.png, and fakes-000123.png at 123 thousand images
    log.jsonl       one line an interval
    tensorboard/    the same, for TensorBoard
"""

import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn

import ganserve
from ganserve.errors import TrainingError
from ganserve.plugins import Plugins, installed, resolve
from ganserve.spec import Family
from ganserve_trainers import checkpoint
from ganserve_trainers.checkpoint import Checkpoint, State
from ganserve_trainers.classes import CONFIG
from ganserve_trainers.data import DataOptions, Dataset, Description, Encode, load
from ganserve_trainers.loop import Settings, train
from ganserve_trainers.relabel import relabelled
from ganserve_trainers.seeding import derive
from ganserve_trainers.text.bert import GRAPH
from ganserve_trainers.text.encoder import VECTORS, Credits, Sentences, TextEncoder, open_encoder
from ganserve_trainers.written import replacing, told

RECORD = "run.json"
CHECKPOINTS = "checkpoints"
TEXT = "text"
"""Where a run keeps its sentence encoder."""

FORMAT = 1


class DataSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the images are and how they are read; ``memory`` in bytes, see :class:`~ganserve_trainers.data.DataOptions`.

    ``text_encoder`` is the folder of what encodes captions (:mod:`ganserve_trainers.text.encoder`).
    """

    where: str
    text_encoder: str = ""
    broken: Literal["skip", "refuse"] = "refuse"
    background: tuple[int, int, int] = (255, 255, 255)
    memory: int = 4 * 2**30
    workers: int = 2
    licence: str = ""
    attribution: str = ""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The run whose weights another one began with: what it was, and how many images it had seen, those before it included.

    It may have begun with another one's in turn.
    """

    family: str
    preset: str
    images: int
    command: str
    begun_from: "Origin | None" = None


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``run.json``: all that is needed to resume a run, and to say later where a model comes from."""

    format: int = FORMAT
    family: str
    preset: str
    config: Mapping[str, Any]
    seed: int
    batch: int
    """Images an update of all processes together."""
    source: DataSource
    data: Description
    settings: Mapping[str, Any]
    text: Credits | None = None
    """Whose sentence encoder made the captions' vectors, None where there are no captions."""
    precision: str = "fp32"
    threads: int | None = None
    """CPU threads a process, None where PyTorch chose; part of the record since rounding depends on it."""
    versions: Mapping[str, str]
    command: str
    begun_from: Origin | None = None
    """None where the first weights were drawn."""


@dataclass(frozen=True)
class Run:
    """A trained run: its networks in eval mode on the CPU, averages in place of the networks they follow."""

    family: Family
    preset: str
    config: Mapping[str, Any]
    networks: Mapping[str, nn.Module]
    files: Mapping[str, Path]
    """What codecs read beside the networks, by its name in a bundle: the tokenizer of a run with captions."""
    provenance: Mapping[str, Any]
    """JSON-able: data, steps, images seen, seed, command line, versions; no paths but those typed in the command."""


def start_run(
    fabric: Fabric,
    family: Family,
    preset: str,
    config: Mapping[str, Any],
    source: DataSource,
    folder: Path,
    settings: Settings,
    precision: str = "fp32",
    threads: int | None = None,
    console: Console | None = None,
    begin: Path | None = None,
    grow: bool = False,
) -> State:
    """Train a new run in ``folder``, which must hold no run yet; ``precision`` and ``threads`` are recorded for a resume.

    ``begin`` is a run whose newest weights the networks begin with (fine-tuning); optimizers, averages and counts are new. With
    ``grow``, networks may have what that run's have not, as those of a higher resolution do: that is drawn.
    Raises :class:`TrainingError`.
    """
    if (folder / RECORD).exists():
        raise TrainingError(f"{folder} already holds a run: pass --resume to go on with it, or another --out")
    sentences = _sentences(config, open_encoder(Path(source.text_encoder)) if source.text_encoder else None)
    data = load(source.where, data_options(config, source, sentences), source.licence, source.attribution)
    networks, origin = _networks(fabric, family, config, settings), None
    if begin is not None:
        origin, first, then = _origin(begin, family)
        checkpoint.begin_from(networks, relabelled(networks, first, then.classes, data.description.classes), grow)
    fabric.barrier()  # every process has looked before the first one writes
    record = RunRecord(
        family=family.name,
        preset=preset,
        config=config,
        seed=settings.seed,
        batch=settings.batch * fabric.world_size,
        source=source,
        data=data.description,
        settings=asdict(settings),
        text=None if sentences is None else sentences.encoder.credits,
        precision=precision,
        threads=threads,
        versions=_versions(),
        command=_command_line(),
        begun_from=origin,
    )
    if fabric.global_rank == 0:
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if sentences is not None:
                sentences.encoder.copy(folder / TEXT)
                sentences.keep(folder / TEXT / VECTORS)
        _write(record, folder)
    return _train(fabric, family, record, networks, data, folder, settings, console)


def resume_run(
    fabric: Fabric,
    folder: Path,
    changes: Mapping[str, Any],
    console: Console | None = None,
    plugins: Plugins | None = None,
) -> State:
    """Go on with the run in ``folder`` from its newest good checkpoint, or from the start where it has none.

    ``changes`` replaces :class:`Settings` that leave the weights' path alone (kimg, snapshot_kimg, …). The run may go on with
    another number of processes if it divides the batch. Raises :class:`TrainingError`, also where the data has changed.
    """
    record = read_record(folder)
    family = (plugins or installed()).family(record.family)
    if record.batch % fabric.world_size:
        raise TrainingError(
            f"the run's batch of {record.batch} images cannot be shared by {fabric.world_size} processes: use a divisor"
        )
    kept = {**record.settings, **changes, "batch": record.batch // fabric.world_size}
    settings = Settings(**kept)
    source = record.source
    sentences = _sentences(record.config, _kept_encoder(record, folder))
    data = load(source.where, data_options(record.config, source, sentences), source.licence, source.attribution)
    if data.description.fingerprint != record.data.fingerprint:
        raise TrainingError(
            f"the data at {source.where} has changed since the run began: {data.description.images} images now, "
            f"{record.data.images} then, or other names or labels; restore it, or start a new run"
        )
    resumed = checkpoint.latest(folder / CHECKPOINTS)
    networks = _networks(fabric, family, record.config, settings)
    return _train(fabric, family, record, networks, data, folder, settings, console, resumed)


def load_run(folder: Path, plugins: Plugins | None = None, kimg: float | None = None) -> Run:
    """The run in ``folder`` at its newest good checkpoint, or at the one of ``kimg`` thousand images.

    A run with captions has its sentence encoder among the networks, as ``text``.
    Raises :class:`TrainingError` where there is none.
    """
    record = read_record(folder)
    family = (plugins or installed()).family(record.family)
    saved = _newest(folder) if kimg is None else checkpoint.of_images(folder / CHECKPOINTS, round(kimg * 1000))
    networks: dict[str, nn.Module] = dict(resolve(family.build)(record.config))
    checkpoint.restore(networks, saved.networks, saved.path)
    checkpoint.restore({name: networks[name] for name in saved.averages}, saved.averages, saved.path)
    files: dict[str, Path] = {}
    if encoder := _kept_encoder(record, folder):
        networks[GRAPH], files[encoder.tokenizer.name] = encoder.network, encoder.tokenizer
    for network in networks.values():
        network.eval().requires_grad_(False)
    provenance = {
        "data": msgspec.to_builtins(record.data),
        "steps": saved.state.step,
        "images_seen": saved.state.images,
        "seed": record.seed,
        "batch": record.batch,
        "command": record.command,
        "versions": dict(record.versions),
        **({"text_encoder": msgspec.to_builtins(record.text)} if record.text else {}),
        **({"begun_from": msgspec.to_builtins(record.begun_from)} if record.begun_from else {}),
    }
    config = {**record.config, CONFIG: record.data.classes} if record.data.classes else record.config
    return Run(family, record.preset, config, networks, files, provenance)


def read_record(folder: Path) -> RunRecord:
    """The ``run.json`` of ``folder``; :class:`TrainingError` where there is none or it cannot be read."""
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=RunRecord)
    except FileNotFoundError as error:
        raise TrainingError(
            f"{folder} holds no run: there is no {RECORD}; give the --out of a `ganserve train`"
        ) from error
    except (OSError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{folder / RECORD} cannot be read: {error}") from error
    if record.format != FORMAT:
        raise TrainingError(f"{folder / RECORD} has format {record.format}: this version reads format {FORMAT}")
    return msgspec.structs.replace(record, config={key: _frozen(value) for key, value in record.config.items()})


def data_options(config: Mapping[str, Any], source: DataSource, encode: Encode | None = None) -> DataOptions:
    """How ``source`` is read for a configuration.

    Its ``image`` is (height, width, channels). Optional are ``classes``, ``data`` (``images``, ``pairs``, ``domains`` or
    ``captions``, which ``encode`` encodes) and, for pairs, ``direction`` (``a2b`` or ``b2a``).
    """
    height, width, channels = config["image"]
    if channels not in (1, 3):
        raise TrainingError(f"the preset's images have {channels} channels: image data has 1 (grey) or 3 (RGB)")
    return DataOptions(
        size=(height, width),
        channels=channels,
        classes=config.get("classes", 0),
        kind=_choice(config, "data", ("images", "pairs", "domains", "captions")),  # type: ignore[arg-type]
        direction=_choice(config, "direction", ("a2b", "b2a")),  # type: ignore[arg-type]
        encode=encode,
        broken=source.broken,
        background=source.background,
        memory=source.memory,
        workers=source.workers,
    )


def _newest(folder: Path) -> Checkpoint:
    """The newest good checkpoint of the run in ``folder``; :class:`TrainingError` where there is none."""
    if (saved := checkpoint.latest(folder / CHECKPOINTS)) is None:
        raise TrainingError(f"{folder} has no checkpoint yet: let `ganserve train` reach its first snapshot")
    return saved


def _origin(folder: Path, family: Family) -> tuple[Origin, Checkpoint, Description]:
    """What the run in ``folder`` is, its weights and its data; :class:`TrainingError` where it is of another family, or has none."""
    record = read_record(folder)
    if record.family != family.name:
        raise TrainingError(f"{folder} is a run of {record.family}: begin from one of {family.name}")
    saved = _newest(folder)
    before = record.begun_from.images if record.begun_from else 0
    images = before + saved.state.images
    origin = Origin(
        family=record.family,
        preset=record.preset,
        images=images,
        command=record.command,
        begun_from=record.begun_from,
    )
    return origin, saved, record.data


def _kept_encoder(record: RunRecord, folder: Path) -> TextEncoder | None:
    """The sentence encoder of the run in ``folder``; None where it has none, :class:`TrainingError` where it is another one now."""
    if record.text is None:
        return None
    encoder = open_encoder(folder / TEXT)
    if encoder.credits.sha256 != record.text.sha256:
        raise TrainingError(
            f"{folder / TEXT} holds {encoder.credits.name}, which is not what the run began with: copy its own files back"
        )
    # Without a model card an encoder is called after its folder, which was another one then.
    return replace(encoder, credits=record.text)


def _sentences(config: Mapping[str, Any], encoder: TextEncoder | None) -> Sentences | None:
    """What encodes the captions that a configuration is trained on; None where it reads none.

    Such a configuration has ``text``, the size of a vector, and ``tokens``, the most that a caption has. Raises
    :class:`TrainingError` where there is no encoder, or one of another size.
    """
    if config.get("data") != "captions":
        if encoder is not None:
            raise TrainingError("this preset reads no captions: leave --text-encoder out")
        return None
    if encoder is None:
        raise TrainingError("this preset reads captions: give the folder of a sentence encoder with --text-encoder")
    if encoder.size != config["text"]:
        raise TrainingError(
            f"{encoder.folder} makes vectors of {encoder.size} numbers, the preset reads {config['text']}: "
            f"give another encoder, or train with --set text={encoder.size}"
        )
    return Sentences(encoder, config["tokens"], encoder.folder / VECTORS)


def _choice(config: Mapping[str, Any], key: str, choices: Sequence[str]) -> str:
    """The value of ``key``, or the first of ``choices`` where the configuration has none."""
    value = config.get(key, choices[0])
    if value not in choices:
        raise TrainingError(f"the preset's {key} is {value!r}: expected one of {', '.join(choices)}")
    return str(value)


def _networks(fabric: Fabric, family: Family, config: Mapping[str, Any], settings: Settings) -> dict[str, nn.Module]:
    """The networks of ``config`` as they are drawn, where and as ``settings`` want them."""
    torch.manual_seed(derive(settings.seed, "init"))
    networks: dict[str, nn.Module] = dict(resolve(family.build)(config))
    for network in networks.values():
        network.to(fabric.device)
        if settings.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return networks


def _train(
    fabric: Fabric,
    family: Family,
    record: RunRecord,
    networks: dict[str, nn.Module],
    data: Dataset,
    folder: Path,
    settings: Settings,
    console: Console | None,
    resumed: Checkpoint | None = None,
) -> State:
    recipe = resolve(family.train)(record.config, networks)
    state = State(seed=record.seed, family=record.family, preset=record.preset, config=record.config)
    try:
        return train(fabric, networks, recipe, data, folder, settings, state, resumed, console)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _frozen(value: Any) -> Any:
    """``value`` with JSON's lists as the tuples that presets are made of."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _versions() -> dict[str, str]:
    return {
        "ganserve": ganserve.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "lightning-fabric": importlib.metadata.version("lightning-fabric"),
    }


def _write(record: RunRecord, folder: Path) -> None:
    with replacing(folder / RECORD) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(record)))


def _command_line() -> str:
    """The command that started this process, the program by its name alone; torchrun's, if that started it."""
    if processes := os.environ.get("LOCAL_WORLD_SIZE"):
        program = ["torchrun", "--nproc-per-node", processes, "-m", "ganserve"]
    else:
        program = [Path(sys.argv[0]).name]
    return shlex.join([*program, *sys.argv[1:]])

"""Measure a translation bundle on the held-out pictures of its data, through a real server.

    python bench/translation.py pairs BUNDLE DATA --out FOLDER
    python bench/translation.py domains BUNDLE DATA --out FOLDER

DATA is laid out as for training; the held-out pictures are its ``test`` split, prepared as in training. Prints Markdown and writes
``report.json`` and contact sheets: input, output, target (``sheet.png``), or input, translated, back (``sheet-a2b.png``). Nothing is picked by hand: the sheet's pictures are evenly spaced. The exit
status is 1 where an aim is missed.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import click
import msgspec
import numpy as np
import torch
from page import write_text

from ganserve import bundle
from ganserve.bundle import Bundle, Manifest
from ganserve.client import Client, TranslateOptions
from ganserve.errors import BundleError, DataError, GanserveError
from ganserve.testing.server import serving
from ganserve_trainers.data import load
from ganserve_trainers.data.domains import Split, open_domains, open_pairs
from ganserve_trainers.metrics.blur import blur
from ganserve_trainers.metrics.bootstrap import Estimate, estimate
from ganserve_trainers.metrics.distance import mean_l1, random_pairs_l1
from ganserve_trainers.metrics.domains import LEAST_ACCURACY, DomainJudge, train_domain_judge
from ganserve_trainers.metrics.pictures import grid, save_png
from ganserve_trainers.metrics.ssim import LEAST_SIDE, ms_ssim, ssim
from ganserve_trainers.run import DataSource, data_options

MOST_CYCLE = 0.25
"""There and back a picture may change by this share of the mean L1 between random pictures of its domain."""

LEAST_CHANGE = 0.05
"""Mean |output - input| on [-1, 1]: a translator that copies is none."""

LEAST_SHARE = 0.80
"""The share of translated pictures that the judge must take for the target domain."""

CONTROL = 1 / 64
"""Standard deviation, as a share of the height, of the blur that makes no translation: the judge should not be taken in by it."""

SHEET = 16
ACROSS = 2
"""Pictures on the contact sheet, and how many of them a line of it has."""

Translate = Callable[[str, np.ndarray], np.ndarray]
"""(task, pictures uint8 ``[n, H, W, C]``) → translated pictures of the same shape."""


@dataclass(frozen=True)
class Aim:
    """What a bundle should reach, what it reached, and whether that will do."""

    name: str
    wanted: str
    found: str
    met: bool


@dataclass(frozen=True)
class Report:
    """The figures of a bundle, row by column with their 95 % intervals, and its aims."""

    model: str
    version: int
    pictures: Mapping[str, int]
    figures: Mapping[str, Mapping[str, Estimate]]
    aims: Sequence[Aim]

    @property
    def passed(self) -> bool:
        """Whether every aim was met."""
        return all(aim.met for aim in self.aims)


@dataclass(frozen=True)
class Pictures:
    """The pictures of a split by domain, ``a`` and ``b``, uint8 ``[n, H, W, C]``, and the name of each one's group."""

    images: Mapping[str, np.ndarray]
    groups: Mapping[str, Sequence[str]]


def read_pictures(where: str, manifest: Manifest, split: Split, variants: str = "") -> Pictures:
    """The ``split`` of the data at ``where``, prepared as for training the bundle.

    The pictures whose names are equal once what the pattern ``variants`` matches is taken out form a group.
    """
    options = data_options(manifest.config, DataSource(where=where))
    if options.kind == "images":
        raise DataError(f"{manifest.name} was trained on plain images: expected a bundle trained on pairs or domains")
    data = load(where, options, split=split)
    whole = next(iter(data.feed(*([torch.arange(walk.rows)] for walk in data.walks))))
    found = open_pairs(where, split, options.direction) if options.kind == "pairs" else open_domains(where, split)
    names = {domain: collection.names for rows in found.rows for domain, collection in rows.images.items()}
    return Pictures(
        {domain: whole[domain].permute(0, 2, 3, 1).contiguous().numpy() for domain in "ab"},
        {domain: [group(name, variants) for name in names[domain]] for domain in "ab"},
    )


def group(name: str, variants: str) -> str:
    """The name of the group of the picture file ``name``."""
    stem = PurePosixPath(name).with_suffix("").as_posix()
    return re.sub(variants, "", stem) if variants else stem


@contextmanager
def translator(source: Bundle, seed: int) -> Iterator[Translate]:
    """Translates by a server of ``source``; noise, where the model has it, is that of ``seed`` and the picture's number."""
    drawn = {task.name for task in source.manifest.tasks if "seed" in task.values()}
    with serving(source.folder) as server, Client(server.address) as client:

        def one(task: str, index: int, picture: np.ndarray) -> np.ndarray:
            options: TranslateOptions = {"task": task, "size": "exact", "format": "raw"}
            if task in drawn:
                options["seed"], options["index"] = seed, index
            return client.translate(source.manifest.name, picture, **options).array()

        def translate(task: str, pictures: np.ndarray) -> np.ndarray:
            return np.stack([one(task, index, picture) for index, picture in enumerate(pictures)])

        yield translate


def tasks(manifest: Manifest) -> tuple[str, ...]:
    """The bundle's translate tasks; :class:`BundleError` if it has none."""
    names = tuple(task.name for task in manifest.tasks if task.kind == "translate")
    if not names:
        raise BundleError(f"{manifest.name} has no task of kind translate: expected a bundle of a translation family")
    return names


def measure_pairs(manifest: Manifest, held_out: Pictures, outputs: np.ndarray, mean_target: np.ndarray) -> Report:
    """L1 and (MS-)SSIM to the targets: of ``outputs`` ``[n, H, W, C]``, of the inputs themselves, of ``mean_target`` ``[H, W, C]``."""
    inputs, targets, groups = held_out.images["a"], held_out.images["b"], held_out.groups["a"]
    name, similarity = ("MS-SSIM", ms_ssim) if min(targets.shape[1:3]) >= LEAST_SIDE else ("SSIM", ssim)

    def values(pictures: np.ndarray) -> dict[str, np.ndarray]:
        pictures = np.broadcast_to(pictures, targets.shape)
        return {
            "L1": mean_l1(pictures, targets),
            name: similarity(planes(pictures), planes(targets), 255).numpy(),
        }

    rows = {
        "the model": values(outputs),
        "copy of the input": values(inputs),
        "mean target of training": values(mean_target),
    }
    model, *baselines = rows
    return Report(
        model=manifest.name,
        version=manifest.version,
        pictures={"held-out pairs": len(targets), "groups of variants": len(set(groups))},
        figures={row: {one: estimate(value, groups) for one, value in rows[row].items()} for row in rows},
        aims=[
            better(f"{measure} against {baseline}", rows[model][measure] - rows[baseline][measure], groups, sign)
            for measure, sign in (("L1", -1), (name, 1))
            for baseline in baselines
        ],
    )


def better(name: str, difference: np.ndarray, groups: Sequence[str], sign: int) -> Aim:
    """That the mean ``difference`` (model minus baseline, picture by picture) has ``sign``, and its whole interval with it."""
    found = estimate(difference, groups)
    met = found.low > 0 if sign > 0 else found.high < 0
    return Aim(name, "higher" if sign > 0 else "lower", text(found, sign=True), met)


def planes(pictures: np.ndarray) -> torch.Tensor:
    """``[n, H, W, C]`` as a tensor ``[n, C, H, W]``."""
    return torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2)


def measure_domains(
    manifest: Manifest,
    judge: DomainJudge,
    held_out: Pictures,
    there: Mapping[str, np.ndarray],
    back: Mapping[str, np.ndarray],
) -> Report:
    """Both directions: the cycle, the change, and what ``judge`` takes the translated pictures for.

    ``there`` and ``back`` hold, by the domain ``a`` or ``b`` that they started from, its held-out pictures translated once and twice.
    """
    figures: dict[str, dict[str, Estimate]] = {}
    aims = [
        Aim(
            f"the judge is right about real {domain}",
            f"≥ {LEAST_ACCURACY:.0%}",
            f"{accuracy:.1%}",
            accuracy >= LEAST_ACCURACY,
        )
        for domain, accuracy in zip("ab", judge.accuracy, strict=True)
    ]
    for number, (start, end) in enumerate((("a", "b"), ("b", "a"))):
        task, target = f"{start}2{end}", 1 - number
        inputs, groups = held_out.images[start], held_out.groups[start]
        cycle = estimate(mean_l1(back[start], inputs), groups)
        random = float(random_pairs_l1(inputs).mean())
        ratio = Estimate(cycle.mean / random, cycle.low / random, cycle.high / random)
        change = estimate(mean_l1(there[start], inputs), groups)
        figures[task] = {"cycle L1": cycle, "over L1 of random pictures": ratio, "mean abs(output - input)": change}
        aims += [
            Aim(
                f"{task}: cycle L1 over that of random pictures",
                f"≤ {MOST_CYCLE}",
                text(ratio),
                ratio.mean <= MOST_CYCLE,
            ),
            Aim(f"{task}: mean abs(output - input)", f"> {LEAST_CHANGE}", text(change), change.mean > LEAST_CHANGE),
        ]
        wanted = f"≥ {LEAST_SHARE:.0%}"
        if not judge.trusted:
            aims.append(Aim(f"{task}: taken for {end}", wanted, "not claimed: the judge failed", False))
            continue
        share = estimate(judge.taken_for(target, there[start]).astype(float), groups)
        untouched = estimate(judge.taken_for(target, inputs).astype(float), groups)
        blurred = estimate(judge.taken_for(target, blur(inputs, CONTROL * inputs.shape[1])).astype(float), groups)
        figures[task] |= {
            "taken for the target": share,
            "untouched inputs taken for it": untouched,
            "blurred inputs taken for it": blurred,
        }
        aims.append(Aim(f"{task}: taken for {end}", wanted, text(share), share.mean >= LEAST_SHARE))
    counts = {f"held-out {domain}": len(held_out.images[domain]) for domain in "ab"}
    return Report(manifest.name, manifest.version, counts, figures, aims)


def text(found: Estimate, sign: bool = False) -> str:
    """``found`` as mean and interval."""
    mean, low, high = (f"{value:{'+' if sign else ''}.4f}" for value in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]"


def figures_table(report: Report) -> str:
    """The figures in Markdown."""
    columns = list(next(iter(report.figures.values())))
    rows = "\n".join(
        f"| {name} | {' | '.join(text(row[column]) for column in columns)} |" for name, row in report.figures.items()
    )
    return f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}\n{rows}"


def aims_table(report: Report) -> str:
    """The aims in Markdown."""
    rows = "\n".join(
        f"| {aim.name} | {aim.wanted} | {aim.found} | {'pass' if aim.met else 'FAIL'} |" for aim in report.aims
    )
    return f"| aim | wanted | found | |\n|---|---|---|---|\n{rows}"


def markdown(report: Report) -> str:
    """All of ``report`` in Markdown."""
    counts = ", ".join(f"{name}: {count}" for name, count in report.pictures.items())
    return (
        f"{report.model}, version {report.version}. {counts}. Means with 95 % intervals; L1 on [-1, 1].\n\n"
        f"{figures_table(report)}\n\n{aims_table(report)}\n"
    )


def spaced(groups: Sequence[str], count: int) -> np.ndarray:
    """Indices of ``count`` pictures (or of all there are), each of another group, evenly spaced."""
    _, first = np.unique(np.asarray(groups), return_index=True)
    first = np.sort(first)
    return np.asarray(first[np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int)])


def save_sheet(path: Path, pictures: Sequence[np.ndarray]) -> None:
    """Write rows of ``pictures`` (each ``[n, H, W, C]``), side by side and :data:`ACROSS` rows a line, as PNG; small ones enlarged."""
    side_by_side = np.stack(pictures, axis=1).reshape(-1, *pictures[0].shape[1:])
    save_png(path, grid(side_by_side, len(pictures) * ACROSS), scale=max(1, 64 // side_by_side.shape[1]))


def run_pairs(source: Bundle, data: str, variants: str, seed: int) -> tuple[Report, Pictures, np.ndarray]:
    """Translate and measure the held-out pairs at ``data``: the report, the pairs, the outputs."""
    task, *_ = tasks(source.manifest)
    held_out = read_pictures(data, source.manifest, "test", variants)
    targets = read_pictures(data, source.manifest, "train").images["b"]
    mean_target = targets.mean(axis=0).round().astype(np.uint8)
    with translator(source, seed) as translate:
        outputs = translate(task, held_out.images["a"])
    return measure_pairs(source.manifest, held_out, outputs, mean_target), held_out, outputs


existing_folder = click.Path(exists=True, file_okay=False, path_type=Path)
existing_path = click.Path(exists=True)
bundle_argument = click.argument("folder", metavar="BUNDLE", type=existing_folder)
data_argument = click.argument("data", type=existing_path)
out_option = click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for report.json and the sheets.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the noise."
)
variants_option = click.option(
    "--variants",
    default="",
    help="Pattern of what tells variants of one thing apart in file names, such as -1f3f[b-f] for skin tones: variants are resampled together.",
)


@click.group()
def main() -> None:
    """Measure a translation bundle on held-out pictures."""


@main.command()
@bundle_argument
@data_argument
@out_option
@seed_option
@variants_option
def pairs(folder: Path, data: str, out: Path, seed: int, variants: str) -> None:
    """Compare translations with their targets, beside two baselines: a copy of the input, the mean target of training."""
    try:
        report, held_out, outputs = run_pairs(bundle.read(folder), data, variants, seed)
    except GanserveError as error:
        raise click.ClickException(str(error)) from error
    shown = spaced(held_out.groups["a"], SHEET)
    publish(report, out, {"sheet.png": [one[shown] for one in (held_out.images["a"], outputs, held_out.images["b"])]})


@main.command()
@bundle_argument
@data_argument
@out_option
@seed_option
@variants_option
def domains(folder: Path, data: str, out: Path, seed: int, variants: str) -> None:
    """Translate both domains there and back; a classifier of real pictures judges what they look like."""
    try:
        source = bundle.read(folder)
        if missing := {"a2b", "b2a"} - set(tasks(source.manifest)):
            raise BundleError(
                f"{source.manifest.name} has no task {' and no '.join(sorted(missing))}: measure it by pairs"
            )
        train, held_out = (read_pictures(data, source.manifest, split, variants) for split in ("train", "test"))
        with translator(source, seed) as translate:
            there = {start: translate(task, held_out.images[start]) for start, task in (("a", "a2b"), ("b", "b2a"))}
            back = {start: translate(task, there[start]) for start, task in (("a", "b2a"), ("b", "a2b"))}
        judge = train_domain_judge(*((split.images["a"], split.images["b"]) for split in (train, held_out)))
        report = measure_domains(source.manifest, judge, held_out, there, back)
    except GanserveError as error:
        raise click.ClickException(str(error)) from error
    shown = {domain: spaced(held_out.groups[domain], SHEET) for domain in "ab"}
    sheets = {
        f"sheet-{start}2{end}.png": [one[start][shown[start]] for one in (held_out.images, there, back)]
        for start, end in (("a", "b"), ("b", "a"))
    }
    publish(report, out, sheets)


def publish(report: Report, out: Path, sheets: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Write ``report.json`` and the ``sheets`` (see :func:`save_sheet`) by file name into ``out``, print the report, and exit with 1 if it failed."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.json", msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
    for name, pictures in sheets.items():
        save_sheet(out / name, pictures)
    click.echo(markdown(report))
    if not report.passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

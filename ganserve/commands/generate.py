"""``ganserve generate``."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganserve.bulk import MOST, Part, Run, Shard
from ganserve.bulk_files import Store
from ganserve.commands.marks import marks_options
from ganserve.commands.options import (
    Count,
    cache_dir_option,
    device_option,
    direction_option,
    engine_of,
    engines_option,
    hang_option,
    label_of,
    max_batch_option,
    number_of,
    number_option,
    quality_option,
    threads_option,
)
from ganserve.commands.output import progress

if TYPE_CHECKING:
    from rich.progress import Progress

    from ganserve.codecs import Signer
    from ganserve.serving.bulk import Making

BATCHES = 2
"""How many full batches one ask holds."""


class ShardType(click.ParamType[Shard]):
    """I/N."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        """Read ``value``."""
        try:
            return value if isinstance(value, Shard) else Shard.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(short_help="Make images by the million, without a server.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--count", type=Count(MOST), required=True, help="How many images the whole run has, such as 1e6.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the parts; shards may share it.",
)
@click.option(
    "--shard", type=ShardType(), default="0/1", show_default=True, help="Make the I-th of N shares, counted from 0."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Image i is drawn from (seed, i)."
)
@click.option("--tar", is_flag=True, help="Write tar files for WebDataset instead of folders of files.")
@click.option("--part", type=Count(10**6), default=1000, show_default=True, help="Images of one folder or tar file.")
@click.option("--label", "labels", multiple=True, help="Class by number or name; repeated, images get them in turn.")
@click.option("--truncation", type=float, help="Truncation of the noise.")
@number_option
@direction_option
@click.option("--task", default="", help="The task, where the bundle has several for sampling.")
@marks_options
@click.option("--format", "image_format", default="", help="Of the files: png, jpeg, webp, npy or npy-float [png].")
@quality_option
@engines_option
@device_option
@cache_dir_option
@threads_option
@max_batch_option
@hang_option("so that the run ends with an error")
def command(
    bundle: Path,
    count: int,
    out: Path,
    shard: Shard,
    seed: int,
    tar: bool,
    part: int,
    labels: tuple[str, ...],
    truncation: float | None,
    numbers: tuple[str, ...],
    directions: tuple[str, ...],
    task: str,
    image_format: str,
    quality: int | None,
    engines: tuple[str, ...],
    device: str,
    cache_dir: Path | None,
    threads: int,
    max_batch: int,
    hang_seconds: float,
    provenance: bool,
    signer: "Signer | None",
) -> None:
    """Make --count images of BUNDLE's model with an engine in this process, and store them in parts.

    Each part is a folder of files with a metadata.jsonl, or with --tar a tar file for WebDataset, and appears when it is whole. What
    is there is kept, so the same command goes on after it was killed. Shards write different parts, and together those that one
    process would have written. A folder holds one run: another seed, count or model in it is refused.

    \b
    Examples:
      ganserve generate bundles/dcgan-fashion --count 1e6 --out fashion --tar
      ganserve generate bundles/dcgan-fashion --count 1e6 --out fashion --tar --shard 3/8
      ganserve generate bundles/biggan --count 5e4 --out balanced --label goldfish --label otter --truncation 0.5
    """
    from ganserve.bundle import MANIFEST, digest, read
    from ganserve.plugins import installed
    from ganserve.serving.bulk import Making
    from ganserve.serving.model import Settings, load_model

    found = read(bundle)
    choices = tuple(engine_of(text) for text in engines)
    settings = Settings(
        engines=choices,
        device=device,
        threads=threads,
        cache_dir=cache_dir,
        max_batch=max_batch,
        hang_seconds=hang_seconds or None,
    )
    model = load_model(found, installed(), settings)
    with contextlib.closing(model):
        chosen = model.task(task, "sample")
        run = Run(
            model=model.name,
            version=found.manifest.version,
            bundle=digest(found.folder / MANIFEST).sha256,
            task=chosen.task.name,
            seed=seed,
            count=count,
            part=part,
            container="tar" if tar else "files",
            format=image_format,
            quality=quality or 0,
            labels=tuple(label_of(label) for label in labels),
            truncation=truncation,
            numbers=dict(number_of(text) for text in numbers),
            directions=dict(number_of(text, "--direction") for text in directions),
            engines=engines,
            device=device,
            marks="signed" if signer else "told" if provenance else "none",
        )
        making = Making(run, model, BATCHES * max_batch, signer, settings.hang_seconds)
        store = Store(out, run)
        parts = list(run.parts(shard))
        missing = [one for one in parts if not store.path(one).exists()]
        with progress() as bars:
            asyncio.run(_make(making, missing, store, bars))
    images = sum(one.stop - one.start for one in missing)
    click.echo(f"{images} images in {len(missing)} new parts in {out}; {len(parts) - len(missing)} parts were there")


async def _make(making: "Making", parts: Sequence[Part], store: Store, bars: "Progress") -> None:
    bar = bars.add_task("images", total=sum(part.stop - part.start for part in parts))
    async with contextlib.aclosing(making.make(parts, store)) as made:
        async for part in made:
            bars.advance(bar, part.stop - part.start)

"""How well a bundle finds its own pictures again: samples of known seeds are inverted through a real server, all at once.

    python bench/recovery.py bundles/dcgan-fashion --count 32 --steps 300

Prints the reconstructions' PSNR and SSIM, and how far the latents found are from the true ones, in units of these.
"""

import asyncio
import time
from pathlib import Path

import click
import numpy as np

from ganserve import AsyncClient, bundle
from ganserve.client import Inversion, InvertOptions, Samples
from ganserve.errors import GanserveError
from ganserve.testing.server import serving

AIM = 32.0
"""The PSNR in dB from which a picture counts as found."""


async def found_again(
    folder: Path, count: int, seed: int, options: InvertOptions
) -> tuple[Samples, str, list[Inversion]]:
    """``count`` samples of ``seed``, the name of the latent, and the search for each."""
    manifest = bundle.read(folder).manifest
    latent = next(task.inversion.latent for task in manifest.tasks if task.inversion is not None)
    with serving(folder) as server:
        async with AsyncClient(server.address) as client:
            made = await client.sample(manifest.name, n=count, seed=seed, format="raw", returns=[latent])
            searches = (client.invert(manifest.name, sample.array(), format="raw", **options) for sample in made)
            return made, latent, list(await asyncio.gather(*searches))


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--count", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=300, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the pictures.")
@click.option("--start", default="samples", show_default=True, help="Where searches begin.")
@click.option(
    "--samples", type=click.IntRange(min=1), default=16, show_default=True, help="Of which the best is the start."
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Adam's learning rate [the model's].")
def main(folder: Path, count: int, steps: int, seed: int, start: str, samples: int, rate: float | None) -> None:
    """Invert samples of the bundle in FOLDER."""
    started = time.monotonic()
    options: InvertOptions = {"steps": steps, "start": start}
    if start == "samples":
        options |= {"samples": samples, "seed": seed + 1}
    if rate is not None:
        options |= {"numbers": {"rate": rate}}
    try:
        made, latent, found = asyncio.run(found_again(folder, count, seed, options))
    except (GanserveError, StopIteration) as error:
        raise click.ClickException(str(error) or f"{folder} has no task of kind invert") from error
    psnr = np.array([one.quality.psnr for one in found])
    true = made.tensor(latent).reshape(count, -1)
    away = np.linalg.norm(np.stack([one.latent for one in found]).reshape(count, -1) - true, axis=1)
    distance = np.median(away / np.linalg.norm(true, axis=1))
    ssim = np.median([one.quality.ssim for one in found])
    click.echo(f"{count} pictures, {steps} steps, start {found[0].start}, {time.monotonic() - started:.0f} s in all")
    click.echo(f"PSNR median {np.median(psnr):.1f} dB ({psnr.min():.1f} to {psnr.max():.1f}), SSIM median {ssim:.3f}")
    click.echo(f"at least {AIM:g} dB: {(psnr >= AIM).sum()} of {count}; {latent} is {distance:.2f} of its length away")


if __name__ == "__main__":
    main()

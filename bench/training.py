"""Images a second of ganserve's training loop over those of a bare PyTorch loop: same networks, batch, objective, process.

    python bench/training.py --preset cifar10-32 --at-least 0.95

The bare loop is what one would write by hand for this preset: no averages, no logs, no checkpoints. Turns alternate; the ratio
is that of the medians. Run it on a machine that does nothing else.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import click
import torch
from rich.console import Console
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ganserve.plugins import installed, resolve
from ganserve_trainers.checkpoint import State
from ganserve_trainers.data.dataset import Decoded, Description
from ganserve_trainers.distributed import make_fabric
from ganserve_trainers.loop import Settings, train

IMAGES = 4096
WARM_STEPS = 5


def networks(preset: str) -> dict[str, nn.Module]:
    """The preset's networks, always with the same weights."""
    torch.manual_seed(0)
    family = installed().family("dcgan")
    built: dict[str, nn.Module] = resolve(family.build)(family.config(preset))
    return built


def bare(preset: str, images: torch.Tensor, batch: int, steps: int) -> float:
    """Seconds of ``steps`` steps of the loop that one would write by hand."""
    built = networks(preset)
    generator, discriminator = built["generator"], built["discriminator"]
    g_optimizer = torch.optim.Adam(generator.parameters(), 2e-4, betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), 2e-4, betas=(0.5, 0.999))
    size = installed().family("dcgan").config(preset)["z"]

    def against(logits: torch.Tensor, target: float) -> torch.Tensor:
        return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    def step() -> None:
        real = images[torch.randint(0, len(images), (batch,))].float() / 127.5 - 1
        with torch.no_grad():
            fake = generator(torch.rand(batch, size) * 2 - 1)
        d_loss = against(discriminator(real), 1.0) + against(discriminator(fake), 0.0)
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()
        discriminator.requires_grad_(False)
        g_loss = against(discriminator(generator(torch.rand(batch, size) * 2 - 1)), 1.0)
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()
        discriminator.requires_grad_(True)

    for _ in range(WARM_STEPS):
        step()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - began


def ours(preset: str, images: torch.Tensor, batch: int, steps: int) -> float:
    """Seconds of ``steps`` steps of :func:`ganserve_trainers.loop.train`, from its own log: two entries, ``steps`` apart."""
    built = networks(preset)
    family = installed().family("dcgan")
    recipe = resolve(family.train)(family.config(preset), built)
    data = Decoded(Description(name="noise", layout="noise", images=len(images)), {"image": images})
    settings = Settings(seed=0, batch=batch, kimg=2 * steps * batch / 1000, log_every=steps, snapshot_kimg=1e6)
    state = State(seed=0, family="dcgan", preset=preset, config={})
    with tempfile.TemporaryDirectory() as folder:
        train(make_fabric("cpu"), built, recipe, data, Path(folder), settings, state, console=Console(quiet=True))
        log = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    seconds = {entry["step"]: entry["seconds"] for entry in log}
    return float(seconds[2 * steps] - seconds[steps])


@click.command()
@click.option(
    "--preset", default="cifar10-32", show_default=True, help="A preset of dcgan whose loss is non-saturating."
)
@click.option("--batch", type=click.IntRange(min=1), help="Images a step [the preset's].")
@click.option("--steps", default=25, show_default=True, help="Steps of a turn.")
@click.option("--rounds", default=3, show_default=True, help="Turns of each.")
@click.option("--at-least", default=0.0, help="Exit with 1 below this ratio.")
def main(preset: str, batch: int | None, steps: int, rounds: int, at_least: float) -> None:
    """Measure the loop against a bare one."""
    config = installed().family("dcgan").config(preset)
    batch, (height, width, channels) = batch or config["batch"], config["image"]
    images = torch.randint(0, 256, (IMAGES, channels, height, width), dtype=torch.uint8)
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(rounds):
        times["bare"].append(bare(preset, images, batch, steps))
        times["ours"].append(ours(preset, images, batch, steps))
    ratio = statistics.median(times["bare"]) / statistics.median(times["ours"])
    rate = steps * batch / statistics.median(times["ours"])
    click.echo(f"{preset}, batch {batch}: {ratio:.3f} of a bare loop's images a second ({rate:.0f} here)")
    if ratio < at_least:
        raise click.ClickException(f"that is less than {at_least}")


if __name__ == "__main__":
    main()

"""Measure whether the pictures of a text-to-image bundle show what their captions say, through a real server.

    python bench/matching.py BUNDLE DATA --out FOLDER

DATA has the folders ``train`` and ``test`` of captioned images (``python -m tools.emoji_captions``); the bundle's generator has seen
``train`` alone. A small matching network learns from real pictures and their captions, of both folders and of nothing generated,
to rank a picture's own caption among 100 random ones of its folder; then it judges generated pictures. Prints Markdown and writes
``matching.json`` and ``grid.png``. The exit status is 1 where an aim is missed.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
import numpy as np
import torch
from page import write_text
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve.bundle import read
from ganserve.client import Client, Imagined, grid
from ganserve.commands.output import write_png
from ganserve.serving.model import Settings
from ganserve.testing.server import serving
from ganserve_trainers.augment import translation
from ganserve_trainers.data.captions import open_captions
from ganserve_trainers.data.pixels import fit
from ganserve_trainers.recipe import Source

AMONG = 100
"""Captions among which the own one is to be found: chance is 1 in so many."""

SHUFFLES = 5
"""How often each picture is given another caption than its own: chance is small, and has to be told from a little more than that."""

SIDE = 32
"""Pictures are judged at this size: what they show, not how crisp it is."""

LEAST = {"generated, captions seen in training": 8.0, "generated, captions held out": 2.0}
"""What top-1 should be, in multiples of chance."""

GRID_PROMPTS = (
    "a red heart",
    "a green apple",
    "grinning face",
    "yellow star",
    "flag of italy",
    "woman with dark skin tone",
    "black cat",
    "blue car",
)
GRID_SEEDS = 8


@dataclass(frozen=True)
class Split:
    """Captioned pictures, ``images`` float ``[n, 3, 32, 32]`` in [-1, 1], the first ``captions`` and their vectors ``text`` ``[n, size]``."""

    images: Tensor
    captions: Sequence[str]
    text: Tensor


class Matcher(nn.Module):
    """Pictures and sentences → vectors ``[n, 128]`` of length 1 that are alike where they belong together."""

    def __init__(self, text: int, size: int = 128) -> None:
        super().__init__()
        channels = (3, 32, 64, 128)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.GroupNorm(8, outputs), nn.LeakyReLU(0.2)]
        self.see = nn.Sequential(
            *layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels[-1] * (SIDE // 8) ** 2, size)
        )
        self.read = nn.Sequential(nn.Linear(text, 256), nn.LeakyReLU(0.2), nn.Linear(256, size))
        self.sharpness = nn.Parameter(torch.tensor(2.5))

    def alike(self, images: Tensor, text: Tensor) -> Tensor:
        """How much each picture is like each sentence ``[images, texts]``."""
        seen, read = F.normalize(self.see(images), dim=1), F.normalize(self.read(text), dim=1)
        return seen @ read.T * self.sharpness.exp()


def train_matcher(splits: Sequence[Split], steps: int, batch: int = 128) -> Matcher:
    """A matcher of real pairs: cross entropy over the batch, both ways (Radford et al., 2021, CLIP, figure 3)."""
    torch.manual_seed(0)
    images, text = torch.cat([split.images for split in splits]), torch.cat([split.text for split in splits])
    matcher = Matcher(text.shape[1])
    optimizer = torch.optim.AdamW(matcher.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(images), (batch,), generator=generator)
        shown = translation(images[rows] - 1, Source(generator, batch)) + 1  # white comes in at the edges
        shown = shown + 0.1 * torch.randn(shown.shape, generator=generator)
        alike, own = matcher.alike(shown, text[rows]), torch.arange(batch)
        loss = (F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own)) / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return matcher.eval()


@torch.no_grad()
def top_1(matcher: Matcher, images: Tensor, own: Tensor, text: Tensor, seed: int = 0) -> Tensor:
    """Whether each picture's ``own`` row of ``text`` ranks first among :data:`AMONG` random rows with it: bool ``[n]``."""
    alike = matcher.alike(images, text)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for row, mine in zip(alike, own.tolist(), strict=True):
        others = torch.randperm(len(text), generator=generator)
        others = others[others != mine][: AMONG - 1]
        found.append(row[mine] > row[others].max())
    return torch.stack(found)


def small(images: np.ndarray) -> Tensor:
    """Pictures uint8 ``[n, H, W, 3]`` as the matcher sees them."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return F.interpolate(pixels, (SIDE, SIDE), mode="area")


@torch.no_grad()
def report(
    matcher: Matcher, real: Mapping[str, Split], made: Mapping[str, Tensor], seeds: int
) -> dict[str, tuple[float, float, int]]:
    """What was judged → top-1, its standard error over the captions, and their number."""
    found: dict[str, tuple[float, float, int]] = {}

    def add(name: str, hits: Tensor) -> None:
        each = hits.float().reshape(-1, seeds if name.startswith(("generated", "shuffled")) else 1).mean(1)
        found[name] = (float(each.mean()), float(each.std() / len(each) ** 0.5), len(each))

    for split, title in (("train", "seen in training"), ("test", "held out")):
        pairs = real[split]
        own = torch.arange(len(pairs.captions))
        add(f"real pictures, captions {title}", top_1(matcher, pairs.images, own, pairs.text))
        rows = torch.arange(len(made[split]) // seeds).repeat_interleave(seeds)
        add(f"generated, captions {title}", top_1(matcher, made[split], rows, pairs.text))
        again = rows.repeat(SHUFFLES)
        away = torch.randint(1, len(own), again.shape, generator=torch.Generator().manual_seed(1))
        images = made[split].repeat(SHUFFLES, 1, 1, 1)
        add(f"shuffled, captions {title}", top_1(matcher, images, (again + away) % len(own), pairs.text))
    return found


def imagine(client: Client, model: str, prompts: Sequence[str], seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """The pictures of ``prompts`` for ``seeds`` seeds uint8 ``[n * seeds, H, W, 3]``, and the prompts' vectors ``[n, size]``."""
    made: list[Imagined] = []
    for first in range(0, len(prompts), 64):
        stream = client.imagine_stream(
            model, prompts[first : first + 64], seeds, seed=1, format="raw", returns=["text"], timeout=600
        )
        made.extend(stream)
    text = np.stack([one.tensors["text"] for one in made[::seeds]])
    return np.stack([one.array() for one in made]), text


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="For matching.json and grid.png."
)
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True, help="Pictures of each caption.")
@click.option("--steps", type=click.IntRange(min=1), default=1500, show_default=True, help="Of the matching network.")
def main(bundle: Path, data: Path, out: Path, seeds: int, steps: int) -> None:
    """Measure BUNDLE on the captions of DATA."""
    model = read(bundle).manifest.name
    real: dict[str, Split] = {}
    made: dict[str, Tensor] = {}
    with serving(bundle, models=Settings(threads=1)) as server, Client(server.address) as client:
        for split in ("train", "test"):
            found = open_captions(data / split, skip=False)
            captions = [texts[0] for texts in found.captions]
            pixels = [
                fit(found.images.image(row), (64, 64), 3, (255, 255, 255), pad=False) for row in range(len(captions))
            ]
            pictures, text = imagine(client, model, captions, seeds)
            images = small(np.stack(pixels).transpose(0, 2, 3, 1))
            real[split], made[split] = Split(images, captions, torch.from_numpy(text)), small(pictures)
            click.echo(f"{split}: {len(captions)} captions", err=True)
        sheet = client.imagine(model, GRID_PROMPTS, GRID_SEEDS, seed=1)
        write_png(out / "grid.png", grid(sheet.images(), columns=GRID_SEEDS))
        spread = sheet.arrays().astype(np.float64).reshape(len(GRID_PROMPTS), GRID_SEEDS, -1)
    matcher = train_matcher(list(real.values()), steps)
    results = report(matcher, real, made, seeds)
    differ = {
        "same prompt, other seeds": float(np.abs(spread[:, 1:] - spread[:, :-1]).mean()),
        "same seed, other prompts": float(np.abs(spread[1:] - spread[:-1]).mean()),
    }
    click.echo(f"| judged | top-1 of {AMONG} | chance × | captions |\n|---|---|---|---|")
    for name, (share, error, count) in results.items():
        click.echo(f"| {name} | {share:.1%} ± {error:.1%} | {share * AMONG:.1f} | {count} |")
    click.echo("\n| pictures | mean difference in grey levels |\n|---|---|")
    for name, levels in differ.items():
        click.echo(f"| {name} | {levels:.1f} |")
    write_text(out / "matching.json", msgspec.json.encode({"top_1": results, "grey_levels": differ}).decode())
    missed = [name for name, least in LEAST.items() if results[name][0] * AMONG < least]
    missed += [
        name
        for name, (share, error, _) in results.items()
        if name.startswith("shuffled") and share * AMONG > 1 + 4 * error * AMONG
    ]
    if missed:
        raise click.ClickException(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()

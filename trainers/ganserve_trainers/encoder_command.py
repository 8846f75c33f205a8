"""``ganserve train-encoder``: a network that guesses latents, for a run whose generator is trained."""

from pathlib import Path

import click

from ganserve import plugins
from ganserve.commands.options import plugins_dir_option
from ganserve.errors import GanserveError


@click.command(name="train-encoder", short_help="Train an encoder, so that inversion starts from its guess.")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--kimg",
    type=click.FloatRange(min=0.001),
    default=100.0,
    show_default=True,
    help="Pictures to learn from, in thousands.",
)
@click.option("--batch", type=click.IntRange(min=2), default=32, show_default=True, help="Pictures of a step.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the pictures and of the first weights."
)
@click.option(
    "--checkpoint",
    type=click.FloatRange(min=0, min_open=True),
    help="The generator's checkpoint at so many thousand images [the newest].",
)
@click.option("--device", default="cpu", show_default=True, help="Where to train: cpu, cuda, cuda:1 ...")
@click.option("--threads", type=click.IntRange(min=1), help="Threads on a CPU [torch's choice].")
@plugins_dir_option
def train_encoder(
    run: Path,
    kimg: float,
    batch: int,
    seed: int,
    checkpoint: float | None,
    device: str,
    threads: int | None,
    plugins_dir: Path | None,
) -> None:
    """Train an encoder for RUN, a folder that `ganserve train` wrote, and keep it there.

    It learns from pictures that the generator itself makes, needs no data, and is put into the bundle by the next `ganserve export`
    of RUN: inversion may then start from its guess.

    \b
    Example:
      ganserve train-encoder runs/fashion --kimg 200
      ganserve export runs/fashion --out bundles/dcgan-fashion --force
    """
    import torch

    from ganserve_trainers import encoder_training

    if threads:
        torch.set_num_threads(threads)
    try:
        known = plugins.load(plugins_dir) if plugins_dir else plugins.installed()
        encoder_training.train_encoder(
            run,
            images=round(kimg * 1000),
            batch=batch,
            seed=seed,
            device=device,
            report=click.echo,
            kimg=checkpoint,
            known=known,
        )
    except GanserveError as error:
        raise click.ClickException(str(error)) from error

"""``ganserve walk``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganserve.commands.options import Remote, label_of, number_of, points_of, server_option, task_option, version_option
from ganserve.commands.output import asking, progress, watched
from ganserve.commands.video import writer

if TYPE_CHECKING:
    from ganserve.client import Point


@click.command(short_help="Ask a server for a walk through a model's images, as a video.")
@click.argument("model")
@click.option("--seeds", metavar="SEED,SEED...", help="The images that are passed; 7:2 is index 2 under seed 7.")
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="What the images show; repeated, prompts are passed, from one seed [0], in the latent that is made of them.",
)
@click.option(
    "--frames", type=click.IntRange(min=1), default=30, show_default=True, help="From each image up to the next."
)
@click.option("--latent", default="", help="The latent to walk in, such as z or w [the task's last].")
@click.option("--walk", type=click.Choice(["lerp", "slerp"]), help="Straight, or along the sphere [the latent's own].")
@click.option("--loop", is_flag=True, help="Go on to the first image, so that the video repeats without a jump.")
@click.option(
    "--fps", type=click.FloatRange(min=0.1, max=1000), default=30.0, show_default=True, help="Frames a second."
)
@click.option("--label", help="Class by number or name that the latents are made with.")
@click.option("--truncation", type=float, help="Truncation of the noise that the latents are made of.")
@click.option(
    "--number",
    "numbers",
    multiple=True,
    metavar="NAME=NUMBER",
    help="Another value of the latents, such as psi; repeatable.",
)
@click.option(
    "--direction",
    "directions",
    multiple=True,
    metavar="NAME=STRENGTH",
    help="How far all is moved along one of the model's directions; repeatable.",
)
@click.option("--image-label", help="Class that the images are made with, where the latents have none.")
@click.option(
    "--image-number",
    "image_numbers",
    multiple=True,
    metavar="NAME=NUMBER",
    help="Another value that all images are made with, such as noise_seed; repeatable.",
)
@task_option
@version_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="An animated .webp or .png, an .mp4, or a folder of frames.",
)
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True, help="Seconds for all."
)
@server_option
def command(
    model: str,
    seeds: str | None,
    prompts: tuple[str, ...],
    frames: int,
    loop: bool,
    fps: float,
    label: str | None,
    truncation: float | None,
    numbers: tuple[str, ...],
    directions: tuple[str, ...],
    image_label: str | None,
    image_numbers: tuple[str, ...],
    out: Path,
    server: Remote,
    **options: Any,
) -> None:
    """Ask a server to walk from image to image of MODEL, and write the frames as a video.

    An .mp4 file needs the extra `video`; .webp, .png and folders need nothing.

    \b
    Examples:
      ganserve walk stylegan2-emoji --seeds 1,2,3 --loop --out walk.webp
      ganserve walk dcgan-fashion --seeds 4,9 --frames 60 --out frames
      ganserve walk stylegan2-emoji --seeds 1,2,3,4 --latent w --number psi=0.7 --fps 25 --out walk.mp4
      ganserve walk dfgan-emoji --prompt "a red heart" --prompt "a green apple" --latent text --seeds 7 --out walk.webp
      ganserve walk dfgan-emoji --prompt "a red heart" --seeds 1,2,3 --latent z --loop --out hearts.webp
    """
    write = writer(out, fps)
    made_with = {
        "label": None if label is None else label_of(label),
        "truncation": truncation,
        "numbers": dict(number_of(text) for text in numbers),
        "directions": dict(number_of(text, "--direction") for text in directions),
    }
    keys, common = _keys(seeds, prompts, made_with)
    count = frames * (len(keys) if loop else len(keys) - 1) + (not loop)
    with asking(server) as client, progress() as bars:
        stream = client.interpolate(
            model,
            keys,
            frames,
            loop=loop,
            label=None if image_label is None else label_of(image_label),
            numbers=dict(number_of(text, "--image-number") for text in image_numbers),
            format="raw",
            **common,
            **options,
        )
        write(one.image() for one in watched(bars, model, count, stream))
    click.echo(f"{count} frames in {out}, {count / fps:.1f} s at {fps:g} a second")


def _keys(
    seeds: str | None, prompts: Sequence[str], made_with: Mapping[str, Any]
) -> tuple[list["Point"], Mapping[str, Any]]:
    """What the walk passes, and what all its images are made with."""
    from ganserve.client import Point

    pairs = [] if seeds is None else points_of(seeds, "--seeds")
    if len(prompts) > 1:
        if len(pairs) > 1:
            raise click.UsageError(
                f"a walk passes seeds or prompts, and got {len(pairs)} and {len(prompts)}: give one of either"
            )
        ((seed, index),) = pairs or [(0, 0)]
        return [Point(prompt=prompt, **made_with) for prompt in prompts], {"seed": seed, "index": index}
    if not pairs:
        raise click.UsageError("nothing says what the walk passes: give --seeds, or --prompt more than once")
    keys = [Point(seed=seed, index=index, **made_with) for seed, index in pairs]
    return keys, {"prompt": prompts[0]} if prompts else {}

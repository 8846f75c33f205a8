"""What telling a picture's origin costs: encoding 64×64 PNGs with an XMP packet, beside encoding them without, in one run.

python bench/provenance.py bundles/dcgan-emoji/samples.png
python bench/provenance.py bundles/dcgan-emoji/samples.png --c2pa-cert chain.pem --c2pa-key key.pem

The second also tells what signing them takes, and by how much a file grows.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
import numpy as np
from PIL import Image

from ganserve.codecs import EncodeOptions, Origin
from ganserve.codecs.credentials import Credentials
from ganserve.codecs.image import ImageEncoder
from ganserve.spec import Output, Tensor

SIDE = 64
PICTURES = 500
TURNS = 60


@click.command()
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--c2pa-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--c2pa-key", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(picture: Path, c2pa_cert: Path | None, c2pa_key: Path | None) -> None:
    """Encode the upper left corner of PICTURE, which should look like what a model makes, again and again."""
    row = np.array(Image.open(picture).convert("RGB"))[:SIDE, :SIDE]
    if row.shape != (SIDE, SIDE, 3):
        raise click.BadParameter(f"{picture} is smaller than {SIDE}x{SIDE} pixels")
    encoder = ImageEncoder(
        Output(tensor="image", codec="image"), Tensor(name="image", dtype="uint8", shape=(SIDE, SIDE, 3))
    )
    plain = [encoder.check(EncodeOptions(format="png"))] * PICTURES
    told = [
        encoder.check(EncodeOptions(format="png", origin=Origin("a-model", 1, (7, index)))) for index in range(PICTURES)
    ]
    turns = [(_seconds(encoder, row, plain), _seconds(encoder, row, told)) for _ in range(TURNS)]
    median = statistics.median(after / before for before, after in turns)
    least = min(after for _, after in turns) / min(before for before, _ in turns)
    click.echo(f"with a packet {median:.3f} times the CPU time (median of {TURNS} turns; {least:.3f} for the fastest)")
    if c2pa_cert is not None and c2pa_key is not None:
        signed = [msgspec.structs.replace(one, signer=Credentials(c2pa_cert, c2pa_key)) for one in told[:1]] * PICTURES
        more = (_seconds(encoder, row, signed) - _seconds(encoder, row, told)) / PICTURES
        grown = len(encoder.encode(row, signed[0]).data) - len(encoder.encode(row, told[0]).data)
        click.echo(f"with a signature {more * 1e3:.1f} ms of CPU time and {grown} bytes more")


def _seconds(encoder: ImageEncoder, row: np.ndarray, options: Sequence[EncodeOptions]) -> float:
    started = time.thread_time()
    for one in options:
        encoder.encode(row, one)
    return time.thread_time() - started


if __name__ == "__main__":
    main()

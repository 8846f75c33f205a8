"""Writes the bundle of a preset with its initial weights: as good as a trained one to measure speed with.

python bench/untrained.py dcgan cifar10-32 --out bundles-for-bench/cifar10
"""

from pathlib import Path

import click
import torch

from ganserve.plugins import installed, resolve
from ganserve_trainers.export import Label, export_bundle


@click.command()
@click.argument("family")
@click.argument("preset")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The bundle's folder.")
def main(family: str, preset: str, out: Path) -> None:
    """Export FAMILY's PRESET untrained, from seed 0."""
    torch.manual_seed(0)
    record = installed().family(family)
    config = record.config(preset)
    networks = resolve(record.build)(config)
    out.parent.mkdir(parents=True, exist_ok=True)
    export_bundle(
        record, preset, config, networks, out, Label(f"{family}-{preset}", provenance={"steps": 0}), force=True
    )


if __name__ == "__main__":
    main()

"""Writes the bundle of a preset with its initial weights: as good as a trained one to measure speed with.

python bench/untrained.py dcgan cifar10-32 --out bundles-for-bench/cifar10
"""

from pathlib import Path

import click
import torch

from ganserve.plugins import installed, resolve
from ganserve_trainers.export import Label, export_bundle


def _weights(network: torch.nn.Module) -> list[torch.Tensor]:
    """The weights of the layers of ``network``, the one that makes the result last."""
    return [parameter.data for name, parameter in network.named_parameters() if name.endswith("weight")]


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
    for network in networks.values():
        # Untrained pictures are harsh noise, in which the rounding of bf16 shows as it never does in a trained network's.
        for last in _weights(network)[-1:]:
            last.mul_(0.25)
    out.parent.mkdir(parents=True, exist_ok=True)
    export_bundle(
        record, preset, config, networks, out, Label(f"{family}-{preset}", provenance={"steps": 0}), force=True
    )


if __name__ == "__main__":
    main()

"""Work on the latent of a real convolutional generator on ONNX Runtime: the same bits whatever the batch and the way there."""

import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from ganserve import Client
from ganserve.client import Point
from ganserve.plugins import installed
from ganserve.serving.latents import combine, frames_of, interpolate
from ganserve.serving.model import Settings
from ganserve.testing.server import serving
from ganserve_dcgan.network import build
from ganserve_trainers.directions import Found, sefa
from ganserve_trainers.export import Label, export_bundle


def find(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> dict[str, Found]:
    """Directions of z by the first layer's weights, as a family may find them."""
    first = next(one for one in networks["generator"].modules() if isinstance(one, nn.ConvTranspose2d))
    return sefa([first.weight.flatten(1).T], "z", count=3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = ModuleType("finder_of_dcgan_directions")
    module.find = find  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    family = installed().family("dcgan")
    networks = build(family.config("tiny"))
    with torch.no_grad():
        for values in networks["generator"].parameters():
            values.add_(torch.randn_like(values), alpha=0.3)
    family = msgspec.structs.replace(family, directions=f"{module.__name__}:find")
    out = tmp_path_factory.mktemp("bundles") / "dcgan"
    yield export_bundle(family, "tiny", family.config("tiny"), networks, out, Label(name="dcgan")).folder
    del sys.modules[module.__name__]


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[Client]:
    with serving(bundle, models=Settings(threads=1, max_batch=8)) as server, Client(server.address) as found:
        yield found


def test_a_walk_equals_samples_bit_for_bit(client: Client) -> None:
    frames = list(client.interpolate("dcgan", [1, 2, (3, 4)], 8, returns=["z"], format="raw"))
    keys = client.sample("dcgan", seeds=[1, 2], format="raw", returns=["z"])
    assert [frames[0].data, frames[8].data] == keys.data
    assert frames[16].data == client.sample("dcgan", seed=3, first_index=4, format="raw")[0].data
    z = np.stack([keys[0].tensors["z"], keys[1].tensors["z"], frames[16].tensors["z"]])
    walked = interpolate(z, frames_of(3, 8, loop=False), "slerp")
    assert np.stack([one.tensors["z"] for one in frames]).tobytes() == walked.tobytes()
    for row, one in enumerate(frames):
        alone = client.sample("dcgan", tensors={"z": walked[row : row + 1]}, format="raw")
        assert alone[0].data == one.data
    assert len({one.data for one in frames}) == 17
    assert frames[0].served.determinism == "bit-exact"


def test_directions_that_the_family_finds_are_exported_and_move_images_alike_in_every_batch(client: Client) -> None:
    directions = client.model("dcgan").tasks[0].directions
    assert list(directions) == ["sefa-0", "sefa-1", "sefa-2"]
    strengths = [0.0, 0.5, -1.0, 2.0, 4.0]
    options: dict[str, Any] = {"format": "raw", "returns": ["z"]}
    together = client.sample("dcgan", seeds=[5] * 5, directions={"sefa-0": strengths}, **options)
    assert together[0].data == client.sample("dcgan", seeds=[5], format="raw")[0].data
    steps = together.tensor("z") - together[0].tensors["z"]
    assert np.linalg.norm(steps, axis=1) == pytest.approx(np.abs(strengths), abs=1e-5)
    images = together.arrays().astype(int)
    changes = [np.abs(image - images[0]).mean() for image in images]
    assert changes[1] < changes[3] < changes[4]

    def alone(strength: float) -> bytes:
        return client.sample("dcgan", seeds=[5], directions={"sefa-0": strength}, **options)[0].data

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(alone, strengths * 8)) == together.data * 8


def test_a_sum_of_seeds_is_the_image_of_the_sum(client: Client) -> None:
    z = client.sample("dcgan", seeds=[1, 2, 3], returns=["z"]).tensor("z")
    found = client.combine("dcgan", {1: 1, 2: -1, 3: 1}, normalization="length", format="raw", returns=["z"])
    expected = combine(z, [1, -1, 1], "length")
    assert found.tensors["z"].tobytes() == expected[0].tobytes()
    assert found.data == client.sample("dcgan", tensors={"z": expected}, format="raw")[0].data
    moved = client.combine("dcgan", [(Point(seed=1, directions={"sefa-1": 2}), 1)], format="raw")
    assert moved.data == client.sample("dcgan", seeds=[1], directions={"sefa-1": 2}, format="raw")[0].data

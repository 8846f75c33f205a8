"""The perceptual distance of two pictures: that of their features in VGG16, whose weights are given by path. A term of inversion's loss.

Zhang et al., 2018 (LPIPS), eq. 1, with all channels of weight 1. The network is Simonyan & Zisserman's, 2015, configuration D.
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve import spec as records
from ganserve.errors import ExportError
from ganserve.inversion import GRAPH
from ganserve.spec import Spec
from ganserve_trainers.inversion import InversionStep

CONFIG = "perceptual"
"""Its entry, a :class:`Layout`, in the configuration of a bundle that has it."""

NETWORK = "perceptual"
"""The features' name among the networks of an export."""

BLOCKS: Sequence[Sequence[int]] = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""The channels of the convolutions of each block; between blocks sides are halved. Features are compared behind every block."""

TORCHVISION = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""The numbers of the convolutions in torchvision's ``vgg16``."""

Preprocessing = Literal["imagenet", "caffe"]

CHANNELS: Mapping[Preprocessing, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": ((122.67892 / 255, 116.66877 / 255, 104.00699 / 255), (1 / 255, 1 / 255, 1 / 255)),
}
"""What a network was trained on: the mean of each of R, G and B in [0, 1], which is taken off, and what the rest is divided by."""

EPSILON = 1e-6
"""Keeps features of length zero finite; the exporter takes a sum with a much smaller number for one with zero."""

WEIGHT = 0.02
"""Of the distance, beside the squared error of pixels on [-1, 1]."""


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a bundle's features were made, and how much their distance weighs in the loss."""

    preprocessing: Preprocessing
    weight: float = WEIGHT


class Features(nn.Module):
    """Images ``[n, 1 or 3, H, W]`` in [-1, 1] → the features behind each block of VGG16, of unit length at every place."""

    shift: Tensor
    scale: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        inputs, blocks = 3, []
        for block in BLOCKS:
            layers = []
            for outputs in block:
                layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
                inputs = outputs
            blocks.append(nn.ModuleList(layers))
        self.blocks = nn.ModuleList(blocks)
        mean, deviation = (torch.tensor(numbers)[:, None, None] for numbers in CHANNELS[layout.preprocessing])
        self.register_buffer("shift", (0.5 - mean) / deviation)
        self.register_buffer("scale", 0.5 / deviation)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The features of ``images``."""
        values = images.expand(-1, 3, -1, -1) * self.scale + self.shift
        found: list[Tensor] = []
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)
            values = halved(values) if found else values
            for layer in block:
                values = F.relu(layer(values))
            found.append(values * (values.square().sum(1, keepdim=True) + EPSILON).rsqrt())
            if min(values.shape[2:]) < 2:
                break
        return found

    def convolutions(self) -> list[nn.Conv2d]:
        """The 13 convolutions, in order."""
        return [module for module in self.modules() if isinstance(module, nn.Conv2d)]


def distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """The distance ``[n]`` of features: squared, summed over channels, averaged over places, summed over blocks (eq. 1)."""
    apart = [(a - b).square().sum(1).mean((1, 2)) for a, b in zip(one, other, strict=True)]
    return torch.stack(apart).sum(0)


def halved(values: Tensor) -> Tensor:
    """The largest of each 2x2 values; a last odd row or column is dropped. (torch's pooling has a gradient that the exporter does not know.)"""
    rows, channels, height, width = values.shape
    height, width = height // 2, width // 2
    cut = values[:, :, : 2 * height, : 2 * width]
    return cut.reshape(rows, channels, height, 2, width, 2).amax((3, 5))


def load(path: Path) -> Features:
    """The features of VGG16 weights in ``path``; :class:`ExportError` if they cannot be read.

    ``.safetensors``: the 13 convolutions named as in torchvision (``features.0.weight`` [64, 3, 3, 3], ``features.0.bias``, ``features.2.weight`` …;
    others are passed over), for pictures normalized as there, unless the metadata say ``preprocessing: caffe`` (BGR in [0, 255] less
    its mean). ``.h5``: a Keras file whose groups ``block1`` to ``block5`` hold the convolutions in order, for Caffe's pictures.
    """
    try:
        tensors, preprocessing = _keras(path) if path.suffix in (".h5", ".hdf5") else _safetensors(path)
        features = Features(msgspec.convert({"preprocessing": preprocessing}, Layout))
        for layer, (weight, bias) in zip(features.convolutions(), tensors, strict=True):
            layer.weight.data.copy_(_fitting(weight, layer.weight))
            layer.bias.data.copy_(_fitting(bias, layer.bias))  # type: ignore[union-attr, arg-type]
    except ExportError:
        raise
    except Exception as error:  # every format's reader raises types of its own
        raise ExportError(f"{path} holds no VGG16 weights: {error}") from error
    if preprocessing == "caffe":
        first = features.convolutions()[0].weight.data
        first.copy_(first.flip(1))  # its channels are B, G, R
    return features.eval().requires_grad_(False)


def with_features(spec: Spec, config: Mapping[str, Any]) -> Spec:
    """``spec`` whose step of inversion also tells the ``perceptual`` distance of each row, if ``config`` has features."""
    if CONFIG not in config:
        return spec
    told = records.Tensor(name="perceptual", dtype="float32")
    if GRAPH not in {graph.name for graph in spec.graphs}:
        raise ExportError("features serve inversion, and this family has none: export without them")
    graphs = (
        msgspec.structs.replace(graph, outputs=(*graph.outputs, told)) if graph.name == GRAPH else graph
        for graph in spec.graphs
    )
    return Spec(graphs=tuple(graphs), tasks=spec.tasks)


def give_features(
    modules: Mapping[str, nn.Module], config: Mapping[str, Any], networks: Mapping[str, nn.Module]
) -> None:
    """Let the step of inversion among ``modules`` use the features among ``networks``, or fresh ones, if ``config`` has features."""
    if CONFIG not in config:
        return
    layout = msgspec.convert(config[CONFIG], Layout)
    for module in modules.values():
        if isinstance(module, InversionStep):
            module.see_with(networks.get(NETWORK) or Features(layout), distance, layout.weight)


def _safetensors(path: Path) -> tuple[list[tuple[Tensor, Tensor]], str]:
    with safe_open(path, "pt") as file:
        preprocessing = (file.metadata() or {}).get("preprocessing", "imagenet")
        tensors = [
            (file.get_tensor(f"features.{number}.weight"), file.get_tensor(f"features.{number}.bias"))
            for number in TORCHVISION
        ]
    return tensors, preprocessing


def _keras(path: Path) -> tuple[list[tuple[Tensor, Tensor]], str]:
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise ExportError(f"{path} is an HDF5 file, and h5py is not installed: pip install h5py") from error
    tensors = []
    with h5py.File(path, "r") as file:
        for number, block in enumerate(BLOCKS, 1):
            for place in range(len(block)):
                layer = file[f"block{number}/layers/conv2d{f'_{place}' if place else ''}/vars"]
                weight, bias = torch.from_numpy(layer["0"][()]), torch.from_numpy(layer["1"][()])
                tensors.append((weight.permute(3, 2, 0, 1), bias))
    return tensors, "caffe"


def _fitting(found: Tensor, wanted: Tensor) -> Tensor:
    if found.shape != wanted.shape:
        raise ValueError(f"a tensor has shape {list(found.shape)} instead of {list(wanted.shape)}")
    return found

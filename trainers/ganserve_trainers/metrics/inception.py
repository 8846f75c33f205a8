"""Image features from the Inception-v3 that the npm package ``nsfwjs`` carries, up to its layer ``mixed5``.

The weights come from an 8-bit quantised classifier of another task. They are **not** those of the network by which FID is
defined: a distance between these features is a "Fréchet distance in nsfwjs Inception-v3 mixed5 features" and compares with
nothing but itself.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ganserve.errors import DataError
from ganserve_trainers.metrics.tfjs import read_layers_model

PACKAGE, VERSION = "nsfwjs", "4.3.0"
"""The npm package (MIT) and the version that the numbers are made with."""

FEATURE_NAME = "nsfwjs Inception-v3 mixed5 features"
"""What a figure made with these features must be called after."""

INPUT_SIZE = 299
"""The side in pixels to which images are scaled; what the network was trained at."""


class ConvUnit(nn.Module):
    """Convolution, batch normalization, ReLU: the unit of every layer of Inception-v3. The normalization is folded."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, same: bool = True) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if same else 0
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs, h, w]`` → ``[n, outputs, h', w']``."""
        return functional.relu(self.convolution(x))


class Branches(nn.Module):
    """Parallel branches over one input, joined along the channels ("filter concat" of the figures)."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` → the branches' channels together."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _average_pool() -> nn.Module:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


def _figure_5(inputs: int, pooled: int) -> nn.Module:
    """Szegedy et al. 2015, figure 5: a 5×5 as two 3×3. As in the released network the second branch keeps its 5×5."""
    return Branches(
        ConvUnit(inputs, 64, (1, 1)),
        nn.Sequential(ConvUnit(inputs, 48, (1, 1)), ConvUnit(48, 64, (5, 5))),
        nn.Sequential(ConvUnit(inputs, 64, (1, 1)), ConvUnit(64, 96, (3, 3)), ConvUnit(96, 96, (3, 3))),
        nn.Sequential(_average_pool(), ConvUnit(inputs, pooled, (1, 1))),
    )


def _figure_10(inputs: int) -> nn.Module:
    """Szegedy et al. 2015, figure 10: the grid is halved by strided convolutions beside a pooling."""
    return Branches(
        ConvUnit(inputs, 384, (3, 3), stride=2, same=False),
        nn.Sequential(
            ConvUnit(inputs, 64, (1, 1)), ConvUnit(64, 96, (3, 3)), ConvUnit(96, 96, (3, 3), stride=2, same=False)
        ),
        nn.MaxPool2d(3, stride=2),
    )


def _figure_6(inputs: int, width: int) -> nn.Module:
    """Szegedy et al. 2015, figure 6 with n = 7: a 7×7 as 1×7 and 7×1."""
    return Branches(
        ConvUnit(inputs, 192, (1, 1)),
        nn.Sequential(ConvUnit(inputs, width, (1, 1)), ConvUnit(width, width, (1, 7)), ConvUnit(width, 192, (7, 1))),
        nn.Sequential(
            ConvUnit(inputs, width, (1, 1)),
            ConvUnit(width, width, (7, 1)),
            ConvUnit(width, width, (1, 7)),
            ConvUnit(width, width, (7, 1)),
            ConvUnit(width, 192, (1, 7)),
        ),
        nn.Sequential(_average_pool(), ConvUnit(inputs, 192, (1, 1))),
    )


class InceptionFeatures(nn.Module):
    """Inception-v3 (Szegedy et al. 2015, table 1) up to ``mixed5``: images in [0, 1] → the spatial mean, 768 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvUnit(3, 32, (3, 3), stride=2, same=False),
            ConvUnit(32, 32, (3, 3), same=False),
            ConvUnit(32, 64, (3, 3)),
            nn.MaxPool2d(3, stride=2),
            ConvUnit(64, 80, (1, 1), same=False),
            ConvUnit(80, 192, (3, 3), same=False),
            nn.MaxPool2d(3, stride=2),
            _figure_5(192, 32),  # mixed0
            _figure_5(256, 64),  # mixed1
            _figure_5(288, 64),  # mixed2
            _figure_10(288),  # mixed3
            _figure_6(768, 128),  # mixed4
            _figure_6(768, 160),  # mixed5
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 3, 299, 299]`` in [0, 1] → ``[n, 768]``."""
        return torch.as_tensor(self.layers(x)).mean(dim=(2, 3))

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take Keras' weights, whose convolutions are numbered from 1 in the order in which the paper's figures list them."""
        units = [module for module in self.modules() if isinstance(module, ConvUnit)]
        for number, unit in enumerate(units, start=1):
            convolution, batch_norm = unit.convolution, f"batch_normalization_{number}"
            try:
                kernel = torch.from_numpy(weights[f"conv2d_{number}/kernel"]).permute(3, 2, 0, 1)
                beta, mean, variance = (
                    torch.from_numpy(weights[f"{batch_norm}/{name}"])
                    for name in ("beta", "moving_mean", "moving_variance")
                )
            except KeyError as error:
                raise DataError(f"the weights have no {error}: expected those of {PACKAGE} {VERSION}") from error
            if kernel.shape != convolution.weight.shape:
                raise DataError(
                    f"conv2d_{number} has shape {list(kernel.shape)}, Inception-v3 has {list(convolution.weight.shape)} there"
                )
            # Keras' batch normalization here: no gamma, epsilon 1e-3.
            scale = (variance + 1e-3).rsqrt()
            with torch.no_grad():
                convolution.weight.copy_(kernel * scale[:, None, None, None])
                convolution.bias.copy_(beta - mean * scale)  # type: ignore[union-attr]


class FeatureExtractor:
    """The feature network with the weights of an unpacked ``nsfwjs`` package, ready to be asked."""

    def __init__(self, package: Path) -> None:
        """Read the weights below ``package``; :class:`DataError` says how to get them where they are missing."""
        _check_package(package)
        self.network = InceptionFeatures().eval().requires_grad_(False)
        self.network.load(read_layers_model(package / "dist" / "models" / "inception_v3").weights)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: np.ndarray, rows: int = 16) -> np.ndarray:
        """Features float32 ``[n, 768]`` of ``images`` uint8 ``[n, H, W, C]`` (grey is repeated), ``rows`` at a time."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise DataError(f"images are {images.dtype}{list(images.shape)}: expected uint8 [n, H, W, 1 or 3]")
        with torch.inference_mode():
            parts = [self.network(_prepare(images[i : i + rows])) for i in range(0, len(images), rows)]
        return torch.cat(parts).numpy()


def _prepare(images: np.ndarray) -> Tensor:
    """Pixels as the package's own inference prepares them: [0, 1], bilinear, corners aligned."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0
    x = x.expand(-1, 3, -1, -1)
    x = functional.interpolate(x, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=True)
    return x.contiguous(memory_format=torch.channels_last)


def _check_package(package: Path) -> None:
    how = f"; run `npm pack {PACKAGE}@{VERSION}`, unpack {PACKAGE}-{VERSION}.tgz and give the folder `package` that is in it"
    try:
        found = json.loads((package / "package.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{package} is not an unpacked npm package: {error}{how}") from error
    if (found.get("name"), found.get("version")) != (PACKAGE, VERSION):
        raise DataError(
            f"{package} holds {found.get('name')} {found.get('version')}, expected {PACKAGE} {VERSION}{how}"
        )

"""The maths of the tiny graphs in torch, with weights from torch's global generator."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve_trainers.layers.denormalize import to_bytes


class Types(nn.Module):
    def forward(self, x: Tensor, label: Tensor, flag: Tensor, pixels: Tensor) -> tuple[Tensor, ...]:
        signed = torch.where(flag[:, None], x, -x)
        negative = (255 - pixels.float()).to(torch.uint8)
        return 2 * x + label[:, None], signed, negative, label + 1, ~flag


class Synthesis(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16 * 8 * 8)
        self.second = nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False)

    def forward(self, w: Tensor) -> tuple[Tensor, Tensor]:
        features = self.second(self.first(w).unflatten(1, (16, 8, 8)).relu()).tanh()
        return features, to_bytes(features)


class Translation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Conv2d(3, 3, 3, 2, 1, bias=False)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        small = self.kernel(picture.float().permute(0, 3, 1, 2) / 127.5 - 1)
        features = F.interpolate(small, scale_factor=2.0, mode="nearest").tanh()
        return features, to_bytes(features)


def build(config: Mapping[str, Any]) -> Mapping[str, nn.Module]:
    mapping = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Tanh())
    return {"types": Types(), "mapping": mapping, "synthesis": Synthesis(), "translation": Translation()}


def export(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
    return networks

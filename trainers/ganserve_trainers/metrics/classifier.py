"""A small convolutional classifier, trained on a labelled data set to tell which classes a generator makes, and how surely.

The entropy of its class histogram and its confidence are the two quantities behind the Inception score (Salimans et al. 2016,
section 4), taken here from a classifier of the very data set and shown apart, because a single number hides a missing class.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ganserve.errors import DataError


class SmallCNN(nn.Module):
    """Three strided 4×4 convolutions with batch normalization, each halving the image, and one linear layer."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        height, width, channels = shape
        self.layers = nn.Sequential(*_halved(channels, 16), *_halved(16, 32), *_halved(32, 64))
        self.head = nn.Linear(64 * (height // 8) * (width // 8), classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, C, H, W]`` in [-1, 1] → logits ``[n, classes]``."""
        return torch.as_tensor(self.head(self.layers(x).flatten(1)))


def _halved(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


@dataclass(frozen=True)
class Verdict:
    """What a classifier says of n images: ``classes`` int64 ``[n]`` and ``confidence`` float32 ``[n]``, its softmax of them."""

    classes: np.ndarray
    confidence: np.ndarray

    def shares(self, classes: int) -> np.ndarray:
        """The share of each of ``classes`` classes, float64 ``[classes]``, summing to 1."""
        return np.bincount(self.classes, minlength=classes) / len(self.classes)


class Classifier:
    """A trained :class:`SmallCNN`, asked with uint8 images."""

    def __init__(self, network: SmallCNN) -> None:
        self.network = network.eval()

    def judge(self, images: np.ndarray, rows: int = 500) -> Verdict:
        """The likeliest class of each of ``images`` uint8 ``[n, H, W, C]``, and how surely."""
        with torch.inference_mode():
            logits = [self.network(_pixels(images[i : i + rows])) for i in range(0, len(images), rows)]
            confidence, classes = functional.softmax(torch.cat(logits), dim=1).max(dim=1)
        return Verdict(classes.numpy(), confidence.numpy())

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """The share of ``images`` whose likeliest class is their label."""
        return float((self.judge(images).classes == labels).mean())


def train_classifier(
    images: np.ndarray, labels: np.ndarray, *, epochs: int = 4, rows: int = 128, rate: float = 5e-3, seed: int = 0
) -> Classifier:
    """Train on ``images`` uint8 ``[n, H, W, C]`` with ``labels`` ``[n]`` from 0: AdamW, one cycle of the learning rate.

    The same ``seed`` on the same machine with the same number of threads gives the same weights.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != (len(images),):
        raise DataError(
            f"images {images.dtype}{list(images.shape)} with labels {list(labels.shape)}: expected uint8 [n, H, W, C] and [n]"
        )
    if min(images.shape[1:3]) < 8:
        raise DataError(
            f"images of {images.shape[1]}×{images.shape[2]} pixels: the classifier halves them thrice; expected 8×8 or more"
        )
    if len(images) < rows:
        raise DataError(f"{len(images)} images cannot fill a batch of {rows}; give more images or fewer rows")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallCNN((images.shape[1], images.shape[2], images.shape[3]), int(labels.max()) + 1)
    order = torch.Generator().manual_seed(seed)
    steps = epochs * (len(images) // rows)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-2)
    for step, picked in enumerate(_batches(len(images), rows, epochs, order)):
        for group in optimizer.param_groups:
            group["lr"] = rate * _one_cycle((step + 1) / steps)
        targets = torch.from_numpy(labels[picked]).long()
        loss = functional.cross_entropy(network(_pixels(images[picked])), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Classifier(network)


def _batches(count: int, rows: int, epochs: int, order: torch.Generator) -> list[np.ndarray]:
    whole = count // rows * rows
    return [
        batch
        for _ in range(epochs)
        for batch in torch.randperm(count, generator=order)[:whole].reshape(-1, rows).numpy()
    ]


def _one_cycle(progress: float) -> float:
    """A linear rise over the first fifth, then half a cosine down to 0."""
    return progress / 0.2 if progress < 0.2 else 0.5 + 0.5 * math.cos(math.pi * (progress - 0.2) / 0.8)


def _pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0

"""Sentence encoders as files: a folder is read, its encoder run over captions, and copied into a run."""

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ganserve.codecs.tokens import Tokenizer, normalized
from ganserve_trainers.text import given, published

CARD = "README.md"
"""The model card; where it is missing, no licence is known."""

TOKENIZER = published.TOKENIZER

FILES = tuple(dict.fromkeys((*published.NEEDED, *published.OPTIONAL, *given.NEEDED, CARD)))
"""All that is read of a folder."""

VECTORS = "captions.safetensors"
"""Where a run keeps the vectors of its captions."""

BATCH = 32
"""Captions that are encoded at once."""


class Credits(msgspec.Struct, frozen=True, kw_only=True):
    """Whose an encoder is: its ``name``, the ``licence`` that its model card states, and the SHA-256 of its weights."""

    name: str
    licence: str
    sha256: str


@dataclass(frozen=True)
class TextEncoder:
    """A sentence encoder: token ids and mask, int64 ``[n, length]`` → vectors float32 ``[n, size]``.

    ``network`` is in eval mode and frozen; ``folder`` is where it was read from, and ``credits`` say whose it is.
    """

    network: nn.Module
    size: int
    folder: Path
    credits: Credits

    @property
    def tokenizer(self) -> Path:
        """Its ``tokenizer.json``."""
        return self.folder / TOKENIZER

    def copy(self, folder: Path) -> None:
        """Copy all that :func:`open_encoder` reads into ``folder``."""
        for name in FILES:
            if (self.folder / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / name, folder / name)

    @torch.no_grad()
    def vectors(self, captions: Sequence[str], most: int) -> Tensor:
        """The vectors ``[n, size]`` of ``captions``, each of at most ``most`` tokens."""
        tokenizer = Tokenizer(self.tokenizer, most)
        texts = [normalized(caption) for caption in captions]
        # Captions of like length meet, so that little is padding.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found = torch.empty(len(texts), self.size)
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            tokens = tokenizer([texts[row] for row in rows])
            found[rows] = self.network(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask))
        return found


@dataclass
class Sentences:
    """What makes the vectors of a data set's captions: an encoder, at most ``most`` tokens, and vectors that were kept before."""

    encoder: TextEncoder
    most: int
    kept: Path | None = None

    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """The vectors float32 [n, size] of ``captions``, from the file ``kept`` where it holds just these."""
        key = hashlib.sha256("\n".join((self.encoder.credits.sha256, str(self.most), *captions)).encode()).hexdigest()
        if self.kept is not None and self.kept.is_file() and key in (tensors := load_file(self.kept)):
            return tensors[key].numpy()
        vectors = self.encoder.vectors(captions, self.most)
        self._made = {key: vectors}
        return vectors.numpy()

    def keep(self, path: Path) -> None:
        """Write what was computed, if anything was, to ``path``."""
        if made := getattr(self, "_made", None):
            save_file(made, path)


def open_encoder(folder: Path) -> TextEncoder:
    """The encoder in ``folder``: its ``model.onnx`` if there is one, else as sentence-transformers publishes it.

    Raises :class:`TrainingError`, which says what is missing or not as expected.
    """
    network: nn.Module
    if (folder / given.MODEL).is_file():
        network, size, weights = *given.read_given(folder), given.MODEL
    else:
        network = published.read_published(folder)
        size, weights = network.layout.hidden_size, published.WEIGHTS
    with (folder / weights).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return TextEncoder(network.eval().requires_grad_(False), size, folder, _credits(folder, sha256))


def _credits(folder: Path, sha256: str) -> Credits:
    card = (folder / CARD).read_text("utf-8", errors="replace") if (folder / CARD).is_file() else ""
    title = re.search(r"^# +(.+?) *$", card, re.MULTILINE)
    licence = re.search(r"\A---\n(?:.*\n)*?license: *(\S+) *\n(?:.*\n)*?---$", card, re.MULTILINE)
    return Credits(name=title[1] if title else folder.name, licence=licence[1] if licence else "unknown", sha256=sha256)

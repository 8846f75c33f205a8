"""Sentence encoders as files: a folder in the layout of sentence-transformers is read, run over captions, and copied into a run."""

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ganserve.codecs.tokens import Tokenizer, normalized
from ganserve.errors import TrainingError
from ganserve_trainers.text.bert import Layout, SentenceEncoder

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
POOLING, MODULES, CARD = "1_Pooling/config.json", "modules.json", "README.md"
NEEDED = (WEIGHTS, CONFIG, TOKENIZER)
OPTIONAL = (POOLING, MODULES, CARD)
"""How features become a vector, and the model card: where they are missing, by the mean, as it comes, and with no licence known."""

VECTORS = "captions.safetensors"
"""Where a run keeps the vectors of its captions."""

BATCH = 32
"""Captions that are encoded at once."""

NAMES: Mapping[str, str] = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "places",
    "embeddings.LayerNorm": "norm",
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "project",
    "attention.output.LayerNorm": "attended",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "norm",
}
"""What the published weights call a layer → what it is called here."""

KINDS = "embeddings.token_type_embeddings.weight"
"""Published for two kinds of text, of which only the first is used here."""

PASSED_OVER = ("pooler.", "embeddings.position_ids")
"""Published beside the weights, and no part of a sentence's vector."""

_KEY = re.compile(r"^(?:bert\.)?(?:encoder\.layer\.(?P<number>\d+)\.)?(?P<name>.+)\.(?P<kind>weight|bias)$")


class Credits(msgspec.Struct, frozen=True, kw_only=True):
    """Whose an encoder is: its ``name``, the ``licence`` that its model card states, and the SHA-256 of its weights."""

    name: str
    licence: str
    sha256: str


@dataclass(frozen=True)
class TextEncoder:
    """A sentence encoder in eval mode, the folder it was read from, and whose it is."""

    network: SentenceEncoder
    folder: Path
    credits: Credits

    @property
    def size(self) -> int:
        """How many numbers a vector has."""
        return self.network.layout.hidden_size

    @property
    def tokenizer(self) -> Path:
        """Its ``tokenizer.json``."""
        return self.folder / TOKENIZER

    def copy(self, folder: Path) -> None:
        """Copy all that :func:`open_encoder` reads into ``folder``."""
        for name in (*NEEDED, *OPTIONAL):
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
    """The encoder in ``folder``; :class:`TrainingError` says what is missing or not as expected."""
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise TrainingError(
            f"{folder} is no sentence encoder: {', '.join(missing)} is missing; give a folder in the layout of "
            f"sentence-transformers, with {', '.join(NEEDED)}"
        )
    try:
        layout = msgspec.json.decode((folder / CONFIG).read_bytes(), type=Layout)
    except msgspec.MsgspecError as error:
        raise TrainingError(f"{folder / CONFIG} does not describe a BERT: {error}") from error
    _check_kind(folder, layout)
    Tokenizer(folder / TOKENIZER, layout.max_position_embeddings)  # refused here rather than after an hour
    network = SentenceEncoder(msgspec.structs.replace(layout, unit=_is_unit(folder)))
    try:
        network.load_state_dict(renamed(load_file(folder / WEIGHTS)))
    except (RuntimeError, SafetensorError) as error:
        raise TrainingError(f"{folder / WEIGHTS} does not fit {CONFIG}: {error}") from error
    with (folder / WEIGHTS).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return TextEncoder(network.eval().requires_grad_(False), folder, _credits(folder, sha256))


def renamed(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``published`` weights under the names of :class:`SentenceEncoder`; unknown ones keep theirs, and then fit nowhere."""
    found = {}
    for key, tensor in published.items():
        match = _KEY.match(key)
        if match and match["name"] in NAMES:
            where = f"layers.{match['number']}." if match["number"] else ""
            found[f"{where}{NAMES[match['name']]}.{match['kind']}"] = tensor.float()
        elif key.removeprefix("bert.") == KINDS:
            found["kind"] = tensor[0].float()
        elif not key.removeprefix("bert.").startswith(PASSED_OVER):
            found[key] = tensor
    return found


def _check_kind(folder: Path, layout: Layout) -> None:
    if (layout.model_type, layout.hidden_act) != ("bert", "gelu"):
        raise TrainingError(
            f"{folder / CONFIG} is of the kind {layout.model_type!r} with {layout.hidden_act!r}: expected 'bert' with 'gelu'"
        )
    pooling = folder / POOLING
    wanted = {key: value for key, value in _json(pooling).items() if key.startswith("pooling_mode_") and value is True}
    if pooling.is_file() and set(wanted) != {"pooling_mode_mean_tokens"}:
        raise TrainingError(f"{pooling} asks for {', '.join(wanted) or 'nothing'}: expected the mean of the tokens")


def _is_unit(folder: Path) -> bool:
    modules = folder / MODULES
    return modules.is_file() and b"models.Normalize" in modules.read_bytes()


def _json(path: Path) -> dict[str, object]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, object]) if path.is_file() else {}
    except msgspec.MsgspecError as error:
        raise TrainingError(f"{path} cannot be read: {error}") from error


def _credits(folder: Path, sha256: str) -> Credits:
    card = (folder / CARD).read_text("utf-8", errors="replace") if (folder / CARD).is_file() else ""
    title = re.search(r"^# +(.+?) *$", card, re.MULTILINE)
    licence = re.search(r"\A---\n(?:.*\n)*?license: *(\S+) *\n(?:.*\n)*?---$", card, re.MULTILINE)
    return Credits(name=title[1] if title else folder.name, licence=licence[1] if licence else "unknown", sha256=sha256)

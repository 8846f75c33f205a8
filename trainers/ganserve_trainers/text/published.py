"""Sentence encoders as sentence-transformers publishes them: a folder with a BERT's configuration and weights."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ganserve.codecs.tokens import Tokenizer
from ganserve.errors import TrainingError
from ganserve_trainers.text.bert import Layout, SentenceEncoder

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
POOLING, MODULES = "1_Pooling/config.json", "modules.json"
NEEDED = (WEIGHTS, CONFIG, TOKENIZER)
OPTIONAL = (POOLING, MODULES)
"""How features become a vector: where they are missing, by the mean, as it comes."""

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


_OTHERS = "any other encoder can be given as model.onnx (docs/text.md)"


def read_published(folder: Path) -> SentenceEncoder:
    """The network in ``folder``; :class:`TrainingError` says what is missing or not as expected."""
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise TrainingError(
            f"{folder} is no sentence encoder: {', '.join(missing)} is missing; give a folder in the layout of "
            f"sentence-transformers, with {', '.join(NEEDED)}, or one with model.onnx and {TOKENIZER}"
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
    return network


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
            f"{folder / CONFIG} is of the kind {layout.model_type!r} with {layout.hidden_act!r}: expected 'bert' with 'gelu'; {_OTHERS}"
        )
    pooling = folder / POOLING
    wanted = {key: value for key, value in _json(pooling).items() if key.startswith("pooling_mode_") and value is True}
    if pooling.is_file() and set(wanted) != {"pooling_mode_mean_tokens"}:
        raise TrainingError(
            f"{pooling} asks for {', '.join(wanted) or 'nothing'}: expected the mean of the tokens; {_OTHERS}"
        )


def _is_unit(folder: Path) -> bool:
    modules = folder / MODULES
    return modules.is_file() and b"models.Normalize" in modules.read_bytes()


def _json(path: Path) -> dict[str, object]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, object]) if path.is_file() else {}
    except msgspec.MsgspecError as error:
        raise TrainingError(f"{path} cannot be read: {error}") from error

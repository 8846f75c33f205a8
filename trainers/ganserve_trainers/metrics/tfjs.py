"""TensorFlow.js layer models bundled as JavaScript: read as text, never run.

An npm package may carry such a model as one script that exports the topology and the weight manifest as an object literal, and
one script per shard that exports the weights' bytes as a base64 string.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ganserve.errors import DataError


@dataclass(frozen=True)
class LayersModel:
    """A Keras model: its ``layers`` as in the topology (name, class_name, config, inbound_nodes) and float32 ``weights`` by name."""

    layers: tuple[Mapping[str, Any], ...]
    weights: Mapping[str, np.ndarray]


def read_layers_model(folder: Path) -> LayersModel:
    """The model whose ``model.min.js`` and shards lie in ``folder``; :class:`DataError` where a file is missing or odd."""
    model = _object(_read(folder / "model.min.js"), folder / "model.min.js")
    try:
        layers = tuple(model["modelTopology"]["model_config"]["config"]["layers"])
        weights: dict[str, np.ndarray] = {}
        for group in model["weightsManifest"]:
            data = b"".join(_bytes(folder / f"{path}.min.js") for path in group["paths"])
            weights |= _weights(group["weights"], data, folder)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder / 'model.min.js'} is not a TensorFlow.js layers model: {type(error).__name__} {error}"
        ) from error
    return LayersModel(layers, weights)


def _weights(entries: list[Any], data: bytes, folder: Path) -> dict[str, np.ndarray]:
    found, offset = {}, 0
    for entry in entries:
        shape, quantization = tuple(entry["shape"]), entry["quantization"]
        if quantization["dtype"] != "uint8":
            raise DataError(f"{folder}: weight {entry['name']} is stored as {quantization['dtype']}; expected uint8")
        size = int(np.prod(shape))
        stored = np.frombuffer(data, np.uint8, size, offset) if offset + size <= len(data) else None
        if stored is None:
            raise DataError(f"{folder}: the shards end within weight {entry['name']}; unpack the package again")
        # Linear quantization: value = scale * stored + min.
        value = stored.astype(np.float64) * quantization["scale"] + quantization["min"]
        found[entry["name"]] = value.astype(np.float32).reshape(shape)
        offset += size
    if offset != len(data):
        raise DataError(f"{folder}: the shards hold {len(data)} bytes, the manifest names {offset}")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _bytes(path: Path) -> bytes:
    match = re.search(r'exports="([A-Za-z0-9+/]+=*)"', _read(path))
    if match is None:
        raise DataError(f"{path} exports no base64 string; expected a weight shard of a TensorFlow.js model")
    return base64.b64decode(match.group(1), validate=True)


_JSON_TOKENS = {"!0": "true", "!1": "false", ".": "0."}
_NOT_JSON = re.compile(
    r""" (?P<string>"(?:[^"\\]|\\.)*")   # kept as it is, so that nothing inside a string is touched
       | !0 | !1                         # how minifiers write true and false
       | (?P<key>[A-Za-z_$][\w$]*)(?=:)  # a bare key
       | (?<![\w.])\.(?=\d)              # .5
    """,
    re.VERBOSE,
)


def _object(script: str, path: Path) -> Any:
    start = script.find("exports={")
    if start < 0:
        raise DataError(f"{path} exports no object; expected the topology of a TensorFlow.js model")
    text = _NOT_JSON.sub(_as_json, script[start + len("exports=") :])
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: the exported object is more than data: {error}") from error


def _as_json(match: re.Match[str]) -> str:
    if match["string"]:
        return match["string"]
    return f'"{match["key"]}"' if match["key"] else _JSON_TOKENS[match.group()]

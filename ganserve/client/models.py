"""What a server says of its models."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from ganserve.client.enums import name_of
from ganserve.v1 import media_pb2, models_pb2


class ModelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the list."""

    name: str
    version: int
    """0 for a bundle that could not be read."""
    family: str
    state: str
    """``loading``, ``ready``, ``idle`` (its first call loads it), ``failed`` or ``unloaded``."""
    reason: str
    """Why it failed or was unloaded; or why what serves is not what its folder holds, or not on the engine it should be."""
    engines: Mapping[str, str]
    """The engine that serves each graph."""
    weight_bytes: int = 0
    """The bytes that its weights take in memory; 0 if it is not loaded."""


class TensorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor that a request may give or ask for: its type and the shape of one row, where -1 is free."""

    dtype: str
    shape: tuple[int, ...]


class LatentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What may be done with a latent."""

    walk: str
    """The way from one to another: ``lerp`` or ``slerp``."""
    layers: bool
    """Whether its first axis counts layers, which may be mixed."""


class DirectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A named way to move a latent."""

    tensor: str
    """The latent."""
    source: str
    """How it was found."""


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One task of a model."""

    name: str
    kind: str
    """The rpc that it answers: ``sample`` and others."""
    values: Mapping[str, Any]
    """The values that a request may carry (seed, label, truncation ...) and what they may be: ranges, class names."""
    tensors: Mapping[str, TensorInfo]
    output: str
    """The tensor that becomes the result."""
    latents: Mapping[str, LatentInfo]
    """The latents that may be walked, mixed and moved, in the order in which they are made."""
    directions: Mapping[str, DirectionInfo]
    """The named directions along which they may be moved."""
    starts: tuple[str, ...] = ()
    """Where a search may start, of a task of kind invert: encoder, samples, average, the best first."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """All that a server says of one model."""

    summary: ModelSummary
    tasks: tuple[TaskInfo, ...]
    licence: str
    attribution: str
    """Whom to name when using the weights."""
    provenance: Mapping[str, Any]
    """How it was trained."""


def summaries_of(
    response: models_pb2.ListResponse | models_pb2.LoadResponse | models_pb2.UnloadResponse | models_pb2.ReloadResponse,
) -> list[ModelSummary]:
    """The answer of Models.List, Load, Unload or Reload."""
    return [_summary_of(summary) for summary in response.models]


def model_of(response: models_pb2.GetResponse) -> ModelInfo:
    """The answer of Models.Get."""
    return ModelInfo(
        summary=_summary_of(response.summary),
        tasks=tuple(_task_of(task) for task in response.tasks),
        licence=response.licence,
        attribution=response.attribution,
        provenance=json.loads(response.provenance_json),
    )


def _summary_of(message: models_pb2.ModelSummary) -> ModelSummary:
    return ModelSummary(
        name=message.model,
        version=message.version,
        family=message.family,
        state=name_of("MODEL_STATE_", models_pb2.ModelState, message.state),
        reason=message.reason,
        engines=dict(message.engines),
        weight_bytes=message.weight_bytes,
    )


def _task_of(message: models_pb2.Task) -> TaskInfo:
    return TaskInfo(
        name=message.name,
        kind=message.kind,
        values={value.name: json.loads(value.description_json) for value in message.values},
        tensors={
            name: TensorInfo(
                dtype=name_of("DATA_TYPE_", media_pb2.DataType, tensor.data_type), shape=tuple(tensor.shape)
            )
            for name, tensor in message.tensors.items()
        },
        output=message.output,
        latents={one.tensor: LatentInfo(walk=one.walk, layers=one.layers) for one in message.latents},
        directions={one.name: DirectionInfo(tensor=one.tensor, source=one.source) for one in message.directions},
        starts=tuple(message.starts),
    )

"""What the service Models tells of models, as messages."""

import json
from typing import Any

import msgspec

from ganserve.serving.entry import Entry
from ganserve.serving.inversion import starts_of
from ganserve.serving.model import Model
from ganserve.serving.task import LoadedTask
from ganserve.serving.wire import DATA_TYPES
from ganserve.v1 import models_pb2

_STATES = {
    "loading": models_pb2.MODEL_STATE_LOADING,
    "ready": models_pb2.MODEL_STATE_READY,
    "failed": models_pb2.MODEL_STATE_FAILED,
    "unloaded": models_pb2.MODEL_STATE_UNLOADED,
    "idle": models_pb2.MODEL_STATE_IDLE,
}


def summary_of(entry: Entry) -> models_pb2.ModelSummary:
    """One line of Models.List."""
    loaded = entry.model
    return models_pb2.ModelSummary(
        model=entry.name,
        version=entry.version,
        family=loaded.manifest.family if loaded else "",
        state=_STATES[entry.state],
        reason=entry.reason,
        engines={name: graph.engine for name, graph in loaded.graphs.items()} if loaded else {},
        weight_bytes=loaded.size if loaded else 0,
    )


def description_of(entry: Entry, model: Model) -> models_pb2.GetResponse:
    """All of Models.Get."""
    return models_pb2.GetResponse(
        summary=summary_of(entry),
        tasks=[_task(task) for task in model.tasks.values()],
        licence=model.manifest.licence,
        attribution=model.manifest.attribution,
        provenance_json=msgspec.json.encode(model.manifest.provenance).decode(),
    )


def _task(loaded: LoadedTask) -> models_pb2.Task:
    facts: dict[str, Any] = {}
    for decoder in loaded.decoders.values():
        facts.update(decoder.describe())
    return models_pb2.Task(
        name=loaded.task.name,
        kind=loaded.task.kind,
        values=[
            models_pb2.Value(name=name, description_json=json.dumps(facts.get(name, {})))
            for name in loaded.task.values()
        ],
        tensors={
            name: models_pb2.TensorSpec(
                data_type=DATA_TYPES[tensor.dtype],
                shape=[size if isinstance(size, int) else -1 for size in tensor.shape],
            )
            for name, tensor in loaded.tensors.items()
        },
        output=loaded.task.output.tensor,
        latents=[
            models_pb2.Latent(tensor=latent.tensor, walk=latent.walk, layers=latent.layers)
            for latent in loaded.task.latents
        ],
        directions=[
            models_pb2.Direction(name=name, tensor=one.direction.tensor, source=one.direction.source)
            for name, one in loaded.directions.items()
        ],
        starts=starts_of(loaded),
    )

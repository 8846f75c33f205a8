"""What the Open Inference Protocol tells of models: metadata, configuration, statistics, the index of the repository."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ganserve.inference import messages as pb
from ganserve.serving.entry import Entry, State
from ganserve.serving.model import Model
from ganserve.serving.oip_ports import BYTES, outlets_of, ports_of, usual_task
from ganserve.serving.task import LoadedTask
from ganserve.statistics import Counts, Duration

PLATFORM = "ganserve"

_STATES: Mapping[State, str] = {
    "loading": "LOADING",
    "idle": "READY",
    "ready": "READY",
    "failed": "UNAVAILABLE",
    "unloaded": "UNAVAILABLE",
}


def metadata_of(model: Model, versions: Iterable[int]) -> pb.ModelMetadataResponse:
    """A model from outside, by its usual task."""
    task = usual_task(model)
    described = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=[
            described(name=port.name, datatype=port.datatypes[0], shape=[-1, *port.shape])
            for port in ports_of(model, task).values()
        ],
        outputs=[
            described(name=one.name, datatype=one.datatype, shape=[-1, *one.shape]) for one in outlets_of(task).values()
        ],
    )


def config_of(model: Model, *, max_rows: int, max_batch: int, device: str) -> pb.ModelConfigResponse:
    """How a model is batched, and its usual task: requests of at most ``max_rows``, batches of at most ``max_batch``, one at a time on ``device``."""
    task = usual_task(model)
    batchable = any(loaded.graph.batchable for loaded in model.graphs.values())
    kind, _, number = device.partition(":")
    group = pb.ModelInstanceGroup(name=device, count=1, kind="KIND_CPU" if kind == "cpu" else "KIND_GPU")
    if kind != "cpu":
        group.gpus.append(int(number or 0))
    config = pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=max_rows,
        input=[
            pb.ModelInput(name=port.name, data_type=_type(port.datatypes[0]), dims=port.shape, optional=port.optional)
            for port in ports_of(model, task).values()
        ],
        output=[
            pb.ModelOutput(name=one.name, data_type=_type(one.datatype), dims=one.shape)
            for one in outlets_of(task).values()
        ],
        instance_group=[group],
        dynamic_batching=pb.ModelDynamicBatching(preferred_batch_size=[max_batch if batchable else 1]),
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
    )
    for name, one_task in model.tasks.items():
        config.parameters[f"task.{name}"].string_value = json.dumps(_facts(model, one_task))
    return pb.ModelConfigResponse(config=config)


def statistics_of(name: str, version: int, counts: Counts) -> pb.ModelStatistics:
    """What a version of a model has done."""
    return pb.ModelStatistics(
        name=name,
        version=str(version),
        last_inference=round(counts.last * 1e3),
        inference_count=counts.rows,
        execution_count=counts.runs,
        inference_stats=pb.InferStatistics(
            success=_duration(counts.success),
            fail=_duration(counts.fail),
            queue=_duration(counts.queue),
            compute_input=_duration(counts.compute_input),
            compute_infer=_duration(counts.compute_infer),
            compute_output=_duration(counts.compute_output),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=size, compute_infer=_duration(counts.batches[size]))
            for size in sorted(counts.batches)
        ],
    )


def index_of(entries: Iterable[Entry]) -> pb.RepositoryIndexResponse:
    """Every bundle of ``entries``."""
    listed = pb.RepositoryIndexResponse.ModelIndex
    return pb.RepositoryIndexResponse(
        models=[
            listed(
                name=entry.name,
                version=str(entry.version or ""),
                state=_STATES[entry.state],
                reason=entry.reason,
            )
            for entry in entries
        ]
    )


def _type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=round(duration.seconds * 1e9))


def _facts(model: Model, task: LoadedTask) -> dict[str, Any]:
    """A task's kind, what its inputs may be, and its outputs."""
    told: dict[str, Any] = {}
    for decoder in task.decoders.values():
        told |= decoder.describe()
    inputs = {
        name: {"datatypes": port.datatypes, "shape": [-1, *port.shape], "optional": port.optional} | told.get(name, {})
        for name, port in ports_of(model, task).items()
    }
    outputs = {name: {"datatype": one.datatype, "shape": [-1, *one.shape]} for name, one in outlets_of(task).items()}
    return {"kind": task.task.kind, "inputs": inputs, "outputs": outputs}

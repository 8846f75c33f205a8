"""A model's classes: what its data set says of them goes into its bundle."""

from collections.abc import Mapping
from typing import Any

import msgspec

from ganserve.spec import Input, Spec
from ganserve_trainers.data.labels import Classes

CONFIG = "labelled"
"""The key under which the configuration of a trained run has its :class:`Classes`, where its preset has any."""


def with_classes(spec: Spec, config: Mapping[str, Any]) -> Spec:
    """``spec`` whose labels may be given by name and are drawn as often as they came in the data, if ``config`` has its classes."""
    if CONFIG not in config:
        return spec
    classes: Classes = config[CONFIG]
    known = {name: value for name, value in msgspec.structs.asdict(classes).items() if value}

    def told(source: Input) -> Input:
        if source.codec != "label":
            return source
        return msgspec.structs.replace(source, options={**source.options, **known})

    tasks = (msgspec.structs.replace(task, inputs=tuple(map(told, task.inputs))) for task in spec.tasks)
    return msgspec.structs.replace(spec, tasks=tuple(tasks))

"""The part of the chart's schema that the code knows better: every setting of the server, with its type, range and explanation."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ganserve.commands.serve import command

SCHEMA = Path(__file__).parent.parent / "deploy" / "helm" / "ganserve" / "values.schema.json"

OWN = ("host", "port", "metrics-port", "grace", "cache-dir")
"""Options that the chart sets itself, from values of its own or for good."""


def schema() -> str:
    """``values.schema.json``: as it is, but for ``settings``."""
    found = json.loads(SCHEMA.read_text())
    found["properties"]["settings"] = {
        "description": "Options of `ganserve serve`, by their names without dashes.",
        "type": "object",
        "additionalProperties": False,
        "properties": dict(sorted(_settings().items())),
    }
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _settings() -> Mapping[str, Any]:
    return {
        name: {"description": option.help, **_type(option)}
        for option in command.params
        if isinstance(option, click.Option)
        for name in _names(option)
        if name not in OWN
    }


def _names(option: click.Option) -> list[str]:
    """The option's name; of an on/off flag both, each of which is said by true."""
    return [max(names, key=len).lstrip("-") for names in (option.opts, option.secondary_opts) if names]


def _type(option: click.Option) -> dict[str, Any]:
    if option.is_flag:
        return {"type": "boolean"}
    if option.multiple:
        return {"type": "array", "items": _kind(option.type)}
    return _kind(option.type)


def _kind(kind: click.ParamType[Any]) -> dict[str, Any]:
    match kind:
        case click.Choice():
            return {"type": "string", "enum": list(kind.choices)}
        case click.IntRange() | click.FloatRange():
            bounds = {"minimum": kind.min, "maximum": kind.max}
            number = "integer" if isinstance(kind, click.IntRange) else "number"
            return {"type": number, **{name: bound for name, bound in bounds.items() if bound is not None}}
        case _:
            return {"type": "string"}

"""What the pages of all starter bundles share: how the bundle was trained, and files that appear whole."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ganserve.errors import BundleError


def training(provenance: Mapping[str, Any]) -> str:
    """How the bundle was trained, in Markdown: the commands, then every other fact of the manifest's provenance."""
    missing = [name for name in ("command", "seed") if name not in provenance]
    if missing:
        raise BundleError(
            f"the manifest's provenance has no {' and no '.join(missing)}: a starter bundle must say how it was trained"
        )
    own = {name: value for name, value in provenance.items() if name not in ("command", "begun_from")}
    facts = "\n".join(f"| {name} | {value} |" for name, value in flat(own))
    before = provenance.get("begun_from")
    if not before:
        return f"```\n{provenance['command']}\n```\n\n| | |\n|---|---|\n{facts}"
    runs = [(before["images"] + provenance["images_seen"], provenance["command"])]
    while before:
        runs.insert(0, (before["images"], before["command"]))
        before = before.get("begun_from")
    commands = "\n".join(f"# {images:,}\n{command}" for images, command in runs)
    ends = "Each run began from the one before, and was stopped when all together had seen as many images as stands above it."
    return f"```sh\n{commands}\n```\n\n{ends} Of the last one:\n\n| | |\n|---|---|\n{facts}"


def flat(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """``facts`` as names and values; the names of nested ones are joined by dots, empty ones left out."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif value not in ("", [], None):
            yield f"{prefix}{name}", str(value).replace("|", "\\|")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, to a temporary name first."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)

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
    facts = "\n".join(f"| {name} | {value} |" for name, value in flat(provenance) if not name.endswith("command"))
    commands, run = [], provenance
    while run:
        commands.insert(0, run["command"])
        run = run.get("begun_from")
    ends = "\n\nA run ends where `images_seen` says, whatever length was asked for; `begun_from.images` are all that were seen before it."
    return f"```\n{chr(10).join(commands)}\n```{ends if len(commands) > 1 else ''}\n\n| | |\n|---|---|\n{facts}"


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

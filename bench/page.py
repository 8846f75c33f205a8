"""What the pages of all starter bundles share: how the bundle was trained, and files that appear whole."""

from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from ganserve.bundle import Manifest
from ganserve.errors import BundleError


def training(manifest: Manifest) -> str:
    """How a bundle was trained, in Markdown: the commands, every other fact of the manifest's provenance, and which weights came of it."""
    provenance = manifest.provenance
    missing = [name for name in ("command", "seed") if name not in provenance]
    if missing:
        raise BundleError(
            f"the manifest's provenance has no {' and no '.join(missing)}: a starter bundle must say how it was trained"
        )
    own = {name: value for name, value in provenance.items() if name not in ("command", "begun_from")}
    own |= {f"{name} (sha256)": file.sha256 for name, file in manifest.files.items() if name.startswith("weights")}
    facts = "\n".join(f"| {name} | {value} |" for name, value in flat(own))
    if not provenance.get("begun_from"):
        return f"```\n{provenance['command']}\n```\n\n| | |\n|---|---|\n{facts}"
    runs = [(provenance["images_seen"], provenance["command"])]
    before = provenance["begun_from"]
    while before:
        # What `images` says of a run includes those that it began from.
        earlier = before.get("begun_from")
        runs.insert(0, (before["images"] - (earlier["images"] if earlier else 0), before["command"]))
        before = earlier
    totals = accumulate(images for images, _ in runs)
    commands = "\n".join(
        f"# {images / 1000:g} kimg, {total:,} images in all\n{command}"
        for (images, command), total in zip(runs, totals, strict=True)
    )
    ends = "Each run began from the one before, and was stopped after the thousands of images that stand above it: with those as `--kimg` it ends there."
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

"""The classes of emoji: what ``dataset.json`` of the captioned data set says of each drawing.

Unicode sorts emoji into categories ("Smileys & Emotion") of subcategories ("face-smiling"), most of them too small to learn. A
class is a subcategory that has :data:`OWN` drawings; of the others, those whose names share a first word ("face", "animal",
"food"), then what is left of a category, where there are :data:`SHARED` together; and "other" is the rest.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

OWN = 40
"""A subcategory of so many drawings is a class of its own."""

SHARED = 20
"""What several subcategories share is a class if they have so many drawings together."""

OTHER = "other"
"""The class of what fits nowhere else; in names of subcategories the word says nothing."""


def classes(entries: Iterable[Mapping[str, Any]]) -> Mapping[str, str]:
    """File name → class, for every emoji of emoji.json and each of its skin variations."""
    drawings = [
        (drawing["image"], entry)
        for entry in entries
        for drawing in (entry, *entry.get("skin_variations", {}).values())
    ]
    found: dict[str, str] = {}
    for name, least in ((_subcategory, OWN), (_word, SHARED), (_category, SHARED)):
        rest = [(image, name(entry)) for image, entry in drawings if image not in found]
        counts = Counter(kind for _, kind in rest)
        found |= {image: kind for image, kind in rest if kind != OTHER and counts[kind] >= least}
    return {image: found.get(image, OTHER) for image, _ in drawings}


def _subcategory(entry: Mapping[str, Any]) -> str:
    return str(entry["subcategory"])


def _word(entry: Mapping[str, Any]) -> str:
    return _subcategory(entry).replace(" ", "-").split("-")[0]


def _category(entry: Mapping[str, Any]) -> str:
    return f"{OTHER} {entry['category'].lower()}"

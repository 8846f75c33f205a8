"""How ``make data`` sorts emoji into classes."""

from typing import Any

from tools.emoji_classes import OTHER, OWN, SHARED, classes


def entry(image: str, category: str, subcategory: str, variations: int = 0) -> dict[str, Any]:
    tones = {str(tone): {"image": f"{image}-{tone}"} for tone in range(variations)}
    return {"image": image, "category": category, "subcategory": subcategory, "skin_variations": tones}


def test_a_subcategory_is_a_class_or_shares_one() -> None:
    found = classes(
        [
            entry("wave", "People", "hand-open", variations=OWN - 1),  # enough of its own, variations counted
            entry("smile", "Smileys", "face-smiling", variations=SHARED // 2 - 1),
            entry("grin", "Smileys", "face-tongue", variations=SHARED - SHARED // 2 - 1),  # enough with the other faces
            entry("anger", "Smileys", "emotion"),  # nothing is left of its category
            entry("gun", "Objects", "weapon", variations=SHARED - 2),
            entry("bin", "Objects", "other-object"),  # "other" is no word to share, but the category has enough left
        ]
    )
    assert {found[name] for name in ("wave", "wave-0", f"wave-{OWN - 2}")} == {"hand-open"}
    assert {found[name] for name in ("smile", "smile-0", "grin")} == {"face"}
    assert found["anger"] == OTHER
    assert found["gun"] == found["gun-0"] == found["bin"] == "other objects"

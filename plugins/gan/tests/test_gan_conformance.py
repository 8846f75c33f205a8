"""gan holds what every family must hold."""

from collections.abc import Mapping
from typing import ClassVar

from ganserve.testing import FamilyConformance


class TestGan(FamilyConformance):
    family = "gan"
    parameters: ClassVar[Mapping[tuple[str, str], int]] = {
        ("mnist-28", "generator"): 2_503_984,
        ("mnist-28", "discriminator"): 1_231_441,
    }

"""cyclegan holds what every family must hold."""

from collections.abc import Mapping
from typing import ClassVar

from ganserve.testing import FamilyConformance


class TestCyclegan(FamilyConformance):
    family = "cyclegan"
    parameters: ClassVar[Mapping[tuple[str, str], int]] = {
        ("paper-256", "a2b"): 11_378_179,
        ("paper-256", "b2a"): 11_378_179,
        ("paper-256", "discriminator_a"): 2_764_737,
        ("paper-256", "discriminator_b"): 2_764_737,
        ("resnet6-128", "a2b"): 7_837_699,
    }

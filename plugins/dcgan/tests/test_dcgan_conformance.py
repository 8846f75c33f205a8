"""dcgan holds what every family must hold."""

from collections.abc import Mapping
from typing import ClassVar

from ganserve.testing import FamilyConformance


class TestDcgan(FamilyConformance):
    family = "dcgan"
    parameters: ClassVar[Mapping[tuple[str, str], int]] = {
        ("paper-64", "generator"): 18_855_043,
        ("cifar10-32", "generator"): 3_448_579,
    }

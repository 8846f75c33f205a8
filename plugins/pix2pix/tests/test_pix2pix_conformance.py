"""pix2pix holds what every family must hold."""

from collections.abc import Mapping
from typing import ClassVar

from ganserve.testing import FamilyConformance


class TestPix2pix(FamilyConformance):
    family = "pix2pix"
    parameters: ClassVar[Mapping[tuple[str, str], int]] = {
        ("paper-256", "generator"): 54_413_955,
        ("paper-256", "discriminator"): 2_768_705,
    }

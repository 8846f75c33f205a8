"""dcgan holds what every family must hold."""

from ganserve.testing import FamilyConformance


class TestDcgan(FamilyConformance):
    family = "dcgan"

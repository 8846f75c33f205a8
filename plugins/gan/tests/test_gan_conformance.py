"""gan holds what every family must hold."""

from ganserve.testing import FamilyConformance


class TestGan(FamilyConformance):
    family = "gan"

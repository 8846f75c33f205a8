"""What plugin authors test with: conformance suites to inherit, a real server in a block, and the echo bundle. Needs pytest."""

from ganserve.testing.engines import EngineConformance
from ganserve.testing.family import FamilyConformance
from ganserve.testing.server import serving

__all__ = ["EngineConformance", "FamilyConformance", "serving"]

"""stylegan2 holds what every family must hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from ganserve.bundle import Bundle
from ganserve.testing import FamilyConformance
from ganserve_trainers.run import load_run


class TestStylegan2(FamilyConformance):
    family = "stylegan2"
    parameters: ClassVar[Mapping[tuple[str, str], int]] = {
        ("paper-256", "mapping"): 2_101_248,
        ("paper-256", "synthesis"): 30_034_338 - 2_101_248,
    }

    def test_the_bundle_has_the_average_that_was_trained(self, run: Path, bundle: Bundle) -> None:
        """To the bit: nothing but training moves it."""
        trained = load_run(run).networks["mapping"].w_avg
        assert trained.any()
        graph = next(graph for graph in bundle.manifest.graphs if graph.name == "mapping")
        with np.load(bundle.folder / "golden.npz") as rows:
            average = rows[f"{graph.name}.w_avg"]
        assert np.array_equal(average, np.broadcast_to(trained.numpy(), average.shape))

    def test_the_bundle_has_directions(self, bundle: Bundle) -> None:
        """Ten, of which each moves w."""
        found = bundle.manifest.directions
        assert sorted(found) == sorted(f"sefa-{place}" for place in range(10))
        assert {direction.tensor for direction in found.values()} == {"w"}

"""dfgan holds what every family must hold, and its text graph does not see padding."""

import numpy as np
import pytest

from ganserve.bundle import Bundle
from ganserve.engines import Options, Session
from ganserve.plugins import installed, resolve
from ganserve.testing import FamilyConformance
from ganserve_dfgan import PADDING

pytest.importorskip("tokenizers")


class TestDfgan(FamilyConformance):
    family = "dfgan"

    def test_padding_changes_no_bit(self, bundle: Bundle) -> None:
        """Of any length, alone and in a batch, on the engine that promises it; another text gives another vector."""
        graph = bundle.manifest.graph("text")
        load = resolve(installed().engine("onnxruntime").load)
        session: Session = load(bundle.path(graph.file), Options(graph=graph, threads=1))

        def vector(ids: np.ndarray, length: int) -> bytes:
            row = np.zeros((2, 1, length), np.int64)
            row[0, 0, : len(ids)], row[1, 0, : len(ids)] = ids, 1
            feeds = {"ids": session.upload(row[0]), "mask": session.upload(row[1])}
            return session.download(session.run(feeds, ["text"])["text"]).tobytes()

        dice = np.random.default_rng(0)
        found = set()
        for length in (1, 2, 7, 8, 9, 15, 16):
            ids = dice.integers(4, 40, length)
            least = -(-length // PADDING) * PADDING
            vectors = {vector(ids, least + more) for more in (0, PADDING, 3 * PADDING)}
            assert len(vectors) == 1, f"{length} tokens depend on their padding"
            found |= vectors
        assert len(found) == 7

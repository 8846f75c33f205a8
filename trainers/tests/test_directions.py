"""Directions found in networks: closed-form factorization by its definition, and what export does with them."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import torch

from ganserve import bundle
from ganserve.errors import ExportError, SpecError
from ganserve.plugins import installed, resolve
from ganserve.spec import Family
from ganserve_trainers.directions import Found, export_directions, sefa

pytestmark = pytest.mark.usefixtures("one_registry")

WEIGHTS = [torch.randn(size, 12, generator=torch.Generator().manual_seed(size)) for size in (20, 8, 5)]


def test_factorized_directions_are_orthonormal_and_change_the_weights_output_most() -> None:
    found = sefa(WEIGHTS, "w", count=12)
    assert list(found) == [f"sefa-{number}" for number in range(12)]
    vectors = np.stack([one.vector for one in found.values()])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(12), atol=1e-6)
    stack = torch.cat(WEIGHTS).numpy()
    changes = np.linalg.norm(stack @ vectors.T, axis=0)
    assert (np.diff(changes) <= 0).all()
    np.testing.assert_allclose(changes, np.linalg.svd(stack, compute_uv=False), rtol=1e-5)
    random = np.random.default_rng(1).standard_normal((1000, 12))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    assert np.linalg.norm(stack @ random.T, axis=0).max() < changes[0]


def test_all_layers_are_moved_alike_and_signs_are_fixed() -> None:
    flat, layered = sefa(WEIGHTS, "w", count=3), sefa([-weight for weight in WEIGHTS], "w", layers=4, count=3)
    for name, one in layered.items():
        assert one.vector.shape == (4, 12)
        np.testing.assert_allclose(one.vector, np.repeat(flat[name].vector[None], 4, axis=0), atol=1e-6)
        assert one.vector[0, np.abs(one.vector[0]).argmax()] > 0
        assert (one.tensor, one.source[:26]) == ("w", "closed-form factorization ")


@pytest.fixture
def finder() -> Iterator[ModuleType]:
    """A module whose ``directions`` a family may name."""
    module = ModuleType("finder_of_directions")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def family(finder: ModuleType, found: Mapping[str, Found]) -> Family:
    finder.directions = lambda config, networks: found  # type: ignore[attr-defined]
    return msgspec.structs.replace(installed().family("dcgan"), directions=f"{finder.__name__}:directions")


def written(finder: ModuleType, found: Mapping[str, Found], folder: Path) -> Mapping[str, bundle.Direction]:
    record = family(finder, found)
    config = record.config("tiny")
    return export_directions(record, record.spec(config), config, resolve(record.build)(config), folder)


def test_what_a_family_finds_is_written_beside_its_graphs(finder: ModuleType, tmp_path: Path) -> None:
    vectors = np.eye(16, dtype=np.float32)[:2]
    found = written(
        finder, {name: Found("z", vector, "by hand") for name, vector in zip("ab", vectors, strict=True)}, tmp_path
    )
    assert {name: (one.tensor, one.file, one.source) for name, one in found.items()} == dict.fromkeys(
        "ab", ("z", "directions.npz", "by hand")
    )
    with np.load(tmp_path / "directions.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(np.stack([arrays["a"], arrays["b"]]), vectors)
    assert [path.name for path in tmp_path.iterdir()] == ["directions.npz"]


def test_a_family_that_finds_none_writes_nothing(finder: ModuleType, tmp_path: Path) -> None:
    assert written(finder, {}, tmp_path) == {}
    record = installed().family("dcgan")
    assert export_directions(record, record.spec(record.config("tiny")), {}, {}, tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "found", "error", "message"),
    [
        ("a", Found("w", np.zeros(16, np.float32), ""), ExportError, "'a' moves 'w', which is no latent.*there are z"),
        (
            "a",
            Found("z", np.zeros(5, np.float32), ""),
            ExportError,
            r"'a' is float32\[5\], its latent 'z' float32\[16\]",
        ),
        ("a", Found("z", np.zeros(16), ""), ExportError, r"'a' is float64\[16\]"),
        ("a", Found("z", np.full(16, np.nan, np.float32), ""), ExportError, "'a' has NaN or infinity"),
        ("../a", Found("z", np.zeros(16, np.float32), ""), SpecError, "direction name '../a' is not allowed"),
    ],
)
def test_a_direction_that_moves_nothing_is_refused(
    finder: ModuleType, tmp_path: Path, name: str, found: Found, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        written(finder, {name: found}, tmp_path)

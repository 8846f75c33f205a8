"""The picture decoder against damaged files; bench/fuzz_pictures.py does the same by the hundred thousand."""

import contextlib
import importlib.util
import io
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from ganserve.codecs import GivenImage, PictureLimits

BENCH = Path(__file__).parents[1] / "bench"
FILES = 3000


@contextlib.contextmanager
def loaded(name: str) -> Iterator[ModuleType]:
    """A script of bench/, as a module that others can import for as long as the context lasts."""
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@pytest.fixture(scope="module")
def hostile() -> Iterator[ModuleType]:
    with loaded("hostile_pictures") as module:
        yield module


@pytest.fixture(scope="module")
def fuzz(hostile: ModuleType) -> Iterator[ModuleType]:
    with loaded("fuzz_pictures") as module:
        yield module


def test_every_sound_file_is_decoded(hostile: ModuleType, fuzz: ModuleType) -> None:
    colours, numbers = fuzz.decoders()[:-1], fuzz.decoders()[-1]
    for seed in hostile.corpus():
        given = GivenImage(data=seed.data, **seed.given)
        for decoder in colours:
            assert fuzz.outcome(given, decoder) == "decoded", seed.name
        assert fuzz.outcome(given, numbers).startswith(("decoded", "refused"))


def test_a_profile_of_inks_is_applied(hostile: ModuleType, fuzz: ModuleType) -> None:
    inks = Image.new("CMYK", (32, 16), (200, 90, 0, 0))
    inks.paste((0, 0, 0, 255), (16, 0, 32, 16))
    buffer = io.BytesIO()
    inks.save(buffer, "JPEG", quality=100, icc_profile=hostile.ink_profile())
    pixels = fuzz.decoders()[1].picture(GivenImage(data=buffer.getvalue()), PictureLimits()).pixels
    assert pixels[:, :16].min() >= 253
    assert pixels[:, 16:].max() <= 2


def test_damaged_files_are_decoded_or_refused_and_nothing_else(hostile: ModuleType, fuzz: ModuleType) -> None:
    seeds, decoders, counts = hostile.corpus(), fuzz.decoders(), Counter[str]()
    for number in range(FILES):
        made = hostile.case(number, 1, seeds, len(decoders))
        counts[fuzz.outcome(made.given, decoders[made.decoder])] += 1
    assert sum(counts.values()) == FILES
    # Damage must reach every depth: pixels that are still decoded, and refusals of many kinds.
    assert FILES // 20 < counts["decoded"] < FILES // 2
    assert len(counts) > 20


def test_a_file_depends_on_the_seed_and_its_number_alone(hostile: ModuleType) -> None:
    seeds = hostile.corpus()
    made = [hostile.case(number, 5, seeds, 3) for number in range(50)]
    assert [hostile.case(number, 5, seeds, 3) for number in reversed(range(50))][::-1] == made
    assert made != [hostile.case(number, 6, seeds, 3) for number in range(50)]

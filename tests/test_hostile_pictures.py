"""The picture decoder against damaged files; `python -m bench.chaos.fuzz pictures` does the same by the hundred thousand."""

import io
import random
from collections import Counter

from PIL import Image

from bench.chaos import fuzz_pictures as fuzz
from bench.chaos import hostile_pictures as hostile
from ganserve.codecs import GivenImage, PictureLimits

FILES = 3000


def test_every_sound_file_is_decoded() -> None:
    colours, numbers = fuzz.decoders()[:-1], fuzz.decoders()[-1]
    for seed in hostile.sound():
        given = GivenImage(data=seed.data, **seed.given)
        for decoder in colours:
            assert fuzz.outcome(given, decoder) == "decoded", seed.name
        assert fuzz.outcome(given, numbers).startswith(("decoded", "refused"))


def test_a_profile_of_inks_is_applied() -> None:
    inks = Image.new("CMYK", (32, 16), (200, 90, 0, 0))
    inks.paste((0, 0, 0, 255), (16, 0, 32, 16))
    buffer = io.BytesIO()
    inks.save(buffer, "JPEG", quality=100, icc_profile=hostile.ink_profile())
    pixels = fuzz.decoders()[1].picture(GivenImage(data=buffer.getvalue()), PictureLimits()).pixels
    assert pixels[:, :16].min() >= 253
    assert pixels[:, 16:].max() <= 2


def test_damaged_files_are_decoded_or_refused_and_nothing_else() -> None:
    dice, seeds, decoders, counts = random.Random(1), hostile.sound(), fuzz.decoders(), Counter[str]()
    for _ in range(FILES):
        seed = dice.choice(seeds)
        made = hostile.damaged(dice, GivenImage(data=seed.data, **seed.given), seeds, len(decoders))
        counts[fuzz.outcome(made.given, decoders[made.decoder])] += 1
    assert sum(counts.values()) == FILES
    # Damage must reach every depth: pixels that are still decoded, and refusals of many kinds.
    assert FILES // 20 < counts["decoded"] < FILES // 2
    assert len(counts) > 20


def test_an_input_is_a_picture_and_all_that_is_said_of_it() -> None:
    given = GivenImage(data=b"\n\x89PNG", format="raw", width=-1, size="native", background=(1, 2, 3), restore=True)
    assert fuzz.read(fuzz.written(hostile.Case(3, given))) == hostile.Case(3, given)

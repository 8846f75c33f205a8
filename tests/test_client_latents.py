"""Both clients' work in latent spaces, and what they make of the answers."""

import asyncio
import inspect

import numpy as np
import pytest
from PIL import Image

from ganserve import AsyncClient, Client, errors
from ganserve.client import DirectionInfo, LatentInfo, Mixture, Point, Sample, WalkFrame, mixing_sheet
from ganserve.client.latents import NORMALIZATIONS, WALKS, Terms
from ganserve.codecs.seeds import draw
from ganserve.serving.latents import combine, frames_of, interpolate
from ganserve.testing.echo import SIZE, Z_NOISE
from ganserve.testing.echo_style import DIRECTIONS, LAYERS, picture_of, w_of, write_style_bundle
from ganserve.testing.server import serving

MODEL = "echo-style"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(write_style_bundle(tmp_path_factory.mktemp("bundles") / MODEL)) as found:
        yield found


def blocking(address, method, *args, **options):
    with Client(address) as client:
        found = getattr(client, method)(*args, **options)
        return list(found) if inspect.isgenerator(found) else found


def awaiting(address, method, *args, **options):
    async def call():
        async with AsyncClient(address) as client:
            found = getattr(client, method)(*args, **options)
            return [one async for one in found] if inspect.isasyncgen(found) else await found

    return asyncio.run(call())


@pytest.fixture(params=[blocking, awaiting])
def call(request, server):
    def call(method, *args, **options):
        return request.param(server.address, method, MODEL, *args, **{"task": "sample", **options})

    return call


def at(seed, index=0, **options):
    return Point(seed=seed, index=index, label=0, **options)


def z_of(*seeds):
    return draw(Z_NOISE, np.array([(seed, 0) for seed in seeds], np.uint64), (SIZE,))


def test_a_walk_yields_frames_with_their_places(call):
    frames = call("interpolate", [at(1), at(2), at(3)], 4, returns=["w"], format="raw")
    w = interpolate(w_of(z_of(1, 2, 3)), frames_of(3, 4, loop=False), "lerp")
    assert all(isinstance(one, WalkFrame) for one in frames)
    assert [(one.frame, one.position) for one in frames] == [(n, n / 4) for n in range(9)]
    np.testing.assert_array_equal(np.stack([one.tensors["w"] for one in frames]), w)
    np.testing.assert_array_equal(np.stack([one.array() for one in frames]), picture_of(w))
    assert frames[0].served.model == MODEL
    assert frames[0].seed is None


def test_keys_may_be_seeds_pairs_arrays_and_points(call):
    array = np.full(SIZE, 0.5)
    keys = [1, np.int64(2), (2, 7), array, array.tolist(), Point(seed=1, directions={"first": 3}), Point(tensor=array)]
    frames = call("interpolate", keys, 1, latent="z", label="circle", returns=["z"])
    expected = [z_of(1)[0], z_of(2)[0], draw(Z_NOISE, np.array([(2, 7)], np.uint64), (SIZE,))[0], array, array]
    expected += [z_of(1)[0] + np.float32(3) * DIRECTIONS["first"][1], array]
    for frame, z in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame.tensors["z"], np.float32(z))


def test_a_walk_may_be_closed_and_its_way_chosen(call):
    keys = list(np.random.default_rng(1).standard_normal((3, LAYERS, SIZE)).astype(np.float32))
    frames = call("interpolate", keys, 2, walk="slerp", loop=True, returns=["w"])
    expected = interpolate(np.stack(keys), frames_of(3, 2, loop=True), "slerp", layers=True)
    np.testing.assert_array_equal(np.stack([one.tensors["w"] for one in frames]), expected)


def test_mixtures_say_what_they_are_made_of(call):
    mixtures = call("mix", [at(1), at(2)], [at(3), at(4), at(5)], range(1, 3), grid=True, format="raw")
    assert all(isinstance(one, Mixture) for one in mixtures)
    assert [(one.base, one.style) for one in mixtures] == [(base, style) for base in range(2) for style in range(3)]
    for one in mixtures:
        w = w_of(z_of(1 + one.base))
        w[:, 1:3] = w_of(z_of(3 + one.style))[:, 1:3]
        np.testing.assert_array_equal(one.array(), picture_of(w)[0])


@pytest.mark.parametrize("terms", [{1: 1.0, (2, 0): -0.5}, [(1, 1.0), (Point(seed=2), -0.5)]])
@pytest.mark.parametrize("normalization", [None, "mean", "length"])
def test_a_sum_is_one_image(call, terms: Terms, normalization):
    found = call("combine", terms, normalization=normalization, latent="z", label=0, returns=["z"], format="raw")
    z = combine(z_of(1, 2), [1, -0.5], normalization or "none")
    assert type(found) is Sample
    np.testing.assert_array_equal(found.tensors["z"], z[0])
    np.testing.assert_array_equal(found.array(), picture_of(w_of(z))[0])


def test_samples_are_moved_along_directions(call):
    found = call("sample", labels=0, seed=4, directions={"brighter": [0, 2.5], "warmer": 1}, returns=["w"])
    w = w_of(draw(Z_NOISE, np.array([(4, 0), (4, 1)], np.uint64), (SIZE,)))
    w = w + np.float32([0, 2.5])[:, None, None] + DIRECTIONS["warmer"][1]
    assert len(found) == 2
    np.testing.assert_allclose(found.tensor("w"), w, rtol=1e-6)


def test_all_that_making_images_reads_reaches_the_server(call):
    frames = call(
        "interpolate",
        [z_of(1)[0], z_of(2)[0]],
        1,
        task="refine",
        latent="z",
        label="star",
        numbers={"psi": 0.5},
        tensors={"noise": np.zeros((1, SIZE))},
        seed=3,
        index=9,
        format="webp",
        quality=80,
        returns=["w", "noise"],
        version=1,
    )
    again = call(
        "sample",
        task="refine",
        labels="star",
        tensors={"z": z_of(1), "noise": np.zeros((1, SIZE))},
        numbers={"psi": 0.5},
        seed=3,
        first_index=9,
        format="webp",
        quality=80,
    )
    np.testing.assert_array_equal(frames[0].array(), again[0].array())
    assert frames[0].format == "webp"
    assert not frames[0].tensors["noise"].any()


@pytest.mark.parametrize(
    ("method", "args", "options", "field"),
    [
        ("interpolate", ([1, Point()],), {}, "keys[1]"),
        ("interpolate", ([1, Point(seed=1, tensor=[1.0])],), {}, "keys[1]"),
        ("interpolate", ([1, -1],), {}, "keys[1].seed"),
        ("interpolate", ([1, (1, 2**64)],), {}, "keys[1].index"),
        ("interpolate", ([1, Point(seed=2, label=2**63)],), {}, "keys[1].label"),
        ("interpolate", ([1, np.array(["a"])],), {}, "keys[1].tensor"),
        ("interpolate", ([1, 2], 2**31), {}, "frames"),
        ("interpolate", ([1, 2],), {"walk": "crawl"}, "walk"),
        ("interpolate", ([1, 2],), {"seed": -1}, "making.seed"),
        ("interpolate", ([1, 2],), {"format": "gif"}, "output.image_format"),
        ("mix", ([1], [2], [2**31]), {}, "layers[0]"),
        ("mix", ([Point()], [2], [0]), {}, "bases[0]"),
        ("mix", ([1], [2], [0]), {"tensors": {"noise": np.zeros(1, np.complex64)}}, "making.tensors[noise]"),
        ("combine", ({1: 1},), {"normalization": "median"}, "normalization"),
        ("combine", ([(Point(), 1)],), {}, "terms[0].point"),
    ],
)
def test_what_no_message_can_hold_is_refused_here(method, args, options, field):
    client = Client("localhost:1")  # nobody listens there: it is never asked
    with client, pytest.raises(errors.InvalidArgument) as caught:
        getattr(client, method)("echo-style", *args, **options)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_the_servers_violations_arrive_by_their_paths(call):
    with pytest.raises(errors.InvalidArgument) as caught:
        call("mix", [1, at(2)], [at(3)], [0, 9])
    assert [one.field for one in caught.value.violations] == ["layers[1]"]
    with pytest.raises(errors.InvalidArgument) as caught:
        call("mix", [1, at(2)], [at(3)], [0])
    assert [one.field for one in caught.value.violations] == ["bases[0].label"]


def test_models_tell_their_latents_and_directions(server):
    with Client(server.address) as client:
        task = client.model(MODEL).tasks[0]
    assert task.latents == {"z": LatentInfo(walk="slerp", layers=False), "w": LatentInfo(walk="lerp", layers=True)}
    assert task.directions["warmer"] == DirectionInfo(tensor="w", source="written by hand")


def test_names_are_those_of_the_protocol():
    assert set(WALKS) == {"lerp", "slerp"}
    assert set(NORMALIZATIONS) == {"mean", "length"}


def test_a_sheet_has_bases_on_the_left_and_styles_on_top(server):
    bases, styles = [at(1), at(2)], [at(3), at(4), at(5)]
    with Client(server.address) as client:
        sources = [one.image() for one in client.interpolate(MODEL, bases + styles, 1, task="sample")]
        mixtures = list(client.mix(MODEL, bases, styles, [0], grid=True, task="sample"))
    sheet = mixing_sheet(mixtures, sources[:2], sources[2:], gap=1)
    assert sheet.size == (4 * SIZE + 3, 3 * SIZE + 2)

    def cell(row, column):
        left, top = column * (SIZE + 1), row * (SIZE + 1)
        return np.asarray(sheet.crop((left, top, left + SIZE, top + SIZE)))

    assert (cell(0, 0) == 255).all()
    for number, source in enumerate(sources):
        np.testing.assert_array_equal(cell(number + 1, 0) if number < 2 else cell(0, number - 1), np.asarray(source))
    for one in mixtures:
        np.testing.assert_array_equal(cell(one.base + 1, one.style + 1), np.asarray(one.image()))
    assert isinstance(sheet, Image.Image)

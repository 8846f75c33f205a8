"""Work on latents over gRPC: every frame, mixture, sum and edit by hand, in whatever batch, and every refusal by its field."""

import math
import random
import re
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from ganserve.codecs.label import draw_labels
from ganserve.codecs.seeds import draw
from ganserve.serving.latents import combine, frames_of, interpolate
from ganserve.testing.echo import LABELS, SIZE, Z_NOISE, write_bundle
from ganserve.testing.echo_style import DIRECTIONS, LAYERS, noise_of, picture_of, w_of, write_style_bundle
from ganserve.testing.server import serving
from ganserve.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    latents_pb2,
    latents_pb2_grpc,
    media_pb2,
    models_pb2,
    models_pb2_grpc,
)

MODEL = "echo-style"
RAW = media_pb2.OutputOptions(image_format=media_pb2.IMAGE_FORMAT_RAW)
ZERO = generation_pb2.Label(index=0)


class Up:
    """A server with the style bundle, and stubs for it."""

    def __init__(self, server, channel):
        self.server = server
        self.generation = generation_pb2_grpc.GenerationStub(channel)
        self.latents = latents_pb2_grpc.LatentsStub(channel)
        self.models = models_pb2_grpc.ModelsStub(channel)

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.metrics_port}/metrics") as reply:
            return reply.read().decode()

    def metric(self, series):
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.metrics(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def until(self, condition):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    write_style_bundle(folder / MODEL)
    write_bundle(folder / "echo")
    with serving(folder, max_rows=64) as server:
        options = [("grpc.enable_retries", 0)]
        with grpc.insecure_channel(server.address, options=options) as channel:
            yield Up(server, channel)


def tensor(array):
    array = np.asarray(array, np.float32)
    return media_pb2.Tensor(data_type=media_pb2.DATA_TYPE_FLOAT32, shape=array.shape, data=array.tobytes())


def array(message):
    return np.frombuffer(message.data, np.float32).reshape(tuple(message.shape))


def point(seed=None, index=0, *, label=0, **fields):
    if seed is not None:
        fields["seed"] = generation_pb2.SeedIndex(seed=seed, index=index)
    if label is not None:
        fields["label"] = generation_pb2.Label(index=label)
    return latents_pb2.Point(**fields)


def given(array, **fields):
    return latents_pb2.Point(tensor=tensor(array), **fields)


def making(**fields):
    return latents_pb2.Making(**{"output": RAW, **fields})


def pixels(message):
    image = message.media.image
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, image.channels)


def z_of(seed, index=0):
    return draw(Z_NOISE, np.array([(seed, index)], np.uint64), (SIZE,))


def walk(keys, frames=1, **fields):
    return latents_pb2.InterpolateRequest(
        **{"model": MODEL, "task": "sample", "keys": keys, "frames": frames, "making": making(), **fields}
    )


def mixing(bases, styles, layers=(0,), **fields):
    return latents_pb2.MixRequest(
        **{
            "model": MODEL,
            "task": "sample",
            "bases": bases,
            "styles": styles,
            "layers": layers,
            "making": making(),
            **fields,
        }
    )


def sum_of(*terms, **fields):
    return latents_pb2.CombineRequest(
        **{
            "model": MODEL,
            "task": "sample",
            "terms": [latents_pb2.Term(point=point, weight=weight) for point, weight in terms],
            "making": making(),
            **fields,
        }
    )


def sample(**fields):
    fields = {"labels": [ZERO], **fields} if "w" not in fields.get("tensors", {}) else fields
    return generation_pb2.SampleRequest(**{"model": MODEL, "task": "sample", "output": RAW, **fields})


def strengths(**directions):
    return {name: generation_pb2.Numbers(values=np.atleast_1d(values)) for name, values in directions.items()}


# Sample with directions


def test_rows_are_moved_between_what_makes_the_latent_and_what_reads_it(up):
    reply = up.generation.Sample(
        sample(count=3, seed=4, directions=strengths(brighter=[0, 1, -2], first=0.5), return_tensors=["z", "w"])
    )
    for row, moved in enumerate([0, 1, -2]):
        z = z_of(4, row) + np.float32(0.5) * DIRECTIONS["first"][1]
        w = w_of(z) + np.float32(moved)
        found = reply.samples[row]
        assert array(found.tensors["z"]).tobytes() == z[0].tobytes()
        assert array(found.tensors["w"]).tobytes() == w[0].tobytes()
        np.testing.assert_array_equal(pixels(found), picture_of(w)[0])


def test_a_given_latent_is_moved_too(up):
    w = np.random.default_rng(1).standard_normal((2, LAYERS, SIZE)).astype(np.float32)
    reply = up.generation.Sample(
        sample(tensors={"w": tensor(w)}, directions=strengths(warmer=2, brighter=-1), return_tensors=["w"])
    )
    moved = w + np.float32(-1) * DIRECTIONS["brighter"][1] + np.float32(2) * DIRECTIONS["warmer"][1]
    np.testing.assert_allclose(np.stack([array(one.tensors["w"]) for one in reply.samples]), moved, rtol=1e-6)
    for row, one in enumerate(reply.samples):
        np.testing.assert_array_equal(pixels(one), picture_of(array(one.tensors["w"])[None])[0])
        assert row == 0 or not (pixels(one) == pixels(reply.samples[0])).all()


def test_a_strength_of_0_changes_no_bit(up):
    w = np.array([[[-0.0, 1e-42, 3, -3]] * LAYERS], np.float32)
    for directions in ({}, strengths(warmer=0, brighter=0)):
        reply = up.generation.Sample(sample(tensors={"w": tensor(w)}, directions=directions, return_tensors=["w"]))
        assert reply.samples[0].tensors["w"].data == w.tobytes()


def test_what_is_on_the_way_of_a_loop_is_moved_before_it(up):
    plain = up.generation.Sample(sample(task="refine", seed=3, count=1, return_tensors=["z", "y"])).samples[0]
    moved = up.generation.Sample(
        sample(task="refine", seed=3, count=1, return_tensors=["z", "y"], directions=strengths(first=4))
    ).samples[0]
    step = 4 * DIRECTIONS["first"][1]
    np.testing.assert_allclose(array(moved.tensors["z"]) - array(plain.tensors["z"]), step, atol=1e-6)
    np.testing.assert_allclose(array(moved.tensors["y"]) - array(plain.tensors["y"]), step / 4, atol=1e-6)


def test_a_row_is_moved_alike_whatever_is_batched_with_it(up):
    """Three hundred random calls at once, edited in every way, each equal to what a formula says."""
    rng = random.Random(5)

    def call(_):
        rows = rng.randint(1, 5)
        seeds = [rng.getrandbits(64) for _ in range(rows)]
        moves = {name: [rng.choice([0.0, 0.5, -3.0]) for _ in range(rows)] for name in DIRECTIONS if rng.random() < 0.5}
        return seeds, moves, sample(seeds=seeds, directions=strengths(**moves), return_tensors=["w"])

    calls = [call(number) for number in range(300)]
    with ThreadPoolExecutor(16) as pool:
        replies = pool.map(lambda one: up.generation.Sample(one[2]), calls)
    for (seeds, moves, _), reply in zip(calls, replies, strict=True):
        for row, found in enumerate(reply.samples):
            z = z_of(seeds[row])
            if strength := moves.get("first", [0] * len(seeds))[row]:
                z = z + np.float32(strength) * DIRECTIONS["first"][1]
            w = w_of(z)
            for name in ("brighter", "warmer"):
                if strength := moves.get(name, [0] * len(seeds))[row]:
                    w = w + np.float32(strength) * DIRECTIONS[name][1]
            assert array(found.tensors["w"]).tobytes() == w[0].tobytes()
            np.testing.assert_array_equal(pixels(found), picture_of(w)[0])


# Interpolate


@pytest.mark.parametrize("latent", ["z", "w"])
@pytest.mark.parametrize("loop", [False, True])
def test_a_walk_is_streamed_in_order_and_at_its_keys_equals_what_sample_makes(up, latent, loop):
    keys = [point(seed, label=None if latent == "z" else 0) for seed in (1, 2, 9)]
    fields = {"label": ZERO} if latent == "z" else {}
    replies = list(
        up.latents.Interpolate(
            walk(keys, frames=5, latent=latent, loop=loop, making=making(return_tensors=["w"], **fields))
        )
    )
    places = frames_of(3, 5, loop=loop)
    assert [one.frame for one in replies] == list(range(15 if loop else 11))
    assert [one.position for one in replies] == [key + part for key, part in places]
    z = np.concatenate([z_of(1), z_of(2), z_of(9)])
    w = w_of(interpolate(z, places, "slerp")) if latent == "z" else interpolate(w_of(z), places, "lerp")
    for row, one in enumerate(replies):
        assert array(one.tensors["w"]).tobytes() == w[row].tobytes()
        np.testing.assert_array_equal(pixels(one), picture_of(w[row : row + 1])[0])
    samples = up.generation.Sample(sample(seeds=[1, 2, 9])).samples
    assert [one.media for one in replies[::5]] == [one.media for one in samples]
    assert list(replies[0].served.engines) == ["onnxruntime"] * 2
    assert replies[0].served.determinism == generation_pb2.DETERMINISM_BIT_EXACT
    assert set(replies[0].served.seconds) == {"queue", "engine", "encode", "total"}


def test_the_walk_may_be_chosen_and_is_the_latents_own_otherwise(up):
    w = np.random.default_rng(3).standard_normal((2, LAYERS, SIZE)).astype(np.float32)
    for number, kind in ((latents_pb2.WALK_UNSPECIFIED, "lerp"), (1, "lerp"), (2, "slerp")):
        replies = up.latents.Interpolate(
            walk([given(w[0]), given(w[1])], frames=3, walk=number, making=making(return_tensors=["w"]))
        )
        expected = interpolate(w, frames_of(2, 3, loop=False), kind, layers=True)
        np.testing.assert_array_equal(np.stack([array(one.tensors["w"]) for one in replies]), expected)


def test_points_of_every_kind_may_meet_in_one_walk(up):
    w = np.full((LAYERS, SIZE), 0.25, np.float32)
    keys = [
        point(1),
        given(w),
        point(2, index=7, label=2, numbers={"psi": 0.5}, truncation=0.7),
        given(w, directions={"warmer": 1}),
        point(3, label=1),
        point(4, directions={"brighter": -1, "first": 2}),
    ]
    replies = list(up.latents.Interpolate(walk(keys, making=making(return_tensors=["w"]))))
    truncated = draw(Z_NOISE, np.array([(2, 7)], np.uint64), (SIZE,), truncation=np.array([0.7]))
    expected = [
        w_of(z_of(1))[0],
        w,
        w_of(truncated, label=2, psi=0.5)[0],
        w + DIRECTIONS["warmer"][1],
        w_of(z_of(3), label=1)[0],
        w_of(z_of(4) + np.float32(2) * DIRECTIONS["first"][1])[0] - np.float32(1),
    ]
    for row, one in enumerate(replies):
        assert array(one.tensors["w"]).tobytes() == expected[row].tobytes(), row


def test_a_label_may_be_drawn_from_the_seed_of_a_point(up):
    replies = list(
        up.latents.Interpolate(
            walk([point(5, label=None), point(6, label=None)], task="drawn", making=making(return_tensors=["w"]))
        )
    )
    for seed, one in zip((5, 6), replies, strict=True):
        label = draw_labels(np.array([(seed, 0)], np.uint64), len(LABELS))[0]
        assert array(one.tensors["w"]).tobytes() == w_of(z_of(seed), label=label)[0].tobytes()
    samples = up.generation.Sample(
        generation_pb2.SampleRequest(model=MODEL, task="drawn", seeds=[5, 6], output=RAW)
    ).samples
    assert [one.media for one in replies] == [one.media for one in samples]


def test_what_making_still_draws_comes_from_its_own_seed_for_all_images(up):
    seed = generation_pb2.SeedIndex(seed=8, index=1)
    z = z_of(1)[0]
    fields = {"task": "refine", "latent": "z"}
    replies = list(
        up.latents.Interpolate(walk([given(z), given(z)], frames=4, making=making(label=ZERO, seed=seed), **fields))
    )
    assert len({one.media.image.data for one in replies}) == 1
    expected = up.generation.Sample(
        sample(task="refine", seed=8, first_index=1, tensors={"z": tensor(z[None])})
    ).samples[0]
    assert replies[0].media == expected.media


def test_making_has_its_own_noise_tensors_and_format(up):
    keys = [point(1), point(2)]
    found = list(up.latents.Interpolate(walk(keys, making=making(numbers={"noise_seed": 5}))))
    np.testing.assert_array_equal(pixels(found[0]), picture_of(w_of(z_of(1)), noise_of(5))[0])
    still = making(tensors={"noise": tensor(np.zeros((1, SIZE)))}, return_tensors=["noise"])
    found = list(up.latents.Interpolate(walk(keys, making=still)))
    np.testing.assert_array_equal(pixels(found[1]), picture_of(w_of(z_of(2)), np.zeros(SIZE, np.float32))[0])
    webp = latents_pb2.Making(output=media_pb2.OutputOptions(image_format=media_pb2.IMAGE_FORMAT_WEBP, quality=50))
    assert next(iter(up.latents.Interpolate(walk(keys, making=webp)))).media.image.data[8:12] == b"WEBP"


@pytest.fixture
def gate(up, monkeypatch):
    """A semaphore that lets one batch of ``synthesis`` pass at a time."""
    session = up.server.server.repository.get(MODEL).graphs["synthesis"].session
    passes, run = threading.Semaphore(0), session.run

    def held(feeds, outputs):
        assert passes.acquire(timeout=60)
        return run(feeds, outputs)

    monkeypatch.setattr(session, "run", held)
    yield passes
    passes.release(100)


def test_a_walk_that_is_left_frees_its_rows_and_is_counted(up, gate):
    call = up.latents.Interpolate(walk([point(1), point(2)], frames=63, task="drawn"))
    up.until(lambda: up.metric('ganserve_queue_rows{device="cpu"}') == 32)
    call.cancel()
    up.until(lambda: up.metric('ganserve_queue_rows{device="cpu"}') == 0)
    gate.release()
    up.until(lambda: up.metric("ganserve_in_flight_requests") == 0)
    assert up.metric(f'ganserve_requests_total{{code="CANCELLED",model="{MODEL}",task="drawn"}}') == 1


def test_frames_are_sent_while_later_ones_wait(up, gate):
    call = up.latents.Interpolate(walk([point(1), point(2)], frames=63))
    up.until(lambda: up.metric('ganserve_queue_rows{device="cpu"}') == 32)
    gate.release()
    assert [next(call).frame for _ in range(32)] == list(range(32))
    gate.release()
    assert [one.frame for one in call] == list(range(32, 64))


def test_a_deadline_holds(up):
    with pytest.raises(grpc.RpcError) as error:
        list(up.latents.Interpolate(walk([point(1), point(2)], frames=63), timeout=1e-4))
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


# Mix


def test_a_grid_mixes_every_base_with_every_style_base_by_base(up):
    bases, styles = [1, 2], [3, 4, 5]
    replies = list(
        up.latents.Mix(
            mixing(
                [point(seed) for seed in bases],
                [point(seed) for seed in styles],
                layers=[0, 2],
                grid=True,
                making=making(return_tensors=["w"]),
            )
        )
    )
    assert [(one.base, one.style) for one in replies] == [(base, style) for base in range(2) for style in range(3)]
    for one in replies:
        w = w_of(z_of(bases[one.base]))
        w[:, [0, 2]] = w_of(z_of(styles[one.style]))[:, [0, 2]]
        assert array(one.tensors["w"]).tobytes() == w[0].tobytes()
        np.testing.assert_array_equal(pixels(one), picture_of(w)[0])


def test_pairs_are_mixed_one_by_one_and_one_base_or_style_serves_all(up):
    three, one = [point(seed) for seed in (1, 2, 3)], [point(9)]
    for bases, styles, pairs in (
        (three, three, [(0, 0), (1, 1), (2, 2)]),
        (one, three, [(0, 0), (0, 1), (0, 2)]),
        (three, one, [(0, 0), (1, 0), (2, 0)]),
    ):
        replies = list(up.latents.Mix(mixing(bases, styles)))
        assert [(found.base, found.style) for found in replies] == pairs


def test_all_layers_from_one_source_are_that_source(up):
    samples = [one.media for one in up.generation.Sample(sample(seeds=[1, 2])).samples]
    points = [point(1), point(2)]
    everything = list(up.latents.Mix(mixing(points[:1], points[1:], layers=range(LAYERS))))
    assert [one.media for one in everything] == samples[1:]
    same = list(up.latents.Mix(mixing(points, points, layers=[1])))
    assert [one.media for one in same] == samples


# Combine


def test_a_sum_of_points_is_an_image(up):
    reply = up.latents.Combine(
        sum_of(
            (point(1), 1),
            (point(2), -0.5),
            (given(np.ones((LAYERS, SIZE))), 2),
            making=making(return_tensors=["w"]),
        )
    )
    points = np.concatenate([w_of(z_of(1)), w_of(z_of(2)), np.ones((1, LAYERS, SIZE), np.float32)])
    w = combine(points, [1, -0.5, 2], layers=True)
    assert array(reply.tensors["w"]).tobytes() == w[0].tobytes()
    np.testing.assert_array_equal(pixels(reply), picture_of(w)[0])


@pytest.mark.parametrize(
    ("number", "name"), [(latents_pb2.NORMALIZATION_MEAN, "mean"), (latents_pb2.NORMALIZATION_LENGTH, "length")]
)
def test_a_sum_may_be_normalized(up, number, name):
    terms = [(point(1, label=None), 1), (point(2, label=None), 2)]
    reply = up.latents.Combine(
        sum_of(*terms, latent="z", normalization=number, making=making(label=ZERO, return_tensors=["z"]))
    )
    expected = combine(np.concatenate([z_of(1), z_of(2)]), [1, 2], name)
    assert array(reply.tensors["z"]).tobytes() == expected[0].tobytes()


def test_a_single_term_is_what_sample_makes(up):
    assert up.latents.Combine(sum_of((point(3), 1))).media == up.generation.Sample(sample(seeds=[3])).samples[0].media


# Refusals


def refused(call):
    def run():
        found = call()
        return list(found) if isinstance(found, grpc.Call) else found

    with pytest.raises(grpc.RpcError) as error:
        run()
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT, error.value
    (detail,) = rpc_status.from_call(error.value).details
    bad = error_details_pb2.BadRequest()
    assert detail.Unpack(bad)
    return {one.field: one.description for one in bad.field_violations}


ONE, TWO, THREE = point(1), point(2), point(3)
NAN = np.full((LAYERS, SIZE), np.nan, np.float32)
EMPTY = latents_pb2.Point()
UNKNOWN = "has no such direction; its directions are brighter, warmer, first"

WALKS = [
    (walk([ONE]), {"keys": "1 points; expected 2 to 64"}),
    (walk([ONE] * 65), {"keys": "65 points"}),
    (walk([ONE, TWO], frames=0), {"frames": "0 frames from key to key; expected 1 or more"}),
    (walk([ONE, TWO], frames=64), {"frames": "they make 65 images of 2 keys; at most 64"}),
    (walk([ONE, TWO], frames=33, loop=True), {"frames": "they make 66 images"}),
    (walk([ONE, TWO], frames=2**31 - 1), {"frames": "at most 64"}),
    (walk([ONE, TWO], latent="y"), {"latent": "task 'sample' has no latent 'y'; it has z, w"}),
    (walk([ONE, TWO], task="plain"), {"latent": "task 'plain' has no latent; it has none"}),
    (walk([ONE, TWO], walk=7), {"walk": "7 is unknown; expected 0 to 2"}),
    (walk([ONE, EMPTY]), {"keys[1]": "empty; give a seed, a tensor or a prompt"}),
    (walk([ONE, point(2, label=None)]), {"keys[1].label": "needs label, or the tensor 'label' itself"}),
    (walk([ONE, point(2, label=9)]), {"keys[1].label": "9 is no class of this model"}),
    (
        walk([ONE, latents_pb2.Point(seed=generation_pb2.SeedIndex(seed=1), label=generation_pb2.Label())]),
        {"keys[1].label": "empty; give an index or a name"},
    ),
    (walk([ONE, point(2, truncation=99)]), {"keys[1].truncation": "99.0 is out of range"}),
    (walk([ONE, point(2, numbers={"psi": 3})]), {"keys[1].numbers[psi]": "3 is refused"}),
    (walk([ONE, point(2, numbers={"nope": 3})]), {"keys[1].numbers[nope]": "not used; task 'sample' reads seed"}),
    (walk([ONE, point(2, numbers={"noise_seed": 3})]), {"keys[1].numbers[noise_seed]": "not used"}),
    (walk([ONE, point(2, numbers={"seed": 3})]), {"keys[1].numbers[seed]": "has a field of its own"}),
    (
        walk([ONE, given(np.zeros((LAYERS, SIZE)), truncation=1)]),
        {"keys[1].truncation": "not used because w was given"},
    ),
    (walk([ONE, given(np.zeros((LAYERS, SIZE)), label=ZERO)]), {"keys[1].label": "not used because w"}),
    (walk([ONE, given(np.zeros(SIZE))]), {"keys[1].tensor": "its shape is [4]; expected float32[3, 4]"}),
    (walk([ONE, given(np.zeros((1, LAYERS, SIZE)))]), {"keys[1].tensor": "its shape is [1, 3, 4]"}),
    (walk([ONE, given(NAN)]), {"keys[1].tensor": "it has NaN"}),
    (walk([ONE, point(2, directions={"wamer": 1})]), {"keys[1].directions[wamer]": UNKNOWN}),
    (walk([ONE, point(2, directions={"warmer": math.inf})]), {"keys[1].directions[warmer]": "inf is out of range"}),
    (
        walk([ONE, given(np.zeros((LAYERS, SIZE)), directions={"first": 1})]),
        {"keys[1].directions[first]": "not used because w was given: it moves 'z'"},
    ),
    (
        walk([ONE, point(2, label=None, directions={"warmer": 1})], latent="z"),
        {"keys[0].label": "not used", "keys[1].directions[warmer]": "not used: it moves 'w'"},
    ),
    (
        walk([point(1, label=9), EMPTY, point(2, truncation=0)]),
        {"keys[1]": "empty"},
    ),
    (
        walk([point(1, label=9), point(2, truncation=0), point(3, label=7)]),
        {"keys[0].label": "9", "keys[1].truncation": "0.0 is", "keys[2].label": "7"},
    ),
    (walk([ONE, TWO], making=making(label=ZERO)), {"making.label": "not used because w was given"}),
    (walk([ONE, TWO], making=making(truncation=1)), {"making.truncation": "not used"}),
    (walk([ONE, TWO], making=making(numbers={"noise_seed": -1})), {"making.numbers[noise_seed]": "-1 is refused"}),
    (walk([ONE, TWO], making=making(numbers={"label": 1})), {"making.numbers[label]": "has a field of its own"}),
    (walk([ONE, TWO], making=making(return_tensors=["no"])), {"making.return_tensors": "'no' is no tensor"}),
    (walk([ONE, TWO], making=making(tensors={"w": tensor(np.zeros((1, 3, 4)))})), {"making.tensors[w]": "the points"}),
    (walk([ONE, TWO], making=making(tensors={"z": tensor(np.zeros((1, 4)))})), {"making.tensors[z]": "not used"}),
    (walk([ONE, TWO], making=making(tensors={"noise": tensor(np.zeros((2, 4)))})), {"making.tensors[noise]": "2 rows"}),
    (
        walk([ONE, TWO], making=making(output=media_pb2.OutputOptions(quality=5))),
        {"making.output.quality": "png is exact"},
    ),
    (
        walk([ONE, TWO], making=making(output=media_pb2.OutputOptions(image_format=99))),
        {"making.output.image_format": "99 is unknown"},
    ),
    (
        walk([point(1, label=None), point(2, label=None)], latent="z"),
        {"making.label": "needs label, or the tensor 'label' itself"},
    ),
    (
        walk([point(1, label=None), point(2, label=None)], latent="z", task="drawn"),
        {"making.label": "needs label or seed"},
    ),
    (
        walk([point(1, label=None)] * 2, latent="z", task="refine", making=making(label=ZERO)),
        {"making.seed": "is missing: task 'refine' draws noise on the way"},
    ),
    (walk([ONE, TWO], model=""), {"model": "empty"}),
    (walk([ONE, TWO], version=-1), {"version": "-1; expected 1 or more"}),
]


@pytest.mark.parametrize(
    ("message", "expected"), WALKS, ids=lambda value: ",".join(value) if isinstance(value, dict) else ""
)
def test_what_is_wrong_with_a_walk_is_named_by_its_path(up, message, expected):
    found = refused(lambda: up.latents.Interpolate(message))
    assert found.keys() == expected.keys()
    for field, text in expected.items():
        assert text in found[field]


MIXES = [
    (mixing([], [ONE]), {"bases": "0 points; expected 1 to 64"}),
    (mixing([ONE], []), {"styles": "0 points"}),
    (mixing([ONE, TWO], [ONE, TWO, THREE]), {"styles": "3 styles for 2 bases; give as many, or one for all"}),
    (mixing([ONE] * 9, [ONE] * 8, grid=True), {"grid": "9 bases and 8 styles make 72 images; at most 64"}),
    (mixing([ONE], [TWO], layers=[]), {"layers": "empty: nothing would come from the styles; expected some of 0 to 2"}),
    (mixing([ONE], [TWO], layers=[0, 3]), {"layers[1]": "there is no layer 3 in 'w'; expected 0 to 2"}),
    (mixing([ONE], [TWO], layers=[-1]), {"layers[0]": "there is no layer -1"}),
    (mixing([ONE], [TWO], latent="z"), {"latent": "task 'sample' has no latent with layers 'z'; it has w"}),
    (mixing([ONE], [TWO], task="plain"), {"latent": "task 'plain' has no latent with layers; it has none"}),
    (mixing([ONE, TWO, given(np.zeros(4))], [ONE]), {"bases[2].tensor": "its shape is [4]"}),
    (mixing([ONE], [TWO, point(3, label=8)]), {"styles[1].label": "8 is no class"}),
]


@pytest.mark.parametrize(
    ("message", "expected"), MIXES, ids=lambda value: ",".join(value) if isinstance(value, dict) else ""
)
def test_what_is_wrong_with_a_mixture_is_named_by_its_path(up, message, expected):
    found = refused(lambda: up.latents.Mix(message))
    assert found.keys() == expected.keys()
    for field, text in expected.items():
        assert text in found[field]


MEAN, LENGTH = latents_pb2.NORMALIZATION_MEAN, latents_pb2.NORMALIZATION_LENGTH
HUGE = np.full((LAYERS, SIZE), 3e38, np.float32)

SUMS = [
    (sum_of(), {"terms": "0 terms; expected 1 to 64"}),
    (sum_of(*[(ONE, 1)] * 65), {"terms": "65 terms"}),
    (sum_of((ONE, math.nan)), {"terms[0].weight": "nan is out of range"}),
    (sum_of((ONE, 1), (TWO, 1e7)), {"terms[1].weight": "10000000.0 is out of range; expected -1e+06 to 1e+06"}),
    (sum_of((ONE, 1), (EMPTY, 1)), {"terms[1].point": "empty; give a seed, a tensor or a prompt"}),
    (sum_of((ONE, 1), (point(1, label=5), 1)), {"terms[1].point.label": "5 is no class"}),
    (sum_of((ONE, 1), (TWO, -1), normalization=MEAN), {"normalization": "add up to 0"}),
    (sum_of((ONE, 1), (ONE, -1), normalization=LENGTH), {"terms": "the sum is 0, which has no direction"}),
    (sum_of((given(HUGE), 2)), {"terms": "the sum is too large for float32"}),
    (sum_of((ONE, 1), normalization=9), {"normalization": "9 is unknown; expected 0 to 2"}),
    (sum_of((ONE, 1), max_reply_bytes=10), {"max_reply_bytes": "raise max_reply_bytes, or ask for a smaller format"}),
]


@pytest.mark.parametrize(
    ("message", "expected"), SUMS, ids=lambda value: ",".join(value) if isinstance(value, dict) else ""
)
def test_what_is_wrong_with_a_sum_is_named_by_its_path(up, message, expected):
    found = refused(lambda: up.latents.Combine(message))
    assert found.keys() == expected.keys()
    for field, text in expected.items():
        assert text in found[field]


SAMPLES = [
    ({"directions": strengths(wamer=1)}, {"directions[wamer]": UNKNOWN}),
    ({"directions": strengths(warmer=[1, 2, 3])}, {"directions[warmer]": "3 values for 2 rows"}),
    ({"directions": strengths(warmer=[1, math.nan])}, {"directions[warmer]": "nan is out of range"}),
    (
        {"tensors": {"w": tensor(np.zeros((2, LAYERS, SIZE)))}, "directions": strengths(first=1)},
        {"directions[first]": "not used because w was given: it moves 'z', on which the result does not depend"},
    ),
    (
        {"task": "plain", "directions": strengths(first=1)},
        {"directions[first]": "task 'plain' has no such direction; its directions are none"},
    ),
]


@pytest.mark.parametrize(("fields", "expected"), SAMPLES)
def test_what_is_wrong_with_the_directions_of_a_sample_is_named(up, fields, expected):
    found = refused(lambda: up.generation.Sample(sample(count=2, **fields)))
    assert found.keys() == expected.keys()
    for field, text in expected.items():
        assert text in found[field]


def test_no_refusal_runs_anything(up):
    """The calls above computed nothing for what they refused but for sums, which only the points decide."""
    before = re.findall(rf'ganserve_batch_rows_count{{model="{MODEL}"}} (\S+)', up.metrics())
    for message, _ in WALKS:
        refused(lambda message=message: up.latents.Interpolate(message))
    assert re.findall(rf'ganserve_batch_rows_count{{model="{MODEL}"}} (\S+)', up.metrics()) == before


def test_a_model_that_is_not_there_is_not_found(up):
    with pytest.raises(grpc.RpcError) as error:
        up.latents.Combine(sum_of((ONE, 1), model="nobody"))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


# What there is


def test_models_get_tells_latents_and_directions(up):
    found = up.models.Get(models_pb2.GetRequest(model=MODEL))
    task = next(task for task in found.tasks if task.name == "sample")
    assert [(one.tensor, one.walk, one.layers) for one in task.latents] == [("z", "slerp", False), ("w", "lerp", True)]
    assert [(one.name, one.tensor, one.source) for one in task.directions] == [
        (name, tensor, "written by hand") for name, (tensor, _) in DIRECTIONS.items()
    ]
    plain = next(task for task in found.tasks if task.name == "plain")
    assert not plain.latents
    assert not plain.directions

"""Invert over gRPC: right latents, every refusal, progress, time, batches, and callers who go. The echo bundle's generator is linear."""

import asyncio
import contextlib
import io
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from ganserve import hookimpl
from ganserve.bundle import read, write_manifest
from ganserve.codecs.seeds import draw
from ganserve.engines import Options, Session
from ganserve.engines import onnxruntime as real
from ganserve.plugins import Plugins, installed, load
from ganserve.quality import psnr, ssim
from ganserve.serving.inversion import SAMPLES
from ganserve.serving.model import EngineChoice, Settings
from ganserve.serving.server import Server, ServerSettings, running
from ganserve.serving.stage import LoadedGraph
from ganserve.spec import Engine
from ganserve.testing.echo_inversion import NOISE, RATE, STEPS, image_of, search_of, write_inversion_bundle
from ganserve.testing.echo_inversion_graphs import SHAPE, SIZE
from ganserve.v1 import generation_pb2, generation_pb2_grpc, inversion_pb2_grpc, media_pb2, models_pb2, models_pb2_grpc
from ganserve.v1 import inversion_pb2 as pb

RAW = media_pb2.OutputOptions(image_format=media_pb2.IMAGE_FORMAT_RAW)


class Watched:
    """A real session that remembers the rows of each run, may be slow, and waits while its gate is shut."""

    def __init__(self, session: Session) -> None:
        self.session, self.batch_invariant = session, session.batch_invariant
        self.batches: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.held = False
        self.seconds = 0.0

    def upload(self, array: np.ndarray) -> Any:
        return self.session.upload(array)

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> Mapping[str, Any]:
        self.held = True
        assert self.open.wait(60)
        self.held = False
        time.sleep(self.seconds)
        self.batches.append(next(iter(feeds.values())).shape()[0])
        return self.session.run(feeds, outputs)

    def download(self, value: Any) -> np.ndarray:
        return self.session.download(value)

    def close(self) -> None:
        self.open.set()
        self.session.close()


class Up:
    """A server on this event loop and the stubs of its services."""

    def __init__(self, server: Server, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.inversion = inversion_pb2_grpc.InversionStub(channel)
        self.generation = generation_pb2_grpc.GenerationStub(channel)
        self.channel = channel

    def watch(self, graph: str = "invert", model: str = "echo-inversion") -> Watched:
        """``graph`` watched; ask for it before any request."""
        graphs = self.server.repository.get(model).graphs
        assert isinstance(graphs, dict)
        watched = Watched(graphs[graph].session)
        graphs[graph] = LoadedGraph(graphs[graph].graph, graphs[graph].engine, watched)
        return watched

    async def invert(self, message: pb.InvertRequest, **call: Any) -> tuple[list[pb.InvertProgress], pb.InvertResult]:
        """All progress, and the result."""
        # To its end: a call that is let go before is cancelled, and may be counted as such.
        replies = [reply async for reply in self.inversion.Invert(message, **call)]
        assert [reply.HasField("result") for reply in replies] == [False] * (len(replies) - 1) + [True]
        return [reply.progress for reply in replies[:-1]], replies[-1].result

    async def result(self, message: pb.InvertRequest, **call: Any) -> pb.InvertResult:
        return (await self.invert(message, **call))[1]

    def metric(self, name: str, **labels: str) -> float:
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.002)

    async def idle(self) -> None:
        await self.until(lambda: self.metric("ganserve_in_flight_requests") == 0)
        assert self.metric("ganserve_queue_rows", device="cpu") == 0


@contextlib.asynccontextmanager
async def up(*bundles: Path, plugins: Plugins | None = None, **given: Any) -> AsyncIterator[Up]:
    engines = given.pop("engines", (EngineChoice("onnxruntime"),))
    models = Settings(threads=1, max_batch=given.pop("max_batch", 32), engines=engines)
    settings = ServerSettings(bundles=bundles, port=0, metrics_port=None, models=models, encode_threads=1, **given)
    async with running(settings, plugins or installed()) as server:
        options = [("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
            await server.ready.wait()
            yield Up(server, channel)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inversion_bundle(tmp_path_factory.mktemp("bundles") / "echo-inversion")


@pytest.fixture
async def one(bundle: Path) -> AsyncIterator[Up]:
    async with up(bundle) as found:
        yield found


def latents(seed: int, count: int = 1) -> np.ndarray:
    return draw(NOISE, np.array([(seed, index) for index in range(count)], np.uint64), (SIZE,))


def raw(picture: np.ndarray) -> media_pb2.Image:
    height, width, channels = picture.shape
    return media_pb2.Image(
        format=media_pb2.IMAGE_FORMAT_RAW, width=width, height=height, channels=channels, data=picture.tobytes()
    )


Z = latents(3)[0]
TARGET = image_of(Z[None])[0]


def request(**fields: Any) -> pb.InvertRequest:
    return pb.InvertRequest(
        **{"model": "echo-inversion", "output": RAW, "image": raw(TARGET), "start": pb.START_AVERAGE, **fields}
    )


def tensor(array: np.ndarray) -> media_pb2.Tensor:
    kinds = {"float32": media_pb2.DATA_TYPE_FLOAT32, "uint8": media_pb2.DATA_TYPE_UINT8}
    return media_pb2.Tensor(data_type=kinds[array.dtype.name], shape=array.shape, data=array.tobytes())


def floats(message: media_pb2.Tensor) -> np.ndarray:
    return np.frombuffer(message.data, np.float32).reshape(tuple(message.shape))


def pixels(media: media_pb2.Media) -> np.ndarray:
    return np.frombuffer(media.image.data, np.uint8).reshape(media.image.height, media.image.width, -1)


def violations(error: grpc.RpcError) -> dict[str, str]:
    found = {}
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found |= {one.field: one.description for one in bad.field_violations}
    return found


# What is found.


async def test_a_search_takes_the_steps_that_can_be_said_by_hand(one: Up) -> None:
    for steps, rate in ((STEPS, RATE), (7, 0.3)):
        numbers = {"rate": rate} if rate != RATE else {}
        progress, result = await one.invert(
            request(steps=0 if steps == STEPS else steps, numbers=numbers, progress_every=1)
        )
        by_hand = search_of(TARGET, np.zeros(SIZE), steps, rate)
        np.testing.assert_allclose(floats(result.latents["z"]), by_hand.latent, atol=2e-3)
        assert result.loss == pytest.approx(by_hand.loss, rel=0.05, abs=1e-6)
        assert (result.steps, result.stopped_early, result.start) == (steps, False, pb.START_AVERAGE)
        for said in progress:
            assert said.loss == pytest.approx(by_hand.losses[said.step - 1], rel=1e-3, abs=1e-6)


async def test_a_picture_that_the_model_made_is_found_again_from_every_start(one: Up) -> None:
    given = tensor(Z + np.float32(0.5))
    for start, more in (
        (pb.START_AVERAGE, {}),
        (pb.START_SAMPLES, {}),
        (pb.START_ENCODER, {"steps": 2}),
        (pb.START_GIVEN, {"latent": given}),
    ):
        result = await one.result(request(start=start, **more))
        assert result.start == start
        assert result.quality.psnr > 50
        assert np.abs(floats(result.latents["z"]) - Z).max() < 0.05


async def test_the_result_says_how_near_it_is_what_was_read_and_what_served_it(one: Up) -> None:
    result = await one.result(request(steps=8))
    made = pixels(result.reconstruction)
    assert (made == image_of(floats(result.latents["z"])[None])[0]).all()
    assert result.quality.psnr == pytest.approx(psnr(made, TARGET))
    assert result.quality.ssim == pytest.approx(ssim(made, TARGET))
    assert not result.quality.HasField("ms_ssim")
    assert 0 < result.quality.perceptual < 0.5
    apart = (127.5 + made.astype(float) - 127.5 - TARGET) / 127.5
    assert result.loss == pytest.approx((apart**2).mean(), rel=0.02)
    assert result.quality.perceptual == pytest.approx(np.abs(apart).mean(), rel=0.02)
    assert (result.image.width, result.image.height, result.image.pictures) == (16, 16, 1)
    served = result.served
    assert (served.model, served.version, list(served.engines)) == ("echo-inversion", 1, ["onnxruntime"] * 3)
    assert served.determinism == generation_pb2.DETERMINISM_BIT_EXACT
    assert set(served.seconds) == {"decode", "queue", "engine", "encode", "total"}
    assert 0 < served.seconds["engine"] < served.seconds["total"]
    assert one.metric("ganserve_inversion_steps_total", model="echo-inversion") == 8
    assert one.metric("ganserve_images_total", model="echo-inversion") == 1
    # A stream is counted when the server has let it go, which the client may hear of first.
    await one.until(
        lambda: one.metric("ganserve_requests_total", model="echo-inversion", task="invert", code="OK") == 1
    )
    assert not result.HasField("seed")


async def test_the_latent_goes_straight_back_into_sample(one: Up) -> None:
    result = await one.result(request(steps=20))
    latent = floats(result.latents["z"])
    reply = await one.generation.Sample(
        generation_pb2.SampleRequest(model="echo-inversion", tensors={"z": tensor(latent[None])}, output=RAW)
    )
    assert reply.samples[0].media == result.reconstruction


async def test_the_start_is_the_best_that_the_task_has(bundle: Path, tmp_path: Path) -> None:
    plain = write_inversion_bundle(tmp_path / "plain", name="plain", encoder=False)
    async with up(bundle, plain) as one:
        assert (await one.result(request(start=0, steps=1))).start == pb.START_ENCODER
        assert (await one.result(request(model="plain", start=0, steps=1))).start == pb.START_SAMPLES


async def test_the_best_of_the_samples_is_the_start(one: Up) -> None:
    drawn = latents(7, 24)
    losses = [search_of(TARGET, row, until=1).loss for row in drawn]
    for samples in (1, 2, SAMPLES, 24):
        asked = request(start=pb.START_SAMPLES, seed=7, samples=0 if samples == SAMPLES else samples, steps=1)
        result = await one.result(asked)
        best = int(np.argmin(losses[:samples]))
        assert (result.seed.seed, result.seed.index) == (7, best)
        assert (floats(result.latents["z"]) == drawn[best]).all()
        assert result.loss == pytest.approx(losses[best], rel=1e-4)
    scaled = await one.result(request(start=pb.START_SAMPLES, seed=7, samples=1, steps=1, numbers={"psi": 0.5}))
    np.testing.assert_allclose(floats(scaled.latents["z"]), drawn[0] / 2)


async def test_without_a_seed_one_is_chosen_and_told(one: Up) -> None:
    first = await one.result(request(start=pb.START_SAMPLES, steps=2))
    assert first.HasField("seed")
    again = await one.result(request(start=pb.START_SAMPLES, steps=2, seed=first.seed.seed))
    assert (again.latents, again.seed) == (first.latents, first.seed)
    other = await one.result(request(start=pb.START_SAMPLES, steps=2))
    assert other.seed.seed != first.seed.seed


async def test_a_search_goes_on_from_the_latent_that_progress_carried(one: Up) -> None:
    asked = request(steps=60, progress_every=20, progress_latents=True)
    progress, _ = await one.invert(asked)
    last = progress[-1]
    on = await one.result(request(start=pb.START_GIVEN, latent=last.latent, steps=1))
    assert on.loss <= last.loss
    assert (floats(on.latents["z"]) == floats(last.latent)).all()


async def test_pictures_of_other_sizes_and_formats_are_fitted(one: Up) -> None:
    large = np.asarray(Image.fromarray(TARGET).resize((64, 48), Image.Resampling.NEAREST))
    buffer = io.BytesIO()
    Image.fromarray(large).save(buffer, "WEBP", lossless=True)
    sent = media_pb2.Image(data=buffer.getvalue())
    stretched = await one.result(request(image=sent))
    assert (stretched.image.width, stretched.image.height) == (64, 48)
    assert stretched.quality.psnr > 30
    boxed = await one.result(
        request(image=sent, size=generation_pb2.SIZE_POLICY_LETTERBOX, background=generation_pb2.Color(blue=255))
    )
    assert boxed.quality.psnr < 20, "blue bars are nothing that the model makes"


# Progress.


async def test_progress_comes_every_so_many_steps_with_what_was_asked_for(one: Up) -> None:
    watched = one.watch()
    watched.seconds = 0.01
    progress, _ = await one.invert(request(steps=10, progress_every=3, previews=True, progress_latents=True))
    assert [said.step for said in progress] == [3, 6, 9]
    assert {said.steps for said in progress} == {10}
    assert [said.seconds for said in progress] == sorted(said.seconds for said in progress)
    for said in progress:
        by_hand = search_of(TARGET, np.zeros(SIZE), 10, until=said.step)
        np.testing.assert_allclose(floats(said.latent), by_hand.latent, atol=1e-3)
        moment = search_of(TARGET, np.zeros(SIZE), 10, until=said.step)
        assert said.loss == pytest.approx(moment.losses[-1], rel=1e-3)
        assert pixels(said.preview).shape == SHAPE
    # The loss falls in this search, so the picture of the moment is that of the best latent.
    assert (pixels(progress[-1].preview) == image_of(floats(progress[-1].latent)[None])[0]).all()
    bare, _ = await one.invert(request(steps=10, progress_every=5))
    assert [said.step for said in bare] == [5]
    assert not bare[0].HasField("preview")
    assert not bare[0].HasField("latent")
    assert (await one.invert(request(steps=10, progress_every=10)))[0] == [], "the result follows at once"


# Refusals.


GIVEN = {"start": pb.START_GIVEN, "latent": tensor(Z)}

REFUSED: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"model": ""}, {"model": "empty; give a name that Models.List lists"}),
    ({"image": None}, {"image": "missing; give the picture whose latent is sought"}),
    ({"image": media_pb2.Image()}, {"image.data": "empty; send a PNG, JPEG or WebP file"}),
    ({"image": media_pb2.Image(data=b"no picture")}, {"image": "is no PNG, JPEG or WebP file"}),
    ({"image": media_pb2.Image(data=b"x", format=media_pb2.IMAGE_FORMAT_NPY_FLOAT)}, {"image.format": "is no format"}),
    ({"size": generation_pb2.SIZE_POLICY_EXACT, "image": raw(TARGET[:8])}, {"image": "expects 16x16"}),
    ({"size": 17}, {"size": "17 is unknown; expected 0 to 4"}),
    ({"background": generation_pb2.Color(green=300)}, {"background.green": "300; expected 0 to 255"}),
    ({"start": 9}, {"start": "9 is unknown; expected 0 to 4"}),
    ({"start": pb.START_GIVEN}, {"latent": "missing: it is where a search from start given starts"}),
    ({"latent": tensor(Z)}, {"latent": "not used by a search from start average; it is for start given"}),
    ({**GIVEN, "latent": tensor(Z[None])}, {"latent": "its shape is [1, 4]; expected float32[4]"}),
    ({**GIVEN, "latent": tensor(Z[:3])}, {"latent": "its shape is [3]; expected float32[4]"}),
    ({**GIVEN, "latent": tensor(Z * np.float32(np.nan))}, {"latent": "it has NaN or infinity"}),
    ({**GIVEN, "latent": tensor(TARGET)}, {"latent": "its type is uint8; expected float32[4]"}),
    ({**GIVEN, "latent": media_pb2.Tensor()}, {"latent": "its type is not told"}),
    ({**GIVEN, "seed": 1}, {"seed": "not used by a search from start given"}),
    ({"seed": 1}, {"seed": "not used by a search from start average"}),
    ({"start": pb.START_ENCODER, "seed": 1}, {"seed": "not used by a search from start encoder"}),
    ({"samples": 4}, {"samples": "not used by a search from start average; it is for start samples"}),
    ({"start": 0, "samples": 4}, {"samples": "not used by a search from start encoder"}),
    ({"start": pb.START_SAMPLES, "samples": -1}, {"samples": "-1; expected 1 to 64, or 0 for 16"}),
    ({"start": pb.START_SAMPLES, "samples": 65}, {"samples": "65; expected 1 to 64, or 0 for 16"}),
    ({"steps": -1}, {"steps": "-1; expected 1 or more, or 0 for the task's default"}),
    ({"steps": 2001}, {"steps": "2001 is refused: expected a whole number from 1 to 2000"}),
    ({"seconds": math.nan}, {"seconds": "nan; expected a finite number above 0"}),
    ({"seconds": -1.0}, {"seconds": "-1.0; expected a finite number above 0"}),
    ({"seconds": math.inf}, {"seconds": "inf; expected a finite number above 0"}),
    ({"progress_every": -2}, {"progress_every": "-2; expected 1 or more, or 0 for none"}),
    ({"previews": True}, {"previews": "not used: progress_every is 0"}),
    ({"progress_latents": True}, {"progress_latents": "not used: progress_every is 0"}),
    ({"label": generation_pb2.Label(index=1)}, {"label": "not used by a search from start average"}),
    ({"label": generation_pb2.Label()}, {"label": "empty; give an index or a name"}),
    ({"numbers": {"rate": math.nan}}, {"numbers[rate]": "nan is refused: expected a number from"}),
    ({"numbers": {"speed": 1}}, {"numbers[speed]": "not used by a search from start average"}),
    ({"numbers": {"steps": 5}}, {"numbers[steps]": "steps has a field of its own"}),
    ({"numbers": {"image": 5}}, {"numbers[image]": "image has a field of its own"}),
    ({**GIVEN, "numbers": {"psi": 0.5}}, {"numbers[psi]": "not used by a search from start given"}),
    ({"start": pb.START_SAMPLES, "numbers": {"psi": 5}}, {"numbers[psi]": "5 is refused: expected a number from 0"}),
    ({"output": media_pb2.OutputOptions(image_format=99)}, {"output.image_format": "99 is unknown"}),
    ({"output": media_pb2.OutputOptions(quality=50)}, {"output.quality": "takes no quality"}),
    (
        {"image": None, "seconds": -1.0, "progress_every": -1, "steps": -1},
        {"image": "missing", "seconds": "-1.0;", "progress_every": "-1;", "steps": "-1;"},
    ),
]


async def test_what_cannot_be_served_is_refused_field_by_field_and_nothing_is_computed(bundle: Path) -> None:
    async with up(bundle, max_rows=64) as one:
        runs = [one.watch(graph) for graph in ("start", "encode", "invert", "paint")]
        for fields, expected in REFUSED:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await one.invert(request(**fields))
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT, expected
            found = violations(error.value)
            assert found.keys() == expected.keys()
            for field, text in expected.items():
                assert text in found[field]
            assert [watched.batches for watched in runs] == [[]] * 4, expected
        await one.idle()


async def test_a_start_that_the_task_has_not_is_refused_with_those_it_has(tmp_path: Path) -> None:
    async with up(write_inversion_bundle(tmp_path / "plain", name="plain", encoder=False)) as one:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await one.invert(request(model="plain", start=pb.START_ENCODER))
        assert violations(error.value) == {
            "start": "task 'invert' has no encoder; it starts from samples, average, given"
        }
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await one.invert(request(model="plain", task="sample"))
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        assert "its invert tasks are: invert" in (error.value.details() or "")


async def test_a_task_without_a_start_needs_a_latent(tmp_path: Path) -> None:
    found = read(write_inversion_bundle(tmp_path / "bare", name="bare"))
    tasks = [
        msgspec.structs.replace(task, inversion=task.inversion and msgspec.structs.replace(task.inversion, starts={}))
        for task in found.manifest.tasks
    ]
    write_manifest(found.folder, msgspec.structs.replace(found.manifest, tasks=tuple(tasks)))
    async with up(found.folder) as one:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await one.invert(request(model="bare", start=0))
        assert violations(error.value) == {
            "start": "task 'invert' has none of its own; give a latent, from which to start"
        }
        assert (await one.result(request(model="bare", **GIVEN, steps=1))).start == pb.START_GIVEN


async def test_models_get_tells_where_searches_may_start(one: Up) -> None:
    models = models_pb2_grpc.ModelsStub(one.channel)  # type: ignore[no-untyped-call]
    reply = await models.Get(models_pb2.GetRequest(model="echo-inversion"))
    told = {task.name: (list(task.starts), [latent.tensor for latent in task.latents]) for task in reply.tasks}
    assert told == {"sample": ([], ["z"]), "invert": (["encoder", "samples", "average"], ["z"])}


async def test_a_picture_too_large_is_refused_before_it_is_decoded(bundle: Path) -> None:
    async with up(bundle, max_picture_pixels=1 << 16) as one:
        buffer = io.BytesIO()
        Image.new("RGB", (4000, 4000)).save(buffer, "PNG")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await one.invert(request(image=media_pb2.Image(data=buffer.getvalue())))
        assert "16000000 pixels: this server takes at most 65536" in violations(error.value)["image"]


async def test_a_search_takes_no_more_steps_than_the_server_allows(bundle: Path) -> None:
    async with up(bundle, max_steps=5) as one:
        for asked, taken in ((6, 6), (0, STEPS)):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await one.invert(request(steps=asked))
            assert violations(error.value)["steps"] == f"{taken}; this server takes at most 5 steps of a search"
        assert (await one.invert(request(steps=5)))[1].steps == 5


async def test_a_full_queue_refuses_before_the_picture_is_decoded(bundle: Path) -> None:
    async with up(bundle, queue_rows=8, max_batch=1) as one:
        gate = one.watch()
        gate.open.clear()
        held = asyncio.ensure_future(one.result(request(steps=1)))
        await one.until(lambda: gate.held)
        waiting = [asyncio.ensure_future(one.result(request(steps=1))) for _ in range(8)]
        await one.until(lambda: one.metric("ganserve_queue_rows", device="cpu") == 8)
        decoded = one.metric("ganserve_decode_seconds_count", format="raw")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await one.result(request(steps=1))
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert one.metric("ganserve_decode_seconds_count", format="raw") == decoded
        gate.open.set()
        await asyncio.gather(held, *waiting)


# Time.


async def test_a_budget_ends_a_search_with_the_best_so_far(one: Up) -> None:
    watched = one.watch()
    watched.seconds = 0.02
    began = time.monotonic()
    result = await one.result(request(steps=1000, seconds=0.5))
    took = time.monotonic() - began
    assert result.stopped_early
    assert 5 < result.steps < 30
    assert 0.3 < took < 0.9
    by_hand = search_of(TARGET, np.zeros(SIZE), 1000, until=result.steps)
    np.testing.assert_allclose(floats(result.latents["z"]), by_hand.latent, atol=1e-3)
    assert result.loss == pytest.approx(by_hand.loss, rel=1e-3)


async def test_a_server_that_stops_ends_a_search_with_the_best_so_far(bundle: Path) -> None:
    async with up(bundle, grace=0.6) as one:
        watched = one.watch()
        watched.seconds = 0.02
        searching = asyncio.create_task(one.result(request(steps=1000)))
        while len(watched.batches) < 5:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await one.server.drain()
        assert time.monotonic() - began < 0.6
        result = await searching
    assert result.stopped_early
    assert 5 < result.steps < 40


async def test_a_budget_that_is_over_before_the_search_leaves_one_step(one: Up) -> None:
    one.watch("start").seconds = 0.1
    result = await one.result(request(start=pb.START_SAMPLES, seconds=0.01, seed=3))
    assert (result.steps, result.stopped_early) == (1, True)
    assert result.quality.psnr > 0


async def test_a_budget_that_is_enough_changes_nothing(one: Up) -> None:
    assert (await one.result(request(seconds=60.0))).latents == (await one.result(request())).latents


async def test_shortly_before_the_deadline_a_search_ends_with_the_best_so_far(one: Up) -> None:
    watched = one.watch()
    watched.seconds = 0.02
    result = await one.result(request(steps=1000), timeout=1.0)
    assert result.stopped_early
    assert result.served.seconds["total"] < 1.0
    assert 0 < result.steps < 50
    await one.until(
        lambda: one.metric("ganserve_requests_total", model="echo-inversion", task="invert", code="OK") == 1
    )


# Batches.


async def test_searches_at_the_same_time_share_batches_and_find_the_same_bits(one: Up) -> None:
    targets = image_of(latents(5, 8))
    asked = [
        request(image=raw(target), start=(pb.START_SAMPLES, pb.START_AVERAGE)[number % 2], steps=30 + number)
        for number, target in enumerate(targets)
    ]
    for number, message in enumerate(asked):
        if message.start == pb.START_SAMPLES:
            message.seed = number
    watched = one.watch()
    alone = [await one.result(message) for message in asked]
    assert max(watched.batches) == SAMPLES, "a search alone is batched with nobody"
    watched.batches.clear()
    together = await asyncio.gather(*(one.result(message) for message in asked))
    for first, second in zip(alone, together, strict=True):
        assert (first.latents, first.loss) == (second.latents, second.loss)
        assert (first.reconstruction, first.quality) == (second.reconstruction, second.quality)
    steps = sum(30 + number for number in range(8)) + 4 * SAMPLES
    assert sum(watched.batches) == steps
    assert len(watched.batches) < steps / 3, "eight searches at a time"


async def test_a_step_is_the_same_bits_alone_and_among_rows_at_other_steps(one: Up) -> None:
    graph = one.server.repository.get("echo-inversion").graphs["invert"]
    random, rows = np.random.default_rng(0), 32
    feeds: dict[str, np.ndarray] = {
        name: random.standard_normal((rows, SIZE), np.float32) for name in ("x", "first", "best")
    }
    feeds |= {"second": feeds["first"] ** 2, "target": image_of(latents(1, rows))}
    feeds |= {"best_loss": random.random(rows, np.float32), "rate": random.random(rows, np.float32)}
    feeds |= {"step": random.integers(0, 100, rows), "steps": np.full(rows, 100)}
    names = [tensor.name for tensor in graph.graph.outputs]

    def run(start: int, stop: int) -> dict[str, np.ndarray]:
        some = {name: graph.session.upload(array[start:stop]) for name, array in feeds.items()}
        return {name: graph.session.download(value) for name, value in graph.session.run(some, names).items()}

    singles = [run(row, row + 1) for row in range(rows)]
    for count in (2, 3, 5, 8, 13, 16, 31, 32):
        made = run(0, count)
        for name in names:
            assert (made[name] == np.concatenate([single[name] for single in singles[:count]])).all(), (name, count)


async def test_samples_and_searches_run_between_the_steps_of_a_long_search(one: Up) -> None:
    watched = one.watch()
    watched.seconds = 0.005
    long = asyncio.ensure_future(one.result(request(steps=400)))
    await one.until(lambda: len(watched.batches) > 3)
    for _ in range(5):
        before = len(watched.batches)
        await one.generation.Sample(generation_pb2.SampleRequest(model="echo-inversion", count=2, output=RAW))
        assert len(watched.batches) - before < 20, "a Sample waits for a step or a few, not for the search"
    short = await one.result(request(steps=3))
    assert short.steps == 3
    assert not long.done()
    assert (await long).steps == 400


# Callers who go.


@pytest.mark.parametrize("start", [pb.START_AVERAGE, pb.START_SAMPLES])
async def test_a_caller_who_goes_frees_its_rows_at_once(one: Up, start: pb.Start) -> None:
    watched = one.watch()
    watched.seconds = 0.01
    call = one.inversion.Invert(request(start=start, steps=2000, progress_every=1))
    assert (await anext(aiter(call))).HasField("progress")
    call.cancel()
    await one.idle()
    await asyncio.sleep(0.03)  # the batch that ran
    runs = len(watched.batches)
    await asyncio.sleep(0.05)
    assert len(watched.batches) == runs < 100
    assert one.metric("ganserve_requests_total", model="echo-inversion", task="invert", code="CANCELLED") == 1


async def test_a_caller_who_goes_while_samples_are_tried_frees_them(bundle: Path) -> None:
    async with up(bundle, max_batch=1) as one:
        gate = one.watch()
        gate.open.clear()
        call = asyncio.ensure_future(one.result(request(start=pb.START_SAMPLES, samples=32)))
        # Before they are tried, the samples themselves are made, row by row too.
        await one.until(lambda: gate.held and one.metric("ganserve_queue_rows", device="cpu") == 31)
        call.cancel()
        await one.until(lambda: one.metric("ganserve_queue_rows", device="cpu") == 0)
        gate.open.set()
        await one.until(lambda: gate.batches == [1])
        await one.idle()
        await asyncio.sleep(0.05)
        assert gate.batches == [1]


# Engines.


class WrongGradient:
    """ONNX Runtime, but for a search: what it makes of a latent there points the other way, as a wrong gradient would."""

    def __init__(self, session: Session, wrong: bool) -> None:
        self.session, self.batch_invariant, self.wrong = session, session.batch_invariant, wrong

    def upload(self, array: np.ndarray) -> Any:
        return self.session.upload(array)

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> Mapping[str, Any]:
        made = dict(self.session.run(feeds, outputs))
        if self.wrong and "x_next" in made:
            x, after = (self.session.download(value) for value in (feeds["x"], made["x_next"]))
            made["x_next"] = self.session.upload(2 * x - after)
        return made

    def download(self, value: Any) -> np.ndarray:
        return self.session.download(value)

    def close(self) -> None:
        self.session.close()


def available() -> None:
    """It can always run."""


def load_wrong(file: Path, options: Options) -> WrongGradient:
    return WrongGradient(real.load(file, options), wrong=options.graph.name == "invert")


@hookimpl
def ganserve_engines() -> list[Engine]:
    """The engine with the wrong gradient, as a plugin would bring it."""
    return [
        Engine(
            name="wrong", summary="a wrong gradient", available=f"{__name__}:available", load=f"{__name__}:load_wrong"
        )
    ]


async def test_an_engine_with_a_wrong_gradient_serves_all_but_the_search(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = ModuleType("wrong_gradient")
    plugin.ganserve_engines = ganserve_engines  # type: ignore[attr-defined]
    plugins = load(extra=[plugin])
    engines = (EngineChoice("wrong"), EngineChoice("onnxruntime"))
    async with up(bundle, plugins=plugins, engines=engines) as one:
        graphs = one.server.repository.get("echo-inversion").graphs
        assert {name: graph.engine for name, graph in graphs.items()} == {
            "start": "wrong",
            "paint": "wrong",
            "encode": "wrong",
            "invert": "onnxruntime",
        }
        assert "engine wrong refused: graph 'invert', output 'x_next': golden rows differ" in caplog.text
        result = await one.result(request())
        assert list(result.served.engines) == ["wrong", "onnxruntime", "wrong"]
        assert result.quality.psnr > 50


# Health.


async def test_the_service_has_its_health(one: Up) -> None:
    health = health_pb2_grpc.HealthStub(one.channel)  # type: ignore[no-untyped-call]
    reply = await health.Check(health_pb2.HealthCheckRequest(service="ganserve.v1.Inversion"))
    assert reply.status == health_pb2.HealthCheckResponse.SERVING

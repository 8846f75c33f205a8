"""Engines that hang, make NaN or raise: the bad row fails, its neighbours do not, and what hangs is replaced."""

import asyncio
import contextlib
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from bench.chaos import faulty
from ganserve import AsyncClient, inference
from ganserve.bundle import read, weight_bytes
from ganserve.client import Samples
from ganserve.errors import InternalError, Unavailable
from ganserve.plugins import load
from ganserve.serving import model
from ganserve.serving.executor import nan_rows
from ganserve.serving.model import EngineChoice, Settings
from ganserve.serving.policy import Lifecycle
from ganserve.serving.server import Server, ServerSettings, running
from ganserve.testing.echo import image_of, write_bundle

PATIENCE = 1.0
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("a", "b"):
        write_bundle(root / name, name=name, tasks=("sample",))
    return root


@pytest.fixture(autouse=True)
def mended() -> Iterator[None]:
    faulty.released.clear()
    faulty.broken.clear()
    yield
    faulty.released.set()


class Up:
    """A server of the models a and b on the faulty engine, and a client that does not try again."""

    def __init__(self, server: Server, client: AsyncClient) -> None:
        self.server, self.client = server, client

    async def sample(self, mark: float = 0.0, model: str = "a", rows: int = 1) -> Samples:
        """Rows from a z that begins with ``mark``."""
        z = np.tile(np.array([mark, 1, 2, 3], np.float32), (rows, 1))
        made = await self.client.sample(
            model, task="sample", tensors={"z": z}, labels=0, format="raw", returns=["w"], timeout=30
        )
        assert (made.arrays() == image_of(z)).all()
        return made

    async def health(self, name: str) -> int:
        return int((await self.client._stubs.health.Check(health_pb2.HealthCheckRequest(service=name))).status)

    async def oip_ready(self) -> bool:
        """Whether the Open Inference Protocol calls the server ready."""
        message = inference.message_types()
        call = self.client._channel.unary_unary(
            f"/{inference.SERVICE}/ServerReady",
            request_serializer=message["ServerReadyRequest"].SerializeToString,
            response_deserializer=message["ServerReadyResponse"].FromString,
        )
        return bool((await call(message["ServerReadyRequest"]())).ready)

    def metric(self, name: str, **labels: str) -> float:
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0

    def state(self, model: str = "a") -> tuple[str, str]:
        (entry,) = self.server.repository.entries(model)
        return entry.state, entry.reason

    async def until(self, state: str, model: str = "a") -> None:
        async with asyncio.timeout(30):
            while self.state(model)[0] != state:
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def up(root: Path, patience: float = PATIENCE, lifecycle: Lifecycle | None = None) -> AsyncIterator[Up]:
    models = Settings(threads=1, max_batch=8, engines=(EngineChoice("faulty"),), hang_seconds=patience)
    settings = ServerSettings(
        bundles=(root,),
        port=0,
        metrics_port=None,
        models=models,
        encode_threads=1,
        lifecycle=lifecycle or Lifecycle(),
    )
    async with running(settings, load(extra=[faulty])) as server:
        await server.ready.wait()
        async with AsyncClient(f"127.0.0.1:{server.port}") as client:
            yield Up(server, client)


@pytest.mark.parametrize(("mark", "name"), [(faulty.RAISES, "raises"), (faulty.NAN, "is NaN"), (faulty.HANGS, "hangs")])
async def test_a_bad_row_fails_alone(folder: Path, mark: float, name: str) -> None:
    async with up(folder) as one:
        answers = await asyncio.gather(
            *(one.sample(mark if number == 5 else 0.0) for number in range(16)), return_exceptions=True
        )
        failed = [number for number, answer in enumerate(answers) if isinstance(answer, BaseException)]
        assert failed == [5], name
        assert isinstance(answers[5], InternalError)
        # What hung may have been the last row to run: its caller is told before the engine is there again.
        await one.until("ready")
        assert one.state() == ("ready", "")
        assert await one.sample()


async def test_what_hangs_is_replaced_while_other_models_go_on_and_health_tells_the_truth(folder: Path) -> None:
    async with up(folder) as one:
        bad = asyncio.create_task(one.sample(faulty.HANGS))
        await one.until("loading")
        assert one.state()[1] == "its engine hung and is being replaced"
        assert await one.health("a") == NOT_SERVING
        assert (await one.health("b"), await one.health("")) == (SERVING, SERVING)
        assert await one.sample(model="b")
        with pytest.raises(InternalError):
            await bad
        await one.until("ready")
        assert await one.health("a") == SERVING
        assert await one.sample()
        assert one.metric("ganserve_engine_hangs_total", model="a", engine="faulty") == 1
        size = one.server.repository.get("a").size
        assert one.metric("ganserve_model_bytes") == 3 * size, "what hangs cannot be given back"
        faulty.released.set()
        async with asyncio.timeout(30):
            while one.metric("ganserve_model_bytes") != 2 * size:
                await asyncio.sleep(0.005)
        faulty.released.clear()
        assert await one.sample(), "what came back late ran nothing of what replaced it"


async def test_what_cannot_be_replaced_has_failed_until_it_is_loaded(folder: Path) -> None:
    async with up(folder) as one:
        await one.server.repository.unload("b")
        assert await one.oip_ready()
        faulty.broken.set()
        answers = await asyncio.gather(*(one.sample(faulty.HANGS) for _ in range(3)), return_exceptions=True)
        assert {type(answer) for answer in answers} <= {InternalError, Unavailable}
        state, reason = one.state()
        assert state == "failed"
        assert reason == "its engine hung and could not be replaced: the device does not answer"
        assert (await one.health("a"), await one.health("")) == (NOT_SERVING, NOT_SERVING), "nothing serves any more"
        assert not await one.oip_ready()
        with pytest.raises(Unavailable, match="the device does not answer"):
            one.server.repository.get("a")
        faulty.broken.clear()
        await one.server.repository.load("a")
        assert (await one.health("a"), await one.health("")) == (SERVING, SERVING)
        assert await one.oip_ready()
        assert await one.sample()


async def test_a_load_that_waits_for_room_may_have_that_of_a_model_whose_engine_has_been_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = threading.Event()

    def slow(*arguments: Any, load: Callable[..., Any] = model._load_session) -> Any:
        replaced.wait(30)
        return load(*arguments)

    size = sum(weight_bytes(read(folder / "a")).values())
    async with up(folder, 3 * PATIENCE, Lifecycle(max_model_bytes=2 * size)) as one:
        monkeypatch.setattr(model, "_load_session", slow)
        bad = asyncio.create_task(one.sample(faulty.HANGS))
        await one.until("loading")
        assert one.state("b")[0] == "idle", "it makes room for what hangs"
        loading = asyncio.create_task(one.server.repository.load("b"))
        await asyncio.wait([loading], timeout=PATIENCE / 4)
        assert not loading.done()
        replaced.set()
        await asyncio.wait_for(loading, 30)
        assert (one.state()[0], one.state("b")[0]) == ("idle", "ready")
        with pytest.raises(InternalError):
            await bad


async def test_a_bundle_that_changes_while_it_is_loaded_again_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was loaded may be a mixture: part of it was read before the change, part after."""
    write_bundle(tmp_path / "a", name="a", tasks=("sample",))

    def changing(*arguments: Any, load: Callable[..., Any] = model._load_session) -> Any:
        session = load(*arguments)
        shutil.rmtree(tmp_path / "a")
        write_bundle(tmp_path / "a", name="a", tasks=("sample", "alone"))
        return session

    async with up(tmp_path) as one:
        monkeypatch.setattr(model, "_load_session", changing)
        with pytest.raises(InternalError):
            await one.sample(faulty.HANGS)
        await one.until("failed")
        assert "has changed since it was loaded; load it again" in one.state()[1]
        monkeypatch.undo()
        await one.server.repository.load("a")
        assert await one.sample()


async def test_a_model_that_hangs_again_and_again_is_not_replaced_for_ever(folder: Path) -> None:
    async with up(folder) as one:
        for _ in range(4):
            with pytest.raises((InternalError, Unavailable)):
                await one.sample(faulty.HANGS)
        assert one.state() == (
            "failed",
            "its engine hung and could not be replaced: 4 calls into it hang; restart the server",
        )
        assert await one.sample(model="b")


async def test_a_server_ends_though_its_engine_hangs(folder: Path) -> None:
    async with asyncio.timeout(30):
        async with up(folder) as one:
            bad = asyncio.create_task(one.sample(faulty.HANGS))
            while one.server.repository.get("a").calls == 0:
                await asyncio.sleep(0.005)
        with pytest.raises((InternalError, Unavailable, asyncio.CancelledError)):
            await bad


def test_rows_of_nan_are_found_and_infinity_is_a_number() -> None:
    fine = np.array([[1.0, np.inf], [-np.inf, 0.0]], np.float32)
    assert nan_rows({"x": fine, "n": np.zeros((2,), np.int64), "none": np.zeros((0, 2))}) == {}
    assert nan_rows({"x": fine, "y": np.array([0.0, np.nan], np.float16)}) == {1: "y"}

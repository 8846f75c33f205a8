"""The scenarios of bench/chaos as such: some of them in their shortest form, and the table that they make."""

import asyncio
import signal
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from bench.chaos import __main__ as chaos
from bench.chaos import engine, faulty, lost, overload, rolling, soak
from bench.chaos.live import live
from bench.chaos.load import Once
from bench.chaos.process import Watched
from bench.chaos.scenario import Outcome, Scenario, sized
from bench.chaos.servers import Place, server
from ganserve.commands.process import free_port
from ganserve.errors import Unavailable
from ganserve.plugins import installed
from ganserve.serving.server import ServerSettings, running
from ganserve.testing.server import serving

ROOT = Path(__file__).parents[1]


def test_a_server_that_is_restarted_loses_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling, "SERVERS", 2)
    outcome = rolling.run(0.01)
    assert outcome.held, outcome.measured
    assert outcome.measured.startswith("1 restarts; ")


async def test_the_callers_of_reloads_see_every_failure(echo: Path) -> None:
    with serving(echo) as server:
        server.server.traffic.accepting = False
        async with Once(server.address) as client:
            with pytest.raises(Unavailable):
                await client.sample("echo", task="sample")
        labels = {"model": "unknown", "task": "unknown", "code": "UNAVAILABLE"}
        assert server.server.metrics.registry.get_sample_value("ganserve_requests_total", labels) == 1


async def test_an_outage_between_two_looks_is_seen(echo: Path) -> None:
    settings = ServerSettings(bundles=(echo,), port=0, metrics_port=None)
    async with running(settings, installed()) as server:
        await server.ready.wait()
        async with overload._watching(f"127.0.0.1:{server.port}") as told, asyncio.timeout(30):
            for count, well in enumerate((True, False, True), 1):
                server.health.set("", well)
                while told.total() < count:
                    await asyncio.sleep(0.002)
        assert told == {"SERVING": 2, "NOT_SERVING": 1}


@pytest.mark.parametrize("scenario", [overload, soak])
def test_a_loaded_server_gives_right_answers_and_no_others(scenario: ModuleType) -> None:
    """Its shortest form, on a machine that does other things as well: how soon answers come is not looked at."""
    outcome = scenario.run(0.01)
    assert outcome.right, outcome.measured


def test_lost_clients_leave_nothing_behind() -> None:
    """Its shortest form; memory, and how long a batch takes, are not looked at."""
    outcome = lost.run(0.01)
    assert outcome.right, outcome.measured


def test_a_server_tells_the_memory_that_it_uses(echo: Path, tmp_path: Path) -> None:
    place = replace(Place.free(echo, tmp_path / "log"), live_port=free_port())
    with server(place) as process:
        told = live(place.live_port)
        assert 10_000_000 < told < Watched(process.pid, place.metrics_port).resident
        assert live(place.live_port) == pytest.approx(told, rel=0.02)


def test_rows_at_which_the_engine_fails_fail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # The scenario sets it, for good.
    monkeypatch.setattr(faulty, "longest", None)
    outcome = engine.run(0.01)
    assert outcome.held, outcome.measured
    assert all(f"'{fault}': " in outcome.measured for fault in engine.FAULTS), outcome.measured


def test_a_scenario_that_does_not_end_is_ended() -> None:
    left = []

    def endless(scale: float) -> Outcome:
        try:
            asyncio.run(asyncio.sleep(60 * scale))
        finally:
            left.append(True)
        return Outcome(True, "never")

    with pytest.raises(TimeoutError, match=r"not over after 0\.2 s"):
        Scenario("a fault", "something", endless, limit=0.2).outcome(1.0)
    assert left
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_every_scenario_is_listed_and_in_the_document() -> None:
    modules = {path.stem for path in (ROOT / "bench" / "chaos").glob("*.py") if "\nSCENARIO = " in path.read_text()}
    assert set(chaos.SCENARIOS) == modules
    text = (ROOT / "docs" / "chaos.md").read_text()
    assert [name for name in chaos.SCENARIOS if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize(("held", "code"), [(True, 0), (False, 1)])
def test_what_does_not_hold_fails_the_run(monkeypatch: pytest.MonkeyPatch, held: bool, code: int) -> None:
    scenario = Scenario("a fault", "something", lambda scale: Outcome(held, f"at {scale:g}"))
    monkeypatch.setattr("bench.chaos.reloads.SCENARIO", scenario)
    result = CliRunner().invoke(chaos.main, ["reloads", "--scale", "0.5"])
    assert result.exit_code == code
    assert f"| reloads | a fault | something | at 0.5 | {'yes' if held else '**FAIL**'} | 0 |" in result.output


def test_sizes_follow_the_scale_down_to_the_least() -> None:
    assert [sized(30, scale, 2) for scale in (1.0, 0.5, 0.01)] == [30, 15, 2]

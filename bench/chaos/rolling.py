"""Rolling restarts: three servers behind one client that takes them in turns; one after another is told to end and started again."""

import asyncio
import contextlib
import tempfile
from pathlib import Path

from bench.chaos.load import callers, singles
from bench.chaos.scenario import Outcome, Scenario, sized
from bench.chaos.servers import Place, end, server
from ganserve import AsyncClient
from ganserve.testing.echo import write_bundle

SERVERS = 3
CALLERS = 8


def run(scale: float) -> Outcome:
    """Restart servers under load."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_restarts(Path(folder), sized(30, scale, 1)))


async def _restarts(folder: Path, restarts: int) -> Outcome:
    bundle = write_bundle(folder / "echo", tasks=("sample",))
    places = [Place.free(bundle, folder / f"{number}.log") for number in range(SERVERS)]
    codes: list[int] = []
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(server(place)) for place in places]
        # What the name of a headless Service resolves to.
        async with AsyncClient("ipv4:" + ",".join(place.address for place in places)) as client:
            expected = await singles(client)
            async with callers(
                client, CALLERS, lambda got: got.arrays()[0].tobytes() == expected[got[0].index].tobytes()
            ) as tally:
                for number in range(restarts):
                    turn = number % SERVERS
                    await asyncio.sleep(0.2)
                    codes.append(await asyncio.to_thread(end, processes[turn]))
                    processes[turn] = await asyncio.to_thread(stack.enter_context, server(places[turn]))
        ends = [end(process) for process in processes]
    well = not any((*codes, *ends))
    return Outcome(
        tally.clean and well, f"{len(codes)} restarts; {tally}; " + ("every exit 0" if well else f"exits {codes}")
    )


SCENARIO = Scenario("SIGTERM during load, rolling restarts behind a round-robin client", "0 failed calls", run)

"""Many minutes at a load of 0.8: no error, no growth, and every image is what it is alone."""

import asyncio
import tempfile
from pathlib import Path

from bench.chaos.offered import BUNDLE, Seen, caller, quantile
from bench.chaos.process import Watched
from bench.chaos.scenario import Outcome, Scenario, sized
from bench.chaos.servers import Place, server

WARM = 0.1
"""The part of the time after which memory is first read."""

LOOKS = 4
"""How often memory is read after that: growth that goes on is a leak, growth that came with a burst is not."""

GROWTH = 1.02


def run(scale: float) -> Outcome:
    """Load a server for long."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_soak(Path(folder), float(sized(1200, scale, 10))))


async def _soak(folder: Path, seconds: float) -> Outcome:
    place = Place.free(BUNDLE, folder / "log")
    with server(place) as process:
        async with caller(place.address) as calls:
            await calls.saturated(8, 2.0)
            rate = 0.8 * await calls.saturated(8, 5.0)
            seen, watched = Seen(), Watched(process.pid, place.metrics_port)
            await calls.offered(rate, WARM * seconds, seen)
            before, files = watched.resident, watched.files
            grown = []
            for look in range(LOOKS):
                await calls.offered(rate, (1 - WARM) * seconds / LOOKS, seen, seed=1 + look)
                grown.append(watched.resident / before)
            files = watched.files - files
    clean = bool(seen.answered) and not (seen.wrong or seen.others or seen.refused)
    told = f"{seconds:.0f} s of {rate:.0f} calls/s: {seen}; p50 {quantile(seen.answered, 0.5):.0f} ms, p99 {quantile(seen.answered, 0.99):.0f} ms"
    memory = ", ".join(f"x{size:.3f}" for size in grown)
    measured = f"{told}; memory {memory} after warm-up, {files:+d} files"
    return Outcome(clean and files <= 0, measured, calm=grown[-1] < GROWTH)


SCENARIO = Scenario(
    "soak at 0.8 load", "no error, memory growth < 2 %, every image equal to its single", run, limit=1800
)

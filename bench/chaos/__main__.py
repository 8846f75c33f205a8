"""Do all of it, or the scenarios that are named, and print a table: the fault, what must hold, what was measured.

    python -m bench.chaos                 # everything at full size: `make chaos`, 40 minutes or more
    python -m bench.chaos --short         # everything in seconds each
    python -m bench.chaos rolling reloads --scale 0.2

Exits with 1 if anything did not hold.
"""

import importlib
import time
import traceback

import click

from bench.chaos.scenario import Outcome, Scenario

SCENARIOS = ("rolling", "reloads", "engine", "lost", "overload", "disk", "fuzz", "guided", "soak")
"""The modules beside this one, in the order in which they run."""

SHORT = 0.02


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(SCENARIOS), metavar="[SCENARIO]...")
@click.option(
    "--scale", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="Of the full size."
)
@click.option("--short", is_flag=True, help=f"The same as --scale {SHORT:g}.")
def main(names: tuple[str, ...], scale: float, short: bool) -> None:
    """Do the scenarios of these names (default: all), and say whether what must hold did."""
    click.echo("| scenario | fault | what must hold | measured | held | seconds |\n|---|---|---|---|---|---|")
    wrong = 0
    for name in names or SCENARIOS:
        scenario: Scenario = importlib.import_module(f"bench.chaos.{name}").SCENARIO
        began = time.monotonic()
        try:
            outcome = scenario.outcome(SHORT if short else scale)
        except Exception as error:
            traceback.print_exc()
            outcome = Outcome(False, f"it raised {error!r}")
        wrong += not outcome.held
        told = (name, scenario.fault, scenario.must_hold, outcome.measured, "yes" if outcome.held else "**FAIL**")
        click.echo("| " + " | ".join([*told, f"{time.monotonic() - began:.0f}"]) + " |")
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

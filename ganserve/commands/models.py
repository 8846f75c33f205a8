"""``ganserve models``."""

from typing import TYPE_CHECKING

import click

from ganserve.commands.options import json_option, server_option
from ganserve.commands.output import asking, console, print_json, table

if TYPE_CHECKING:
    from ganserve.client import ModelInfo, ModelSummary, TaskInfo


@click.command(short_help="List what a server serves.")
@server_option
@json_option
def command(server: str, as_json: bool) -> None:
    """List the models of a running server: their versions and state, the engines that serve them, the values their tasks read, and the
    latents that may be walked and mixed.

    A bundle that cannot be served is listed with the reason. --json adds tensors, directions, value ranges, class names, licence and provenance.

    \b
    Examples:
      ganserve models
      ganserve models --server gpu-box:8001
      ganserve models --json
    """
    with asking(server) as client:
        found = [
            (summary, client.model(summary.name, summary.version) if summary.state == "ready" else None)
            for summary in client.models()
        ]
    if as_json:
        print_json([_record(summary, info) for summary, info in found])
        return
    if not found:
        click.echo(f"the server at {server} found no bundle")
        return
    _print_table(found)


def _record(summary: "ModelSummary", info: "ModelInfo | None") -> dict[str, object]:
    import msgspec

    rest = msgspec.structs.asdict(info) if info else {}
    return msgspec.structs.asdict(summary) | {name: value for name, value in rest.items() if name != "summary"}


def _print_table(found: "list[tuple[ModelSummary, ModelInfo | None]]") -> None:
    from rich.markup import escape

    listing = table("model", "version", "family", "state", "engines", "tasks")
    for summary, info in found:
        tasks = [_task(task) for task in info.tasks] if info else [summary.reason]
        state = summary.state if summary.state == "ready" else f"[red]{summary.state}[/red]"
        engines = ", ".join(sorted(set(summary.engines.values())))
        listing.add_row(
            summary.name, str(summary.version or "?"), summary.family, state, engines, escape("\n".join(tasks))
        )
    console().print(listing)


def _task(task: "TaskInfo") -> str:
    latents = f" in {', '.join(task.latents)}" if task.latents else ""
    starts = f" from {', '.join(task.starts)}" if task.starts else ""
    return f"{task.name}({', '.join(task.values)}){latents}{starts}"

"""``ganserve models``."""

from typing import TYPE_CHECKING

import click

from ganserve.commands.options import Remote, json_option, server_option
from ganserve.commands.output import asking, console, print_json, table

if TYPE_CHECKING:
    from ganserve.client import ModelInfo, ModelSummary, TaskInfo


@click.command(short_help="List, load and unload what a server serves.")
@click.argument("action", type=click.Choice(("list", "load", "unload", "reload")), default="list")
@click.argument("model", required=False)
@server_option
@json_option
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True, help="Seconds to wait."
)
def command(action: str, model: str | None, server: Remote, as_json: bool, timeout: float) -> None:
    """List the models of a running server: their versions and state, the engines that serve them, the values their tasks read, and the
    latents that may be walked and mixed.

    A bundle that cannot be served is listed with the reason. --json adds tensors, directions, value ranges, class names, licence and provenance.

    load has MODEL serve what its folders hold now, new and changed versions; unload has it answer no more calls; reload loads it
    anew. No call fails meanwhile; where a new version fails, the old one stays and the reason is told. They are answered on the
    server's --management-port.

    \b
    Examples:
      ganserve models
      ganserve models --server gpu-box:8001
      ganserve models --json
      ganserve models load dcgan-fashion --server localhost:8003
      ganserve models unload dcgan-fashion --server localhost:8003
    """
    if (action == "list") != (model is None):
        raise click.UsageError(
            "list takes no MODEL" if model else f"name the MODEL to {action}: ganserve models {action} MODEL"
        )
    with asking(server) as client:
        if model is not None:
            getattr(client, f"{action}_model")(model, timeout=timeout)
        found = [
            (summary, client.model(summary.name, summary.version) if summary.state == "ready" else None)
            for summary in client.models()
            if model in (None, summary.name)
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
        tasks = [*([_task(task) for task in info.tasks] if info else []), *([summary.reason] if summary.reason else [])]
        state = summary.state if summary.state in ("ready", "idle") else f"[red]{summary.state}[/red]"
        engines = ", ".join(sorted(set(summary.engines.values())))
        listing.add_row(
            summary.name, str(summary.version or "?"), summary.family, state, engines, escape("\n".join(tasks))
        )
    console().print(listing)


def _task(task: "TaskInfo") -> str:
    latents = f" in {', '.join(task.latents)}" if task.latents else ""
    starts = f" from {', '.join(task.starts)}" if task.starts else ""
    return f"{task.name}({', '.join(task.values)}){latents}{starts}"

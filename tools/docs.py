"""Writes the parts of the documents that the code knows better: ``python -m tools.docs``; ``--check`` fails where they are stale.

A document marks such a part with ``<!-- made: NAME -->`` and ``<!-- end -->``; :data:`SECTIONS` says what stands between them.
:data:`WHOLE` are the documents that are made altogether. To add a section, add a function and its marks.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click
from prometheus_client.metrics import MetricWrapperBase

from ganserve import hookspecs
from ganserve.commands import reference
from ganserve.metrics import Metrics
from ganserve.plugins import installed
from tools.chart import schema

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "docs/*.md", "plugins/*/README.md")

_SECTION = re.compile(r"(<!-- made: (?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}


def metrics_table() -> str:
    """Every series, with its type, labels and meaning."""
    rows = ["| series | type | labels | meaning |", "|---|---|---|---|"]
    for name, kind, labels, meaning in series():
        rows.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels) or '–'} | {meaning} |")
    return "\n".join(rows)


def series() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Name as scraped (a histogram's without its suffixes), type, labels and meaning of every series."""
    metrics = Metrics()
    labels = {one._name: one._labelnames for one in vars(metrics).values() if isinstance(one, MetricWrapperBase)}
    for family in metrics.registry.collect():
        suffix = _SUFFIXES[family.type][0] if family.type != "histogram" else ""
        own = tuple(labels[family.name]) or tuple(family.samples[0].labels)
        yield family.name + suffix, family.type, own, family.documentation


def hooks_table() -> str:
    """Every hook, its question, and the installed plugins that answer it."""
    rows = ["| hook | question | answered here by |", "|---|---|---|"]
    for name, function in hooks().items():
        users = ", ".join(f"`{plugin.name}`" for plugin in installed() if name in plugin.hooks)
        question = (inspect.getdoc(function) or "").replace("``", "`")
        rows.append(f"| [`{name}`](#{anchor(name)}) | {question} | {users} |")
    return "\n".join(rows)


def families_table() -> str:
    """Every installed family, its paper and its presets."""
    rows = ["| family | what it is | paper | presets |", "|---|---|---|---|"]
    for name, family in installed().families.items():
        presets = ", ".join(f"`{preset}`" for preset in family.presets)
        rows.append(f"| [`{name}`](plugins/{name}/README.md) | {family.summary} | {family.paper} | {presets} |")
    return "\n".join(rows)


def hooks() -> Mapping[str, Callable[..., object]]:
    """The hooks by name, in the order of :mod:`ganserve.hookspecs`."""
    return {name: one for name, one in vars(hookspecs).items() if name.startswith("ganserve_")}


def signature(name: str) -> str:
    """A hook's signature, with the short names of its types."""
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", f"{name}{inspect.signature(hooks()[name])}")


def anchor(name: str) -> str:
    """Where GitHub puts the heading of a hook's section: its signature in small letters, of which only words and dashes stay."""
    return re.sub(r"[^\w -]", "", signature(name).lower()).replace(" ", "-")


SECTIONS: Mapping[str, Callable[[], str]] = {
    "families": families_table,
    "metrics": metrics_table,
    "hooks": hooks_table,
}
WHOLE: Mapping[str, Callable[[], str]] = {"docs/cli.md": reference, "deploy/helm/ganserve/values.schema.json": schema}


def current() -> Iterator[tuple[Path, str]]:
    """Every document that has a made part, as it ought to be."""
    for name, make in WHOLE.items():
        yield ROOT / name, make()
    for pattern in DOCUMENTS:
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text()
            if "<!-- made: " in text and str(path.relative_to(ROOT)) not in WHOLE:
                yield path, _SECTION.sub(lambda found: f"{found[1]}\n{SECTIONS[found['name']]()}\n\n{found[3]}", text)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail where a document is stale.")
def main(check: bool) -> None:
    """Write the made parts of the documents."""
    stale = [(path, text) for path, text in current() if not path.exists() or path.read_text() != text]
    if check and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path, _ in stale)
        raise click.ClickException(f"{names} out of step with the code: run `make docs` and commit the result")
    for path, text in stale:
        path.write_text(text)


if __name__ == "__main__":
    main()

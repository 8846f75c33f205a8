"""The documents: links lead somewhere, commands and options exist, examples run, and tables agree with the code they tell of."""

import importlib.metadata
import json
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import grpc
import msgspec
import numpy as np
import pytest
from google.protobuf import json_format
from PIL import Image
from prometheus_client import CollectorRegistry

from ganserve import errors, spec
from ganserve.bundle import ExportedGraph, File, Golden, Limits, Manifest, read, write_manifest
from ganserve.cli import cli
from ganserve.directions import add_direction
from ganserve.golden import FP32_FLOAT, TOLERANCES
from ganserve.metrics import Metrics
from ganserve.serving.model import Settings
from ganserve.serving.policy import Lifecycle
from ganserve.serving.server import SERVICES, ServerSettings
from ganserve.testing.echo import SIZE, write_bundle
from ganserve.testing.echo_inversion import write_inversion_bundle
from ganserve.testing.echo_style import LAYERS, write_style_bundle
from ganserve.testing.echo_text import write_text_bundle
from ganserve.testing.server import serving
from ganserve.v1 import generation_pb2, inversion_pb2, latents_pb2, models_pb2, text_pb2

from .parsing import command_of, parsed

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(path for path in (ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")) if path.is_file()),
    *sorted(DOCS.glob("*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
    *sorted(ROOT.glob("bundles/*/README.md")),
]
TUTORIAL = DOCS / "tutorial-family.md"
"""Its files and commands are run by test_tutorial.py."""

RUN = (
    ROOT / "README.md",
    *(DOCS / f"{name}.md" for name in ("client", "serving", "bundles", "seeds", "latents", "inversion", "text", "oip")),
)
"""Pages whose Python examples are run, against a server that has the models that they name."""

FENCE = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\((?P<target>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
MODULES = ("deploy", "ganserve", "trainers", "plugins", "docs", "tests", "tools", "protos", "bench")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def blocks(page: Path, language: str) -> list[str]:
    return [block["text"] for block in FENCE.finditer(page.read_text()) if block["language"] == language]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def section(page: Path, heading: str) -> str:
    """The text under ``heading``, up to the next one of any level."""
    _, found, after = page.read_text().partition(f"# {heading}\n")
    assert found, f"{name_of(page)} has no heading {heading!r}"
    return re.split(r"^#+ ", FENCE.sub("", after), maxsplit=1, flags=re.MULTILINE)[0]


def tables(text: str) -> list[list[list[str]]]:
    """Every table of ``text``: its rows of cells, without the head."""
    found = re.findall(r"^\|.*\n\|[-| ]+\|\n((?:\|.*\n?)+)", text, re.MULTILINE)
    return [[[cell.strip() for cell in line[1:-1].split("|")] for line in body.splitlines()] for body in found]


def rows(text: str) -> dict[str, list[str]]:
    """The rows of the only table of ``text``, by the name in their first cell."""
    (table,) = tables(text)
    return {row[0].strip("`"): row[1:] for row in table}


# Links and names


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.finditer(FENCE.sub("", page.read_text())):
        target, anchor = link["target"], link["anchor"]
        if target.startswith(("http://", "https://")):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{name_of(page)}: {target} is not there"
        if anchor:
            assert anchor in {slug(heading) for heading in HEADING.findall(path.read_text())}, f"{target}#{anchor}"


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@every_page
def test_files_and_names_in_prose_exist(page: Path) -> None:
    own = set(re.findall(r"^`([^`\n]+)`:$", page.read_text(), re.MULTILINE))  # the files that a tutorial makes
    for code in set(INLINE.findall(prose(page))) - own:
        if re.fullmatch(r"[\w./-]+", code) and code.split("/")[0] in MODULES and "/" in code:
            assert (ROOT / code).exists(), f"{name_of(page)}: {code}"
        if re.fullmatch(r"ganserve_trainers/[\w/]+\.py", code):
            assert (ROOT / "trainers" / code).is_file(), f"{name_of(page)}: {code}"
        if re.fullmatch(r"ganserve(_trainers)?(\.\w+)+", code):
            assert resolves(code), f"{name_of(page)}: {code}"


def resolves(name: str) -> bool:
    files = (generation_pb2, inversion_pb2, latents_pb2, models_pb2, text_pb2)
    if name in {service.full_name for file in files for service in services(file)}:
        return True
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def services(module: Any) -> list[Any]:
    return list(module.DESCRIPTOR.services_by_name.values())


def test_docstrings_and_comments_name_documents_that_exist() -> None:
    sources = [
        path for folder in ("ganserve", "trainers", "plugins", "tools") for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    assert sources
    for path in sources:
        for document in re.findall(r"docs/[\w-]+\.md", path.read_text()):
            assert (ROOT / document).is_file(), f"{path.relative_to(ROOT)} names {document}"


@every_page
def test_metrics_in_prose_exist(page: Path) -> None:
    registry: CollectorRegistry = Metrics().registry
    known = {sample.name for family in registry.collect() for sample in family.samples}
    known |= {family.name for family in registry.collect()}
    known |= {f"{name}_total" for name in known}
    others = re.compile(r"ganserve_(trainers|families|engines|codecs|prompt_policies|commands|importers|impl|v1)\b")
    for code in INLINE.findall(prose(page)):
        if re.fullmatch(r"ganserve_\w+", code) and not others.match(code):
            package = (ROOT / "plugins").glob(f"*/{code}")
            assert code in known or any(package) or code == "ganserve_scribble", f"{name_of(page)}: {code}"


# Commands


def options_of(command: click.Command) -> set[str]:
    names = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    return names | {"--help"}


def shell_commands(text: str) -> Iterator[list[str]]:
    """The ``ganserve …`` commands of a shell script, without the word itself."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\||;", line):
            words = shlex.split(part, comments=True)
            if "ganserve" not in words:
                continue
            where = words.index("ganserve")
            before = words[:where]
            runs = not before or before[-1] == "-m" or all("=" in word for word in before)
            if runs:
                yield words[where + 1 :]


@every_page
def test_shell_commands_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: value)
    for text in (*blocks(page, "sh"), *blocks(page, "bash"), *blocks(page, "console")):
        for name, *arguments in filter(None, shell_commands(text)):
            if "--help" in arguments:
                assert set(arguments) & options_of(command_of(name))
                continue
            parsed(name, arguments)


@every_page
def test_commands_and_options_in_prose_exist(page: Path) -> None:
    for code in INLINE.findall(prose(page)):
        words = code.split()
        if len(words) > 1 and words[0] == "ganserve" and re.fullmatch(r"[a-z]+", words[1]):
            unknown = set(OPTION.findall(code)) - options_of(command_of(words[1]))
            assert not unknown, f"{name_of(page)}: {code}: {unknown}"


@pytest.mark.parametrize(
    ("page", "name"), [("serving.md", "serve"), ("training.md", "train")], ids=["serving.md", "training.md"]
)
def test_every_option_of_the_command_is_told_and_no_other(page: str, name: str) -> None:
    told = {option for code in INLINE.findall(prose(DOCS / page)) for option in OPTION.findall(code)}
    for text in blocks(DOCS / page, "sh"):
        told |= {word for words in shell_commands(text) for word in words if OPTION.fullmatch(word)}
    command = command_of(name)
    missing = {max(option.opts, key=len) for option in command.params if isinstance(option, click.Option)} - told
    assert not missing, f"{page} does not tell of {missing}"
    others = {option for other in cli.list_commands(click.Context(cli)) for option in options_of(command_of(other))}
    assert told <= others, f"{page} tells of {told - others}"


# Examples


@every_page
def test_python_examples_compile(page: Path) -> None:
    for number, text in enumerate(blocks(page, "python")):
        compile(text, f"{page.name}, example {number}", "exec")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with echo bundles under other names: ``dcgan-fashion`` samples, ``pix2pix-emoji`` translates with noise, ``stylegan2-emoji`` has styles,
    ``dcgan-emoji`` inverts, ``echo-text`` reads prompts.
    """
    bundles = tmp_path_factory.mktemp("docs")
    for name, task in (("dcgan-fashion", "sample"), ("pix2pix-emoji", "noisy")):
        folder = write_bundle(bundles / name)
        manifest = read(folder).manifest
        tasks = tuple(one for one in manifest.tasks if one.name == task)
        write_manifest(folder, msgspec.structs.replace(manifest, name=name, tasks=tasks))
    found = read(write_style_bundle(bundles / "stylegan2-emoji", name="stylegan2-emoji"))
    tasks = tuple(one for one in found.manifest.tasks if one.name == "drawn")
    write_manifest(found.folder, msgspec.structs.replace(found.manifest, tasks=tasks))
    for number in range(2):
        vector = np.full((LAYERS, SIZE), number + 1, np.float32)
        found = add_direction(read(found.folder), f"sefa-{number}", "w", vector, "")
    write_inversion_bundle(bundles / "dcgan-emoji", name="dcgan-emoji", encoder=False)
    write_text_bundle(bundles / "echo-text")
    with serving(bundles) as server:
        yield server.address


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_python_examples_run(
    page: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("cat.png")
    examples = blocks(page, "python")
    assert examples, f"{name_of(page)} has no example"
    for number, text in enumerate(examples):
        code = compile(text.replace("localhost:8001", address), f"{page.name}, example {number}", "exec")
        exec(code, {"__name__": "__main__"})
    capsys.readouterr()


def test_grpcurl_examples_are_requests() -> None:
    """Their JSON fits the method that they call."""
    methods = {
        f"{service.full_name}/{method.name}": method
        for file in (generation_pb2, models_pb2)
        for service in services(file)
        for method in service.methods
    }
    called = []
    for text in blocks(DOCS / "serving.md", "sh"):
        for line in text.splitlines():
            words = shlex.split(line)
            if words[0] != "grpcurl" or words[-1] == "list":
                continue
            method = methods[words[-1]]
            data = words[words.index("-d") + 1] if "-d" in words else "{}"
            json_format.Parse(data, message(method.input_type))
            called.append(method.name)
    assert called == ["List", "Get", "Sample", "SampleStream"]


def message(descriptor: Any) -> Any:
    module = generation_pb2 if hasattr(generation_pb2, descriptor.name) else models_pb2
    return getattr(module, descriptor.name)()


# Tables of the pages

RECORDS: Mapping[str, type[msgspec.Struct]] = {
    "Manifest": Manifest,
    "File": File,
    "ExportedGraph": ExportedGraph,
    "Tensor": spec.Tensor,
    "Task": spec.Task,
    "Latent": spec.Latent,
    "Direction": spec.Direction,
    "Inversion": spec.Inversion,
    "Input": spec.Input,
    "Output": spec.Output,
    "Step": spec.Step,
    "Loop": spec.Loop,
    "Noise": spec.Noise,
    "Golden": Golden,
}


@pytest.mark.parametrize("heading", RECORDS)
def test_bundles_tells_every_field_with_its_default(heading: str) -> None:
    told = {name: row[1].strip("`") for name, row in rows(section(DOCS / "bundles.md", heading)).items()}
    fields = {field.name: default(field) for field in msgspec.structs.fields(RECORDS[heading])}
    assert told == fields


def default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "–"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return json.dumps(value)


def test_every_record_of_a_manifest_is_told() -> None:
    """No record that a manifest may hold is missing from RECORDS."""
    found: set[type] = set()

    def visit(kind: Any) -> None:
        if isinstance(kind, msgspec.inspect.StructType):
            if kind.cls not in found:
                found.add(kind.cls)
                for field in kind.fields:
                    visit(field.type)
            return
        for part in ("item_type", "key_type", "value_type"):
            if hasattr(kind, part):
                visit(getattr(kind, part))
        for part in getattr(kind, "types", ()) or getattr(kind, "item_types", ()):
            visit(part)

    visit(msgspec.inspect.type_info(Manifest))
    assert found == set(RECORDS.values())


def test_bundles_has_a_real_manifest_as_its_example() -> None:
    (example,) = blocks(DOCS / "bundles.md", "json")
    manifest = msgspec.json.decode(example, type=Manifest)
    assert set(manifest.files) == {"generator.onnx", "golden.npz", "weights.bin"}


def test_bundles_tells_the_limits() -> None:
    told = {name: row[0] for name, row in rows(section(DOCS / "bundles.md", "What reading verifies")).items()}
    assert told == {name: size(name, limit) for name, limit in msgspec.structs.asdict(Limits()).items()}


def size(name: str, limit: int) -> str:
    units = {"GiB": 30, "MiB": 20}
    unit = next((unit for unit, bits in units.items() if limit >> bits), None)
    return f"{limit >> units[unit]} {unit}" if unit and name.endswith("bytes") else str(limit)


def test_bundles_tells_the_tolerances() -> None:
    (table,) = tables(section(DOCS / "bundles.md", "What an engine must prove"))
    told = {(row[0], row[1]): row[2:] for row in table}
    assert told["fp32", "float32"][0] == f"{FP32_FLOAT} of the largest golden value"
    exact = told["fp32", "uint8, float16"]
    assert [float(cell.split()[0]) for cell in exact] == [
        TOLERANCES["fp32"].most,
        TOLERANCES["fp32"].mean,
        TOLERANCES["fp32"].p999,
    ]
    for precision in ("bf16", "fp16"):
        _, mean, p999 = told[precision, "all but integers"]
        assert (float(mean.split()[0]), float(p999)) == (TOLERANCES[precision].mean, TOLERANCES[precision].p999)
        assert TOLERANCES[precision].most == 255


def test_serving_tells_every_setting_with_its_default() -> None:
    told = rows(section(DOCS / "serving.md", "Settings"))
    command = command_of("serve")
    defaults = parsed("serve", [])
    for option in command.params:
        name = max(option.opts, key=len) if isinstance(option, click.Option) else str(option.name).upper()
        shown = told.pop(name)[0].strip("`")
        value = defaults[str(option.name)]
        if name == "BUNDLES":
            assert shown == "./bundles"  # chosen in the command's body
        elif value is None or value is False or value == ():
            assert shown == "–", name
        else:
            value = value[0] if isinstance(value, tuple) else value
            assert shown == (f"{value:g}" if isinstance(value, float) else str(value)), name
    assert not told
    text = (DOCS / "serving.md").read_text()
    for field in (*ServerSettings.__struct_fields__, *Settings.__struct_fields__, *Lifecycle.__struct_fields__):
        spellings = {
            f"`{field}`",
            f"`--{field.replace('_', '-')}`",
            f"`{field.upper()}`",
            f"`--{field.removesuffix('s')}`",
        }
        assert field in ("models", "lifecycle") or any(spelling in text for spelling in spellings), field


def test_serving_tells_every_status() -> None:
    (table,) = tables(section(DOCS / "serving.md", "Statuses"))
    told = {row[0].strip("`") for row in table}
    assert told == {kind.code for kind in errors.RequestError.__subclasses__()}
    assert told <= {code.name for code in grpc.StatusCode}


def test_serving_names_every_service_that_has_a_health() -> None:
    told = (ROOT / "docs" / "serving.md").read_text().partition("## Health and reflection")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(ganserve\.v1\.\w+|inference\.\w+)`", told)) == set(SERVICES)


def test_serving_tells_every_engine() -> None:
    told = set(rows(section(DOCS / "serving.md", "Engines")))
    entries = {entry.name for entry in importlib.metadata.entry_points(group="ganserve")}
    assert told <= entries
    assert told == {path.stem for path in (ROOT / "ganserve" / "engines").glob("*.py")} - {"__init__", "cache", "cuda"}


def test_training_tells_every_loss_penalty_normalization_and_augmentation() -> None:
    from ganserve_trainers import regularizers
    from ganserve_trainers.augment import AUGMENTATIONS
    from ganserve_trainers.layers.normalization import NORMALIZATIONS
    from ganserve_trainers.losses import LOSSES

    found = tables(section(DOCS / "training.md", "Losses, penalties, normalizations"))
    losses, penalties, normalizations, augmentations = ([row[0].strip("`") for row in table] for table in found)
    assert losses == list(LOSSES)
    assert all(callable(getattr(regularizers, name)) for name in penalties)
    assert len(penalties) == 3
    assert normalizations == list(NORMALIZATIONS)
    assert augmentations == list(AUGMENTATIONS)


def test_training_quotes_messages_that_exist() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "trainers" / "ganserve_trainers").glob("**/*.py"))
    (table,) = tables(section(DOCS / "training.md", "When it goes wrong"))
    for message, *_ in table:
        assert message.strip("`").strip(" …") in sources, message


# Dependencies


def projects() -> list[Path]:
    return [
        ROOT / "pyproject.toml",
        ROOT / "trainers" / "pyproject.toml",
        *sorted(ROOT.glob("plugins/*/pyproject.toml")),
    ]


def requirements(project: Path) -> Iterator[str]:
    table = tomllib.loads(project.read_text())
    extras: Mapping[str, Sequence[str]] = table["project"].get("optional-dependencies", {})
    everything = [*table["build-system"]["requires"], *table["project"]["dependencies"]]
    for requirement in (*everything, *(one for extra in extras.values() for one in extra)):
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert match
        yield match[0].lower().replace("_", "-")


def test_why_has_a_line_for_every_dependency_and_no_other() -> None:
    told = [row[0].strip("`") for table in tables((DOCS / "why.md").read_text()) for row in table]
    assert len(told) == len(set(told))
    assert set(told) == {name for project in projects() for name in requirements(project)}

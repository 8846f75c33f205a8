"""The command line: every command for real, against real servers and bundles."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ganserve import Client
from ganserve.bundle import read, write_manifest
from ganserve.cli import cli
from ganserve.commands import reference
from ganserve.commands.process import free_port
from ganserve.commands.serve import command as serve
from ganserve.engines import Options, tensorrt
from ganserve.serving.model import Settings
from ganserve.spec import Output, Step
from ganserve.testing.echo import write_bundle
from ganserve.testing.server import serving

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "echo")
    (write_bundle(folder / "damaged", name="damaged") / "walk.onnx").write_bytes(b"no graph")
    return folder


@pytest.fixture(scope="module")
def server(bundles):
    with serving(bundles) as found:
        yield found


def run(*arguments, code=0, **variables):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], env=variables, prog_name="ganserve")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def commands():
    root = click.Context(cli, info_name="ganserve")
    return {name: cli.get_command(root, name) for name in cli.list_commands(root)}


def test_every_command_is_there():
    expected = {
        "bench",
        "compile",
        "demo",
        "directions",
        "export",
        "fetch",
        "generate",
        "imagine",
        "inspect",
        "invert",
        "mix",
        "models",
        "plugins",
        "sample",
        "serve",
        "token",
        "train",
        "train-encoder",
        "translate",
        "walk",
    }
    assert set(commands()) == expected


@pytest.mark.parametrize("name", commands())
def test_every_command_teaches(name):
    command = commands()[name]
    text = run(name, "--help").output
    assert f"\n  ganserve {name} " in text or f"\n    ganserve {name}" in text, "no example"
    assert command.short_help
    assert f"## ganserve {name}\n" in reference()
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help or isinstance(option.type, click.Choice), f"{name} {option.opts[0]} has no help"


def test_the_reference_is_current():
    # In a process of its own: click keeps the help option that a command had at first, and a test may have asked one without its group.
    done = subprocess.run(
        [sys.executable, "-m", "tools.docs", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_option_has_its_own_variable():
    variables = {
        option.opts[-1]: option.envvar
        for name, command in commands().items()
        for option in command.params
        if isinstance(option, click.Option) and name == "serve"
    }
    assert variables["--max-batch"] == "GANSERVE_SERVE_MAX_BATCH"
    everything = [
        option.envvar
        for command in commands().values()
        for option in command.params
        if isinstance(option, click.Option)
    ]
    assert all(everything)
    assert len(set(everything)) == len(everything)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from ganserve.cli import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'tensorrt_rtx_bindings', 'grpc', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "Train, export and serve any GAN" in found.stdout


def test_without_the_trainers_train_says_how_to_get_them():
    found = subprocess.run(
        [sys.executable, "-m", "ganserve", "train", "dcgan", "--out", "runs"],
        env={**os.environ, "GANSERVE_PLUGINS": "codecs,onnxruntime"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert found.stderr == (
        "Error: `ganserve train` comes from the plugin trainers, which is disabled: not in GANSERVE_PLUGINS\n"
    )


def test_inspect_describes_a_bundle(bundles):
    text = run("inspect", bundles / "echo").output
    assert "echo version 1: verified" in text
    assert "z float32[n, 4], label int64[n]" in text
    assert "loop over walk, steps times" in text
    assert "alone (rows never meet)" in text
    assert read(bundles / "echo").manifest.files["walk.onnx"].sha256 in text
    assert json.loads(run("inspect", bundles / "echo", "--json").output) == json.loads(
        (bundles / "echo" / "manifest.json").read_text()
    )


def test_inspect_refuses_a_damaged_bundle(bundles, tmp_path):
    result = run("inspect", bundles / "damaged", code=1)
    assert result.stderr.startswith("Error: bundle ")
    assert "walk.onnx has 8 bytes" in result.stderr
    assert len(result.output.splitlines()) == 1
    assert "there is no manifest.json" in run("inspect", tmp_path, code=1).stderr


def test_plugins_lists_what_works_and_what_does_not(tmp_path):
    broken = tmp_path / "ganserve_broken"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('out of order')\n")
    text = run("plugins", "--plugins-dir", tmp_path).output
    assert "failed" in text
    assert "RuntimeError: out of order" in text
    found = json.loads(run("plugins", "--json", GANSERVE_PLUGINS_PLUGINS_DIR=str(tmp_path)).output)
    plugins = {plugin["name"]: plugin for plugin in found["plugins"]}
    assert plugins["ganserve_broken"]["status"] == "failed"
    assert plugins["codecs"]["status"] == "active"
    assert plugins["codecs"]["hooks"] == ["ganserve_codecs"]
    assert {family["name"] for family in found["families"]} == {
        "gan",
        "dcgan",
        "pix2pix",
        "cyclegan",
        "stylegan2",
        "dfgan",
    }
    engines = {engine["name"]: engine["unavailable"] for engine in found["engines"]}
    assert set(engines) == {"onnxruntime", "openvino", "tensorrt", "torch"}
    assert engines["onnxruntime"] is None
    assert {codec["name"] for codec in found["codecs"]} >= {"noise", "label", "number", "image", "array"}


def test_models_lists_what_a_server_serves(server):
    text = run("models", "--server", server.address).output
    assert "sample(seed, truncation, label)" in text
    assert "walk.onnx has 8 bytes" in text
    found = {model["name"]: model for model in json.loads(run("models", "--json", "--server", server.address).output)}
    assert found["damaged"]["state"] == "failed"
    tasks = {task["name"]: task for task in found["echo"]["tasks"]}
    assert tasks["sample"]["values"]["label"]["names"] == ["circle", "square", "star"]
    assert tasks["sample"]["tensors"]["z"] == {"dtype": "float32", "shape": [4]}
    assert found["echo"]["licence"] == "Apache-2.0"


def test_sample_writes_files_and_a_grid(server, tmp_path):
    out, sheet = tmp_path / "out", tmp_path / "grids" / "grid.png"
    text = run(
        *("sample", "echo", "--task", "sample", "--server", server.address, "--n", 5, "--seed", 7, "--first-index", 2),
        *("--label", "star", "--truncation", 0.5, "--out", out, "--grid", sheet),
    ).output
    assert "seed 7, from index 2: --seed 7 --first-index 2 gives the same again" in text
    with Client(server.address) as client:
        samples = client.sample("echo", 5, task="sample", seed=7, first_index=2, labels=2, truncation=0.5)
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert written == {f"echo-7-{sample.index}.png": sample.data for sample in samples}
    with Image.open(sheet) as grid:
        assert grid.size == (3 * 6 - 2, 2 * 6 - 2)
        np.testing.assert_array_equal(np.asarray(grid)[:4, :4], samples[0].array())


def test_sample_writes_every_format_and_takes_numbers_and_variables(server, tmp_path):
    run(
        *("sample", "echo", "--task", "walk", "--number", "steps=3", "--format", "npy-float"),
        GANSERVE_SAMPLE_SERVER=server.address,
        GANSERVE_SAMPLE_N="2",
        GANSERVE_SAMPLE_SEED="1",
        GANSERVE_SAMPLE_OUT=str(tmp_path),
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["echo-1-0.npy", "echo-1-1.npy"]
    assert np.load(tmp_path / "echo-1-0.npy", allow_pickle=False).dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nobody",), "Error: there is no model 'nobody'"),
        (("echo", "--task", "sample", "--label", "hexagon"), "Error: labels[0]: 'hexagon' is no class"),
        (("echo", "--task", "sample", "--format", "gif"), "Error: output.image_format: 'gif' is unknown"),
    ],
)
def test_what_sample_cannot_have_is_one_line(server, tmp_path, arguments, message):
    result = run("sample", *arguments, "--server", server.address, "--out", tmp_path, code=1)
    assert result.stderr.startswith(message)
    assert len(result.output.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_told_how_to_be_written(server):
    result = run("sample", "echo", "--number", "steps", "--server", server.address, code=2)
    assert "'steps' is not NAME=NUMBER" in result.stderr


def test_a_missing_server_is_told_what_to_do(tmp_path):
    result = run("models", "--server", f"127.0.0.1:{free_port()}", code=1)
    assert "start a server with `ganserve serve`" in result.stderr


def test_serve_answers_and_ends_well_on_sigterm(bundles):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "ganserve", "serve", str(bundles), "--metrics-port", "-1", "--management-port", "-1"],
        env={**os.environ, "GANSERVE_SERVE_PORT": str(port), "GANSERVE_SERVE_ENGINE": "nonesuch onnxruntime"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with Client(f"127.0.0.1:{port}") as client:
            client.wait_ready(60)
            assert client.sample("echo", 2, task="sample").served.engines == ("onnxruntime", "onnxruntime")
            process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, log
    assert f"listening on 127.0.0.1:{port}" in log
    assert "engine nonesuch refused" in log
    assert "draining" in log


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere",), 1, "Error: nowhere is not a folder"),
        (("--engine", "openvino:fp9"), 2, "'openvino:fp9': Invalid enum value 'fp9'"),
    ],
)
def test_what_cannot_be_served_is_one_line(arguments, code, message):
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "ganserve",
            "serve",
            *arguments,
            "--port",
            "0",
            "--metrics-port",
            "-1",
            "--management-port",
            "-1",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == code
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_demo_serves_samples_and_stops(bundles, tmp_path):
    text = run("demo", "--bundles", bundles, "--out", tmp_path, "--n", 9).output
    assert "damaged is not served" in text
    assert f"{tmp_path / 'echo.png'}: 9 images of echo by onnxruntime" in text
    assert "server stopped cleanly" in text
    assert f"ganserve serve {bundles}" in text
    with Image.open(tmp_path / "echo.png") as grid:
        assert grid.size == (3 * 6 - 2, 3 * 6 - 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["echo.png", "server.log"]


def test_demo_translates_the_examples_of_a_bundle(tmp_path):
    folder = write_bundle(tmp_path / "bundles" / "translator", name="translator")
    manifest = read(folder).manifest
    tasks = tuple(task for task in manifest.tasks if task.name == "negative")
    write_manifest(folder, msgspec.structs.replace(manifest, tasks=tasks))
    (tmp_path / "bundles" / "broken").mkdir()
    (tmp_path / "bundles" / "broken" / "manifest.json").write_text("{")
    (folder / "examples").mkdir()
    for grey in (0, 100, 200):
        Image.new("RGB", (8, 8), (grey, grey, grey)).save(folder / "examples" / f"{grey:03d}.png")
    text = run("demo", "--bundles", tmp_path / "bundles", "--out", tmp_path / "out").output
    assert f"{tmp_path / 'out' / 'translator-negative.png'}: 3 images of translator" in text
    assert "ganserve translate translator PICTURES" in text
    with Image.open(tmp_path / "out" / "translator-negative.png") as grid:
        assert grid.size == (4 * 10 - 2, 2 * 10 - 2)
        assert [grid.getpixel((x, 4))[0] for x in (4, 14, 24, 34)] == [0, 255, 100, 155]


def test_demo_says_what_is_missing(bundles, tmp_path):
    assert "there is no bundle in" in run("demo", "--bundles", tmp_path, code=1).stderr
    only_damaged = run("demo", "--bundles", bundles / "damaged", "--out", tmp_path, code=1)
    assert "no model could be asked for anything" in only_damaged.stderr


def test_compile_builds_every_graph_once(bundles, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings")
    folder = write_bundle(tmp_path / "one", name="one")
    manifest = read(folder).manifest
    task = msgspec.structs.replace(
        manifest.tasks[0], steps=(Step(graph="mapping"),), output=Output(tensor="w", codec="array")
    )
    graphs = tuple(graph for graph in manifest.graphs if graph.name == "mapping")
    write_manifest(folder, msgspec.structs.replace(manifest, graphs=graphs, tasks=(task,)))
    engines = tmp_path / "engines"
    first = run("compile", folder, "--out", engines).output
    assert "mapping" in first
    assert "kept" not in first
    built = {path: path.stat().st_mtime_ns for path in engines.iterdir()}
    assert len(built) == 1
    assert "kept" in run("compile", folder, "--out", engines).output
    assert {path: path.stat().st_mtime_ns for path in engines.iterdir()} == built
    # What a server with no other settings looks for.
    assert {parameter.name: parameter.default for parameter in serve.params}["max_batch"] == Settings().max_batch
    sought = Options(graph=graphs[0], device="cuda:0", cache_dir=engines, max_rows=Settings().max_batch)
    assert not tensorrt.must_build(folder / graphs[0].file, sought)
    assert tensorrt.must_build(folder / graphs[0].file, msgspec.structs.replace(sought, max_rows=8))
    assert "BundleError" not in run("compile", bundles / "damaged", "--out", engines, code=1).output

"""``ganserve generate``: shards, restarts and containers give the images that a server gives, and the files of one unsharded run."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ganserve import Client
from ganserve.bulk import Part, Run, Shard
from ganserve.bulk_files import Store
from ganserve.cli import cli
from ganserve.codecs.seeds import draw
from ganserve.errors import GanserveError
from ganserve.testing.echo import SIZE, Z_NOISE, image_of, write_bundle
from ganserve.testing.server import serving


def generate(bundle: Path, *arguments: object, code: int = 0) -> Result:
    given = ["generate", str(bundle), "--threads", "1", *(str(argument) for argument in arguments)]
    if "--task" not in given:
        given += ["--task", "sample"]
    result = CliRunner().invoke(cli, given, prog_name="ganserve")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def files(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def samples(path: Path) -> dict[str, dict[str, bytes]]:
    """A tar file read as WebDataset reads it: consecutive members of one name up to the first dot are a sample."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            content = tar.extractfile(member)
            assert content is not None
            assert key not in found or next(reversed(found)) == key
            found.setdefault(key, {})[suffix] = content.read()
    return found


def run_of(**changes: Any) -> Run:
    fields = {
        "model": "echo",
        "version": 1,
        "bundle": "0" * 64,
        "task": "sample",
        "seed": 7,
        "count": 10,
        "part": 4,
        "container": "files",
        "format": "",
        "engines": ("onnxruntime",),
        "device": "cpu",
    }
    return Run(**fields | changes)


@pytest.mark.parametrize("flags", [("--tar",), ()], ids=["tar", "files"])
def test_shards_make_together_the_files_of_the_unsharded_run_byte_for_byte(
    echo: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    common = ("--count", "103", "--part", "10", "--seed", "7", *flags)
    generate(echo, *common, "--max-batch", 8, "--out", tmp_path / "whole")
    seen: set[str] = set()
    for number in range(3):
        # In a folder of its own: what a shard makes must not be what another has made. Batches of another size, too.
        alone = tmp_path / str(number)
        generate(echo, *common, "--max-batch", 3 + number, "--out", alone, "--shard", f"{number}/3")
        made = files(alone).keys() - {"run.json"}
        assert made
        assert not made & seen
        seen |= made
        shutil.copytree(alone, tmp_path / "together", dirs_exist_ok=True)
    whole = files(tmp_path / "whole")
    assert seen | {"run.json"} == whole.keys()
    assert files(tmp_path / "together") == whole


def test_the_images_are_those_of_the_recipe_and_of_a_server(echo: Path, tmp_path: Path) -> None:
    generate(
        echo,
        "--count",
        "20",
        "--part",
        "10",
        "--seed",
        "7",
        "--tar",
        "--label",
        "star",
        "--label",
        0,
        "--out",
        tmp_path,
    )
    found = samples(tmp_path / "echo-000000.tar") | samples(tmp_path / "echo-000001.tar")
    assert list(found) == [f"{index:09d}" for index in range(20)]
    assert [json.loads(one["json"]) for one in found.values()] == [
        {"seed": 7, "index": index, "label": 2 if index % 2 == 0 else 0} for index in range(20)
    ]
    seeds = np.array([(7, index) for index in range(20)], np.uint64)
    w = draw(Z_NOISE, seeds, (SIZE,)) + np.where(np.arange(20) % 2 == 0, 2, 0).astype(np.float32)[:, None]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(one["png"]))) for one in found.values()])
    assert (pixels == image_of(w)).all()
    with serving(echo) as server, Client(server.address) as client:
        served = client.sample(
            "echo", task="sample", n=5, seed=7, first_index=10, labels=["star", 0, "star", 0, "star"]
        )
    assert [sample.data for sample in served] == [found[f"{index:09d}"]["png"] for index in range(10, 15)]


def test_a_folder_of_files_says_what_each_is(echo: Path, tmp_path: Path) -> None:
    result = generate(echo, "--count", "3", "--part", "2", "--seed", "5", "--format", "webp", "--out", tmp_path / "out")
    assert result.output == f"3 images in 2 new parts in {tmp_path / 'out'}; 0 parts were there\n"
    lines = (tmp_path / "out" / "echo-000000" / "metadata.jsonl").read_text().splitlines()
    # No label was given, so the seed chose one: it is told all the same.
    assert [set(json.loads(line)) for line in lines] == [{"file_name", "seed", "index", "label"}] * 2
    assert [json.loads(line)["file_name"] for line in lines] == ["000000000.webp", "000000001.webp"]
    with Image.open(tmp_path / "out" / "echo-000001" / "000000002.webp") as image:
        assert image.size == (SIZE, SIZE)


def test_a_restart_makes_only_what_is_missing_and_clears_what_a_killed_run_left(echo: Path, tmp_path: Path) -> None:
    common = ("--count", "50", "--part", "10", "--tar", "--out", tmp_path)
    generate(echo, *common)
    whole = files(tmp_path)
    kept = tmp_path / "echo-000001.tar"
    before = kept.stat().st_mtime_ns
    (tmp_path / "echo-000003.tar").unlink()
    (tmp_path / ".echo-000003.tar.0badf00d.tmp").write_bytes(b"half of it")
    result = generate(echo, *common)
    assert result.output.startswith("10 images in 1 new parts")
    assert files(tmp_path) == whole
    assert kept.stat().st_mtime_ns == before


def test_the_parts_that_a_killed_run_leaves_are_whole(echo: Path, tmp_path: Path) -> None:
    common = ["--task", "sample", "--threads", "1", "--count", "1000000", "--part", "500", "--seed", "3"]
    command = [sys.executable, "-m", "ganserve", "generate", str(echo), *common, "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while len(list((tmp_path / "killed").glob("echo-*"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    parts = list((tmp_path / "killed").glob("echo-*"))
    assert 2 <= len(parts) < 2000
    assert {len(list(part.iterdir())) for part in parts} == {501}  # whole, each with its metadata
    common[common.index("1000000")] = "1000"
    generate(echo, *common, "--out", tmp_path / "fresh")
    for part in ("echo-000000", "echo-000001"):
        assert files(tmp_path / "killed" / part) == files(tmp_path / "fresh" / part)


def test_a_folder_of_another_run_is_refused_by_what_differs(echo: Path, tmp_path: Path) -> None:
    generate(echo, "--count", "4", "--out", tmp_path)
    before = files(tmp_path)
    result = generate(echo, "--count", "5", "--seed", "1", "--out", tmp_path, code=1)
    assert (
        f"{tmp_path} holds parts of another run (seed 0, now 1; count 4, now 5); choose another --out" in result.output
    )
    assert files(tmp_path) == before
    (tmp_path / "run.json").write_text("{}")
    assert "describes no run" in generate(echo, "--count", "4", "--out", tmp_path, code=1).output


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--count", "0"), 2, "'0' is no whole number from 1 to 1e+09, such as 1000 or 1e6"),
        (("--count", "1.5"), 2, "'1.5' is no whole number"),
        (("--count", "nan"), 2, "'nan' is no whole number"),
        (("--count", "1e10"), 2, "'1e10' is no whole number"),
        (("--count", "4", "--shard", "3/3"), 2, "'3/3' is no shard; expected I/N with I from 0 to N - 1"),
        (("--count", "4", "--shard", "1"), 2, "'1' is no shard"),
        (("--count", "4", "--shard", "-1/2"), 2, "'-1/2' is no shard"),
        (("--count", "4", "--label", "hexagon"), 1, "label[0]: 'hexagon'"),
        (("--count", "4", "--truncation", "-1"), 1, "truncation"),
        (("--count", "4", "--number", "steps=3"), 1, "steps: not used"),
        (
            ("--count", "4", "--direction", "smiling=1"),
            1,
            "directions[smiling]: the task has no such direction; it has none",
        ),
        (("--count", "4", "--format", "gif"), 1, "gif"),
        (("--count", "4", "--engine", "magic"), 1, "magic"),
        (("--count", "4", "--task", "negative"), 1, "no task 'negative'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_refused_before_anything_is_written(
    echo: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    result = generate(echo, *arguments, "--out", tmp_path / "out", code=code)
    assert told in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("container", ["files", "tar"])
def test_a_part_that_fails_leaves_nothing_behind(tmp_path: Path, container: Any) -> None:
    run = run_of(container=container)
    store = Store(tmp_path, run)
    (part, *_) = run.parts(Shard())
    with pytest.raises(TypeError, match="is unsupported"), store.writing(part) as writer:
        writer.add("000000000", ".png", b"image", {"label": object()})
    assert files(tmp_path).keys() == {"run.json"}
    assert not store.path(part).exists()


@pytest.mark.parametrize("container", ["files", "tar"])
def test_two_workers_with_one_shard_do_no_harm(tmp_path: Path, container: Any) -> None:
    run = run_of(container=container)
    store, other = Store(tmp_path, run), Store(tmp_path, run)
    (part, *_) = run.parts(Shard())
    with store.writing(part) as writer:
        writer.add("000000000", ".png", b"image", {})
        whole = store.path(part)
        with other.writing(Part(9, 0, 4)) as elsewhere:
            elsewhere.add("000000000", ".png", b"image", {})
        other.path(Part(9, 0, 4)).rename(whole)  # the other was faster
    assert whole.exists()
    assert files(tmp_path).keys() - {"run.json"} == (
        {whole.name}
        if container == "tar"
        else {
            f"{whole.name}/000000000.png",
            f"{whole.name}/metadata.jsonl",
        }
    )


def test_a_full_disk_is_told_and_what_is_complete_stays(tmp_path: Path) -> None:
    run = run_of()
    store = Store(tmp_path, run)
    first, second, _ = run.parts(Shard())
    with store.writing(first) as writer:
        writer.add("000000000", ".png", b"image", {})
    before = files(tmp_path)
    with (
        pytest.raises(GanserveError, match=r"No space left on device.*the same command goes on"),
        store.writing(second),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"image")
    assert files(tmp_path) == before


def test_a_run_whose_engine_hangs_ends_and_keeps_what_is_whole(echo: Path, tmp_path: Path) -> None:
    """In a process of its own, for the call that hangs must not keep it alive."""
    out = tmp_path / "out"
    command = ["generate", str(echo), "--task", "sample", "--count", "400", "--part", "100", "--max-batch", "25"]
    command += ["--threads", "1", "--out", str(out), "--hang-seconds", "1"]
    script = f"""
import sys, threading
from pathlib import Path
from ganserve.cli import main
from ganserve.engines.onnxruntime import OnnxRuntimeSession

def hanging(self, *arguments, run=OnnxRuntimeSession.run):
    if sum(part.is_dir() for part in Path({str(out)!r}).glob("[!.]*")) > 1:
        threading.Event().wait()
    return run(self, *arguments)

OnnxRuntimeSession.run = hanging
sys.argv = ["ganserve", *{command!r}]
main()
"""
    hung = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert hung.returncode == 1, hung.stderr
    assert "Error: model 'echo': its engine has not come back for 1 s; start again" in hung.stderr
    assert "Traceback" not in hung.stderr
    whole = {path.name for path in out.iterdir() if path.is_dir()}
    assert 2 <= len(whole) < 4
    assert not list(out.glob(".*"))
    again = CliRunner().invoke(cli, command)
    assert f"{400 - 100 * len(whole)} images in {4 - len(whole)} new parts" in again.output, again.output


def test_parts_of_shards_are_disjoint_and_cover_the_run() -> None:
    for count in (1, 9, 10, 11, 57):
        run = run_of(count=count, part=10)
        whole = list(run.parts(Shard()))
        assert [index for part in whole for index in range(part.start, part.stop)] == list(range(count))
        for of in (1, 2, 3, 8):
            shared = [part for number in range(of) for part in run.parts(Shard(number, of))]
            assert sorted(shared) == whole


def test_a_bundle_without_classes_has_no_labels(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    generate(bundle, "--task", "walk", "--number", "steps=2", "--count", "2", "--out", tmp_path / "out")
    (line, _) = (tmp_path / "out" / "echo-000000" / "metadata.jsonl").read_text().splitlines()
    assert json.loads(line) == {"file_name": "000000000.png", "seed": 0, "index": 0}

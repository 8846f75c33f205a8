"""The log of a server, as people and as machines read it."""

import json
from pathlib import Path

import pytest

from ganserve import Client
from ganserve.commands.process import server, stop
from ganserve.errors import InternalError

SECRET = 987654321987


def events(echo: Path, log: Path, kind: str) -> tuple[list[str], str]:
    """The lines that a server wrote while it served and failed, and the id of the failure."""
    with server(echo, log, "--log-format", kind, "--threads", "1") as (process, address):
        with Client(address) as client:
            client.wait_ready(60)
            client.sample("echo", task="sample", seed=SECRET)
            with pytest.raises(InternalError) as caught:
                client.sample("echo", task="fragile", seed=SECRET, numbers={"hurt": 1})
        stop(process, log)
    return log.read_text().splitlines(), caught.value.error_id


def test_json_lines_are_objects_and_a_failure_tells_its_id_and_nothing_of_the_request(
    echo: Path, tmp_path: Path
) -> None:
    lines, error_id = events(echo, tmp_path / "log", "json")
    # ONNX Runtime writes of the failure by itself, past Python.
    found = [json.loads(line) for line in lines if "[E:onnxruntime:" not in line]
    assert all({"timestamp", "level", "logger", "message"} <= one.keys() for one in found)
    assert any(one["message"].startswith("ready: echo 1 ready") for one in found)
    (failed,) = [one for one in found if one["level"] == "ERROR"]
    assert (failed["request_id"], failed["model"], failed["task"]) == (error_id, "echo", "fragile")
    assert error_id in failed["message"]
    assert "Traceback" in failed["exc_info"]
    assert not [line for line in lines if str(SECRET) in line]


def test_text_lines_tell_time_level_and_place(echo: Path, tmp_path: Path) -> None:
    lines, error_id = events(echo, tmp_path / "log", "text")
    assert any(" INFO ganserve.serving.server: ready: echo 1 ready" in line for line in lines)
    assert any(f" ERROR ganserve.serving.traffic: error {error_id} in a call to echo/fragile" in line for line in lines)

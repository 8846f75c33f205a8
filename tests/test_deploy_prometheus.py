"""Rules, alerts and dashboard: checked by promtool, and by a real Prometheus that scrapes a real server under load."""

import contextlib
import json
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ganserve import Client
from ganserve.commands.process import free_port
from ganserve.errors import RequestError
from ganserve.metrics import Metrics
from ganserve.serving.model import EngineChoice, Settings
from ganserve.testing.echo_inversion import write_inversion_bundle
from ganserve.testing.server import Serving, serving

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "ganserve.json").read_text())
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())["groups"] for rule in group["rules"]]
ADAPTER = yaml.safe_load((PROMETHEUS / "adapter.yaml").read_text())["rules"]["custom"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]}
PATIENCE = 30.0
"""Seconds that all queries may take to have data; on a quiet machine they have it after four."""


def promtool(tool: str, *arguments: str) -> str:
    done = subprocess.run([tool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_finds_no_fault_with_the_rules(needs_tool: Callable[[str], str]) -> None:
    assert f"{len(RULES)} rules found" in promtool(needs_tool("promtool"), "check", "rules", "rules.yaml")


def test_alerts_fire_when_they_should_and_only_then(needs_tool: Callable[[str], str]) -> None:
    assert "SUCCESS" in promtool(needs_tool("promtool"), "test", "rules", "rules_test.yaml")


def test_every_rule_is_tested() -> None:
    tests = yaml.safe_load((PROMETHEUS / "rules_test.yaml").read_text())["tests"]
    cases = [one for test in tests for one in test.get("alert_rule_test", ())]
    alerts = {rule["alert"] for rule in RULES if "alert" in rule}
    assert {one["alertname"] for one in cases if one["exp_alerts"]} == alerts, "each fires"
    assert {one["alertname"] for one in cases if not one["exp_alerts"]} == alerts, "each is quiet"
    queried = {one["expr"] for test in tests for one in test.get("promql_expr_test", ())}
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    assert recorded - queried == {"model:ganserve_requests:rate5m"}  # the divisor of two that are


def test_every_alert_has_a_section_that_says_what_to_do() -> None:
    headings = set(re.findall(r"^### (\w+)$", (ROOT / "docs" / "prometheus.md").read_text(), re.MULTILINE))
    alerts = {rule["alert"]: rule for rule in RULES if "alert" in rule}
    assert headings == set(alerts)
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook"] == f"docs/prometheus.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_every_series_that_a_query_names_exists() -> None:
    registry = Metrics().registry
    known = {family.name for family in registry.collect()} | {rule["record"] for rule in RULES if "record" in rule}
    queries = [*QUERIES.values(), *(rule["expr"] for rule in RULES), *(rule["seriesQuery"] for rule in ADAPTER)]
    for query in queries:
        for name in re.findall(r"(?:\w+:)?\bganserve_\w+(?::\w+)?", query):
            assert re.sub(r"_(total|bucket|sum|count|info)$", "", name) in known or name in known, f"{name} in {query}"


def test_every_series_is_looked_at_somewhere() -> None:
    text = " ".join([*QUERIES.values(), *(rule["expr"] for rule in RULES)])
    families = {family.name for family in Metrics().registry.collect()}
    assert {name for name in families if name not in text} <= {"ganserve_stream_frames"}


def test_panels_have_titles_units_descriptions_and_places_of_their_own() -> None:
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]


class Prometheus:
    """A Prometheus that is asked over its HTTP API."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[Any]:
        """The samples of an instant query."""
        address = f"{self._address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return list(json.load(answer)["data"]["result"])

    def wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self._address}/-/ready", timeout=5):
                return
            assert time.monotonic() < end, "Prometheus did not start"
            time.sleep(0.05)


@contextlib.contextmanager
def scraping(tool: str, metrics_port: int, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a server, labelled as the operator labels a pod, and evaluates the rules."""
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
                "rule_files": [str(PROMETHEUS / "rules.yaml")],
                "scrape_configs": [
                    {
                        "job_name": "ganserve",
                        "static_configs": [
                            {
                                "targets": [f"127.0.0.1:{metrics_port}"],
                                "labels": {"namespace": "serving", "pod": "gan-ganserve-5d9c-abcde"},
                            }
                        ],
                    }
                ],
            }
        )
    )
    port = free_port()
    command = [
        tool,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            found = Prometheus(port)
            found.wait()
            yield found
        finally:
            process.terminate()
            process.wait(10)


@contextlib.contextmanager
def load(server: Serving) -> Iterator[None]:
    """Calls of every kind, some of them wrong, until the block is left."""
    stopping = threading.Event()

    def work() -> None:
        picture = np.zeros((4, 4, 3), np.uint8)
        with Client(server.address) as client:
            while not stopping.wait(0.02):
                client.sample("echo", task="sample", n=9)
                client.translate("echo", picture, task="negative")
                client.invert("echo-inversion", np.zeros((1, 2, 1), np.uint8), steps=1)
                with contextlib.suppress(RequestError):
                    client.sample("echo", task="sample", n=0)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stopping.set()
        worker.join()


@pytest.fixture(scope="module")
def scraped(
    echo: Path, tmp_path_factory: pytest.TempPathFactory, needs_tool: Callable[[str], str]
) -> Iterator[Prometheus]:
    tool = needs_tool("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    bundle = write_inversion_bundle(folder / "echo-inversion")
    models = Settings(engines=(EngineChoice("none"), EngineChoice("onnxruntime")), threads=1, max_batch=8)
    with (
        serving(echo, bundle, models=models) as server,
        scraping(tool, server.metrics_port, folder) as prometheus,
        load(server),
    ):
        yield prometheus


def until_all_have_data(prometheus: Prometheus, queries: dict[str, str]) -> dict[str, list[Any]]:
    end = time.monotonic() + PATIENCE
    while True:
        found = {name: prometheus.query(query) for name, query in queries.items()}
        without = [name for name, samples in found.items() if not samples]
        if not without:
            return found
        assert time.monotonic() < end, f"no data for {without}"
        time.sleep(0.25)


def filled(query: str) -> str:
    """A panel's query with what Grafana puts in the place of its variables."""
    values = {"$namespace": "serving", "$instance": ".*", "$model": ".*", "$__rate_interval": "5s"}
    for name, value in values.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


def test_every_panel_has_data_of_a_server_under_load(scraped: Prometheus) -> None:
    found = until_all_have_data(scraped, {name: filled(query) for name, query in QUERIES.items()})
    numbers = {name: [float(sample["value"][1]) for sample in samples] for name, samples in found.items()}
    assert not [name for name, values in numbers.items() if not np.isfinite(values).all()]
    assert numbers["Graphs on a fallback A"][0] > 0
    assert {sample["metric"]["code"] for sample in found["Calls a second, by status A"]} >= {"OK", "INVALID_ARGUMENT"}


def test_every_recording_rule_and_the_metrics_of_the_autoscaler_have_data(scraped: Prometheus) -> None:
    queries = {rule["record"]: rule["record"] for rule in RULES if "record" in rule}
    for rule in ADAPTER:
        series = rule["seriesQuery"].partition("{")[0]
        template = {"<<.Series>>": series, "<<.LabelMatchers>>": 'namespace="serving"', "<<.GroupBy>>": "pod"}
        query = rule["metricsQuery"]
        for name, value in template.items():
            query = query.replace(name, value)
        queries[rule["name"]["as"]] = query
    found = until_all_have_data(scraped, queries)
    assert {sample["metric"]["pod"] for sample in found["ganserve_busy_per_pod"]} == {"gan-ganserve-5d9c-abcde"}
    (busy,) = found["ganserve_busy_per_pod"]
    assert 0 < float(busy["value"][1]) <= 1.5


def test_a_server_on_its_fallback_is_noticed(scraped: Prometheus) -> None:
    alert = {"fallback": 'ALERTS{alertname="GanserveFallbackEngine"}'}
    samples = until_all_have_data(scraped, alert)["fallback"]
    assert {sample["metric"]["engine"] for sample in samples} == {"onnxruntime"}
    assert {sample["metric"]["alertstate"] for sample in samples} == {"pending"}

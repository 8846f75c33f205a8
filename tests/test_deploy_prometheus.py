"""Rules, alerts and dashboard: checked by promtool, and by a real Prometheus that scrapes a real server under load."""

import contextlib
import json
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
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

from .gate import gate_before

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

    def query(self, expression: str, **when: float) -> list[Any]:
        """The samples of an instant query; ``time`` may say when."""
        return list(self._asked("query", {"query": expression, **when})["result"])

    def series(self, selector: str) -> list[Mapping[str, str]]:
        """The labels of every series that ``selector`` finds."""
        return list(self._asked("series", {"match[]": selector}))

    def _asked(self, what: str, parameters: Mapping[str, Any]) -> Any:
        address = f"{self._address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)["data"]

    def wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self._address}/-/ready", timeout=5):
                return
            assert time.monotonic() < end, "Prometheus did not start"
            time.sleep(0.05)


POD = ("serving", "gan-ganserve-5d9c7b8f4-abcde")
"""The namespace and the name of a pod of the chart's Deployment, in a release called gan."""


@contextlib.contextmanager
def scraping(tool: str, pods: Mapping[tuple[str, str], int], folder: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes ports by (namespace, pod), labelled as the operator labels a pod, and evaluates the rules."""
    targets = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": namespace, "pod": pod}}
        for (namespace, pod), port in pods.items()
    ]
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
                "rule_files": [str(PROMETHEUS / "rules.yaml")],
                "scrape_configs": [{"job_name": "ganserve", "static_configs": targets}],
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
        scraping(tool, {POD: server.metrics_port}, folder) as prometheus,
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


def adapted(rule: Mapping[str, Any], matchers: str) -> str:
    """The query of a ``rule`` with what prometheus-adapter puts in the place of its variables when it is asked for pods."""
    series = rule["seriesQuery"].partition("{")[0]
    values = {"<<.Series>>": series, "<<.LabelMatchers>>": matchers, "<<.GroupBy>>": "pod"}
    query = str(rule["metricsQuery"])
    for name, value in values.items():
        query = query.replace(name, value)
    assert "<<" not in query
    return query


def keda_queries(helm: str) -> list[str]:
    """The queries of the chart's ScaledObject, of the release gan in the namespace serving: of the queue, of the engines."""
    chart = ROOT / "deploy" / "helm" / "ganserve"
    command = [helm, "template", "gan", str(chart), "--namespace", "serving", "--set", "autoscaling.kind=keda"]
    done = subprocess.run([*command, "--show-only", "templates/autoscaling.yaml"], capture_output=True, check=True)
    return [trigger["metadata"]["query"] for trigger in yaml.safe_load(done.stdout)["spec"]["triggers"]]


def test_every_recording_rule_and_the_metrics_of_the_autoscaler_have_data(
    scraped: Prometheus, needs_tool: Callable[[str], str]
) -> None:
    queries = {rule["record"]: rule["record"] for rule in RULES if "record" in rule}
    queries |= {rule["name"]["as"]: adapted(rule, 'namespace="serving"') for rule in ADAPTER}
    found = until_all_have_data(scraped, queries)
    assert {sample["metric"]["pod"] for sample in found["ganserve_busy_per_pod"]} == {POD[1]}
    (busy,) = found["ganserve_busy_per_pod"]
    assert 0 < float(busy["value"][1]) <= 1.5
    # At the same moment KEDA sees what the HorizontalPodAutoscaler does.
    now = float(busy["value"][0])
    for rule, query in zip(ADAPTER, keda_queries(needs_tool("helm")), strict=True):
        (adapters,) = scraped.query(adapted(rule, 'namespace="serving"'), time=now)
        (kedas,) = scraped.query(query, time=now)
        assert float(kedas["value"][1]) == float(adapters["value"][1])


def waiting(server: Serving) -> float:
    """The rows that wait, as /metrics says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10) as answer:
        (rows,) = re.findall(r"^ganserve_queue_rows\{.*\} (.+)$", answer.read().decode(), re.MULTILINE)
    return float(rows)


def test_autoscalers_are_told_the_rows_that_wait_in_each_pod_and_in_no_other(
    echo: Path, tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    """Two pods of the Deployment, each with a queue of its own that stands still; a pod of a Job and a namesake elsewhere have queues too."""
    tool, helm = needs_tool("prometheus"), needs_tool("helm")
    models = Settings(threads=1, max_batch=8)
    rows = (30, 50)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(rows)))
        servers = [stack.enter_context(serving(echo, models=models)) for _ in rows]
        clients = [stack.enter_context(Client(server.address)) for server in servers]
        gates = [stack.enter_context(gate_before(server, "mapping")) for server in servers]
        calls = [pool.submit(client.sample, "echo", n, task="sample") for client, n in zip(clients, rows, strict=True)]
        end = time.monotonic() + PATIENCE
        # A batch of each is at the gate.
        while [waiting(server) for server in servers] != [22, 42]:
            assert time.monotonic() < end, [waiting(server) for server in servers]
            time.sleep(0.05)
        one, other = (server.metrics_port for server in servers)
        second = ("serving", "gan-ganserve-5d9c7b8f4-fghij")
        others = {("serving", "gan-ganserve-generate-1-0-x2x9z"): other, ("staging", POD[1]): other}
        prometheus = stack.enter_context(scraping(tool, {POD: one, second: other, **others}, tmp_path))
        end = time.monotonic() + PATIENCE
        while len(prometheus.query("ganserve_queue_rows")) < 4:
            assert time.monotonic() < end, "not every pod is scraped"
            time.sleep(0.1)

        queue = next(rule for rule in ADAPTER if rule["name"]["as"] == "ganserve_queue_rows_per_pod")
        pods = [POD[1], second[1]]
        assert {(one["namespace"], one["pod"]) for one in prometheus.series(queue["seriesQuery"])} >= {POD, second}
        found = prometheus.query(adapted(queue, f'namespace="serving",pod=~"{"|".join(pods)}"'))
        told = {sample["metric"]["pod"]: float(sample["value"][1]) for sample in found}
        assert told == {POD[1]: 22, second[1]: 42}
        assert [told[pod] for pod in pods] == [waiting(server) for server in servers]
        (sample,) = prometheus.query(keda_queries(helm)[0])
        assert float(sample["value"][1]) == 22 + 42
        for gate in gates:
            gate.open.set()
        assert [len(call.result(PATIENCE)) for call in calls] == list(rows)


def test_a_server_on_its_fallback_is_noticed(scraped: Prometheus) -> None:
    alert = {"fallback": 'ALERTS{alertname="GanserveFallbackEngine"}'}
    samples = until_all_have_data(scraped, alert)["fallback"]
    assert {sample["metric"]["engine"] for sample in samples} == {"onnxruntime"}
    assert {sample["metric"]["alertstate"] for sample in samples} == {"pending"}

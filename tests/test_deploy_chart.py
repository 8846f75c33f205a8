"""The chart: rendered by helm from several sets of values, and what comes out held against Kubernetes, checkov, the commands and the rules."""

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from ganserve.cli import cli

from .parsing import parsed

ROOT = Path(__file__).parent.parent
CHART = ROOT / "deploy" / "helm" / "ganserve"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
KUBERNETES = "1.37"

Object = Mapping[str, Any]

DIGEST = "sha256:" + "0" * 64
IMAGE = {"repository": "registry.example.com/ganserve", "digest": DIGEST}
BUNDLES = {"from": "image", "image": {"repository": "registry.example.com/bundles", "digest": DIGEST}}
PEERS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "apps"}}}]
GENERATE = {
    "enabled": True,
    "bundle": "echo",
    "count": 40,
    "shards": 2,
    "parallelism": 2,
    "out": {"claim": "images"},
    "options": {"seed": 12345678901, "part": 10, "task": "sample", "label": ["star", "circle"], "threads": 1},
}
TRAIN = {
    "enabled": True,
    "family": "dcgan",
    "preset": "tiny",
    "run": "digits",
    "nodes": 2,
    "processes": 2,
    "gpus": 2,
    "data": {"claim": "images"},
    "runs": {"claim": "runs"},
    "options": {"kimg": 0.5, "mirror": True, "compile": False, "set": ["width=8"]},
}
SETS: Mapping[str, Object] = {
    "default": {},
    "cpu": {
        "image": IMAGE,
        "replicas": 3,
        "bundles": {"claim": {"existing": "bundles", "subPath": "gans"}},
        "settings": {
            "threads": 2,
            "max-batch": 16,
            "engine": ["openvino:bf16", "onnxruntime"],
            "queue-bytes": 1 << 31,
        },
        "autoscaling": {"kind": "hpa", "queueRows": 40, "busy": 0.7},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "networkPolicy": {"clients": PEERS, "monitoring": PEERS},
        "topologySpread": {"zones": "DoNotSchedule"},
        "route": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["gan.example.com"]},
        "ingress": {"enabled": True, "className": "nginx", "host": "gan.example.com", "tlsSecret": "gan-tls"},
        "podAnnotations": {"a": "b"},
        "env": [{"name": "OMP_NUM_THREADS", "value": "2"}],
        "volumes": [{"name": "more", "emptyDir": {}}],
        "volumeMounts": [{"name": "more", "mountPath": "/more"}],
    },
    "gpu": {
        "image": IMAGE,
        "bundles": BUNDLES,
        "gpu": {"count": 1, "runtimeClass": "nvidia"},
        "settings": {"device": "cuda:0", "engine": ["tensorrt", "onnxruntime"]},
        "autoscaling": {"kind": "keda", "max": 4},
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
        "cache": {"claim": "engines"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "nodeSelector": {"gpu": "l4"},
        "priorityClass": "serving",
        "grace": 60,
        "preStopSeconds": 10,
        "tls": {"secretName": "gan-tls", "clientCa": {"secretName": "callers", "key": "authorities.pem"}},
        "tokens": {"secretName": "gan-tokens"},
    },
    "jobs": {
        "image": IMAGE,
        "serve": {"enabled": False},
        "bundles": BUNDLES,
        "generate": GENERATE,
        "train": {**TRAIN, "image": IMAGE},
    },
}


@pytest.fixture(scope="module")
def helm(needs_tool: Callable[[str], str]) -> str:
    return needs_tool("helm")


@pytest.fixture(scope="module")
def rendered(helm: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Any]]:
    """The objects of each set of values."""
    folder = tmp_path_factory.mktemp("values")
    found = {}
    for name, values in SETS.items():
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values))
        command = [helm, "template", "gan", str(CHART), "--namespace", "serving", "--values", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found[name] = [one for one in yaml.safe_load_all(done.stdout) if one]
    return found


def one(objects: list[Any], kind: str, name: str = "gan-ganserve") -> Any:
    """The object of ``kind`` called ``name``."""
    (found,) = [made for made in objects if (made["kind"], made["metadata"]["name"]) == (kind, name)]
    return found


def pods(rendered: Mapping[str, list[Any]]) -> Iterator[Any]:
    """The pod template of every workload of every set."""
    for objects in rendered.values():
        for made in objects:
            if made["kind"] in ("Deployment", "Job"):
                yield made["spec"]["template"]


def containers(pod: Any) -> list[Any]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


# Whole charts


def test_helm_lints_every_set_of_values(helm: str, tmp_path: Path) -> None:
    for name, values in SETS.items():
        (tmp_path / name).write_text(yaml.safe_dump(values))
        command = [helm, "lint", "--strict", str(CHART), "--values", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_every_kind_is_made_by_some_set(rendered: Mapping[str, list[Any]]) -> None:
    kinds = {name: sorted(made["kind"] for made in objects) for name, objects in rendered.items()}
    serving = ["Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "Service", "ServiceAccount"]
    assert kinds == {
        "default": sorted([*serving, "PersistentVolumeClaim"]),
        "cpu": sorted([*serving, "GRPCRoute", "HorizontalPodAutoscaler", "Ingress", "PodMonitor"]),
        "gpu": sorted([*serving, "ScaledObject"]),
        "jobs": ["Job", "Job", "NetworkPolicy", "NetworkPolicy", "Service", "ServiceAccount"],
    }


def test_objects_are_what_kubernetes_takes(rendered: Mapping[str, list[Any]]) -> None:
    custom = set()
    for objects in rendered.values():
        for made in objects:
            try:
                kubernetes_validate.validate(made, KUBERNETES, strict=True)
            except kubernetes_validate.SchemaNotFoundError:
                custom.add((made["apiVersion"], made["kind"]))
    # Kinds of others, of which there are no schemas offline: see the tests of each below.
    assert custom == {
        ("gateway.networking.k8s.io/v1", "GRPCRoute"),
        ("monitoring.coreos.com/v1", "PodMonitor"),
        ("keda.sh/v1alpha1", "ScaledObject"),
    }


def test_checkov_finds_nothing_that_is_not_explained(
    rendered: Mapping[str, list[Any]], tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    for name, objects in rendered.items():
        if name != "default":  # it has no digest, for there is no image to name
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(objects))
    command = [needs_tool("checkov"), "--directory", str(tmp_path), "--framework", "kubernetes", "--skip-download"]
    done = subprocess.run([*command, "--output", "json"], capture_output=True, text=True, check=False)
    results = json.loads(done.stdout)["results"]
    assert not [(check["check_id"], check["resource"]) for check in results["failed_checks"]]
    assert len(results["passed_checks"]) > 100
    skipped = {check["check_id"]: check["check_result"]["suppress_comment"] for check in results["skipped_checks"]}
    assert skipped.keys() == {"CKV_K8S_11", "CKV_K8S_15"}
    assert all(len(reason) > 40 for reason in skipped.values())


def test_names_and_labels_agree(rendered: Mapping[str, list[Any]]) -> None:
    for objects in rendered.values():
        names = [(made["kind"], made["metadata"]["name"]) for made in objects]
        assert len(set(names)) == len(names)
        assert {made["metadata"]["namespace"] for made in objects} == {"serving"}
        assert all(made["metadata"]["labels"]["app.kubernetes.io/instance"] == "gan" for made in objects)
        templates = [made["spec"]["template"] for made in objects if made["kind"] in ("Deployment", "Job")]
        labels = [template["metadata"]["labels"] for template in templates]
        for made in objects:
            spec = made.get("spec", {})
            selector = spec.get("podSelector", spec.get("selector", {})) or {}
            selector = selector.get("matchLabels", selector)
            if made["kind"] in ("Service", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "Deployment"):
                assert sum(selector.items() <= one.items() for one in labels) == 1, made["metadata"]["name"]


# Pods


def test_no_pod_can_do_more_than_it_must(rendered: Mapping[str, list[Any]]) -> None:
    found = list(pods(rendered))
    assert len(found) == 5
    for pod in found:
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            volumes = {volume["name"] for volume in spec["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_a_pod_gets_the_time_that_its_server_drains(rendered: Mapping[str, list[Any]]) -> None:
    for name, pre_stop, grace in (("default", 5, 20), ("gpu", 10, 60)):
        spec = one(rendered[name], "Deployment")["spec"]["template"]["spec"]
        (server,) = spec["containers"]
        assert server["lifecycle"]["preStop"]["sleep"]["seconds"] == pre_stop
        assert f"--grace={grace}" in server["args"]
        assert spec["terminationGracePeriodSeconds"] == pre_stop + grace + 5
        startup = server["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] == DEFAULTS["startupSeconds"]


def test_probes_ask_over_grpc_or_where_that_is_encrypted_over_http(rendered: Mapping[str, list[Any]]) -> None:
    paths = {"startupProbe": "/ready", "readinessProbe": "/ready", "livenessProbe": "/live"}
    for name in ("default", "gpu"):
        (server,) = one(rendered[name], "Deployment")["spec"]["template"]["spec"]["containers"]
        for probe, path in paths.items():
            kinds = {kind: server[probe][kind] for kind in ("grpc", "httpGet") if kind in server[probe]}
            assert kinds == (
                {"grpc": {"port": 8001}} if name == "default" else {"httpGet": {"port": 8002, "path": path}}
            )


def test_secrets_are_files_that_the_pod_alone_reads_and_the_server_is_told_of(
    rendered: Mapping[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = one(rendered["default"], "Deployment")["spec"]["template"]["spec"]
    assert not [volume for volume in plain["volumes"] if "secret" in volume]
    spec = one(rendered["gpu"], "Deployment")["spec"]["template"]["spec"]
    secrets = {volume["name"]: volume["secret"] for volume in spec["volumes"] if "secret" in volume}
    assert {secret["secretName"] for secret in secrets.values()} == {"gan-tls", "callers", "gan-tokens"}
    assert {secret["defaultMode"] for secret in secrets.values()} == {0o440}
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsUser"]
    (server,) = spec["containers"]
    mounts = {mount["name"]: mount for mount in server["volumeMounts"] if mount["name"] in secrets}
    assert mounts.keys() == secrets.keys()
    assert all(mount["readOnly"] and "subPath" not in mount for mount in mounts.values())
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: Path(value))
    read = parsed("serve", server["args"][1:])
    files = {
        "gan-tls": [read["tls_cert"], read["tls_key"]],
        "callers": [read["tls_client_ca"]],
        "gan-tokens": [read["token_file"]],
    }
    for name, secret in secrets.items():
        folder = Path(mounts[name]["mountPath"])
        assert {file.parent for file in files[secret["secretName"]]} == {folder}
    assert [file.name for file in files["gan-tls"]] == ["tls.crt", "tls.key"]
    assert read["tls_client_ca"].name == "authorities.pem"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"tls": {"secretName": "a"}, "settings": {"tls-cert": "/b.crt"}}, "both name a certificate"),
        ({"tokens": {"secretName": "a"}, "settings": {"token-file": "/b.json"}}, "both name a file of tokens"),
        ({"tls": {"clientCa": {"secretName": "a"}}}, "secretName"),
    ],
)
def test_values_that_contradict_one_another_are_refused(
    helm: str, tmp_path: Path, values: Object, expected: str
) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    command = [helm, "template", "gan", str(CHART), "--values", str(tmp_path / "values.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert expected in done.stderr


def test_gpus_are_a_matter_of_values(rendered: Mapping[str, list[Any]]) -> None:
    for name, gpus in (("default", None), ("gpu", 1)):
        spec = one(rendered[name], "Deployment")["spec"]["template"]["spec"]
        assert spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") == gpus
        assert spec.get("runtimeClassName") == (gpus and "nvidia")


# What pods run


def test_the_server_understands_its_arguments(
    rendered: Mapping[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: value)
    for name, expected in (
        ("default", {"host": "0.0.0.0", "port": 8001, "metrics_port": 8002, "log_level": "info"}),
        ("cpu", {"threads": 2, "max_batch": 16, "engines": ("openvino:bf16", "onnxruntime"), "queue_bytes": 1 << 31}),
        ("gpu", {"device": "cuda:0", "engines": ("tensorrt", "onnxruntime"), "grace": 60.0}),
    ):
        (server,) = one(rendered[name], "Deployment")["spec"]["template"]["spec"]["containers"]
        first, *rest = server["args"]
        assert first == "serve"
        assert expected.items() <= parsed("serve", rest).items()
        mounts = {mount["mountPath"] for mount in server["volumeMounts"]}
        assert {rest[0], "/var/cache/ganserve", "/tmp"} <= mounts


def test_the_bulk_job_makes_what_one_process_makes(
    rendered: Mapping[str, list[Any]], echo: Path, tmp_path: Path
) -> None:
    """The arguments of the job's pods, run here as the kubelet would: the index filled in, volumes in their places."""
    job = one(rendered["jobs"], "Job", "gan-ganserve-generate-1")["spec"]
    assert (job["completionMode"], job["completions"]) == ("Indexed", 2)
    (container,) = job["template"]["spec"]["containers"]
    runs = [[arg.replace("$(JOB_COMPLETION_INDEX)", str(index)) for arg in container["args"]] for index in range(2)]
    whole = [arg.replace("$(JOB_COMPLETION_INDEX)/2", "0/1") for arg in container["args"]]
    for given, out in ((runs[0], "shared"), (runs[1], "shared"), (whole, "whole")):
        places = {"/bundles/echo": echo, "--out=/out": f"--out={tmp_path / out}"}
        here = [str(places.get(arg, arg)).replace("/var/cache", str(tmp_path)) for arg in given]
        result = CliRunner().invoke(cli, here)
        assert result.exit_code == 0, result.output
    made = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert len(made) == 4 + 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "shared").iterdir()} == made


def test_the_training_job_starts_torchrun_and_goes_on_with_a_run(
    rendered: Mapping[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its script, run by a shell with a torchrun that tells what it was called with, which the real ones' parsers then read."""
    from torch.distributed.run import get_args_parser

    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: value)
    objects = rendered["jobs"]
    job = one(objects, "Job", "gan-ganserve-train-1")["spec"]
    service = one(objects, "Service", "gan-ganserve-train")["spec"]
    (container,) = job["template"]["spec"]["containers"]
    echo = tmp_path / "torchrun"
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    script = [argument.replace("/runs/", f"{tmp_path}/") for argument in container["command"]]

    def called(index: int) -> tuple[Any, list[str]]:
        environment = {"PATH": f"{tmp_path}:/bin:/usr/bin", "JOB_COMPLETION_INDEX": str(index)}
        done = subprocess.run(
            [*script, *container["args"]], env=environment, capture_output=True, text=True, check=True
        )
        words = done.stdout.splitlines()
        parsed = get_args_parser().parse_args(words)
        assert (parsed.module, parsed.training_script) == (True, "ganserve")
        return parsed, parsed.training_script_args

    for index in range(2):
        torchrun, (command, *rest) = called(index)
        assert (torchrun.nnodes, torchrun.nproc_per_node, torchrun.node_rank) == ("2", "2", index)
        # Pod 0's own name, which the headless Service makes an address of before the pod is ready.
        assert torchrun.master_addr == "gan-ganserve-train-1-0.gan-ganserve-train"
        assert job["template"]["spec"]["subdomain"] == "gan-ganserve-train"
        assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
        assert command == "train"
        read = parsed("train", rest)
        expected = {"family": "dcgan", "preset": "tiny", "where": "/data", "kimg": 0.5, "mirror": True}
        assert expected.items() <= read.items()
        assert read["overrides"] == ("width=8",)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "run.json").write_text("{}")
    _, (command, *rest) = called(0)
    read = parsed("train", rest)
    assert (command, read["resume"], read["family"]) == ("train", True, None)
    assert shlex.join(rest) == f"--out={tmp_path}/digits --resume --kimg=0.5"


# Around the pods


def test_the_autoscalers_ask_for_what_the_adapter_and_prometheus_have(rendered: Mapping[str, list[Any]]) -> None:
    adapter = yaml.safe_load((ROOT / "deploy" / "prometheus" / "adapter.yaml").read_text())["rules"]["custom"]
    hpa = one(rendered["cpu"], "HorizontalPodAutoscaler")["spec"]
    targets = {metric["pods"]["metric"]["name"]: metric["pods"]["target"]["averageValue"] for metric in hpa["metrics"]}
    assert targets == {"ganserve_queue_rows_per_pod": "40", "ganserve_busy_per_pod": "700m"}
    assert targets.keys() == {rule["name"]["as"] for rule in adapter}
    assert "replicas" not in one(rendered["cpu"], "Deployment")["spec"]
    keda = one(rendered["gpu"], "ScaledObject")["spec"]
    assert keda["scaleTargetRef"] == {"name": "gan-ganserve"}
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (2, 4)
    queries = {trigger["metadata"]["query"]: trigger["metadata"]["threshold"] for trigger in keda["triggers"]}
    assert list(queries.values()) == ["25", "0.75"]
    for query, series in zip(queries, ("ganserve_queue_rows", "ganserve_engine_seconds_sum"), strict=True):
        (pattern,) = re.findall(r'pod=~"([^"]+)"', query)
        assert series in query
        # A Deployment's pods are called like it, then after their ReplicaSet, then at random.
        assert re.fullmatch(pattern, "gan-ganserve-5d9c7b8f4-x2x9z")
        assert not re.fullmatch(pattern, "gan-ganserve-generate-1-0-x2x9z")


def test_clients_find_every_pod_and_gateways_one_address(rendered: Mapping[str, list[Any]]) -> None:
    objects = rendered["cpu"]
    assert one(objects, "Service", "gan-ganserve-headless")["spec"]["clusterIP"] == "None"
    assert "clusterIP" not in one(objects, "Service")["spec"]
    route = one(objects, "GRPCRoute")["spec"]
    assert route == {
        "parentRefs": [{"name": "public"}],
        "hostnames": ["gan.example.com"],
        "rules": [{"backendRefs": [{"name": "gan-ganserve", "port": 8001}]}],
    }
    monitor = one(objects, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    ports = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert endpoint["port"] in {port["name"] for port in ports}


def test_nobody_calls_unless_named(rendered: Mapping[str, list[Any]]) -> None:
    closed = one(rendered["default"], "NetworkPolicy")["spec"]
    assert (closed["ingress"], closed["egress"]) == ([], [])
    opened = one(rendered["cpu"], "NetworkPolicy")["spec"]
    assert [(rule["from"], rule["ports"][0]["port"]) for rule in opened["ingress"]] == [
        (PEERS, "grpc"),
        (PEERS, "metrics"),
    ]
    bulk = one(rendered["jobs"], "NetworkPolicy", "gan-ganserve-generate")["spec"]
    assert "ingress" not in bulk
    assert "egress" not in bulk


# Values


def test_every_value_is_explained_and_every_explanation_is_of_a_value() -> None:
    def walk(schema: Any, values: Any, path: str) -> None:
        assert path == "" or schema.get("description", "").endswith("."), f"{path}: {schema.get('description')}"
        if schema.get("additionalProperties") is False and path != ".settings":
            assert schema["properties"].keys() - {"global"} == values.keys(), path
            for name, value in values.items():
                walk(schema["properties"][name], value, f"{path}.{name}")

    walk(SCHEMA, DEFAULTS, "")
    settings = SCHEMA["properties"]["settings"]["properties"]
    assert all(setting["description"] for setting in settings.values())
    assert settings["max-batch"] == {"description": "The most rows of one batch.", "type": "integer", "minimum": 1}


def merged(values: Object) -> Any:
    """The defaults with ``values`` in them, as helm merges."""

    def merge(below: Any, above: Any) -> Any:
        if isinstance(below, dict) and isinstance(above, dict):
            return {**below, **{name: merge(below.get(name), value) for name, value in above.items()}}
        return above

    return merge(DEFAULTS, values)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"replica": 3}, ""),
        ({"replicas": 0}, "replicas"),
        ({"replicas": "3"}, "replicas"),
        ({"image": {"digest": "sha256:abc"}}, "image.digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "image.pullPolicy"),
        ({"bundles": {"from": "bucket"}}, "bundles.from"),
        ({"bundles": {"from": "image"}}, "bundles.image.repository"),
        ({"bundles": {"path": "bundles"}}, "bundles.path"),
        ({"settings": {"max_batch": 8}}, "settings"),
        ({"settings": {"max-batch": 0}}, "settings.max-batch"),
        ({"settings": {"max-batch": "8"}}, "settings.max-batch"),
        ({"settings": {"log-level": "loud"}}, "settings.log-level"),
        ({"settings": {"port": 9000}}, "settings"),
        ({"settings": {"host": "127.0.0.1"}}, "settings"),
        ({"gpu": {"count": 2}}, "gpu.count"),
        ({"cache": {"size": "two"}}, "cache.size"),
        ({"securityContext": {"user": 0}}, "securityContext.user"),
        ({"topologySpread": {"zones": "Never"}}, "topologySpread.zones"),
        ({"service": {"port": 80}}, "service.port"),
        ({"podMonitor": {"interval": "often"}}, "podMonitor.interval"),
        ({"autoscaling": {"kind": "vpa"}}, "autoscaling.kind"),
        ({"autoscaling": {"busy": 75}}, "autoscaling.busy"),
        ({"autoscaling": {"queueRows": 0}}, "autoscaling.queueRows"),
        ({"route": {"enabled": True}}, "route.parentRefs"),
        ({"ingress": {"enabled": True, "host": "gan.example.com"}}, "ingress.tlsSecret"),
        ({"generate": {"enabled": True, "bundle": "echo"}}, "generate.out.claim"),
        ({"generate": {**GENERATE, "count": 0}}, "generate.count"),
        ({"generate": {**GENERATE, "bundle": "../etc"}}, "generate.bundle"),
        ({"generate": {**GENERATE, "options": {"--seed": 1}}}, "generate.options"),
        ({"train": {**TRAIN, "run": ""}}, "train.run"),
        ({"train": {**TRAIN, "run": "a'; rm -r /; '"}}, "train.run"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:40],
)
def test_wrong_values_are_refused_by_the_schema(values: Object, where: str) -> None:
    errors = list(jsonschema.Draft7Validator(SCHEMA).iter_errors(merged(values)))
    assert [".".join(map(str, error.absolute_path)) for error in errors] == [where]


@pytest.mark.parametrize("name", SETS)
def test_right_values_are_not(name: str) -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA).validate(merged(SETS[name]))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("settings.max_batch=8",), "additional properties 'max_batch' not allowed"),
        (("gpu.count=1",), 'gpu.count is 1 and settings.device is "cpu": a GPU needs settings.device cuda:0'),
        (("settings.device=cuda:0",), "cuda:0 needs gpu.count 1"),
        (("autoscaling.kind=hpa", "autoscaling.min=9"), "autoscaling.min is 9 and autoscaling.max 8"),
    ],
)
def test_helm_refuses_them_too_and_what_contradicts_itself(helm: str, flags: tuple[str, ...], told: str) -> None:
    command = [helm, "template", "gan", str(CHART), *(part for flag in flags for part in ("--set", flag))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert told in done.stderr


# The Dockerfile


def test_hadolint_finds_no_fault_with_the_dockerfile(needs_tool: Callable[[str], str]) -> None:
    command = [needs_tool("hadolint"), "--strict-labels", "deploy/Dockerfile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_images_are_pinned_run_as_nobody_and_serve_without_torch() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL))
    bases = re.findall(r"^FROM (\S+) AS", text, re.MULTILINE)
    assert {base for base in bases if base not in stages} == {
        "scratch",
        "${PYTHON_IMAGE}@${PYTHON_DIGEST}",
        "${CUDA_IMAGE}@${CUDA_DIGEST}",
    }
    user = DEFAULTS["securityContext"]["user"]
    for target in ("cpu", "gpu", "train"):
        assert f"USER {user}:{user}\n" in stages[target]
        installed = re.findall(r"pip install (.+?)(?: \\)?$", stages[f"{target}-build"], re.MULTILINE)
        assert [("trainers" in line) for line in installed] == [target == "train"]
        assert all("--constraint constraints.txt" in line for line in installed)
    for target in ("cpu", "gpu"):
        assert re.findall(r"^ARG (.+)$", stages[f"{target}-build"], re.MULTILINE) == [f"EXTRAS={target}"]
        assert '".[${EXTRAS}]"' in stages[f"{target}-build"]
        (given,) = re.findall(r"^CMD (.+)$", stages[target], re.MULTILINE)
        name, _, *rest = json.loads(given)
        assert parsed(name, rest)["host"] == "0.0.0.0"


def test_the_page_names_what_an_image_may_have() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    section = (ROOT / "docs" / "kubernetes.md").read_text().partition("## Images")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert named == set(extras) - {"train", "dev"}


def test_the_build_context_holds_what_the_dockerfile_copies() -> None:
    kept = set(re.findall(r"^!(.+)$", (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
    copied = re.findall(r"^COPY (?!--from)(.+) /\S*$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    assert {name for line in copied for name in line.split()} == kept
    assert all((ROOT / name).exists() for name in kept)


# The page


def test_the_page_gives_values_that_are_and_that_are_right() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        jsonschema.Draft7Validator(SCHEMA).validate(merged(yaml.safe_load(block)))
    flags = re.findall(r"--set (\S+)=(\S+)", text)
    assert len(flags) > 5
    for path, value in flags:
        if path != "prometheus.url":  # the adapter's
            *parents, leaf = path.split(".")
            values: Any = {leaf: yaml.safe_load(value)}
            for parent in reversed(parents):
                values = {parent: values}
            wrong = jsonschema.Draft7Validator(SCHEMA).iter_errors(merged(values))
            # One flag alone may lack what its neighbours say, but it is a value, and of the right type.
            assert not [error.message for error in wrong if error.validator != "minLength"], path
    assert set(re.findall(r"`((?:autoscaling|bundles|generate|train|cache|serve)\.[\w.]+)", text)) <= set(
        leaves(SCHEMA)
    )


def leaves(schema: Any, path: str = "") -> Iterator[str]:
    """The names of all values, such as ``autoscaling.busy``; options of commands by those of their examples."""
    for name, below in schema.get("properties", {}).items():
        yield f"{path}{name}"
        yield from leaves(below, f"{path}{name}.")
    if "options" in schema.get("properties", {}):
        yield f"{path}options.device"

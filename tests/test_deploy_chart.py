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


def quantity(said: Any) -> float:
    """A quantity of Kubernetes as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(said)).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2.0**20, "Gi": 2.0**30}[unit]


def test_every_pod_asks_for_what_it_may_take_and_its_volumes_fit_into_it(rendered: Mapping[str, list[Any]]) -> None:
    for pod in pods(rendered):
        for container in containers(pod):
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert requests.keys() >= {"cpu", "memory"}
            assert all(quantity(requests[name]) <= quantity(limits[name]) for name in requests.keys() & limits.keys())
        # Init containers have ended by then.
        (server,) = pod["spec"]["containers"]
        limits = server["resources"]["limits"]
        for medium, resource in (("Memory", "memory"), (None, "ephemeral-storage")):
            folders = [volume["emptyDir"] for volume in pod["spec"]["volumes"] if "emptyDir" in volume]
            sizes = [folder.get("sizeLimit", 0) for folder in folders if folder.get("medium") == medium]
            assert sum(map(quantity, sizes)) < quantity(limits[resource]), resource


def test_values_say_what_a_server_asks_for_and_no_quota_stops_it(helm: str, tmp_path: Path) -> None:
    given = {"requests": {"cpu": "3", "memory": "1Gi"}, "limits": {"memory": "5Gi", "ephemeral-storage": "4Gi"}}
    gpu = {"count": 1, "resource": "amd.com/gpu"}
    values = {"image": IMAGE, "resources": given, "gpu": gpu, "settings": {"device": "cuda:0"}}
    (server,) = one(rendered_with(helm, tmp_path, values), "Deployment")["spec"]["template"]["spec"]["containers"]
    found = server["resources"]
    # helm merges: what is not said anew stays.
    assert found["requests"] == {**DEFAULTS["resources"]["requests"], **given["requests"]}
    assert found["limits"] == {**DEFAULTS["resources"]["limits"], **given["limits"], "amd.com/gpu": 1}
    assert "cpu" not in found["limits"]


def test_servers_spread_over_zones_and_nodes_each_version_by_itself(rendered: Mapping[str, list[Any]]) -> None:
    for name, zones in (("default", "ScheduleAnyway"), ("cpu", "DoNotSchedule")):
        template = one(rendered[name], "Deployment")["spec"]["template"]
        spread = {each["topologyKey"]: each for each in template["spec"]["topologySpreadConstraints"]}
        told = {key: (each["maxSkew"], each["whenUnsatisfiable"]) for key, each in spread.items()}
        assert told == {"topology.kubernetes.io/zone": (1, zones), "kubernetes.io/hostname": (1, "ScheduleAnyway")}
        for each in spread.values():
            # Without it an update would count the pods that it replaces, and leave the new ones uneven.
            assert each["matchLabelKeys"] == ["pod-template-hash"]
            # One that counted no pod, or none of its own, would spread nothing.
            assert each["labelSelector"] == one(rendered[name], "Deployment")["spec"]["selector"]
            assert each["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


def test_pods_go_where_the_values_say(rendered: Mapping[str, list[Any]]) -> None:
    spec = one(rendered["gpu"], "Deployment")["spec"]["template"]["spec"]
    assert (spec["nodeSelector"], spec["priorityClassName"]) == ({"gpu": "l4"}, "serving")
    assert spec["tolerations"] == SETS["gpu"]["tolerations"]
    (server,) = spec["containers"]
    assert server["image"] == f"{IMAGE['repository']}@{DIGEST}"


def test_no_account_has_a_token_and_every_pod_has_the_account(rendered: Mapping[str, list[Any]]) -> None:
    for objects in rendered.values():
        account = one(objects, "ServiceAccount")
        assert account["automountServiceAccountToken"] is False
    assert {pod["spec"]["serviceAccountName"] for pod in pods(rendered)} == {"gan-ganserve"}
    assert not [made for objects in rendered.values() for made in objects if "Role" in made["kind"]]


def rendered_with(helm: str, folder: Path, values: Object) -> list[Any]:
    """The objects of ``values``."""
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    command = [helm, "template", "gan", str(CHART), "--namespace", "serving", "--values", str(folder / "values.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [made for made in yaml.safe_load_all(done.stdout) if made]


# Bundles


def test_bundles_come_from_a_claim_that_the_chart_makes_and_keeps(rendered: Mapping[str, list[Any]]) -> None:
    claim = one(rendered["default"], "PersistentVolumeClaim", "gan-ganserve-bundles")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}
    spec = one(rendered["default"], "Deployment")["spec"]["template"]["spec"]
    assert "initContainers" not in spec
    assert bundles_of(spec) == (
        {"persistentVolumeClaim": {"claimName": "gan-ganserve-bundles", "readOnly": True}},
        {"mountPath": "/bundles", "readOnly": True},
    )


def test_bundles_come_from_a_claim_that_is_there(rendered: Mapping[str, list[Any]]) -> None:
    spec = one(rendered["cpu"], "Deployment")["spec"]["template"]["spec"]
    assert bundles_of(spec) == (
        {"persistentVolumeClaim": {"claimName": "bundles", "readOnly": True}},
        {"mountPath": "/bundles", "readOnly": True, "subPath": "gans"},
    )


def test_bundles_come_from_an_image_that_is_copied_before_anything_runs(rendered: Mapping[str, list[Any]]) -> None:
    for name, kind, called in (("gpu", "Deployment", "gan-ganserve"), ("jobs", "Job", "gan-ganserve-generate-1")):
        spec = one(rendered[name], kind, called)["spec"]["template"]["spec"]
        assert bundles_of(spec) == ({"emptyDir": {}}, {"mountPath": "/bundles", "readOnly": True})
        (copying,) = spec["initContainers"]
        assert copying["image"] == f"registry.example.com/bundles@{DIGEST}"
        # The folder's contents, not the folder.
        assert copying["command"] == ["cp", "-R", "/bundles/.", "/target"]
        assert copying["volumeMounts"] == [{"name": "bundles", "mountPath": "/target"}]


def bundles_of(spec: Any) -> tuple[Any, Any]:
    """The volume of bundles and where the container sees it, but for their name."""
    (volume,) = (each for each in spec["volumes"] if each["name"] == "bundles")
    (container,) = spec["containers"]
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "bundles")
    return tuple({key: value for key, value in each.items() if key != "name"} for each in (volume, mount))


def test_a_release_that_only_trains_makes_no_claim_for_bundles(helm: str, tmp_path: Path) -> None:
    values = {"image": IMAGE, "serve": {"enabled": False}, "train": {**TRAIN, "image": IMAGE}}
    kinds = {made["kind"] for made in rendered_with(helm, tmp_path, values)}
    assert kinds == {"Job", "NetworkPolicy", "Service", "ServiceAccount"}


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


def test_the_nodes_of_a_training_run_together_and_find_the_first(rendered: Mapping[str, list[Any]]) -> None:
    objects = rendered["jobs"]
    job = one(objects, "Job", "gan-ganserve-train-1")["spec"]
    # torchrun waits for all nodes: none of them may wait for another to end.
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 2, 2)
    # A node that fails takes the others with it.
    assert job["backoffLimit"] == DEFAULTS["train"]["retries"] * 2
    template = job["template"]
    # Kubernetes asks for it where a policy says which failures do not count.
    assert (template["spec"]["restartPolicy"], job["podFailurePolicy"]["rules"][0]["action"]) == ("Never", "Ignore")
    service = one(objects, "Service", "gan-ganserve-train")
    assert service["metadata"]["namespace"] == "serving"
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    (script,) = (part for part in container["command"] if "torchrun" in part)
    (port,) = re.findall(r"--master-port=(\d+)", script)
    assert [each["port"] for each in service["spec"]["ports"]] == [int(port)]
    assert [each["containerPort"] for each in container["ports"]] == [int(port)]
    assert {"name": "HOME", "value": "/tmp"} in container["env"]  # torch keeps files there, and all else is read-only
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts.keys() == {"/data", "/runs", "/dev/shm", "/tmp"}
    assert (mounts["/data"].get("readOnly"), mounts["/runs"].get("readOnly")) == (True, None)
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    claims = {name: volume["persistentVolumeClaim"]["claimName"] for name, volume in volumes.items() if len(name) == 4}
    assert claims == {"data": "images", "runs": "runs"}
    policy = one(objects, "NetworkPolicy", "gan-ganserve-train")["spec"]
    peers = {"podSelector": policy["podSelector"]}
    assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    # NCCL and Gloo choose their ports; names are asked for over UDP and TCP.
    assert policy["ingress"] == [{"from": [peers]}]
    names = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
    assert policy["egress"] == [{"to": [peers]}, names]


# Around the pods


def test_the_autoscalers_ask_for_what_the_adapter_and_prometheus_have(rendered: Mapping[str, list[Any]]) -> None:
    adapter = yaml.safe_load((ROOT / "deploy" / "prometheus" / "adapter.yaml").read_text())["rules"]["custom"]
    hpa = one(rendered["cpu"], "HorizontalPodAutoscaler")["spec"]
    targets = {metric["pods"]["metric"]["name"]: metric["pods"]["target"]["averageValue"] for metric in hpa["metrics"]}
    assert targets == {"ganserve_queue_rows_per_pod": "40", "ganserve_busy_per_pod": "700m"}
    assert targets.keys() == {rule["name"]["as"] for rule in adapter}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "gan-ganserve"}
    assert (hpa["scaleTargetRef"], hpa["minReplicas"], hpa["maxReplicas"]) == (deployment, 2, 8)
    assert {metric["pods"]["target"]["type"] for metric in hpa["metrics"]} == {"AverageValue"}
    # Pods come at once and go slowly.
    assert hpa["behavior"]["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert hpa["behavior"]["scaleDown"] == {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    }
    # A number of its own would undo the autoscaler's at each upgrade.
    assert all("replicas" not in one(rendered[name], "Deployment")["spec"] for name in ("cpu", "gpu"))
    keda = one(rendered["gpu"], "ScaledObject")["spec"]
    assert keda["scaleTargetRef"] == {"name": "gan-ganserve"}
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (2, 4)
    window = keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
    assert (keda["cooldownPeriod"], window) == (300, 300)
    for trigger in keda["triggers"]:
        # Of a sum over all pods: KEDA divides it by their number.
        assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
        assert trigger["metadata"].keys() == {"serverAddress", "query", "threshold"}
        assert trigger["metadata"]["serverAddress"] == DEFAULTS["autoscaling"]["prometheus"]
        assert 'namespace="serving"' in trigger["metadata"]["query"]
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
    # A pod that starts or drains has no address in it.
    assert "publishNotReadyAddresses" not in one(objects, "Service", "gan-ganserve-headless")["spec"]
    assert "clusterIP" not in one(objects, "Service")["spec"]
    route = one(objects, "GRPCRoute")["spec"]
    assert route == {
        "parentRefs": [{"name": "public"}],
        "hostnames": ["gan.example.com"],
        "rules": [{"backendRefs": [{"name": "gan-ganserve", "port": 8001}]}],
    }
    (rule,) = one(objects, "Ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (rule["host"], path["path"], path["pathType"]) == ("gan.example.com", "/", "Prefix")
    assert path["backend"] == {"service": {"name": "gan-ganserve", "port": {"name": "grpc"}}}
    assert one(objects, "Ingress")["spec"]["ingressClassName"] == "nginx"
    assert one(objects, "Ingress")["spec"]["tls"] == [{"hosts": ["gan.example.com"], "secretName": "gan-tls"}]


def test_services_lead_to_the_port_of_calls_and_say_what_is_spoken_there(rendered: Mapping[str, list[Any]]) -> None:
    for name, protocol in (("cpu", "kubernetes.io/h2c"), ("gpu", "https")):
        template = one(rendered[name], "Deployment")["spec"]["template"]
        ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        assert ports == {"grpc": 8001, "metrics": 8002}
        for service in ("gan-ganserve", "gan-ganserve-headless"):
            spec = one(rendered[name], "Service", service)["spec"]
            # Metrics are for Prometheus, which asks the pods.
            expected = {"name": "grpc", "port": 8001, "targetPort": "grpc", "appProtocol": protocol}
            assert spec["ports"] == [expected]
            assert spec["selector"].items() <= template["metadata"]["labels"].items()


def test_prometheus_finds_every_pod(rendered: Mapping[str, list[Any]]) -> None:
    monitor = one(rendered["cpu"], "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    template = one(rendered["cpu"], "Deployment")["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "path": "/metrics", "interval": "15s"}]
    assert "metrics" in {port["name"] for port in template["spec"]["containers"][0]["ports"]}


def test_a_drain_of_nodes_takes_one_server_at_a_time(rendered: Mapping[str, list[Any]]) -> None:
    for name in ("default", "cpu", "gpu"):
        budget = one(rendered[name], "PodDisruptionBudget")["spec"]
        assert budget["selector"] == one(rendered[name], "Deployment")["spec"]["selector"]
        # A minimum would keep a single server's node from ever being drained; one that is not ready must not.
        assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
        assert "minAvailable" not in budget


def test_nobody_calls_unless_named(rendered: Mapping[str, list[Any]]) -> None:
    closed = one(rendered["default"], "NetworkPolicy")["spec"]
    assert (closed["ingress"], closed["egress"]) == ([], [])
    for objects in rendered.values():
        for policy in (made["spec"] for made in objects if made["kind"] == "NetworkPolicy"):
            # What is not named here is open, whatever the rules say.
            assert policy["policyTypes"] == ["Ingress", "Egress"]
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

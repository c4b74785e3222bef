"""deploy/kubernetes: manifests are valid; the options, ports, paths, variables and metrics that they name exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields
from math import ceil
from runpy import run_path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from typer.main import get_command

from impasto_client.cli import app
from impasto_gateway.app import routes
from impasto_gateway.commands import VARIABLES
from impasto_gateway.settings import Limits
from impasto_server.ops import gateway as door
from impasto_server.ops.guardian import FLUSH_S, SLACK_S
from impasto_server.ops.serve import READY_S, SHM_BYTES
from impasto_server.settings import Settings
from tests.helpers.dashboard import METRIC
from tests.helpers.manifests import DASHBOARD, FOLDER, OVERLAYS, Manifest, files, problem, read, rendered, the
from tests.helpers.pages import ROOT
from tests.unit.gateway.test_dashboard import gateways, servers
from tests.unit.test_locks import PROJECT

MODELS = len(list((ROOT / "model_repository").iterdir()))
PODS = ["cpu", "gpu", "fleet"]
_SIZE = {"Ki": 10, "Mi": 20, "Gi": 30}


def workload(overlay: str) -> Manifest:
    return the(rendered(overlay), "Deployment")


def pod(overlay: str) -> dict[str, Any]:
    """The pod's specification that runs a server."""
    if overlay == "kserve":
        runtime: dict[str, Any] = the(rendered("kserve"), "ServingRuntime")["spec"]
        service = the(rendered("kserve"), "InferenceService")["spec"]["predictor"]
        grace = {"terminationGracePeriodSeconds": service["terminationGracePeriodSeconds"]}
        return {"containers": runtime["containers"], "volumes": runtime["volumes"], **grace}
    found: dict[str, Any] = workload(overlay)["spec"]["template"]["spec"]
    return found


def server(overlay: str) -> dict[str, Any]:
    found: dict[str, Any] = pod(overlay)["containers"][0]
    return found


def said(container: dict[str, Any]) -> dict[str, str]:
    """Its options with their values."""
    return dict(arg.removeprefix("--").split("=", 1) for arg in container["args"] if arg.startswith("--"))


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """All of them, those of the endpoint picker, too."""
    for overlay in OVERLAYS:
        deployed = [one["spec"]["template"]["spec"] for one in rendered(overlay) if one["kind"] == "Deployment"]
        pods = deployed or [pod(overlay)]
        for one in pods:
            yield from ((overlay, container) for container in [*one.get("initContainers", []), *one["containers"]])


CONTAINERS = [pytest.param(one, id=f"{overlay}-{one['name']}") for overlay, one in containers()]
OURS = [param for param in CONTAINERS if param.values[0].get("command", [""])[0] == "impasto"]  # type: ignore[union-attr]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_rendered_is_valid(overlay: str) -> None:
    assert not [found for one in rendered(overlay) if (found := problem(one))]
    assert {one["metadata"].get("namespace") for one in rendered(overlay)} == {"impasto"}


def test_what_stands_alone_is_valid() -> None:
    alone = [one for file in files() for one in read(file.read_text()) if "apiVersion" in one]
    whole = [one for one in alone if not one["apiVersion"].startswith("kustomize.") and one["kind"] != "Deployment"]
    assert len(whole) > 15
    assert not [found for one in whole if (found := problem(one))]


def test_the_servers_of_kserve_are_valid_pods() -> None:
    meta = {"metadata": {"name": "pod"}, "apiVersion": "v1", "kind": "Pod"}
    assert problem({**meta, "spec": pod("kserve")}) is None


@pytest.mark.parametrize(
    ("overlay", "kind", "path", "value"),
    [
        ("cpu", "Deployment", "spec.template.spec.terminationGracePeriod", 100),
        ("cpu", "Deployment", "spec.replicas", "two"),
        ("fleet", "ScaledObject", "spec.pollInterval", 15),
        ("fleet", "InferencePool", "spec.targetPortNumber", 8080),
        ("fleet", "ServiceMonitor", "spec.selector", {}),
        ("kserve", "InferenceService", "spec.predictor.model.storageUri", "example-bucket"),
    ],
)
def test_a_wrong_field_would_be_found(overlay: str, kind: str, path: str, value: object) -> None:
    broken = deepcopy(the(rendered(overlay), kind))
    *above, last = path.split(".")
    place = broken
    for word in above:
        place = place[word]
    place[last] = value
    assert problem(broken)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl (with kustomize) isn't here")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_it_is_what_kustomize_makes_of_the_files(overlay: str) -> None:
    command = ["kubectl", "kustomize", str(FOLDER / OVERLAYS[overlay])]
    made = read(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert tuple(one for one in made if one["metadata"]["name"] != DASHBOARD) == rendered(overlay)


def test_the_dashboard_is_grafanas() -> None:
    made = run_path(str(FOLDER / "dashboard.py"))["manifest"]()
    assert made == (FOLDER / "components/monitoring/dashboard.yaml").read_text(), "run deploy/kubernetes/dashboard.py"
    (found,) = read(made)
    assert found["data"]["impasto.json"] == (ROOT / "deploy/grafana/impasto.json").read_text()
    assert problem(found) is None


def parameters(command: str) -> list[Any]:
    """Those that `impasto <command>` takes."""
    root: Any = get_command(app)
    _, found, _ = root.resolve_command(root.make_context("impasto", [command]), [command])
    return list(found.params)


@pytest.mark.parametrize("container", OURS)
def test_commands_and_options_exist(container: dict[str, Any]) -> None:
    name = container["command"][1]
    known = {option for one in parameters(name) for option in (*one.opts, *one.secondary_opts)}
    assert {arg.partition("=")[0] for arg in container["args"] if arg.startswith("--")} <= known


@pytest.mark.parametrize("container", OURS)
def test_variables_exist(container: dict[str, Any]) -> None:
    known = {f"{VARIABLES}_{one.name.upper()}" for one in parameters("gateway")}
    known |= {f"IMPASTO_{one.name.upper()}" for one in fields(Settings)}
    assert {one["name"] for one in container["env"] if one["name"].startswith("IMPASTO")} <= known


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ports_are_those_of_the_options(overlay: str) -> None:
    options, ports = said(server(overlay)), {one["name"]: one["containerPort"] for one in server(overlay)["ports"]}
    grpc = int(options.get("port", 0))
    wanted = {"http": int(options["http"]), "grpc": grpc, "h2c": grpc, "metrics": grpc + 1}
    assert ports == {name: wanted[name] for name in ports}
    assert ("grpc" in ports or "h2c" in ports) == (options.get("host") == "0.0.0.0"), "else nobody can reach it"


@pytest.mark.parametrize("overlay", PODS)
def test_services_lead_to_ports_of_pods_with_their_labels(overlay: str) -> None:
    pods = [one["spec"]["template"] for one in rendered(overlay) if one["kind"] == "Deployment"]
    for service in (one["spec"] for one in rendered(overlay) if one["kind"] == "Service"):
        (chosen,) = (one for one in pods if service["selector"].items() <= one["metadata"]["labels"].items())
        names = {port["name"] for container in chosen["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["ports"]} <= names


def test_the_pool_the_monitor_and_the_budget_choose_the_servers_pods() -> None:
    labels = workload("fleet")["spec"]["template"]["metadata"]["labels"]
    for kind in ("InferencePool", "PodDisruptionBudget"):
        assert the(rendered("fleet"), kind)["spec"]["selector"]["matchLabels"].items() <= labels.items()
    policy = the(rendered("fleet"), "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    monitor = the(rendered("fleet"), "ServiceMonitor")["spec"]
    service = the(rendered("fleet"), "Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {one["port"] for one in monitor["endpoints"]} <= {one["name"] for one in service["spec"]["ports"]}
    pool = the(rendered("fleet"), "InferencePool")["spec"]
    assert [one["number"] for one in pool["targetPorts"]] == [int(said(server("fleet"))["http"])]
    picker = the(rendered("fleet"), "Service", pool["endpointPickerRef"]["name"])
    assert pool["endpointPickerRef"]["port"]["number"] in {one["port"] for one in picker["spec"]["ports"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_ask_what_the_gateway_answers(overlay: str) -> None:
    served = {getattr(route, "path", None) for route in routes()}
    ports = {one["name"] for one in server(overlay)["ports"]}
    for kind, path in (("startupProbe", "/ready"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")):
        probe = server(overlay)[kind]
        if "exec" in probe:
            (url,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", probe["exec"]["command"][-1])
            assert url == (said(server(overlay))["http"], path)
        else:
            assert probe["httpGet"]["path"] == path
            assert probe["httpGet"]["port"] in ports
        assert path in served


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_the_time_to_start_and_to_stop(overlay: str) -> None:
    grace, pause = float(said(server(overlay))["grace"]), server(overlay)["lifecycle"]["preStop"]["sleep"]["seconds"]
    gateways_own, servers_own = grace + door.SLACK_S, grace + SLACK_S + FLUSH_S
    assert pod(overlay)["terminationGracePeriodSeconds"] >= ceil(pause + gateways_own + servers_own)
    start = server(overlay)["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] > READY_S + door.OPEN_S, "`impasto serve` gives up first"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_requests_have_shared_memory(overlay: str) -> None:
    shm = next(one["emptyDir"] for one in pod(overlay)["volumes"] if one["name"] == "shm")
    assert shm["medium"] == "Memory"
    assert size(shm["sizeLimit"]) >= MODELS * SHM_BYTES
    assert size(server(overlay)["resources"]["limits"]["memory"]) > size(shm["sizeLimit"])


def size(text: str) -> int:
    return int(text[:-2]) << _SIZE[text[-2:]]


def test_on_cpus_threads_are_the_cores_that_a_pod_may_use() -> None:
    assert said(server("cpu"))["threads"] == server("cpu")["resources"]["limits"]["cpu"]


@pytest.mark.parametrize("container", CONTAINERS)
def test_nobody_has_rights_that_it_does_not_need(container: dict[str, Any]) -> None:
    rights = container["securityContext"]
    assert rights["readOnlyRootFilesystem"] is True
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("overlay", PODS)
def test_pods_do_not_run_as_root_and_have_no_token(overlay: str) -> None:
    spec = pod(overlay)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    mounts = {one["name"] for container in spec["containers"] for one in container["volumeMounts"]}
    assert mounts == {one["name"] for one in spec["volumes"]}
    assert {"/tmp", "/dev/shm", "/cache"} <= {one["mountPath"] for one in server(overlay)["volumeMounts"]}


@pytest.mark.parametrize("container", CONTAINERS)
def test_images_are_pinned(container: dict[str, Any]) -> None:
    name, _, tag = container["image"].rpartition(":")
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag)
    if "/impasto-" in name:
        assert tag == PROJECT["project"]["version"]


def test_metrics_exist() -> None:
    scaler = the(rendered("fleet"), "ScaledObject")["spec"]["triggers"]
    (autoscaler,) = read((FOLDER / "components/hpa/autoscaler.yaml").read_text())
    texts = [one["metadata"]["query"] for one in scaler]
    texts += [one["pods"]["metric"]["name"] for one in autoscaler["spec"]["metrics"]]
    engine = picker()["engineConfigs"][0]
    texts += [engine["runningRequestsSpec"], engine["loraSpec"]]
    names = {name for text in texts for name in METRIC.findall(text)}
    assert {"impasto_queue_seconds", "impasto_requests", "impasto_lora_requests_info"} <= names
    assert names <= gateways() | servers()


def picker() -> dict[str, Any]:
    """The parameters of the endpoint picker's extractor of metrics."""
    (config,) = read(the(rendered("fleet"), "ConfigMap", "impasto-picker")["data"]["picker.yaml"])
    (found,) = (one["parameters"] for one in config["plugins"] if one["type"] == "core-metrics-extractor")
    assert {one["pluginRef"] for one in config["schedulingProfiles"][0]["plugins"]} <= {
        one["type"] for one in config["plugins"]
    }
    return dict(found)


def test_the_picker_knows_our_pods_as_ours() -> None:
    labels = workload("fleet")["spec"]["template"]["metadata"]["labels"]
    assert picker()["engineConfigs"][0]["name"] == picker()["defaultEngine"] == labels["llm-d.ai/engine-type"]
    opened = [one for one in server("fleet")["env"] if one["name"] == f"{VARIABLES}_OPEN_METRICS"]
    assert [one["value"] for one in opened] == ["true"], "it reads /metrics without a key"
    made = (ROOT / "server/impasto_server/triton/metrics.py").read_text()
    for label in ("running_lora_adapters", "waiting_lora_adapters", "max_lora"):  # what its extractor reads
        assert f'"{label}"' in made


def test_the_router_lets_a_picture_take_its_time() -> None:
    for rule in the(rendered("fleet"), "HTTPRoute")["spec"]["rules"]:
        assert float(rule["timeouts"]["request"].removesuffix("s")) > Limits.timeout_s


def test_a_fleet_has_its_registry_and_its_bundle_from_object_storage() -> None:
    assert {"name": "IMPASTO_REGISTRY", "value": "s3://example-bucket/registry"} in server("fleet")["env"]
    volumes = {one["name"]: one for one in pod("fleet")["volumes"]}
    assert "emptyDir" in volumes["registry"]
    assert "emptyDir" in volumes["bundle"]
    assert "replicas" not in workload("fleet")["spec"], "the scaler says how many"
    (pull,) = pod("fleet")["initContainers"]
    assert pull["envFrom"] == server("fleet")["envFrom"]


def test_secrets_are_named_and_never_here() -> None:
    whole = "".join(file.read_text() for file in files())
    assert not re.search(r"kind: Secret\b", whole)
    assert yaml.safe_load(whole.split("---")[0]) is not None

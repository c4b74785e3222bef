"""deploy/envoy/envoy.yaml says what deploy/haproxy/haproxy.cfg says, which a test runs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from impasto_client.routing import ADAPTER
from impasto_gateway.settings import Limits
from tests.helpers.pages import ROOT

STATIC: dict[str, Any] = yaml.safe_load((ROOT / "deploy/envoy/envoy.yaml").read_text())["static_resources"]
HAPROXY = (ROOT / "deploy/haproxy/haproxy.cfg").read_text()
LISTENERS = {one["name"]: one for one in STATIC["listeners"]}
CLUSTERS = {one["name"]: one for one in STATIC["clusters"]}


def manager(name: str) -> dict[str, Any]:
    found: dict[str, Any] = LISTENERS[name]["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def route(name: str) -> dict[str, Any]:
    (host,) = manager(name)["route_config"]["virtual_hosts"]
    (found,) = host["routes"]
    return dict(found["route"])


def backend(name: str) -> str:
    """HAProxy's section."""
    found = re.search(rf"^backend {name}\n(.*?)(?=^\S|\Z)", HAPROXY, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", ["grpc", "http"])
def test_servers_and_ports_are_the_same(name: str) -> None:
    (group,) = CLUSTERS[name]["load_assignment"]["endpoints"]
    places = [one["endpoint"]["address"]["socket_address"] for one in group["lb_endpoints"]]
    servers = re.findall(r"^    server \w (\S+):(\d+)", backend(name), re.MULTILINE)
    assert [(one["address"], str(one["port_value"])) for one in places] == servers
    port = LISTENERS[name]["address"]["socket_address"]["port_value"]
    assert re.search(rf"^frontend {name}\n    bind :{port}\b", HAPROXY, re.MULTILINE)


@pytest.mark.parametrize("name", ["grpc", "http"])
def test_adapters_choose_within_a_bound(name: str) -> None:
    assert route(name)["cluster"] == name
    assert route(name)["hash_policy"] == [{"header": {"header_name": ADAPTER}}]
    assert f"balance hdr({ADAPTER})" in backend(name)
    assert CLUSTERS[name]["lb_policy"] == "RING_HASH"
    bound = CLUSTERS[name]["common_lb_config"]["consistent_hashing_lb_config"]["hash_balance_factor"]
    assert f"hash-balance-factor {bound}" in backend(name)


@pytest.mark.parametrize("name", ["grpc", "http"])
def test_health_is_the_gateways(name: str) -> None:
    (check,) = CLUSTERS[name]["health_checks"]
    assert f"uri {check['http_health_check']['path']} " in backend(name)
    assert f"inter {check['interval']}" in backend(name)
    assert f"fall {check['unhealthy_threshold']} rise {check['healthy_threshold']}" in backend(name)
    (group,) = CLUSTERS["grpc"]["load_assignment"]["endpoints"]
    assert {one["endpoint"]["health_check_config"]["port_value"] for one in group["lb_endpoints"]} == {8080}
    assert "check port 8080" in backend("grpc")


def test_grpc_is_http_2_on_both_sides() -> None:
    assert manager("grpc")["codec_type"] == "HTTP2"
    (options,) = CLUSTERS["grpc"]["typed_extension_protocol_options"].values()
    assert "http2_protocol_options" in options["explicit_http_config"]
    assert "typed_extension_protocol_options" not in CLUSTERS["http"]


@pytest.mark.parametrize("name", ["grpc", "http"])
def test_pictures_have_their_time_and_another_try(name: str) -> None:
    assert float(route(name)["timeout"].removesuffix("s")) > Limits.timeout_s
    assert f"timeout server {route(name)['timeout']}" in HAPROXY
    assert f"retries {route(name)['retry_policy']['num_retries']}" in HAPROXY
    assert "connect-failure" in route(name)["retry_policy"]["retry_on"]
    assert route(name)["retry_policy"]["retry_host_predicate"]

"""What an operator sees of `impasto serve --http`: one trace from HTTP to Triton, the log of requests, all metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import IMPASTO, Impasto, impasto_serve
from tests.helpers.collector import Collector, collecting
from tests.helpers.dashboard import names_in
from tests.helpers.waiting import eventually

GATEWAY, TRITON = "impasto-gateway", "impasto"
PARENT = "b7ad6b7169203331"
TRACES = {"whole": "0af7651916cd43dd8448eb211c80319c", "streamed": "1bf7651916cd43dd8448eb211c80319c"}
BOAT = {"prompt": "a red boat", "steps": 3, "seed": 7, "adapters": ["neon"]}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def seen(collector: Collector, toy_bundle: Path, toy_registry: Path) -> Iterator[Impasto]:
    folders = ["--bundle", str(toy_bundle), "--registry", str(toy_registry)]
    engine = ["--engine", "onnxruntime", "--threads", "1"]
    with impasto_serve(
        [IMPASTO, "serve", *folders, *engine, "--port", "0", "--http", "0", "--traces", collector.url]
    ) as found:
        yield found


def http_of(server: Impasto) -> str:
    found = re.search(r"HTTP on (\S+)", server.ready)
    assert found, server.ready
    return found[1]


def ask(server: Impasto, trace: str, **more: Any) -> httpx.Response:
    """A picture of a boat, in this trace."""
    headers = {"traceparent": f"00-{trace}-{PARENT}-01", "x-request-id": f"boat-{trace[:4]}"}
    url = f"{http_of(server)}/v1/images/generations"
    answer = httpx.post(url, json={**BOAT, **more}, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize(("way", "model"), [("whole", "stylize"), ("streamed", "stylize_stream")])
def test_a_request_is_one_trace_from_http_to_triton(seen: Impasto, collector: Collector, way: str, model: str) -> None:
    ask(seen, TRACES[way], stream=way == "streamed")
    wanted = {"POST /v1/images/generations", "queue", "encode", "denoise", "decode", "InferRequest", model}
    eventually(lambda: wanted <= collector.of(TRACES[way]).keys())
    found = collector.of(TRACES[way])
    (request,) = found["POST /v1/images/generations"]
    assert (request.service, request.parent) == (GATEWAY, PARENT)
    assert {span.parent for name in ("queue", "decode", "InferRequest") for span in found[name]} == {request.number}
    (painting,) = found[model]
    assert painting.service == TRITON
    assert painting.parent in {span.number for span in found["InferRequest"]}


def test_what_belongs_to_no_trace_triton_does_not_trace(seen: Impasto, collector: Collector) -> None:
    """The gateway decides what is traced: here the caller, who samples nothing."""
    quiet, loud = "2cf7651916cd43dd8448eb211c80319c", "3df7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{quiet}-{PARENT}-00"}
    httpx.post(f"{http_of(seen)}/v1/images/generations", json=BOAT, headers=headers, timeout=60).raise_for_status()
    ask(seen, loud)  # sent later, so whatever there is of the other has come, too
    eventually(lambda: {"stylize", "queue"} <= collector.of(loud).keys())
    assert not collector.of(quiet)
    eventually(lambda: traces_of(collector, TRITON) <= traces_of(collector, GATEWAY))


def traces_of(collector: Collector, service: str) -> set[str]:
    return {span.trace for span in list(collector.spans) if span.service == service}


def test_the_log_has_a_line_for_each_request(seen: Impasto) -> None:
    trace = "4ef7651916cd43dd8448eb211c80319c"
    ask(seen, trace)
    assert seen.process.stdout is not None
    for line in seen.process.stdout:
        told = json.loads(line)
        if told["id"] == f"boat-{trace[:4]}":
            break
    wanted = {"route": "/v1/images/generations", "bundle": "toy", "adapters": ["neon"], "steps": 3, "status": 200}
    assert told.items() >= {**wanted, "trace": trace, "outcome": "done", "lanes": 1}.items()
    assert "a red boat" not in line


def test_one_page_has_the_metrics_of_gateway_and_server(seen: Impasto) -> None:
    """The dashboard asks for nothing that isn't there."""
    ask(seen, "5ff7651916cd43dd8448eb211c80319c", stream=True)

    def told() -> set[str]:
        page = httpx.get(f"{http_of(seen)}/metrics", timeout=10).text
        assert re.search(r'^impasto_http_server_metrics_up{server="127\.0\.0\.1:\d+"} 1', page, re.MULTILINE)
        return {line.partition("{")[0].partition(" ")[0] for line in page.splitlines() if line[:1] not in "#"}

    eventually(lambda: names_in("deploy/grafana/impasto.json") <= told())

"""A request's trace: it continues the caller's, goes on to the server, and has the server's phases in it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from impasto_client.errors import InvalidRequest
from impasto_client.headers import headers
from impasto_gateway.telemetry import Record
from impasto_gateway.telemetry.traces import Traces, endpoint_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
META = {
    "model": "studio",
    "timings": {"queue_ms": 40.0, "encode_ms": 10.0, "denoise_ms": 200.0, "decode_ms": 50.0, "total_ms": 300.0},
}


def watched(
    record: Record, path: str = "/v1/images/generations", meta: Mapping[str, Any] = META, **said: str
) -> tuple[list[ReadableSpan], str]:
    """The spans of a request that was painted, and the `traceparent` that its server got."""
    exporter = InMemorySpanExporter()
    traces = Traces(SimpleSpanProcessor(exporter))
    with traces.watching(record, "POST", path, said):
        sent = dict(headers()).get("traceparent", "")
        record.route, record.status, record.outcome = path, 200, "done"
        record.answered(meta)
    assert not headers(), "other requests aren't in this trace"
    traces.close()
    return list(exporter.get_finished_spans()), sent


def number(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"{context.span_id:016x}"


def test_it_continues_the_callers_trace_and_goes_on_to_the_server() -> None:
    record = Record("order-7")
    spans, sent = watched(record, traceparent=f"00-{TRACE}-{PARENT}-01")
    request = spans[-1]
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert sent == f"00-{TRACE}-{number(request)}-01"
    assert record.trace == TRACE


def test_a_caller_without_one_begins_one() -> None:
    record = Record("order-7")
    spans, sent = watched(record)
    assert spans[-1].parent is None
    assert sent.split("-")[1] == record.trace


def test_what_the_caller_does_not_sample_is_not_sampled() -> None:
    record = Record("order-7")
    assert watched(record, traceparent=f"00-{TRACE}-{PARENT}-00") == ([], "")
    assert record.trace == ""


def test_the_servers_phases_follow_one_another_within_the_request() -> None:
    *phases, request = watched(Record("order-7"))[0]
    assert [phase.name for phase in phases] == ["queue", "encode", "denoise", "decode"]
    assert all(phase.parent is not None and f"{phase.parent.span_id:016x}" == number(request) for phase in phases)
    times = [(phase.start_time or 0, phase.end_time or 0) for phase in phases]
    assert [end - start for start, end in times] == [40_000_000, 10_000_000, 200_000_000, 50_000_000]
    assert [end for _, end in times][:-1] == [start for start, _ in times][1:]
    assert times[-1][1] <= (request.end_time or 0)


def test_each_stage_of_a_cascade_is_a_phase() -> None:
    meta = {**META, "stages_ms": {"base": 150.0, "upscale": 50.0}}
    *phases, _ = watched(Record("order-7"), meta=meta)[0]
    assert [(phase.name, (phase.end_time or 0) - (phase.start_time or 0)) for phase in phases] == [
        ("queue", 40_000_000),
        ("encode", 10_000_000),
        ("denoise base", 150_000_000),
        ("denoise upscale", 50_000_000),
        ("decode", 50_000_000),
    ]


def test_a_span_says_who_and_what_but_not_the_prompt() -> None:
    request = watched(Record("order-7", key="shop", adapters=("neon",), prompt="a secret"))[0][-1]
    assert request.name == "POST /v1/images/generations"
    said = dict(request.attributes or {})
    told = {"impasto.request_id": "order-7", "impasto.key": "shop", "impasto.bundle": "studio"}
    assert said.items() >= {**told, "impasto.adapters": ("neon",), "http.response.status_code": 200}.items()
    assert "a secret" not in str(said)


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_what_machines_ask_all_the_time_is_not_traced(path: str) -> None:
    assert watched(Record("probe"), path) == ([], "")


def test_two_requests_at_once_have_two_traces() -> None:
    traces = Traces(SimpleSpanProcessor(InMemorySpanExporter()))

    async def one() -> str:
        with traces.watching(Record("x"), "POST", "/v1/score", {}):
            await asyncio.sleep(0)
            return dict(headers())["traceparent"].split("-")[1]

    async def both() -> list[str]:
        return [*await asyncio.gather(one(), one())]

    assert len(set(asyncio.run(both()))) == 2
    traces.close()


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("http://localhost:4318/", "http://localhost:4318/v1/traces"),
        ("https://host/otlp/v1/traces", "https://host/otlp/v1/traces"),
    ],
)
def test_where_spans_go(url: str, endpoint: str) -> None:
    assert endpoint_of(url) == endpoint


@pytest.mark.parametrize("url", ["localhost:4318", "grpc://localhost:4317", ""])
def test_what_is_no_url_of_a_collector(url: str) -> None:
    with pytest.raises(
        InvalidRequest, match="traces: .* is no URL of a collector; pass one like http://localhost:4318"
    ):
        endpoint_of(url)

"""A collector of traces, as small as can be: it takes OTLP over HTTP, as JSON and as protobuf, and keeps the spans."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """Ids are in hex; `parent` is empty at the top of a trace."""

    service: str
    name: str
    trace: str
    number: str
    parent: str


@dataclass
class Collector:
    url: str
    spans: list[Span] = field(default_factory=list)

    def of(self, trace: str) -> dict[str, list[Span]]:
        """A trace's spans, by name."""
        found: dict[str, list[Span]] = {}
        for span in list(self.spans):
            if span.trace == trace:
                found.setdefault(span.name, []).append(span)
        return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.spans.extend(_spans(body, self.headers["content-type"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Taker) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _spans(body: bytes, kind: str) -> Iterator[Span]:
    for resource in _request(body, kind)["resourceSpans"]:
        said = {one["key"]: one["value"].get("stringValue", "") for one in resource["resource"]["attributes"]}
        for scope in resource["scopeSpans"]:
            for one in scope["spans"]:
                ids = (one["traceId"], one["spanId"], one.get("parentSpanId", ""))
                yield Span(said["service.name"], one["name"], *ids)


def _request(body: bytes, kind: str) -> dict[str, Any]:
    """As OTLP's JSON, with ids in hex."""
    if kind.startswith("application/json"):
        return dict(json.loads(body))
    request = ExportTraceServiceRequest.FromString(body)
    found: dict[str, Any] = MessageToDict(request)
    for resource, had in zip(found["resourceSpans"], request.resource_spans, strict=True):
        for scope, spans in zip(resource["scopeSpans"], had.scope_spans, strict=True):
            for one, span in zip(scope["spans"], spans.spans, strict=True):
                ids = {"traceId": span.trace_id, "spanId": span.span_id, "parentSpanId": span.parent_span_id}
                one.update({name: value.hex() for name, value in ids.items()})
    return found

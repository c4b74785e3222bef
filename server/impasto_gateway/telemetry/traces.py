"""Traces (OpenTelemetry): a span for each request, one below it for each phase of the server's work.

The request's trace goes on to the server as a header, so Triton's spans are in it, too. Needs the extra `otel`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from impasto_client import MissingExtra, sending
from impasto_client.errors import InvalidRequest
from impasto_gateway.telemetry.record import Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span

SERVICE = "impasto-gateway"
PATH = "/v1/traces"  # OTLP's, where a URL has none
SEND_S = 5.0  # for the collector to take spans
UNSEEN = frozenset({"/health", "/ready", "/metrics"})  # asked every few seconds, by machines


class Traces:
    """Makes the spans, and hands them to `processor`."""

    def __init__(self, processor: SpanProcessor) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("impasto_gateway")
        self._context = TraceContextTextMapPropagator()

    @classmethod
    def of(cls, url: str) -> Traces:
        """Traces that a collector at `url` gets, by OTLP over HTTP. Raises MissingExtra, and InvalidRequest."""
        endpoint = endpoint_of(url)
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise MissingExtra("traces need OpenTelemetry; run: pip install 'impasto[otel]'") from None
        return cls(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=SEND_S)))

    @contextmanager
    def watching(self, record: Record, method: str, path: str, headers: Mapping[str, str]) -> Iterator[None]:
        """A span while a request runs. A caller that sends `traceparent` finds it in its own trace."""
        from opentelemetry.trace import SpanKind, format_trace_id, set_span_in_context

        if path in UNSEEN:
            yield
            return
        caller = self._context.extract(headers)
        span = self._tracer.start_span(method, caller, SpanKind.SERVER, start_time=record.began_ns)
        onward: dict[str, str] = {}
        if span.is_recording():
            record.trace = format_trace_id(span.get_span_context().trace_id)
            self._context.inject(onward, set_span_in_context(span, caller))
        try:
            with sending(onward):
                yield
        finally:
            self._end(span, record, method)

    def close(self) -> None:
        """Send what is waiting."""
        self._provider.shutdown()

    def _end(self, span: Span, record: Record, method: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        span.update_name(f"{method} {record.route}")
        span.set_attributes(_attributes(record, method))
        if record.status >= 500:
            span.set_status(Status(StatusCode.ERROR, record.outcome))
        self._phases(span, record)
        span.end()

    def _phases(self, span: Span, record: Record) -> None:
        """Spans of the server's phases, one after another up to the moment at which the answer was there.

        The server tells how long each took, not when: it may have been queued a second time, before its first step.
        """
        from opentelemetry.trace import set_span_in_context

        within = set_span_in_context(span)
        at = record.answered_ns - sum(map(_ns, record.phases_ms.values()))
        for name, took_ms in record.phases_ms.items():
            phase = self._tracer.start_span(name, within, start_time=at)
            at += _ns(took_ms)
            phase.end(at)


def endpoint_of(url: str) -> str:
    """Where spans are posted: `url` itself if it has a path, else OTLP's path there. Raises InvalidRequest."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidRequest(f"traces: {url!r} is no URL of a collector; pass one like http://localhost:4318")
    return url if parts.path.strip("/") else f"{url.rstrip('/')}{PATH}"


def _ns(ms: float) -> int:
    return round(1e6 * ms)


def _attributes(record: Record, method: str) -> dict[str, str | int | list[str]]:
    """OpenTelemetry's names where it has some. Never the prompt."""
    return {
        "http.request.method": method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "impasto.request_id": record.id,
        "impasto.key": record.key,
        "impasto.bundle": record.bundle,
        "impasto.adapters": list(record.adapters),
        "impasto.lanes": record.lanes,
        "impasto.steps": record.steps,
        "impasto.outcome": record.outcome,
    }

"""The gateway's metrics, in a registry of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from impasto_gateway.telemetry.record import Record
from impasto_gateway.turn import REASONS

# Seconds. From a photo on a GPU to a large picture on a CPU; below 5 ms a queue is none.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series for each series, which nobody reads


class Metrics:
    """Counts requests."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self._requests = Counter("impasto_http_requests", "Requests answered", ["route", "status"], registry=own)
        self._running = Gauge("impasto_http_requests_running", "Requests under way", registry=own)
        self._pictures = Counter("impasto_http_pictures", "Pictures painted", ["bundle"], registry=own)
        self._dropped = Gauge("impasto_http_log_lines_dropped", "Log lines that nobody took in time", registry=own)
        self._replays = Counter("impasto_http_replays", "Requests sent again", ["reason"], registry=own)
        for reason in REASONS:
            self._replays.labels(reason)  # there from the start, so that the first one is seen as an increase
        self._queue = _seconds("queue", "Seconds until a request's first forward pass, as the server says", self)
        self._first = _seconds("time_to_first_step", "Seconds until the first step was heard of", self)
        self._all = _seconds("e2e", "Seconds from a request to the last byte of its answer, for pictures", self)

    @contextmanager
    def running(self, record: Record) -> Iterator[None]:
        """While a request runs; afterwards it is counted."""
        with self._running.track_inprogress():
            try:
                yield
            finally:
                self._count(record)

    def text(self, lines_dropped: int = 0) -> bytes:
        """The text that Prometheus reads."""
        self._dropped.set(lines_dropped)
        return generate_latest(self.registry)

    def _count(self, record: Record) -> None:
        self._requests.labels(record.route, str(record.status)).inc()
        for reason, count in record.replays.items():
            self._replays.labels(reason).inc(count)
        if record.phases_ms:  # only a server that painted says these
            self._pictures.labels(record.bundle).inc(record.lanes)
            self._queue.labels(record.bundle).observe(record.queue_ms / 1000)
            self._all.labels(record.bundle).observe(record.total_ms / 1000)
        if record.first_step_ms:
            self._first.labels(record.bundle).observe(record.first_step_ms / 1000)


def _seconds(name: str, text: str, metrics: Metrics) -> Histogram:
    return Histogram(f"impasto_http_{name}_seconds", text, ["bundle"], buckets=BUCKETS, registry=metrics.registry)

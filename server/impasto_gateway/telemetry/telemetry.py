"""A gateway's log, metrics and traces, held together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers

from impasto_gateway.settings import GatewaySettings
from impasto_gateway.telemetry.logs import Log
from impasto_gateway.telemetry.metrics import Metrics
from impasto_gateway.telemetry.record import Record


class Telemetry:
    """Told of every request by the TelemetryMiddleware."""

    def __init__(self, log: Log, metrics: Metrics) -> None:
        self.log = log
        self.metrics = metrics

    @classmethod
    def of(cls, settings: GatewaySettings) -> Telemetry:
        """As an operator wants it."""
        return cls(Log(settings.log_prompts), Metrics())

    @contextmanager
    def watching(self, record: Record, headers: Headers) -> Iterator[None]:
        """While a request runs; once it is over, it is logged and counted."""
        try:
            with self.metrics.running(record):
                yield
        finally:
            self.log.tell(record)

    def metrics_text(self) -> bytes:
        """The page that Prometheus reads."""
        return self.metrics.text()

    def close(self) -> None:
        """Write what is waiting."""
        self.log.close()

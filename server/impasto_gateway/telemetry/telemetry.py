"""A gateway's log, metrics and traces, held together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from starlette.requests import HTTPConnection

from impasto_gateway.settings import GatewaySettings
from impasto_gateway.telemetry import servers
from impasto_gateway.telemetry.logs import Log
from impasto_gateway.telemetry.metrics import Metrics
from impasto_gateway.telemetry.record import Record
from impasto_gateway.telemetry.traces import Traces


class Telemetry:
    """Told of every request by the TelemetryMiddleware. `metrics_urls` are those of the servers behind the gateway."""

    def __init__(
        self, log: Log, metrics: Metrics, traces: Traces | None = None, metrics_urls: tuple[str, ...] = ()
    ) -> None:
        self.log = log
        self.metrics = metrics
        self.traces = traces
        self._metrics_urls = metrics_urls

    @classmethod
    def of(cls, settings: GatewaySettings) -> Telemetry:
        """As an operator wants it. Raises MissingExtra and InvalidRequest for traces that can't be sent."""
        traces = Traces.of(settings.traces) if settings.traces else None
        return cls(Log(settings.log_prompts), Metrics(), traces, settings.metrics_urls)

    @contextmanager
    def watching(self, record: Record, request: HTTPConnection) -> Iterator[None]:
        """While a request runs; once it is over, it is logged and counted."""
        with ExitStack() as end:
            end.callback(self.log.tell, record)
            end.enter_context(self.metrics.running(record))
            if self.traces is not None:
                method, path = request.scope["method"], request.scope["path"]
                end.enter_context(self.traces.watching(record, method, path, request.headers))
            yield

    async def metrics_page(self) -> bytes:
        """The page that Prometheus reads: the gateway's own, then those of the servers behind it."""
        return self.metrics.text(self.log.dropped) + await servers.page_of(self._metrics_urls)

    def close(self) -> None:
        """Write and send what is waiting."""
        self.log.close()
        if self.traces is not None:
            self.traces.close()

"""See inside a gateway: a log line, metrics and a trace of every request."""

from impasto_gateway.telemetry.middleware import TelemetryMiddleware
from impasto_gateway.telemetry.record import Record
from impasto_gateway.telemetry.telemetry import Telemetry

__all__ = ["Record", "Telemetry", "TelemetryMiddleware"]

"""tritonserver's options for traces."""

from __future__ import annotations

import pytest

from impasto_server.errors import SetupError
from impasto_server.ops.tracing import endpoint_of, tracing


def test_a_collector_gets_what_belongs_to_a_trace_already() -> None:
    said = tracing("http://collector:4318")
    assert {"--trace-config=mode=opentelemetry", "--trace-config=rate=0"} <= {*said}
    assert "--trace-config=opentelemetry,url=http://collector:4318/v1/traces" in said


def test_a_path_of_ones_own() -> None:
    assert endpoint_of("https://collector/otlp/v1/traces") == "https://collector/otlp/v1/traces"


@pytest.mark.parametrize("url", ["collector:4318", "grpc://collector:4317", "http://a,b", ""])
def test_what_is_no_url_of_a_collector(url: str) -> None:
    with pytest.raises(SetupError, match="traces: .* is no URL of a collector; pass one like http://localhost:4318"):
        tracing(url)

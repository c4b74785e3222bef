"""Requests drawn from /openapi.json, and such as break it: none fails in the gateway, and each answer is described."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from impasto_gateway.openapi import described
from tests.helpers.gateways import SETTINGS, app_over, fake, listening
from tests.helpers.waiting import PATIENCE_S

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


# Without a registry, adapters can't be changed: that is a 501.
SCHEMA = schemathesis.openapi.from_dict(described(SETTINGS)).exclude(method=["PUT", "DELETE"])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(app_over(fake())) as url:
        yield url


@SCHEMA.parametrize()
@settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_no_request_fails_in_the_gateway(case: Any, url: str) -> None:
    case.validate_response(case.call(base_url=url, timeout=PATIENCE_S), checks=CHECKS)

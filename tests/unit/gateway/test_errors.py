"""A client's errors as refusals: the caller's words, and nothing of the servers behind the gateway."""

from __future__ import annotations

import pytest

from impasto_client.errors import (
    ConnectError,
    DeadlineExceeded,
    ImpastoError,
    InvalidRequest,
    ServerFull,
    ServerUnavailable,
)
from impasto_gateway.errors import refusal_of

GRPC = "(failed to connect to all addresses; last error: ipv4:10.0.0.7:8001: Connection refused)"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            ConnectError(f"nothing answers at 10.0.0.7:8001; start a server with `impasto serve` {GRPC}"),
            503,
            "nothing answers; start a server with `impasto serve`",
        ),
        (
            ServerUnavailable("the server at 10.0.0.7:8001 is stopping; send the request to another one, or later (x)"),
            503,
            "the server is stopping; send the request to another one, or later",
        ),
        (
            DeadlineExceeded("no answer from 10.0.0.7:8001 within 5 s; raise timeout, or ask for less"),
            504,
            "no answer within 5 s; raise timeout, or ask for less",
        ),
    ],
)
def test_callers_learn_no_addresses(error: ImpastoError, status: int, message: str) -> None:
    refusal = refusal_of(error)
    assert (refusal.status, refusal.message) == (status, message)


def test_a_field_has_the_name_that_the_caller_gave_it() -> None:
    refusal = refusal_of(InvalidRequest("STEPS: 0 is out of range", "STEPS"), {"STEPS": "num_inference_steps"})
    assert (refusal.param, refusal.message) == ("num_inference_steps", "num_inference_steps: 0 is out of range")


def test_a_full_server_says_when_to_come_back() -> None:
    refusal = refusal_of(ServerFull("the server is full; try again in 2.5 s", 2.5))
    assert refusal.all_headers() == {"x-should-retry": "true", "retry-after": "3"}


def test_other_fields_and_commands_are_in_the_callers_words_too() -> None:
    problem = "ADAPTER_NAMES: is missing, and 'MASKS' has no style of its own beside STYLE_IMAGES"
    error = InvalidRequest(f"{problem}; name a style that `impasto models` lists", "ADAPTER_NAMES")
    refusal = refusal_of(error, {"ADAPTER_NAMES": "style"})
    said = "style: is missing, and 'MASKS' has no style of its own beside image"
    assert (refusal.param, refusal.message) == ("style", f"{said}; name a style that GET /v1/adapters lists")

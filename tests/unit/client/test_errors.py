"""The tree drawn at the top of errors.py is the tree that is there."""

from __future__ import annotations

import re

import pytest

from impasto_client import (
    AdapterNotFound,
    DeadlineExceeded,
    ImpastoError,
    InvalidRequest,
    ServerFull,
    ServerUnavailable,
    errors,
)
from impasto_client.status import refusal


def test_the_drawn_tree_is_the_real_one() -> None:
    assert _drawn() == _real(errors.ImpastoError)


def test_request_errors_carry_the_field() -> None:
    assert InvalidRequest("STEPS: 0 is out of range; pass 1 to 200", "STEPS").field == "STEPS"
    assert AdapterNotFound("no adapter 'x'").field is None


FULL = "the server is full with 64 requests; try again in 1.3 s"


@pytest.mark.parametrize(
    ("status", "message", "kind", "text"),
    [
        ("UNAVAILABLE", f"RESOURCE_EXHAUSTED: {FULL}", ServerFull, FULL),
        ("UNAVAILABLE", f"[request id: 7] RESOURCE_EXHAUSTED: {FULL}", ServerFull, FULL),
        ("RESOURCE_EXHAUSTED", FULL, ServerFull, FULL),
        ("RESOURCE_EXHAUSTED", "message larger than max", ServerUnavailable, "message larger than max"),
        ("UNAVAILABLE", "the server is stopping; try again in 2 s", ServerUnavailable, "is stopping; try again in 2 s"),
        ("UNAVAILABLE", "DEADLINE_EXCEEDED: 2 s have passed", DeadlineExceeded, "2 s have passed"),
        ("DEADLINE_EXCEEDED", "2 s have passed", DeadlineExceeded, "2 s have passed"),
    ],
)  # fmt: skip
def test_a_status_that_triton_lacks_is_read_from_the_message(
    status: str, message: str, kind: type[ImpastoError], text: str
) -> None:
    error = refusal(status, message)
    assert type(error) is kind
    assert str(error).endswith(text)
    assert ":" not in str(error)


@pytest.mark.parametrize(("hint", "seconds"), [("1.3", 1.3), ("12", 12.0), ("0.05", 0.05)])
def test_a_full_server_says_when_to_try_again(hint: str, seconds: float) -> None:
    error = refusal("RESOURCE_EXHAUSTED", f"the server is full; try again in {hint} s")
    assert isinstance(error, ServerFull)
    assert error.retry_after_s == seconds


def _drawn() -> list[tuple[int, str]]:
    """Depth and name of each line of the drawing, in its order."""
    lines = (re.match(r"^([│├└─ ]*)([A-Z]\w+)(?:\s|$)", line) for line in (errors.__doc__ or "").splitlines()[2:])
    return [(len(line[1]) // 4, line[2]) for line in lines if line]


def _real(kind: type[Exception], depth: int = 0) -> list[tuple[int, str]]:
    below = [found for child in kind.__subclasses__() for found in _real(child, depth + 1)]
    return [(depth, kind.__name__), *below]

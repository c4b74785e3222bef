"""The request parameter `timeout`: how long the caller waits."""

from __future__ import annotations

from impasto_server.errors import InvalidArgument

MAX_TIMEOUT_US = 7 * 24 * 3600 * 10**6  # a week


def seconds(microseconds: int) -> float | None:
    """The timeout in seconds. None for 0: Triton doesn't tell 0 from no timeout. Raises InvalidArgument."""
    if microseconds > MAX_TIMEOUT_US:
        sent = microseconds - (1 << 64) if microseconds >> 63 else microseconds  # Triton drops the sign
        fix = f"pass the parameter timeout as 1 to {MAX_TIMEOUT_US} microseconds, or leave it out for no limit"
        raise InvalidArgument("TIMEOUT", f"{sent} is out of range", fix)
    return microseconds / 1e6 if microseconds else None

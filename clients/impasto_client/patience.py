"""How long a request may take, in the caller's words."""

from __future__ import annotations

import math
from typing import SupportsFloat

from impasto_client.errors import InvalidRequest
from impasto_client.tensor import shown

MAX_TIMEOUT_S = 7 * 24 * 3600.0  # the server's bound


def limit_s(timeout: float | None) -> float | None:
    """Seconds; None for None and math.inf, which wait for ever. Raises InvalidRequest for what is no time to wait."""
    if timeout is None:
        return None
    seconds = _seconds(timeout)
    if seconds == math.inf:
        return None
    if not 0 < seconds <= MAX_TIMEOUT_S:  # NaN, too
        fix = f"pass seconds, more than 0 and at most {MAX_TIMEOUT_S:.0f}, or math.inf for no limit"
        raise InvalidRequest(f"TIMEOUT: {shown(timeout)} is no time to wait; {fix}", "TIMEOUT")
    return seconds


def _seconds(timeout: object) -> float:
    """NaN for what is no number of them."""
    if isinstance(timeout, bool) or not isinstance(timeout, SupportsFloat):
        return math.nan
    try:
        return float(timeout)
    except OverflowError:
        return math.nan

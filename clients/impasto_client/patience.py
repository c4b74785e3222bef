"""Check timeouts, and wait for a server that is full."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import SupportsFloat, TypeVar

from impasto_client.errors import InvalidRequest, ServerFull
from impasto_client.tensor import shown

Answer = TypeVar("Answer")

MAX_TIMEOUT_S = 7 * 24 * 3600.0  # the server's bound


def limit_s(timeout: float | None) -> float | None:
    """The timeout in seconds; None for None and math.inf, which wait for ever. Raises InvalidRequest for a bad one."""
    if timeout is None:
        return None
    seconds = _seconds(timeout)
    if seconds == math.inf:
        return None
    if not 0 < seconds <= MAX_TIMEOUT_S:  # NaN, too
        fix = f"pass seconds, more than 0 and at most {MAX_TIMEOUT_S:.0f}, or math.inf for no limit"
        raise InvalidRequest(f"TIMEOUT: {shown(timeout)} is not a timeout; {fix}", "TIMEOUT")
    return seconds


def until_room(ask: Callable[[], Answer], limit_s: float | None) -> Answer:
    """The answer of `ask`; while the server is full, ask again when it says.

    Raises ServerFull if that would be after `limit_s` seconds (None: no limit), and whatever else `ask` raises.
    """
    patience = _Patience(limit_s)
    while True:
        try:
            return ask()
        except ServerFull as full:
            time.sleep(patience.pause_s(full))


async def until_room_async(ask: Callable[[], Awaitable[Answer]], limit_s: float | None) -> Answer:
    """As `until_room`."""
    patience = _Patience(limit_s)
    while True:
        try:
            return await ask()
        except ServerFull as full:
            await asyncio.sleep(patience.pause_s(full))


class _Patience:
    def __init__(self, limit_s: float | None) -> None:
        self._end = math.inf if limit_s is None else time.monotonic() + limit_s

    def pause_s(self, full: ServerFull) -> float:
        """Seconds to wait. Raises `full` if that is too long."""
        if time.monotonic() + full.retry_after_s > self._end:
            raise full
        return full.retry_after_s


def _seconds(timeout: object) -> float:
    """The timeout as a float; NaN if it is not a number."""
    if isinstance(timeout, bool) or not isinstance(timeout, SupportsFloat):
        return math.nan
    try:
        return float(timeout)
    except OverflowError:
        return math.nan

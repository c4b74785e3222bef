"""What each key may take: requests and pixels per minute, and requests at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

from starlette.types import ASGIApp, Receive, Scope, Send

from impasto_gateway.callers import Caller
from impasto_gateway.errors import RATE, Refusal

MINUTE_S = 60.0
COUNTED = frozenset({"POST", "PUT", "PATCH", "DELETE"})  # methods


@dataclass
class Bucket:
    """A minute's allowance: it fills evenly, up to `size`, and gives while it has anything.

    What is larger than `size` empties a full bucket below nothing, and waits for as long as that takes to fill:
    a picture larger than a minute's pixels is painted, but not twice a minute.
    """

    size: float
    level: float
    at: float

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken; 0: now."""
        self.level = min(self.size, self.level + (now - self.at) * self.size / MINUTE_S)
        self.at = now
        return max(0.0, (min(amount, self.size) - self.level) * MINUTE_S / self.size)

    def take(self, amount: float) -> None:
        self.level -= amount


class Rates:
    """The allowances under way, by the names of keys. A key without bounds leaves nothing here."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._running: Counter[str] = Counter()

    @asynccontextmanager
    async def admitted(self, caller: Caller, pixels: int = 0) -> AsyncIterator[None]:
        """Take a request with this many pixels. Raises Refusal (429, with retry-after) for more than the key may."""
        self._check_concurrent(caller)
        self._take(caller, {"requests": 1, "pixels": pixels})
        self._running[caller.name] += 1
        try:
            yield
        finally:
            self._running[caller.name] -= 1
            self._running += Counter()  # without those at 0

    def spend(self, caller: Caller, pixels: int) -> None:
        """Take the pixels of a request that was admitted before anybody knew how many it has. Raises Refusal (429)."""
        self._take(caller, {"pixels": pixels})

    def _check_concurrent(self, caller: Caller) -> None:
        most, now = caller.limits.concurrent, self._running[caller.name]
        if most and now >= most:
            raise _full(f"{now} requests are under way, of {most} at once; wait for one to end", 1.0)

    def _take(self, caller: Caller, wanted: Mapping[str, int]) -> None:
        """From all buckets, or from none."""
        bounds = {"requests": caller.limits.requests_per_minute, "pixels": caller.limits.pixels_per_minute}
        taken = {what: self._bucket(caller.name, what, bounds[what]) for what in wanted if bounds[what]}
        now = self._clock()
        for what, bucket in taken.items():
            if wait_s := bucket.wait_s(wanted[what], now):
                raise _full(f"{bounds[what]} {what} per minute are used up; wait, or ask the operator for more", wait_s)
        for what, bucket in taken.items():
            bucket.take(wanted[what])

    def _bucket(self, name: str, what: str, size: int) -> Bucket:
        """The key's bucket; a new one, which is full, where the key's bound has changed."""
        found = self._buckets.get((name, what))
        if found is None or found.size != size:
            found = self._buckets[name, what] = Bucket(size, size, self._clock())
        return found


class RatesMiddleware:
    """Admits what paints, changes or looks at pictures before its body is read: so a key without a place left can't
    fill the memory. How many pixels it has, its handler says (`Rates.spend`).
    """

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in COUNTED:
            await self._app(scope, receive, send)
            return
        async with self._rates.admitted(scope["state"]["caller"]):
            await self._app(scope, receive, send)


def _full(problem: str, wait_s: float) -> Refusal:
    return Refusal(429, f"key: {problem}", "rate_limit_exceeded", None, RATE, again=True, retry_after_s=wait_s)

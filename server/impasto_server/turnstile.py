"""The turnstile: several step loops share one device, one pass at a time, each with an equal share of its time.

The rule. Of the loops that want a pass, the one that has had least device time is next; among equals, the one that has
waited longest. A pass is never interrupted, so a new loop waits for one pass at most. Between two passes a loop works
on the host. If the next pass is still its own, the device is held for it, as long as its last pass took and HOLD_S at
most; else a loop with short passes would wait for a long one after each of them. A loop with no rows to run loses its
claim: it comes back with no more credit than the loop that runs then.

With one loop this is an uncontested lock. Encoding prompts and decoding pictures take no turn here: they share the
cores with the passes of all bundles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from time import perf_counter
from types import TracebackType

HOLD_S = 0.02


@dataclass(eq=False)
class Share:
    """One loop's account: device time counted as had, when it began to wait, and until when it is expected back.

    All in seconds.
    """

    had_s: float = 0.0
    waits_since: float | None = None
    expected_until: float = -math.inf


class Shares:
    """The rule of who is next. Not thread-safe. Callers pass the time, in seconds."""

    def __init__(self) -> None:
        self._shares: list[Share] = []
        self._inside: Share | None = None
        self._entered = 0.0
        self._level_s = 0.0  # the device time that the last one to enter had had by then

    def add(self) -> Share:
        self._shares.append(Share(self._level_s))
        return self._shares[-1]

    def ask(self, share: Share, now: float) -> None:
        """The loop wants a pass."""
        share.had_s = max(share.had_s, self._level_s)
        share.waits_since = now

    def wait_s(self, share: Share, now: float) -> float:
        """How long a loop that wants a pass must wait: 0 when it is next, infinite while only an event can tell."""
        if self._inside is not None:
            return math.inf
        wanted = [one for one in self._shares if one.waits_since is not None or one.expected_until > now]
        first = min(wanted, key=lambda one: (one.had_s, now if one.waits_since is None else one.waits_since))
        if first is share:
            return 0.0
        return math.inf if first.waits_since is not None else first.expected_until - now

    def enter(self, share: Share, now: float) -> None:
        """Its pass begins."""
        self._inside, self._entered, self._level_s = share, now, share.had_s
        share.waits_since = None

    def leave(self, share: Share, now: float) -> None:
        """Its pass is over; it may soon want another."""
        took = now - self._entered
        self._inside = None
        share.had_s += took
        share.expected_until = now + min(took, HOLD_S)

    def rest(self, share: Share) -> None:
        """It has nothing to run for now."""
        share.expected_until = -math.inf


class Turnstile:
    """One for each device; each step loop has a gate of its own. Safe from any thread."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._shares = Shares()
        self._clock = clock
        self._changed = Condition()

    def gate(self) -> Gate:
        with self._changed:
            return Gate(self, self._shares.add())

    def enter(self, share: Share) -> None:
        with self._changed:
            self._shares.ask(share, self._clock())
            while wait_s := self._shares.wait_s(share, self._clock()):
                self._changed.wait(None if wait_s == math.inf else wait_s)
            self._shares.enter(share, self._clock())

    def leave(self, share: Share) -> None:
        with self._changed:
            self._shares.leave(share, self._clock())
            self._changed.notify_all()

    def rest(self, share: Share) -> None:
        with self._changed:
            self._shares.rest(share)
            self._changed.notify_all()


class Gate:
    """One loop's access to the device: `with gate:` around each pass, `rest` when there is nothing to run."""

    def __init__(self, turnstile: Turnstile, share: Share) -> None:
        self._turnstile = turnstile
        self._share = share

    def __enter__(self) -> None:
        self._turnstile.enter(self._share)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turnstile.leave(self._share)

    def rest(self) -> None:
        self._turnstile.rest(self._share)

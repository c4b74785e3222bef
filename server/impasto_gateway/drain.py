"""Whether the gateway is about to stop, and what is cut off when the time for that is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class CutOff(Exception):
    """The grace was over before this was done."""


class Drain:
    """From `begin` on, /ready fails, so that balancers send requests elsewhere; what runs is finished.

    What runs on when `cut` is called is cancelled, within its `bounded` block; `cut_off` is how much that was.
    """

    def __init__(self) -> None:
        self.begun = False
        self.cut_off = 0
        self._is_over = False
        self._running: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        """May be called twice, and by a signal's handler."""
        self.begun = True

    def cut(self) -> None:
        """Call in the event loop. What begins later is cut off, too."""
        self._is_over = True
        self.cut_off += len(self._running)
        for one in self._running:
            one.reschedule(0.0)

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """For one request. Raises CutOff."""
        bound = asyncio.timeout(0.0 if self._is_over else None)
        try:
            async with bound:
                self._running.add(bound)
                yield
        except TimeoutError:
            if not bound.expired():
                raise
            raise CutOff from None
        finally:
            self._running.discard(bound)

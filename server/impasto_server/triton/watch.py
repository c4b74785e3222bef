"""The watch: it polls whether callers are gone, so that the step loop needn't."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from threading import Event, Lock, Thread
from time import thread_time

log = logging.getLogger(__name__)

# Polling wakes tritonserver's threads, and on few cores a pass waits for them: every 5 ms cost a hundredth of a pass.
PERIOD_S = 0.025
SHARE = 0.05  # of a core, at most: without a bound, 60 callers took an eighth of one from the step loop


class Watch:
    """One thread that polls all callers every few milliseconds, less often if there are many: a call takes some 40 µs.

    `clock` says for how many seconds its thread has computed.
    """

    def __init__(self, clock: Callable[[], float] = thread_time) -> None:
        self._clock = clock
        self._watched: dict[int, tuple[Callable[[], bool], Callable[[], None]]] = {}
        self._numbers = count()
        self._lock = Lock()
        self._closing = Event()
        self._thread = Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def over(self, gone: Callable[[], bool], then: Callable[[], None]) -> Callable[[], None]:
        """Call `then` once when `gone` returns True or fails.

        Returns a function that ends the watch and may be called at any time; after it returns, `gone` isn't called any
        more. (Triton crashes when it is asked about a request that has had its last response.)
        """
        number = next(self._numbers)
        with self._lock:
            self._watched[number] = gone, then
        return lambda: self._forget(number)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _forget(self, number: int) -> None:
        with self._lock:
            self._watched.pop(number, None)

    def _run(self) -> None:
        pause_s = PERIOD_S
        while not self._closing.wait(pause_s):
            started = self._clock()
            with self._lock:
                numbers = list(self._watched)
            for number in numbers:
                then = self._ask(number)
                if then is not None:
                    _do(then)
            pause_s = max(PERIOD_S, (self._clock() - started) / SHARE)

    def _ask(self, number: int) -> Callable[[], None] | None:
        """Poll one caller; returns its `then` if that is to be called now."""
        with self._lock:
            if number not in self._watched or not _yes(self._watched[number][0]):
                return None
            return self._watched.pop(number)[1]


def _do(then: Callable[[], None]) -> None:
    try:
        then()
    except Exception as error:  # the other callers must still be polled
        log.error("a caller that is gone could not be dropped", exc_info=error)


def _yes(gone: Callable[[], bool]) -> bool:
    try:
        return gone()
    except Exception as error:  # a caller that can't be asked counts as gone
        log.error("a caller could not be asked whether it is gone", exc_info=error)
        return True

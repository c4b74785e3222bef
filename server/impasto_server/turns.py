"""Few threads, fair to many requests: who has little left to do is done soon, and nobody waits for ever.

Work is a generator. It stops before each of its parts and says how much is left; a part runs when its turn comes:

    def paint(pictures: list[Picture]) -> Work[None]:
        for done, picture in enumerate(pictures):
            yield len(pictures) - done
            picture.paint()

The rule: three turns of four go to whoever has least left, the first to come among equals; the fourth goes to whoever
has waited longest for one. So among K who wait, each gets a turn within 4 · K turns, whoever else comes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator
from threading import Condition, Thread
from typing import Generic, TypeAlias, TypeVar

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

PATIENCE = 4  # every so many turns, one is for whoever has waited longest

# Yields how much is left with the part that comes next; all who share their turns count in one unit, such as pixels.
Work: TypeAlias = Generator[float, None, R]


class Order(Generic[K]):
    """Who waits for a turn, and whose is next. Not thread-safe."""

    def __init__(self) -> None:
        self._left: dict[K, float] = {}  # who has waited longest is first
        self._given = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._left)

    def __iter__(self) -> Iterator[K]:
        """Those who wait now, whoever comes or goes meanwhile."""
        return iter(list(self._left))

    def add(self, key: K, left: float) -> None:
        """`key`, which doesn't wait yet, does from now on."""
        assert key not in self._left
        self._left[key] = left

    def take(self) -> K | None:
        """Whose turn it is; it waits no more. None when nobody does."""
        if not self._left:
            return None
        self._given += 1
        chosen = min(self._left, key=self._left.__getitem__) if self._given % PATIENCE else next(iter(self._left))
        del self._left[chosen]
        return chosen

    def drop(self, key: K) -> bool:
        """Whether it waited; it does no more."""
        return self._left.pop(key, None) is not None


class Turns(Generic[K]):
    """Threads that run work by turns. Work of one key runs in its order, one part at a time. Safe from any thread."""

    def __init__(self, name: str, threads: int) -> None:
        self._order: Order[K] = Order()
        self._works: dict[K, deque[Work[None]]] = {}  # of each key, the one under way and those behind it
        self._leaving: set[K] = set()  # those that were dropped while a part of theirs was running
        self._open = True
        self._changed = Condition()
        self._threads = [Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, key: K, work: Work[None]) -> None:
        """Do `work` after all that `key` had done before. What it does up to its first yield should be brief.

        What it raises ends it, and is logged. Raises RuntimeError when closed.
        """
        with self._changed:
            if not self._open:
                raise RuntimeError("work for threads that have ended")
            works = self._works.setdefault(key, deque())
            works.append(work)
            if len(works) == 1:
                self._wait(key, 0)

    def drop(self, key: K) -> None:
        """Close all work of `key`: at once, and what is running when its part is over."""
        with self._changed:
            works = self._works.get(key, deque())
            running = bool(works) and not self._order.drop(key)
            dropped = [works.pop() for _ in range(len(works) - running)]
            if running:
                self._leaving.add(key)
            else:
                self._works.pop(key, None)
                self._changed.notify_all()
        for work in dropped:
            _close(work)

    def close(self) -> None:
        """Take nothing new, do what was taken, and free the threads."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Wait for a turn and run it; False when closed and all is done."""
        taken = self._next()
        if taken is None:
            return False
        key, work = taken
        left = _part(work)
        with self._changed:
            dropped = key in self._leaving
            self._leaving.discard(key)
            self._go_on(key, None if dropped else left)
        if dropped:
            _close(work)
        return True

    def _next(self) -> tuple[K, Work[None]] | None:
        with self._changed:
            while (key := self._order.take()) is None:
                if not self._open and not self._works:
                    return None
                self._changed.wait()
            return key, self._works[key][0]

    def _go_on(self, key: K, left: float | None) -> None:
        """With the work under way, of which so much is `left`, or with that behind it."""
        works = self._works[key]
        if left is None:
            works.popleft()
        if works:
            self._wait(key, left or 0)
        else:
            del self._works[key]
            self._changed.notify_all()

    def _wait(self, key: K, left: float) -> None:
        self._order.add(key, left)
        self._changed.notify()


def _close(work: Work[None]) -> None:
    try:
        work.close()
    except Exception as error:  # no reason to end a thread that works for others
        log.error("work failed when it was closed", exc_info=error)


def _part(work: Work[None]) -> float | None:
    """Run the next part; what is left after it, None when that was the last."""
    try:
        return next(work)
    except StopIteration:
        return None
    except Exception as error:
        log.error("work failed", exc_info=error)
        return None


def once(task: Callable[[], None]) -> Work[None]:
    """Work that is one brief part."""
    yield 0
    task()

"""A few threads shared fairly by many requests: short work is done soon, and nobody waits for ever.

Work is a generator. Before each part it yields how much is left; the part runs when its turn comes:

    def paint(pictures: list[Picture]) -> Work[None]:
        for done, picture in enumerate(pictures):
            yield len(pictures) - done
            picture.paint()

The rule: three turns of four go to whoever has least left, among equals to the first to come. The fourth goes to
whoever has waited longest for a turn. So of K who wait, each gets a turn within 4 · K turns, whoever else comes.
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

PATIENCE = 4  # one turn in so many goes to whoever has waited longest

# Yields how much is left, the next part included. All work that shares turns counts in one unit, such as pixels.
Work: TypeAlias = Generator[float, None, R]


class Order(Generic[K]):
    """Who waits for a turn, and whose is next. Not thread-safe."""

    def __init__(self) -> None:
        self._left: dict[K, float] = {}  # whoever has waited longest is first
        self._given = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._left)

    def __iter__(self) -> Iterator[K]:
        """Those who wait now; a copy, so others may come and go meanwhile."""
        return iter(list(self._left))

    def add(self, key: K, left: float) -> None:
        """Let `key` wait; it must not wait already."""
        assert key not in self._left
        self._left[key] = left

    def take(self) -> K | None:
        """Remove and return whose turn it is; None when nobody waits."""
        if not self._left:
            return None
        self._given += 1
        chosen = min(self._left, key=self._left.__getitem__) if self._given % PATIENCE else next(iter(self._left))
        del self._left[chosen]
        return chosen

    def drop(self, key: K) -> bool:
        """Let `key` wait no more; returns whether it waited."""
        return self._left.pop(key, None) is not None


class Turns(Generic[K]):
    """Threads that run work by turns. Work of one key runs in order, one part at a time. Safe from any thread."""

    def __init__(self, name: str, threads: int) -> None:
        self._order: Order[K] = Order()
        self._works: dict[K, deque[Work[None]]] = {}  # for each key, the work under way and what follows it
        self._leaving: set[K] = set()  # keys dropped while one of their parts was running
        self._open = True
        self._changed = Condition()
        self._threads = [Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, key: K, work: Work[None]) -> None:
        """Do `work` after all earlier work of `key`. What it does before its first yield should be brief.

        An exception in it ends it and is logged. Raises RuntimeError when closed.
        """
        with self._changed:
            if not self._open:
                raise RuntimeError("work was submitted to closed threads")
            works = self._works.setdefault(key, deque())
            works.append(work)
            if len(works) == 1:
                self._wait(key, 0)

    def drop(self, key: K) -> None:
        """Close all work of `key` at once; work that is running, when its part ends."""
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
        """Refuse new work, finish what was submitted, and end the threads."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Wait for a turn and run its part; False when closed and all is done."""
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
        """Queue the rest of the work under way (`left`, None when it has ended), or the work after it."""
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
    """Run the next part; return what is left after it, None when it was the last."""
    try:
        return next(work)
    except StopIteration:
        return None
    except Exception as error:
        log.error("work failed", exc_info=error)
        return None


def once(task: Callable[[], None]) -> Work[None]:
    """`task` as work of one brief part."""
    yield 0
    task()

"""Few threads, fair to many requests: who has little left to do is done soon, and nobody waits for ever.

Work is a generator. It stops before each of its parts and says what it needs; a part runs when its turn comes:

    def paint(pictures: list[Picture]) -> Work[None]:
        for done, picture in enumerate(pictures):
            yield Need(left=len(pictures) - done)
            picture.paint()

The rule: three turns of four go to whoever has least left, the first to come among equals; the fourth goes to whoever
has waited longest for one. So among K who wait, each gets a turn within 4 · K turns, whoever else comes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Hashable
from math import inf
from threading import Condition, Thread
from typing import Generic, NamedTuple, TypeAlias, TypeVar

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

PATIENCE = 4  # every so many turns, one is for whoever has waited longest


class Need(NamedTuple):
    """What work asks for before a part of it: how much is `left` with this part, and what it `holds` of the room.

    All who share their turns count in one unit, such as pixels.
    """

    left: float = 0
    holds: float = 0


Work: TypeAlias = Generator[Need, None, R]


class Order(Generic[K]):
    """Who waits for a turn, and whose is next; those who have one hold at most `room` together. Not thread-safe."""

    def __init__(self, room: float = inf) -> None:
        self._room = room
        self._held = 0.0
        self._waiting: dict[K, Need] = {}  # the longest first
        self._given = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, key: K, need: Need) -> None:
        """`key` waits from now on. It must not wait already, nor need more than there ever is."""
        assert key not in self._waiting
        assert need.holds <= self._room
        self._waiting[key] = need

    def take(self) -> tuple[K, Need] | None:
        """Give a turn to whose it is: `over` must follow. None while there is no room for that, or nobody waits."""
        chosen = self._chosen()
        if chosen is None:
            return None
        need = self._waiting.pop(chosen)
        self._given += 1
        self._held += need.holds
        return chosen, need

    def over(self, need: Need) -> None:
        """The turn of one that needed so much is over."""
        self._held -= need.holds

    def drop(self, key: K) -> bool:
        """Whether it waited; it does no more."""
        return self._waiting.pop(key, None) is not None

    def _chosen(self) -> K | None:
        fitting = (key for key, need in self._waiting.items() if self._held + need.holds <= self._room)
        if (self._given + 1) % PATIENCE:
            return min(fitting, key=lambda key: self._waiting[key].left, default=None)
        oldest, first = next(iter(self._waiting), None), next(fitting, None)
        return first if first is oldest else None  # nobody else starts, so that there will be room


class Turns(Generic[K]):
    """Threads that run work by turns. Work of one key runs in its order, one part at a time. Safe from any thread."""

    def __init__(self, name: str, threads: int, room: float = inf) -> None:
        self._order: Order[K] = Order(room)
        self._works: dict[K, deque[Work[None]]] = {}  # of each key, the one under way and those behind it
        self._leaving: set[K] = set()  # those that were dropped while a part of theirs was running
        self._open = True
        self._changed = Condition()
        self._threads = [Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, key: K, work: Work[None]) -> None:
        """Do `work` after all that `key` had done before. Up to its first Need it counts as nothing, so be brief there.

        What it raises ends it, and is logged. Raises RuntimeError when closed.
        """
        with self._changed:
            if not self._open:
                raise RuntimeError("work for threads that have ended")
            works = self._works.setdefault(key, deque())
            works.append(work)
            if len(works) == 1:
                self._wait(key, Need())

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
            work.close()

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
        key, need = taken
        work = self._works[key][0]
        more = _part(work)
        with self._changed:
            dropped = key in self._leaving
            self._leaving.discard(key)
            self._order.over(need)
            self._go_on(key, None if dropped else more)
            self._changed.notify_all()
        if dropped:
            work.close()
        return True

    def _next(self) -> tuple[K, Need] | None:
        with self._changed:
            while (taken := self._order.take()) is None:
                if not self._open and not self._works:
                    return None
                self._changed.wait()
            return taken

    def _go_on(self, key: K, more: Need | None) -> None:
        """With the work under way, which needs so much `more`, or with that behind it."""
        works = self._works[key]
        if more is None:
            works.popleft()
        if works:
            self._wait(key, more or Need())
        else:
            del self._works[key]

    def _wait(self, key: K, need: Need) -> None:
        self._order.add(key, need)
        self._changed.notify()


def _part(work: Work[None]) -> Need | None:
    """Run the next part; what the one after it needs, None when that was the last."""
    try:
        return next(work)
    except StopIteration:
        return None
    except Exception as error:
        log.error("work failed", exc_info=error)
        return None


def once(task: Callable[[], None]) -> Work[None]:
    """Work that is one brief part."""
    yield Need()
    task()

"""Does refused traffic slow a running crowd? Windows with it and without it take turns, while the crowd goes on.

The crowd fills the server. Beside it come 200 requests a second that can only be refused: half have a key that nobody
knows (401), half find the queue full (429). Among the latter, one that comes just as a place is free is let in, and
expires at once (504).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from threading import Event, Lock, Thread
from time import perf_counter, sleep

import numpy as np
from benchmarks.common.bench import interval, prompt, ratio
from benchmarks.parts.overhead.door import GENERATIONS, Caller, Door

from impasto_gateway.callers import Caller as Owner
from impasto_gateway.keyring import append, made

PER_SECOND = 200
SENDERS = 20  # connections; a refusal may wait for others' work, and the rate must hold all the same
WINDOW_S = 8.0
STEPS = 25
BUMPED_S = 0.002  # until who was turned away asks again


@dataclass(frozen=True)
class Windows:
    """Pictures a second of the crowd, without and with refused traffic, in pairs; and what became of that traffic."""

    without: Sequence[float]
    beside: Sequence[float]
    statuses: Counter[int]

    def report(self) -> dict[str, object]:
        """`throughput_ratio`: pictures a second with refused traffic / without, median of the pairs."""
        pairs = list(zip(self.beside, self.without, strict=True))
        return {
            "throughput_ratio": round(ratio(self.beside, self.without), 4),
            "throughput_ratio_interval_95": interval(lambda found: ratio(*zip(*found, strict=True)), pairs),
            "pictures_per_second": [round(one, 3) for one in self.without],
            "pictures_per_second_beside": [round(one, 3) for one in self.beside],
            "refused": {str(status): count for status, count in sorted(self.statuses.items())},
        }


def measure(door: Door, key: str, crowd: int, pairs: int) -> Windows:
    """`pairs` of windows; the first of a pair has the traffic in every other one."""
    without, beside = [], []
    traffic = Traffic(door, key)
    with painting(door, key, crowd) as count:
        sleep(WINDOW_S / 2)  # until all are under way
        for number in range(pairs):
            for loud in (number % 2 == 0, number % 2 == 1):
                if loud:
                    with traffic.coming():
                        beside.append(_rate(count))
                else:
                    without.append(_rate(count))
    return Windows(without, beside, traffic.statuses)


def key_for(folder: Path) -> tuple[Path, str]:
    """A file of keys, and the one that it lets in."""
    secret, key = made(Owner("crowd", frozenset({"generate"})))
    append(folder / "keys", key)
    return folder / "keys", secret


@dataclass
class Count:
    """Pictures so far, of all threads."""

    pictures: int = 0
    _lock: Lock = field(default_factory=Lock)

    def add(self) -> None:
        with self._lock:
            self.pictures += 1


@contextmanager
def painting(door: Door, key: str, crowd: int) -> Iterator[Count]:
    """A crowd whose members ask for one picture after the other."""
    count, over = Count(), Event()

    def member(number: int) -> None:
        caller, rng = Caller(door, key), np.random.default_rng(number)
        while not over.is_set():
            body = json.dumps({"prompt": prompt(rng), "steps": STEPS, "seed": number}).encode()
            status, _ = caller.ask(body)
            if status == 200:
                count.add()
            else:
                sleep(BUMPED_S)
        caller.close()

    members = [Thread(target=member, args=(number,)) for number in range(crowd)]
    for one in members:
        one.start()
    try:
        yield count
    finally:
        over.set()
        for one in members:
            one.join()


class Traffic:
    """Requests that can only be refused, at a steady rate. `statuses` counts the answers."""

    def __init__(self, door: Door, key: str) -> None:
        self.statuses: Counter[int] = Counter()
        self._door = door
        self._requests = cycle([_request("nobody", b'{"prompt": "a boat"}'), _request(key, _HASTY)])

    @contextmanager
    def coming(self) -> Iterator[None]:
        over = Event()
        thread = Thread(target=lambda: asyncio.run(self._send(over)))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    async def _send(self, over: Event) -> None:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        senders = [asyncio.create_task(self._sender(queue)) for _ in range(SENDERS)]
        began, sent = perf_counter(), 0
        while not over.is_set():
            due = int((perf_counter() - began) * PER_SECOND)
            for _ in range(sent, due):
                queue.put_nowait(next(self._requests))
            sent = due
            await asyncio.sleep(1 / PER_SECOND)
        for _ in senders:
            queue.put_nowait(None)
        await asyncio.gather(*senders)

    async def _sender(self, queue: asyncio.Queue[bytes | None]) -> None:
        """One connection. It is spoken to in bytes, since a client's own work would slow the crowd, too."""
        reader, writer = await asyncio.open_connection(self._door.host, self._door.port)
        while (request := await queue.get()) is not None:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(_length(head))
            self.statuses[int(head[9:12])] += 1
            if b"connection: close" in head.lower():
                writer.close()
                reader, writer = await asyncio.open_connection(self._door.host, self._door.port)
        writer.close()


_HASTY = b'{"prompt": "a boat", "steps": 1, "timeout": 0.01}'


def _request(key: str, body: bytes) -> bytes:
    head = f"POST {GENERATIONS} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)


def _rate(count: Count) -> float:
    """Pictures a second of the next window."""
    began, before = perf_counter(), count.pictures
    sleep(WINDOW_S)
    return (count.pictures - before) / (perf_counter() - began)

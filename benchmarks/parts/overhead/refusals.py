"""Does refused traffic slow a running crowd? Windows with it and without it take turns, while the crowd goes on.

The crowd fills the server. Beside it come 200 requests a second that can only be refused. Half have a key that nobody
knows (401): nothing of them but their head is looked at. The other half have a key that has used up its minute's pixels
(429): it is looked up, the body is read and parsed, the wish is held against the servers' catalogue, and then there is
nothing left to paint it with. So the latter cost the gateway all that a request costs it, but for asking the server.

The server's own 429 isn't among them. There a place is free for a moment whenever a picture is done, and a request that
comes just then is let in: it is no refused traffic any more, and keeps a member of the crowd out.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import mean
from threading import Event, Lock, Thread
from time import perf_counter, sleep

import numpy as np
from benchmarks.common.bench import interval, prompt, ratio
from benchmarks.common.door import GENERATIONS, Caller, Door

from impasto_gateway.callers import Allowance
from impasto_gateway.callers import Caller as Owner
from impasto_gateway.keyring import append, made

PER_SECOND = 200
SENDERS = 20  # connections; a refusal may wait for others' work, and the rate must hold all the same
WINDOW_S = 12.0
STEPS = 25
ONE = Allowance(pixels_per_minute=1)  # a single picture, and the next in days
REFUSED = {401, 429}


@dataclass(frozen=True)
class Keyring:
    """The gateway's file of keys, the crowd's key, and one that is good for one picture."""

    file: Path
    crowd: str
    spent: str


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


def measure(door: Door, keys: Keyring, crowd: int, pairs: int) -> Windows:
    """`pairs` of windows; the first of a pair has the traffic in every other one.

    Raises RuntimeError if the traffic met anything but refusals, the crowd met one, or a window has no picture.
    """
    without, beside = [], []
    spend(door, keys.spent)
    traffic = Traffic(door, keys.spent)
    with painting(door, keys.crowd, crowd) as log:
        sleep(WINDOW_S / 2)  # until all are under way
        for number in range(pairs):
            for loud in (number % 2 == 0, number % 2 == 1):
                if loud:
                    with traffic.coming():
                        beside.append(_rate(log, crowd))
                else:
                    without.append(_rate(log, crowd))
    if strange := traffic.statuses.keys() - REFUSED:
        raise RuntimeError(f"some of the traffic was not refused: {strange}")
    if not all(without):
        raise RuntimeError(f"no picture was finished in a window of {WINDOW_S:g} s; the machine is too busy to measure")
    return Windows(without, beside, traffic.statuses)


def keys_in(folder: Path) -> Keyring:
    """New keys, whose hashes are in a file there."""
    file, roles = folder / "keys", frozenset({"generate"})
    secrets = []
    for owner in (Owner("crowd", roles), Owner("spent", roles, ONE)):
        secret, key = made(owner)
        append(file, key)
        secrets.append(secret)
    return Keyring(file, *secrets)


def spend(door: Door, key: str) -> None:
    """Paint the one picture that the key is good for. Raises RuntimeError."""
    with closing(Caller(door, key)) as caller:
        caller.paint(_BOAT)


@dataclass
class Log:
    """When each picture of the crowd was asked for and was there, of all threads."""

    pictures: list[tuple[float, float]] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def add(self, asked: float, there: float) -> None:
        with self._lock:
            self.pictures.append((asked, there))

    def seconds(self, begin: float, end: float) -> list[float]:
        """How long those took that lie within."""
        with self._lock:
            return [there - asked for asked, there in self.pictures if begin <= asked and there <= end]


@contextmanager
def painting(door: Door, key: str, crowd: int) -> Iterator[Log]:
    """A crowd whose members ask for one picture after the other. Raises RuntimeError if one was refused."""
    log, over = Log(), Event()

    def member(number: int) -> None:
        rng = np.random.default_rng(number)
        with closing(Caller(door, key)) as caller:
            while not over.is_set():
                body = json.dumps({"prompt": prompt(rng), "steps": STEPS, "seed": number}).encode()
                asked = perf_counter()
                caller.paint(body)
                log.add(asked, perf_counter())

    with ThreadPoolExecutor(crowd) as pool:
        members = [pool.submit(member, number) for number in range(crowd)]
        try:
            yield log
        finally:
            over.set()
        for one in members:
            one.result()


class Traffic:
    """Requests that can only be refused, at a steady rate. `statuses` counts the answers."""

    def __init__(self, door: Door, key: str) -> None:
        self.statuses: Counter[int] = Counter()
        self._door = door
        self._requests = cycle([_request("nobody", _BOAT), _request(key, _BOAT)])

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


_BOAT = b'{"prompt": "a boat", "steps": 1}'


def _request(key: str, body: bytes) -> bytes:
    head = f"POST {GENERATIONS} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)


def _rate(log: Log, crowd: int) -> float:
    """Pictures a second of the next window: the crowd / how long a picture takes, since each asks when it has one.

    Counting pictures would tell less: a crowd's come in bunches, and a window cuts one or it doesn't.
    """
    began = perf_counter()
    sleep(WINDOW_S)
    seconds = log.seconds(began, perf_counter())
    return crowd / mean(seconds) if seconds else 0.0

"""Request pictures in rows and columns, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event

from impasto_client.client import Client
from impasto_client.fields import Options
from impasto_client.generation import Generation, Progress

IN_FLIGHT = 8


@dataclass(frozen=True)
class Cell:
    """The request of one picture."""

    prompt: str
    options: Options = field(default_factory=Options)


def paint(client: Client, rows: Sequence[Sequence[Cell]], done: Callable[[], None]) -> list[list[Generation]]:
    """Paint every cell, several at a time; `done` is called after each. Raises the first ImpastoError, and cancels the
    cells in flight."""
    over = Event()

    def painted(cell: Cell) -> Generation:
        with closing(client.stream(cell.prompt, **cell.options)) as parts:  # a stream, since that can be cancelled
            generation = _last(parts, over)
        done()
        return generation

    pool = ThreadPoolExecutor(IN_FLIGHT)
    futures = [[pool.submit(painted, cell) for cell in row] for row in rows]
    try:
        for finished in wait([future for row in futures for future in row], return_when=FIRST_EXCEPTION).done:
            finished.result()
    finally:
        over.set()
        pool.shutdown(cancel_futures=True)  # after an error, drop the rest
    return [[future.result() for future in row] for row in futures]


def _last(parts: Iterable[Progress | Generation], over: Event) -> Generation:
    """The picture of a stream. Raises CancelledError when `over` is set before it comes."""
    for part in parts:
        if isinstance(part, Generation):
            return part
        if over.is_set():
            break
    raise CancelledError

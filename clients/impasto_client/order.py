"""Run several items at a time, and yield their results in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_END = object()


def in_order(items: Iterable[Item], work: Callable[[Item], Result], most: int) -> Generator[Result, None, None]:
    """The results of `work` on each item, `most` at a time in threads. The caller's thread takes items when there is
    room.

    Closing it waits for those in flight. Raises what `items` and `work` raise.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(most) as pool:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) == most:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


async def in_order_async(
    items: AsyncIterable[Item], work: Callable[[Item], Awaitable[Result]], most: int
) -> AsyncGenerator[Result, None]:
    """As `in_order`, with tasks; closing it cancels those in flight."""
    pending: deque[asyncio.Future[Result]] = deque()
    try:
        async for item in items:
            pending.append(asyncio.ensure_future(work(item)))
            if len(pending) == most:
                yield await pending.popleft()
        while pending:
            yield await pending.popleft()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def awaited(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    """Items of either kind of iterable. A thread reads one that isn't async, so that the event loop isn't blocked."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    source = iter(items)
    while (found := await asyncio.to_thread(next, source, _END)) is not _END:
        yield found  # type: ignore[misc]  # it isn't _END

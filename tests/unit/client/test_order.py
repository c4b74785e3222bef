"""Several things under way at a time, answered in the order in which they came."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, closing

import pytest

from impasto_client.order import awaited, in_order, in_order_async

PATIENCE_S = 60.0


class Taken:
    """Numbers, and how many of them were taken."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.taken += 1
            yield number


def test_answers_come_in_order_whoever_is_ready_first() -> None:
    second = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second.wait(PATIENCE_S)  # so it runs beside the first, and is done before it
        elif number == 1:
            second.set()
        return 10 * number

    assert list(in_order(range(5), work, 2)) == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("most", [1, 3, 8])
def test_no_more_is_taken_than_may_be_under_way(most: int) -> None:
    items = Taken(6)
    found = []
    with closing(in_order(items, lambda number: number, most)) as answers:
        for answer in answers:
            found.append(answer)
            assert items.taken - len(found) < most
    assert found == [0, 1, 2, 3, 4, 5]


def test_nothing_of_nothing() -> None:
    assert list(in_order([], lambda number: number, 3)) == []


def test_an_error_comes_in_its_place_and_ends_it() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    answers = in_order(range(9), work, 3)
    assert [next(answers), next(answers)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(answers)
    assert list(answers) == []


def test_leaving_takes_no_more() -> None:
    begun, leave = [], threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if number:
            assert leave.wait(PATIENCE_S)
        return number

    answers = in_order(range(9), work, 3)
    assert next(answers) == 0
    leave.set()
    answers.close()
    assert sorted(begun) == [0, 1, 2]


async def collected(items: Iterable[int] | AsyncIterable[int], most: int) -> list[int]:
    async def work(number: int) -> int:
        return 10 * number

    return [answer async for answer in in_order_async(awaited(items), work, most)]


def test_tasks_come_in_order_too_so_many_at_a_time() -> None:
    async def together() -> list[int]:
        working: set[int] = set()
        three = asyncio.Event()

        async def work(number: int) -> int:
            working.add(number)
            assert len(working) <= 3
            if len(working) == 3:
                three.set()
            if number < 3:
                await asyncio.wait_for(three.wait(), PATIENCE_S)
            working.remove(number)
            return 10 * number

        return [answer async for answer in in_order_async(awaited(range(5)), work, 3)]

    assert asyncio.run(together()) == [0, 10, 20, 30, 40]


def test_items_may_be_async() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(4):
            yield number

    assert asyncio.run(collected(numbers(), 2)) == [0, 10, 20, 30]


def test_leaving_cancels_the_tasks_under_way() -> None:
    async def leave() -> list[int]:
        cancelled: list[int] = []
        both = asyncio.Event()

        async def work(number: int) -> int:
            if number == 2:
                both.set()
            if number:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(number)
                    raise
            await asyncio.wait_for(both.wait(), PATIENCE_S)
            return number

        async with aclosing(in_order_async(awaited(range(9)), work, 3)) as answers:
            async for answer in answers:
                assert answer == 0
                break
        return cancelled

    assert asyncio.run(leave()) == [1, 2]

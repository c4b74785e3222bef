"""A caller may leave at any moment: nothing more is done for it, it's told once, and what it held is free again.

That it disturbs nobody, and may leave while its adapter loads, stands in test_pipeline.py.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event, current_thread

import pytest

from impasto_server.errors import Cancelled, ImpastoError
from impasto_server.pipeline import Caller, Pipeline, Progress, Result
from impasto_server.request import Request
from tests.helpers import toy
from tests.helpers.asked import request_of

from .conftest import Open, on_lookout

STEPS = 6
PATIENCE_S = 30.0
BOAT = request_of("a red boat", seed=1, width=64, height=64, steps=STEPS)


@dataclass
class Witness:
    """A caller that writes down what it hears, and in which thread; it leaves at question number `leaves_at`.

    The lookout's questions, which come at any time, aren't counted.
    """

    leaves_at: int = 1000
    left: Event = field(default_factory=Event)
    heard: list[object] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    answer: Future[Result | ImpastoError] = field(default_factory=Future)
    asked: int = 0

    def caller(self) -> Caller:
        return Caller(self._done, self._gone, self._hear)

    def outcome(self) -> Result | ImpastoError:
        return self.answer.result(PATIENCE_S)

    def _hear(self, news: object) -> None:
        self.heard.append(news)
        self.threads.add(current_thread().name)

    def _done(self, outcome: Result | ImpastoError) -> None:
        self._hear(outcome)
        self.answer.set_result(outcome)  # raises when it is told twice

    def _gone(self) -> bool:
        if on_lookout():
            return self.left.is_set()
        self.asked += 1
        return self.left.is_set() or self.asked > self.leaves_at


def submitted(pipeline: Pipeline, request: Request, leaves_at: int = 1000) -> Witness:
    witness = Witness(leaves_at)
    pipeline.submit(request, witness.caller())
    return witness


def styled(name: str, steps: int = STEPS) -> Request:
    return request_of("a red boat", seed=1, width=64, height=64, steps=steps, adapters=((name, 1.0),))


@pytest.mark.parametrize("steps_done", range(STEPS + 1))
def test_no_step_is_made_for_a_caller_that_left(steps_done: int, open_pipeline: Open) -> None:
    """It is asked once in the queue, once before every step and once before decoding."""
    pipeline = open_pipeline()
    witness = submitted(pipeline, BOAT, leaves_at=1 + steps_done)
    assert isinstance(witness.outcome(), Cancelled)
    pipeline.close()
    stats = pipeline.stats.read()
    assert (stats["steps"], stats["cancelled"], stats["done"], stats["requests"]) == (steps_done, 1, 0, 0)
    assert witness.asked == 2 + steps_done


@pytest.mark.parametrize("leaves_at", [0, 1, 4, STEPS + 1, STEPS + 2])
def test_progress_comes_in_order_then_one_answer_and_never_from_the_step_loop(
    leaves_at: int, open_pipeline: Open
) -> None:
    pipeline = open_pipeline()
    witness = submitted(pipeline, BOAT, leaves_at)
    outcome = witness.outcome()
    pipeline.close()
    *steps, last = witness.heard
    assert last is outcome
    assert [one.step for one in steps if isinstance(one, Progress)] == list(range(1, max(1, min(leaves_at, STEPS + 1))))
    assert isinstance(outcome, Result) == (leaves_at == STEPS + 2)
    assert "step-loop" not in witness.threads


def test_a_caller_that_left_the_queue_costs_nothing(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    witness = submitted(pipeline, styled("neon"), leaves_at=0)
    assert isinstance(witness.outcome(), Cancelled)
    stats = pipeline.stats.read()
    assert (stats["adapter_loads"], stats["bank_writes"], stats["steps"]) == (0, 0, 0)


def test_a_caller_that_left_while_it_waits_for_a_page(open_pipeline: Open) -> None:
    """The bank holds one adapter, which is in use: who waits, then leaves, writes no page."""
    row = 4 * 4 * 2 * (toy.CHANNELS + toy.WIDTH)
    pipeline = open_pipeline(page_rank=4, bank_bytes=2 * row)
    occupying = submitted(pipeline, styled("neon", steps=200))
    while pipeline.stats.read()["bank_writes"] == 0:
        assert not occupying.answer.done()
    waiting = submitted(pipeline, styled("stained-glass"))
    waiting.left.set()
    assert isinstance(waiting.outcome(), Cancelled)
    assert isinstance(occupying.outcome(), Result)
    assert pipeline.stats.read()["bank_writes"] == 1
    assert pipeline.generate(styled("stained-glass")).image

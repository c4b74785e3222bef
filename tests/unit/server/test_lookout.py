from __future__ import annotations

from queue import SimpleQueue
from threading import Event

import pytest

from impasto_server.errors import Cancelled, DeadlineExceeded
from impasto_server.job import Caller, Job
from impasto_server.lookout import Lookout
from tests.helpers.asked import request_of

PATIENCE_S = 60.0


def job(gone: Event | None = None, timeout_s: float | None = None) -> Job:
    request = request_of("a boat", seed=1, width=64, height=64, timeout_s=timeout_s)
    return Job(request, Caller(lambda outcome: None, (gone or Event()).is_set))


@pytest.fixture
def told() -> SimpleQueue[tuple[Job, Exception]]:
    return SimpleQueue()


@pytest.fixture
def lookout(told: SimpleQueue[tuple[Job, Exception]]) -> Lookout:
    return Lookout(lambda job, error: told.put((job, error)))


def test_who_leaves_and_whose_time_has_passed_is_told_of_once(
    lookout: Lookout, told: SimpleQueue[tuple[Job, Exception]]
) -> None:
    gone = Event()
    patient, leaving, late = job(), job(gone), job(timeout_s=0.01)
    for one in (patient, leaving, late):
        lookout.watch(one)
    who, why = told.get(timeout=PATIENCE_S)
    assert (who, type(why)) == (late, DeadlineExceeded)
    gone.set()
    who, why = told.get(timeout=PATIENCE_S)
    assert (who, type(why)) == (leaving, Cancelled)
    assert not lookout.release(leaving)
    assert not lookout.release(late)
    assert lookout.release(patient)
    lookout.close()
    assert told.empty()


def test_who_is_released_is_looked_after_no_more(lookout: Lookout, told: SimpleQueue[tuple[Job, Exception]]) -> None:
    gone = Event()
    released, other = job(gone), job(gone)
    for one in (released, other):
        lookout.watch(one)
    assert lookout.release(released)
    assert not lookout.release(released)
    gone.set()
    assert told.get(timeout=PATIENCE_S)[0] is other
    lookout.close()
    assert told.empty()


def test_nobody_is_asked_while_there_is_nobody_and_it_can_be_closed_then(lookout: Lookout) -> None:
    lookout.close()

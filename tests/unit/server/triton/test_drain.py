"""A model that is to stop takes nothing new, finishes what it can, and says so when everybody has been told."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import pytest

from impasto_server.admission import Admission
from impasto_server.closing import Closing
from impasto_server.errors import Unavailable
from impasto_server.ops.guardian import SERVER, drain, drain_address
from impasto_server.stats import Stats
from impasto_server.triton.drain import Drains

NAME, MODEL = f"impasto_test_{os.getpid()}_", "test"


def ask(grace_s: float) -> int:
    return drain(NAME, [MODEL], grace_s)


@pytest.fixture
def graces() -> list[float]:
    """What was allowed, by everybody who asked."""
    return []


@pytest.fixture
def drains(graces: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[Drains]:
    monkeypatch.setenv(SERVER, NAME)

    def noted(grace_s: float) -> int:
        graces.append(grace_s)
        return 3

    drains = Drains(noted, MODEL)
    yield drains
    drains.close()


def test_the_grace_reaches_the_model_and_the_number_that_was_cut_off_comes_back(
    drains: Drains, graces: list[float]
) -> None:
    assert ask(2.5) == 3
    assert graces == [2.5]


def test_it_is_answered_when_everybody_has_been_told(drains: Drains, graces: list[float]) -> None:
    drains.taken()
    drains.taken()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, 60)
        drains.told()
        while not graces:
            sleep(0.01)
        assert not answer.done()
        drains.told()
        assert answer.result(60) == 3


def test_nonsense_changes_nothing(drains: Drains, graces: list[float]) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(drain_address(NAME, MODEL))
        line.sendall(b"soon, please\n")
        assert line.recv(10) == b""
    assert not graces
    assert ask(1) == 3


def test_a_closed_one_is_not_there(drains: Drains) -> None:
    drains.close()
    assert ask(1) == 0


def test_nothing_is_done_when_the_time_is_over() -> None:
    closing = Closing()
    closing.check()
    closing.now()
    with pytest.raises(Unavailable, match="send the request to another one"):
        closing.check()


def test_admission_counts_those_who_are_late() -> None:
    admission = Admission(4, Stats())
    admission.enter()
    admission.enter()
    assert admission.drain(0) == 2
    with pytest.raises(Unavailable, match="the server is stopping"):
        admission.enter()
    with ThreadPoolExecutor(1) as pool:
        drained = pool.submit(admission.drain, 3600)
        admission.leave()
        admission.leave()
        assert drained.result(60) == 0

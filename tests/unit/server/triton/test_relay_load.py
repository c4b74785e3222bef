"""Much at once through one socket, both ways: all are answered, and no thread of the painter's waits for a reader."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from itertools import count
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server.errors import Cancelled, Exhausted, ImpastoError, Unavailable
from impasto_server.front import Asker
from impasto_server.outputs import Tensors
from impasto_server.triton.channel import LENGTHS
from impasto_server.triton.relay import Painter, Relay, Remote
from tests.helpers.waiting import eventually

FILE = b"\x89PNG" * 12_500  # 50 kB
FULL = Exhausted(32, 1.5)
PATIENCE_S = 60.0
numbers = count()

Outcome = Tensors | ImpastoError
Answer = Future[Outcome]


def bytes_(*values: bytes) -> NDArray[Any]:
    return np.array(values, np.object_)


def asked(seed: int = 3, *files: bytes) -> dict[str, NDArray[Any]]:
    """A request of that seed, with those files."""
    return {"PROMPT": bytes_(b"a boat"), "SEED": np.array([seed]), "IMAGE": bytes_(*files)}


def picture(seed: int, *files: bytes) -> dict[str, NDArray[Any]]:
    """An answer."""
    return {"IMAGE": bytes_(*files), "SEED": np.array([seed])}


def said(outcome: Outcome) -> dict[str, list[Any]] | str:
    """What can be compared with ==."""
    if isinstance(outcome, ImpastoError):
        return str(outcome)
    return {name: values.tolist() for name, values in outcome.items()}


ASKED = asked(3, FILE)


class Studio:
    """A painter that keeps every request until its test answers it; `refuse` says which are refused at once."""

    def __init__(self, refuse: Callable[[Tensors], bool] = lambda tensors: False) -> None:
        self.refuse = refuse
        self.taken: SimpleQueue[tuple[Tensors, Asker]] = SimpleQueue()

    def submit(self, tensors: Tensors, timeout_us: int, asker: Asker) -> None:
        if self.refuse(tensors):
            raise FULL
        self.taken.put((tensors, asker))

    def next(self) -> tuple[Tensors, Asker]:
        return self.taken.get(timeout=PATIENCE_S)


Connect = Callable[[Painter], Callable[[], Remote]]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Remotes of a relay in front of a painter."""
    with ExitStack() as closing:

        def connect_(painter: Painter) -> Callable[[], Remote]:
            address = f"\0impasto-test-load-{os.getpid()}-{next(numbers)}"
            closing.callback(Relay(painter, address).close)

            def remote() -> Remote:
                remote = Remote(address)
                closing.callback(remote.close)
                return remote

            return remote

        yield connect_


def in_background(work: Callable[[], None]) -> Thread:
    """Daemonic, so that what locks up fails a test and does not hold it for ever."""
    thread = Thread(target=work, daemon=True)
    thread.start()
    return thread


def paint(tensors: Tensors, asker: Asker) -> None:
    """Its own picture, and before it one preview."""
    assert asker.progress is not None
    asker.progress({"PREVIEW": tensors["IMAGE"]})
    asker.done({"IMAGE": tensors["IMAGE"], "SEED": tensors["SEED"]})


def code(outcome: Outcome) -> str:
    return outcome.code if isinstance(outcome, ImpastoError) else "OK"


def test_refusals_and_large_pictures_both_ways_lock_nobody_up(connect: Connect) -> None:
    studio = Studio(refuse=lambda tensors: tensors["SEED"].item() % 2 == 1)
    remote = connect(studio)()
    answers: list[Answer] = [Future() for _ in range(200)]

    def submit() -> None:
        for seed, answer in enumerate(answers):
            remote.submit(asked(seed, FILE), 0, Asker(answer.set_result))

    def finish() -> None:
        for _ in answers[::2]:
            paint(*studio.next())

    in_background(submit)
    in_background(finish)
    outcomes = [answer.result(PATIENCE_S) for answer in answers]
    assert [said(one) for one in outcomes[::2]] == [said(picture(seed, FILE)) for seed in range(0, 200, 2)]
    assert [str(one) for one in outcomes[1::2]] == [str(FULL)] * 100


def test_each_request_hears_its_steps_before_its_end(connect: Connect) -> None:
    studio = Studio()
    remote = connect(studio)()
    heard: list[SimpleQueue[Outcome]] = [SimpleQueue() for _ in range(20)]
    for seed, news in enumerate(heard):
        remote.submit(asked(seed, FILE), 0, Asker(news.put, progress=news.put))
    taken = [studio.next() for _ in heard]
    for step in (1, 2):
        for tensors, asker in taken:
            assert asker.progress is not None
            asker.progress({"PREVIEW": bytes_(bytes([tensors["SEED"].item(), step]))})
    for tensors, asker in taken:
        asker.done(picture(tensors["SEED"].item(), FILE))
    for seed, news in enumerate(heard):
        first, second, last = (said(news.get(timeout=PATIENCE_S)) for _ in range(3))
        assert first == {"PREVIEW": [bytes([seed, 1])]}
        assert second == {"PREVIEW": [bytes([seed, 2])]}
        assert last == said(picture(seed, FILE))


def test_a_request_cancelled_while_others_wait_before_it_is_cancelled_when_its_turn_comes(connect: Connect) -> None:
    """The painter is slow to take the first; the second is gone before the painter has heard of it."""
    begun, may_go_on = Event(), Event()

    def slowly(tensors: Tensors) -> bool:
        begun.set()
        return not may_go_on.wait(PATIENCE_S)

    studio = Studio(refuse=slowly)
    remote = connect(studio)()
    first, second = Answer(), Answer()
    looked = Event()

    def gone() -> bool:
        looked.set()
        return True

    remote.submit(ASKED, 0, Asker(first.set_result))
    assert begun.wait(PATIENCE_S)
    remote.submit(ASKED, 0, Asker(second.set_result, gone))
    assert looked.wait(PATIENCE_S)
    may_go_on.set()
    paint(*studio.next())
    _, asker = studio.next()
    eventually(asker.gone)
    asker.done(Cancelled("the caller is gone"))
    assert (code(first.result(PATIENCE_S)), code(second.result(PATIENCE_S))) == ("OK", "CANCELLED")


def test_one_who_stops_reading_is_cut_off_and_nobody_else_waits(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("impasto_server.triton.relay.ROOM", 1 << 20)
    studio = Studio()
    new = connect(studio)
    idle, prompt = new(), new()
    reading, may_read = Event(), Event()
    answers: list[Answer] = [Future() for _ in range(102)]

    def hear(answer: Answer, outcome: Outcome) -> None:
        reading.set()
        assert may_read.wait(PATIENCE_S)
        answer.set_result(outcome)

    for answer in answers:
        idle.submit(asked(), 0, Asker(partial(hear, answer)))
    taken = [studio.next() for _ in answers]

    def finish() -> None:
        for _, asker in taken[:100]:
            asker.done(picture(1, FILE))
            assert reading.wait(PATIENCE_S)

    painting = in_background(finish)
    painting.join(PATIENCE_S)
    assert not painting.is_alive(), "the thread that finishes pictures waits for a reader"
    eventually(taken[101][1].gone)
    other: Answer = Future()
    prompt.submit(ASKED, 0, Asker(other.set_result))
    paint(*studio.next())
    assert code(other.result(PATIENCE_S)) == "OK"
    may_read.set()
    codes = [code(answer.result(PATIENCE_S)) for answer in answers]
    assert set(codes[:100]) == {"OK", "UNAVAILABLE"}
    assert codes[100:] == ["UNAVAILABLE"] * 2


def test_a_slow_reader_loses_steps_and_no_answer(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto_server.triton.relay.PROGRESS_ROOM", 1 << 20)
    studio = Studio()
    remote = connect(studio)()
    may_read = Event()
    steps: list[int] = []
    answer: Answer = Future()

    def progress(step: Tensors) -> None:
        assert may_read.wait(PATIENCE_S)
        steps.append(step["STEP"].item())

    remote.submit(ASKED, 0, Asker(answer.set_result, progress=progress))
    _, asker = studio.next()
    assert asker.progress is not None
    for step in range(1, 101):
        asker.progress({"STEP": np.array([step]), "PREVIEW": bytes_(FILE)})
    asker.done(picture(3, FILE))
    may_read.set()
    assert code(answer.result(PATIENCE_S)) == "OK"
    assert steps == list(range(1, len(steps) + 1))
    assert 20 <= len(steps) < 100


def test_requests_that_nobody_reads_are_refused_at_once(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto_server.triton.relay.ROOM", 1 << 20)
    may_go_on = Event()
    studio = Studio(refuse=lambda tensors: not may_go_on.wait(PATIENCE_S))
    remote = connect(studio)()
    answers: list[Answer] = []

    def submit() -> None:
        for _ in range(200):
            answer: Answer = Future()
            remote.submit(ASKED, 0, Asker(answer.set_result))
            answers.append(answer)

    with pytest.raises(Unavailable, match="overloaded; try again later"):
        submit()
    may_go_on.set()
    for _ in answers:
        studio.next()[1].done(picture(3, b"png"))
    assert {code(answer.result(PATIENCE_S)) for answer in answers} == {"OK"}


def test_a_peer_that_dies_in_the_middle_of_its_request_takes_its_others_with_it(connect: Connect) -> None:
    studio = Studio()
    new = connect(studio)
    remote = new()
    remote.submit(ASKED, 0, Asker(lambda outcome: None))
    _, asker = studio.next()
    assert remote._channel is not None
    remote._channel._connection.sendall(LENGTHS.pack(1000, 1000) + b'{"number": 7, "requ')
    remote.close()
    eventually(asker.gone)
    asker.done(Cancelled("the caller is gone"))
    answer: Answer = Future()
    new().submit(ASKED, 0, Asker(answer.set_result))
    paint(*studio.next())
    assert code(answer.result(PATIENCE_S)) == "OK"


def test_a_relay_that_dies_with_answers_half_written_leaves_nobody_waiting() -> None:
    address = f"\0impasto-test-load-{os.getpid()}-{next(numbers)}"
    remote = Remote(address)
    answers: list[Answer] = [Future(), Future()]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        for answer in answers:
            remote.submit(ASKED, 0, Asker(answer.set_result))
        connection, _ = listener.accept()
        connection.sendall(LENGTHS.pack(1000, 1000) + b'{"number": 0, "resu')
        connection.close()
    assert [code(answer.result(PATIENCE_S)) for answer in answers] == ["UNAVAILABLE"] * 2
    with pytest.raises(Unavailable, match="does not answer; try again later"):
        remote.submit(ASKED, 0, Asker(lambda outcome: None))
    remote.close()


def test_a_relay_that_closes_writes_the_last_answers_first(connect: Connect) -> None:
    """As in a server that stops: the pipeline is done with everything, and the other process has still to read it."""
    address = f"\0impasto-test-load-{os.getpid()}-{next(numbers)}"
    studio = Studio()
    relay, remote = Relay(studio, address), Remote(address)
    answers: list[Answer] = [Future() for _ in range(100)]
    for answer in answers:
        remote.submit(asked(), 0, Asker(answer.set_result))
    for _ in answers:
        studio.next()[1].done(picture(3, FILE))
    relay.close()
    assert {code(answer.result(PATIENCE_S)) for answer in answers} == {"OK"}
    remote.close()

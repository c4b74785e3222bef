"""Much at once through one socket, both ways: all are answered, and no thread of the painter's waits for a reader."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count
from queue import SimpleQueue
from threading import Event, Thread

import pytest

from impasto_server.errors import Cancelled, Exhausted, ImpastoError, Unavailable
from impasto_server.pipeline import Caller, Progress, Result
from impasto_server.request import Request
from impasto_server.triton.channel import LENGTHS
from impasto_server.triton.relay import Painter, Relay, Remote
from tests.helpers.waiting import PATIENCE_S, eventually

FILE = b"\x89PNG" * 12_500  # 50 kB
ASKED = Request("a boat", seed=3, width=64, height=64, image=FILE)
FULL = Exhausted(32, 1.5)
numbers = count()

Answer = Future[Result | ImpastoError]


class Studio:
    """A painter that keeps every request until its test answers it; `refuse` says which are refused at once."""

    def __init__(self, refuse: Callable[[Request], bool] = lambda request: False) -> None:
        self.refuse = refuse
        self.taken: SimpleQueue[tuple[Request, Caller]] = SimpleQueue()

    def submit(self, request: Request, caller: Caller) -> None:
        if self.refuse(request):
            raise FULL
        self.taken.put((request, caller))

    def next(self) -> tuple[Request, Caller]:
        return self.taken.get(timeout=PATIENCE_S)

    def refused(self) -> None: ...

    def close(self) -> None: ...


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


def paint(request: Request, caller: Caller) -> None:
    """Its own picture, and before it one preview."""
    assert request.image is not None
    if caller.progress is not None:
        caller.progress(Progress(1, 1, 0.0, (request.image,)))
    caller.done(Result((request.image,), (request.seed,), {}))


def code(outcome: Result | ImpastoError) -> str:
    return outcome.code if isinstance(outcome, ImpastoError) else "OK"


def test_refusals_and_large_pictures_both_ways_lock_nobody_up(connect: Connect) -> None:
    studio = Studio(refuse=lambda request: request.seed % 2 == 1)
    remote = connect(studio)()
    answers: list[Answer] = [Future() for _ in range(200)]

    def submit() -> None:
        for seed, answer in enumerate(answers):
            remote.submit(replace(ASKED, seed=seed), Caller(answer.set_result))

    def finish() -> None:
        for _ in answers[::2]:
            paint(*studio.next())

    in_background(submit)
    in_background(finish)
    outcomes = [answer.result(PATIENCE_S) for answer in answers]
    assert outcomes[::2] == [Result((FILE,), (seed,), {}) for seed in range(0, 200, 2)]
    assert [str(one) for one in outcomes[1::2]] == [str(FULL)] * 100


def test_each_request_hears_its_steps_before_its_end(connect: Connect) -> None:
    studio = Studio()
    remote = connect(studio)()
    heard: list[SimpleQueue[Progress | Result | ImpastoError]] = [SimpleQueue() for _ in range(20)]
    for seed, news in enumerate(heard):
        remote.submit(replace(ASKED, seed=seed), Caller(news.put, progress=news.put))
    taken = [studio.next() for _ in heard]
    for step in (1, 2):
        for request, caller in taken:
            assert caller.progress is not None
            caller.progress(Progress(step, 2, 0.0, (bytes([request.seed, step]),)))
    for request, caller in taken:
        caller.done(Result((FILE,), (request.seed,), {}))
    for seed, news in enumerate(heard):
        first, second, last = (news.get(timeout=PATIENCE_S) for _ in range(3))
        assert first == Progress(1, 2, 0.0, (bytes([seed, 1]),))
        assert second == Progress(2, 2, 0.0, (bytes([seed, 2]),))
        assert last == Result((FILE,), (seed,), {})


def test_a_request_cancelled_while_others_wait_before_it_is_cancelled_when_its_turn_comes(connect: Connect) -> None:
    """The painter is slow to take the first; the second is gone before the painter has heard of it."""
    begun, may_go_on = Event(), Event()

    def slowly(request: Request) -> bool:
        begun.set()
        return not may_go_on.wait(PATIENCE_S)

    studio = Studio(refuse=slowly)
    remote = connect(studio)()
    first, second = Future[Result | ImpastoError](), Future[Result | ImpastoError]()
    asked = Event()

    def gone() -> bool:
        asked.set()
        return True

    remote.submit(ASKED, Caller(first.set_result))
    assert begun.wait(PATIENCE_S)
    remote.submit(ASKED, Caller(second.set_result, gone))
    assert asked.wait(PATIENCE_S)
    may_go_on.set()
    paint(*studio.next())
    _, caller = studio.next()
    eventually(caller.gone)
    caller.done(Cancelled("the caller is gone"))
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

    def hear(answer: Answer, outcome: Result | ImpastoError) -> None:
        reading.set()
        assert may_read.wait(PATIENCE_S)
        answer.set_result(outcome)

    for answer in answers:
        idle.submit(replace(ASKED, image=None), Caller(partial(hear, answer)))
    taken = [studio.next() for _ in answers]

    def finish() -> None:
        for _, caller in taken[:100]:
            caller.done(Result((FILE,), (1,), {}))
            assert reading.wait(PATIENCE_S)

    painting = in_background(finish)
    painting.join(PATIENCE_S)
    assert not painting.is_alive(), "the thread that finishes pictures waits for a reader"
    eventually(taken[101][1].gone)
    other: Answer = Future()
    prompt.submit(ASKED, Caller(other.set_result))
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

    def progress(step: Progress) -> None:
        assert may_read.wait(PATIENCE_S)
        steps.append(step.step)

    remote.submit(ASKED, Caller(answer.set_result, progress=progress))
    _, caller = studio.next()
    assert caller.progress is not None
    for step in range(1, 101):
        caller.progress(Progress(step, 100, 0.0, (FILE,)))
    caller.done(Result((FILE,), (3,), {}))
    may_read.set()
    assert code(answer.result(PATIENCE_S)) == "OK"
    assert steps == list(range(1, len(steps) + 1))
    assert 20 <= len(steps) < 100


def test_requests_that_nobody_reads_are_refused_at_once(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto_server.triton.relay.ROOM", 1 << 20)
    may_go_on = Event()
    studio = Studio(refuse=lambda request: not may_go_on.wait(PATIENCE_S))
    remote = connect(studio)()
    answers: list[Answer] = []

    def submit() -> None:
        for _ in range(200):
            answer: Answer = Future()
            remote.submit(ASKED, Caller(answer.set_result))
            answers.append(answer)

    with pytest.raises(Unavailable, match="far behind; try again later"):
        submit()
    may_go_on.set()
    for _ in answers:
        studio.next()[1].done(Result((b"png",), (3,), {}))
    assert {code(answer.result(PATIENCE_S)) for answer in answers} == {"OK"}


def test_a_peer_that_dies_in_the_middle_of_its_request_takes_its_others_with_it(connect: Connect) -> None:
    studio = Studio()
    new = connect(studio)
    remote = new()
    remote.submit(ASKED, Caller(lambda outcome: None))
    _, caller = studio.next()
    assert remote._channel is not None
    remote._channel._connection.sendall(LENGTHS.pack(1000, 1000) + b'{"number": 7, "requ')
    remote.close()
    eventually(caller.gone)
    caller.done(Cancelled("the caller is gone"))
    answer: Answer = Future()
    new().submit(ASKED, Caller(answer.set_result))
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
            remote.submit(ASKED, Caller(answer.set_result))
        connection, _ = listener.accept()
        connection.sendall(LENGTHS.pack(1000, 1000) + b'{"number": 0, "resu')
        connection.close()
    assert [code(answer.result(PATIENCE_S)) for answer in answers] == ["UNAVAILABLE"] * 2
    with pytest.raises(Unavailable, match="does not answer; try again later"):
        remote.submit(ASKED, Caller(lambda outcome: None))
    remote.close()


def test_a_relay_that_closes_writes_the_last_answers_first(connect: Connect) -> None:
    """As in a server that stops: the pipeline is done with everything, and the other process has still to read it."""
    address = f"\0impasto-test-load-{os.getpid()}-{next(numbers)}"
    studio = Studio()
    relay, remote = Relay(studio, address), Remote(address)
    answers: list[Answer] = [Future() for _ in range(100)]
    for answer in answers:
        remote.submit(replace(ASKED, image=None), Caller(answer.set_result))
    for _ in answers:
        studio.next()[1].done(Result((FILE,), (3,), {}))
    relay.close()
    assert {code(answer.result(PATIENCE_S)) for answer in answers} == {"OK"}
    remote.close()

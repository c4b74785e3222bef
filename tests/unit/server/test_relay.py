"""Submitting to a pipeline through a socket is submitting to it: same picture, progress, errors and cancellation."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from io import BytesIO
from itertools import count
from threading import Event

import pytest
from PIL import Image

from impasto_server.errors import ImpastoError
from impasto_server.pipeline import Caller, Pipeline, Progress, Result
from impasto_server.relay import Relay, Remote
from impasto_server.request import Request

from .conftest import Open

ASKED = Request("a boat", seed=3, width=64, height=64, steps=5, adapters=(("neon", 0.5),), preview_every=2)
numbers = count()


@pytest.fixture
def pipeline(open_pipeline: Open) -> Pipeline:
    return open_pipeline()


@pytest.fixture
def connect(pipeline: Pipeline) -> Iterator[Callable[[], Remote]]:
    """Remotes of a relay in front of `pipeline`; the relay closes first, as in a server that stops."""
    address = f"\0impasto-test-{os.getpid()}-{next(numbers)}"
    relay, remotes = Relay(pipeline, address), []

    def connect_() -> Remote:
        remotes.append(Remote(address))
        return remotes[-1]

    yield connect_
    relay.close()
    for remote in remotes:
        remote.close()


def ask(remote: Remote, request: Request, gone: Callable[[], bool] = lambda: False) -> Result | ImpastoError:
    answer: Future[Result | ImpastoError] = Future()
    remote.submit(request, Caller(answer.set_result, gone))
    return answer.result(20)


def test_the_picture_and_its_steps_arrive_as_they_would_here(pipeline: Pipeline, connect: Callable[[], Remote]) -> None:
    here: list[Progress] = []
    there: list[Progress] = []
    answers: list[Result | ImpastoError] = []
    for painter, steps in ((pipeline, here), (connect(), there)):
        answer: Future[Result | ImpastoError] = Future()
        painter.submit(ASKED, Caller(answer.set_result, progress=steps.append))
        answers.append(answer.result(20))
    one, other = answers
    assert isinstance(one, Result)
    assert isinstance(other, Result)
    assert (one.image, one.seed, one.meta["adapters"]) == (other.image, other.seed, other.meta["adapters"])
    assert [(step.step, step.steps, step.previews) for step in here] == [(s.step, s.steps, s.previews) for s in there]


def test_several_processes_may_ask_at_once(pipeline: Pipeline, connect: Callable[[], Remote]) -> None:
    expected = pipeline.generate(ASKED).image
    answers: list[Future[Result | ImpastoError]] = [Future() for _ in range(12)]
    remotes = [connect(), connect(), connect()]
    for i, answer in enumerate(answers):
        remotes[i % 3].submit(ASKED, Caller(answer.set_result))
    results = [answer.result(20) for answer in answers]
    assert all(isinstance(result, Result) and result.image == expected for result in results)


def test_an_error_keeps_its_code_and_words(connect: Callable[[], Remote]) -> None:
    error = ask(connect(), replace(ASKED, adapters=(("nein", 1.0),)))
    assert isinstance(error, ImpastoError)
    assert error.code == "NOT_FOUND"
    assert "did you mean 'neon'" in str(error)


def test_a_caller_that_leaves_stops_its_work(pipeline: Pipeline, connect: Callable[[], Remote]) -> None:
    seen = Event()
    answer: Future[Result | ImpastoError] = Future()
    asked = replace(ASKED, steps=200)
    connect().submit(asked, Caller(answer.set_result, seen.is_set, lambda step: seen.set()))
    error = answer.result(20)
    assert isinstance(error, ImpastoError)
    assert error.code == "CANCELLED"
    assert pipeline.stats.read()["cancelled"] == 1


def test_a_caller_that_was_gone_from_the_start_is_not_forgotten(connect: Callable[[], Remote]) -> None:
    remote = connect()
    for _ in range(20):
        error = ask(remote, replace(ASKED, steps=200), gone=lambda: True)
        assert isinstance(error, ImpastoError)
        assert error.code == "CANCELLED"


def test_a_process_that_ends_takes_its_requests_with_it(pipeline: Pipeline, connect: Callable[[], Remote]) -> None:
    started = Event()
    remote = connect()
    answer: Future[Result | ImpastoError] = Future()
    remote.submit(replace(ASKED, steps=200), Caller(answer.set_result, progress=lambda step: started.set()))
    assert started.wait(20)
    remote.close()
    error = answer.result(20)
    assert isinstance(error, ImpastoError)
    assert error.code == "UNAVAILABLE"
    assert pipeline.generate(ASKED).image
    pipeline.close()
    assert pipeline.stats.read()["cancelled"] == 1


def test_nobody_behind_the_relay_is_told_at_once() -> None:
    remote = Remote(f"\0impasto-test-{os.getpid()}-nobody")
    with pytest.raises(ImpastoError, match="the process that holds the backbone does not answer"):
        ask(remote, ASKED)
    remote.close()


def test_what_is_no_message_ends_that_connection_only(pipeline: Pipeline) -> None:
    address = f"\0impasto-test-{os.getpid()}-{next(numbers)}"
    relay = Relay(pipeline, address)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(address)
        stranger.sendall(b"\x05\x00\x00\x00\x00\x00\x00\x00junk!")
        assert stranger.recv(1) == b""
    remote = Remote(address)
    assert isinstance(ask(remote, ASKED), Result)
    remote.close()
    relay.close()


def test_a_requests_files_arrive_byte_for_byte(pipeline: Pipeline, connect: Callable[[], Remote]) -> None:
    file = BytesIO()
    Image.effect_noise((80, 64), 90).save(file, "png")
    asked = replace(ASKED, image=file.getvalue(), depth=file.getvalue(), style=("sks03", "my-toy"))
    there, here = ask(connect(), asked), pipeline.generate(asked)
    assert isinstance(there, Result)
    assert there.image == here.image

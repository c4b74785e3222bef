"""Submitting to a pipeline through a socket is submitting to it: same picture, progress, errors and cancellation."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import count
from threading import Event
from time import sleep

import pytest
from PIL import Image

from impasto_server.errors import ImpastoError
from impasto_server.pipeline import Caller, Pipeline, Progress, Result
from impasto_server.request import Request
from impasto_server.triton.relay import Relay, Remote
from tests.helpers.likeness import assert_same
from tests.unit.server.conftest import Open

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
    for result in results:
        assert isinstance(result, Result)
        assert_same(result.image, expected)


def test_an_error_keeps_its_code_and_words(connect: Callable[[], Remote]) -> None:
    error = ask(connect(), replace(ASKED, adapters=(("nein", 1.0),)))
    assert isinstance(error, ImpastoError)
    assert error.code == "NOT_FOUND"
    assert "did you mean 'neon'" in str(error)


def test_a_request_that_could_not_be_read_is_counted_where_the_others_are(
    pipeline: Pipeline, connect: Callable[[], Remote]
) -> None:
    remote = connect()
    remote.refused()
    assert isinstance(ask(remote, ASKED), Result)  # messages of one connection are read in their order
    assert (pipeline.stats.read()["refused"], pipeline.stats.read()["done"]) == (1, 1)


def test_what_was_refused_with_nobody_there_is_never_counted(pipeline: Pipeline) -> None:
    address = f"\0impasto-test-{os.getpid()}-{next(numbers)}"
    remote = Remote(address)
    remote.refused()
    relay = Relay(pipeline, address)
    assert isinstance(ask(remote, ASKED), Result)
    remote.refused()
    assert isinstance(ask(remote, ASKED), Result)
    assert (pipeline.stats.read()["refused"], pipeline.stats.read()["done"]) == (1, 2)
    relay.close()
    remote.close()


@pytest.mark.usefixtures("slow_steps")
def test_a_caller_that_leaves_stops_its_work(pipeline: Pipeline, connect: Callable[[], Remote]) -> None:
    seen = Event()
    answer: Future[Result | ImpastoError] = Future()
    asked = replace(ASKED, steps=200)
    connect().submit(asked, Caller(answer.set_result, seen.is_set, lambda step: seen.set()))
    error = answer.result(20)
    assert isinstance(error, ImpastoError)
    assert error.code == "CANCELLED"
    assert pipeline.stats.read()["cancelled"] == 1


@pytest.mark.usefixtures("slow_steps")
def test_a_caller_that_was_gone_from_the_start_is_not_forgotten(connect: Callable[[], Remote]) -> None:
    remote = connect()
    for _ in range(20):
        error = ask(remote, replace(ASKED, steps=200), gone=lambda: True)
        assert isinstance(error, ImpastoError)
        assert error.code == "CANCELLED"


@pytest.mark.usefixtures("slow_steps")
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


@dataclass(frozen=True)
class Easel:
    """A painter that has its answer ready, and says what it was asked."""

    news: tuple[Progress, ...]
    result: Result
    asked: list[Request] = field(default_factory=list)

    def submit(self, request: Request, caller: Caller) -> None:
        self.asked.append(request)
        for step in self.news:
            assert caller.progress is not None
            caller.progress(step)
        caller.done(self.result)

    def refused(self) -> None: ...

    def close(self) -> None: ...


EASELS = {
    "one": Easel((Progress(1, 2, 0.5), Progress(2, 2, 0.0)), Result((b"png",), (7,), {"steps": 2})),
    "several": Easel(
        (Progress(1, 3, 0.5, (b"a", b"", b"ccc")), Progress(2, 3, 0.25)),
        Result((b"first", b"", b"third"), (2**63 - 1, 0, 1), {"warnings": ["é"]}, (0.5, 0.25, -1.0)),
    ),
}


def test_a_relay_that_comes_back_is_found_again() -> None:
    """As when Triton starts the process that paints anew."""
    easel, address = EASELS["one"], f"\0impasto-test-{os.getpid()}-{next(numbers)}"
    remote = Remote(address)
    for _ in range(3):
        relay = Relay(easel, address)
        answer: Future[Result | ImpastoError] = Future()
        remote.submit(ASKED, Caller(answer.set_result, progress=lambda step: None))
        assert answer.result(20) == easel.result
        relay.close()
        ask_until_nobody_is_there(remote)
    remote.close()


def ask_until_nobody_is_there(remote: Remote) -> None:
    """What was on its way when the connection ended is told another thing; all of it is UNAVAILABLE."""
    for _ in range(1000):
        try:
            error = ask(remote, ASKED)
        except ImpastoError as raised:
            error = raised
        assert isinstance(error, ImpastoError)
        assert error.code == "UNAVAILABLE"
        if "does not answer" in str(error):
            return
        sleep(0.01)
    raise AssertionError("it did not come about")


@pytest.mark.parametrize("easel", EASELS.values(), ids=EASELS)
def test_all_pictures_scores_and_previews_arrive(easel: Easel) -> None:
    """An empty file too: its length is all there is of it."""
    address = f"\0impasto-test-{os.getpid()}-{next(numbers)}"
    relay, remote = Relay(easel, address), Remote(address)
    heard: list[Progress] = []
    answer: Future[Result | ImpastoError] = Future()
    remote.submit(ASKED, Caller(answer.set_result, progress=heard.append))
    assert answer.result(20) == easel.result
    assert tuple(heard) == easel.news
    remote.close()
    relay.close()


FULL = Request(
    "a fish",
    seed=2**63 - 1,
    width=64,
    height=32,
    negative_prompt="blurry",
    adapters=(("neon", 0.5), ("deep", -1.0)),
    style=("glass",),
    guidance="styledrop-compose",
    guidance_ramp=True,
    style_strength=-1.5,
    text_strength=0.25,
    gamma=0.75,
    content="cat",
    content_prompt="",
    temperature=4.5,
    n=3,
    rerank="style",
    style_image=b"\x89PNG\x00",
    depth=b"",
    timeout_s=2.5,
    preview_every=3,
)


@pytest.mark.parametrize("request_", [FULL, Request("a boat", 1, 64, 64)], ids=["full", "plain"])
def test_a_request_arrives_as_it_is(request_: Request) -> None:
    easel = EASELS["one"]
    address = f"\0impasto-test-{os.getpid()}-{next(numbers)}"
    relay, remote = Relay(easel, address), Remote(address)
    answer: Future[Result | ImpastoError] = Future()
    remote.submit(request_, Caller(answer.set_result, progress=lambda step: None))
    answer.result(20)
    assert easel.asked[-1] == request_
    remote.close()
    relay.close()

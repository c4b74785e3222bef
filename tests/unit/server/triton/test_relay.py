"""Submitting to a front through a socket is submitting to it: same picture, progress, errors and cancellation."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count
from threading import Event
from time import sleep
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from impasto_server.errors import ImpastoError
from impasto_server.front import Asker, Front
from impasto_server.outputs import Tensors
from impasto_server.pipeline import Pipeline
from impasto_server.triton.relay import Painter, Relay, Remote
from tests.helpers.likeness import assert_same
from tests.helpers.wire import floats, ints, texts
from tests.unit.server.conftest import Open

Outcome = Tensors | ImpastoError
Connect = Callable[[], Remote]

ASKED: dict[str, NDArray[Any]] = {
    "PROMPT": texts("a boat"),
    "SEED": np.array([3]),
    "WIDTH": ints(64),
    "HEIGHT": ints(64),
    "STEPS": ints(5),
    "ADAPTER_NAMES": texts("neon"),
    "ADAPTER_WEIGHTS": floats(0.5),
    "PREVIEW_EVERY": ints(2),
}
LONG = ASKED | {"STEPS": ints(200)}
numbers = count()


@pytest.fixture
def pipeline(open_pipeline: Open) -> Pipeline:
    return open_pipeline()


@pytest.fixture
def front(pipeline: Pipeline) -> Front:
    return Front([pipeline], pipeline.shared)


@pytest.fixture
def connect(front: Front) -> Iterator[Connect]:
    """Remotes of a relay before `front`; the relay closes first, as in a server that stops."""
    address = f"\0impasto-test-{os.getpid()}-{next(numbers)}"
    relay, remotes = Relay(front, address), []

    def connect_() -> Remote:
        remotes.append(Remote(address))
        return remotes[-1]

    yield connect_
    relay.close()
    for remote in remotes:
        remote.close()


def unheard(step: Tensors) -> None:
    """For those who aren't interested in steps."""


def ask(
    painter: Painter,
    tensors: Tensors,
    gone: Callable[[], bool] = lambda: False,
    progress: Callable[[Tensors], None] = unheard,
    timeout_us: int = 0,
) -> Outcome:
    answer: Future[Outcome] = Future()
    painter.submit(tensors, timeout_us, Asker(answer.set_result, gone, progress))
    return answer.result(60)


def said(outcome: Outcome) -> dict[str, tuple[str, list[Any]]]:
    """What can be compared with ==; a picture's META has its timings."""
    assert not isinstance(outcome, ImpastoError), outcome
    return {name: (one.dtype.str, one.tolist()) for name, one in outcome.items() if name not in ("META", "ETA_S")}


def code(outcome: Outcome) -> str:
    assert isinstance(outcome, ImpastoError)
    return outcome.code


def test_the_picture_and_its_steps_arrive_as_they_would_here(front: Front, connect: Connect) -> None:
    here: list[Tensors] = []
    there: list[Tensors] = []
    one, other = ask(front, ASKED, progress=here.append), ask(connect(), ASKED, progress=there.append)
    assert said(one) == said(other)
    assert not isinstance(one, ImpastoError)
    assert not isinstance(other, ImpastoError)
    assert json.loads(one["META"].item())["adapters"] == json.loads(other["META"].item())["adapters"]
    assert [said(step) for step in here] == [said(step) for step in there]
    assert ["PREVIEW" in step for step in there] == [False, True, False, True, False]


def test_several_processes_may_ask_at_once(front: Front, connect: Connect) -> None:
    alone = ask(front, ASKED)
    assert not isinstance(alone, ImpastoError)
    answers: list[Future[Outcome]] = [Future() for _ in range(12)]
    remotes = [connect(), connect(), connect()]
    for i, answer in enumerate(answers):
        remotes[i % 3].submit(ASKED, 0, Asker(answer.set_result, progress=unheard))
    for answer in answers:
        outcome = answer.result(60)
        assert not isinstance(outcome, ImpastoError), outcome
        assert_same(outcome["IMAGE"][0], alone["IMAGE"][0])


@pytest.mark.parametrize(
    ("changed", "expected", "counter"),
    [
        ({"ADAPTER_NAMES": texts("nein")}, ("NOT_FOUND", "did you mean 'neon'"), "refused"),
        ({"STEPS": ints(0)}, ("INVALID_ARGUMENT", "STEPS: 0 is out of range; pass 1 to 200"), "refused"),
        ({"MODEL": texts("photo")}, ("INVALID_ARGUMENT", "MODEL: 'photo' is unknown; pass one of toy"), "refused"),
        ({"MODEL": texts("a", "b")}, ("INVALID_ARGUMENT", "MODEL: holds 2 values"), "refused"),
    ],
)
def test_an_error_keeps_its_code_and_words_and_is_counted_once(
    pipeline: Pipeline, connect: Connect, changed: Tensors, expected: tuple[str, str], counter: str
) -> None:
    error = ask(connect(), {**ASKED, **changed})
    assert code(error) == expected[0]
    assert expected[1] in str(error)
    assert pipeline.stats.read()[counter] == 1


def test_a_timeout_travels_as_it_came(connect: Connect) -> None:
    error = ask(connect(), ASKED, timeout_us=(1 << 64) - 5)
    assert (code(error), str(error)[:26]) == ("INVALID_ARGUMENT", "TIMEOUT: -5 is out of rang")
    assert code(ask(connect(), LONG, timeout_us=1)) == "DEADLINE_EXCEEDED"


@pytest.mark.usefixtures("slow_steps")
def test_a_caller_that_leaves_stops_its_work(pipeline: Pipeline, connect: Connect) -> None:
    seen = Event()
    assert code(ask(connect(), LONG, seen.is_set, lambda step: seen.set())) == "CANCELLED"
    assert pipeline.stats.read()["cancelled"] == 1


@pytest.mark.usefixtures("slow_steps")
def test_a_caller_that_was_gone_from_the_start_is_not_forgotten(connect: Connect) -> None:
    remote = connect()
    for _ in range(20):
        assert code(ask(remote, LONG, gone=lambda: True)) == "CANCELLED"


@pytest.mark.usefixtures("slow_steps")
def test_a_process_that_ends_takes_its_requests_with_it(pipeline: Pipeline, front: Front, connect: Connect) -> None:
    started = Event()
    remote = connect()
    answer: Future[Outcome] = Future()
    remote.submit(LONG, 0, Asker(answer.set_result, progress=lambda step: started.set()))
    assert started.wait(60)
    remote.close()
    assert code(answer.result(60)) == "UNAVAILABLE"
    assert said(ask(front, ASKED))["IMAGE"]
    pipeline.close()
    assert pipeline.stats.read()["cancelled"] == 1


def test_nobody_behind_the_relay_is_told_at_once() -> None:
    remote = Remote(f"\0impasto-test-{os.getpid()}-nobody")
    with pytest.raises(ImpastoError, match="the process that holds the backbone does not answer"):
        ask(remote, ASKED)
    remote.close()


def test_what_is_no_message_ends_that_connection_only(front: Front) -> None:
    address = f"\0impasto-test-{os.getpid()}-{next(numbers)}"
    relay = Relay(front, address)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(address)
        stranger.sendall(b"\x05\x00\x00\x00\x00\x00\x00\x00junk!")
        assert stranger.recv(1) == b""
    remote = Remote(address)
    assert said(ask(remote, ASKED))["IMAGE"]
    remote.close()
    relay.close()


def test_a_requests_files_arrive_byte_for_byte(front: Front, connect: Connect) -> None:
    file = BytesIO()
    Image.effect_noise((80, 64), 90).save(file, "png")
    pictures = {"IMAGE": texts(file.getvalue()), "DEPTH": texts(file.getvalue()), "STYLE": texts("sks03", "my-toy")}
    assert said(ask(connect(), ASKED | pictures)) == said(ask(front, ASKED | pictures))


@dataclass(frozen=True)
class Easel:
    """A painter that has its answer ready, and says what it was asked."""

    news: tuple[Tensors, ...]
    result: Tensors
    asked: list[tuple[Tensors, int]] = field(default_factory=list)

    def submit(self, tensors: Tensors, timeout_us: int, asker: Asker) -> None:
        self.asked.append((tensors, timeout_us))
        for step in self.news:
            assert asker.progress is not None
            asker.progress(step)
        asker.done(self.result)


EASELS = {
    "one": Easel(({"STEP": ints(1)}, {"STEP": ints(2)}), {"IMAGE": texts(b"png"), "SEED": np.array([7])}),
    "several": Easel(
        ({"STEP": ints(1), "PREVIEW": texts(b"a", b"", b"ccc")}, {"STEP": ints(2)}),
        {"IMAGE": texts(b"first", b"", bytes(100_000)), "SEED": np.array([2**63 - 1, 0, 1]), "SCORE": floats(0.5, -1)},
    ),
}


def test_a_relay_that_comes_back_is_found_again() -> None:
    """As when Triton starts the process that paints anew."""
    easel, address = EASELS["one"], f"\0impasto-test-{os.getpid()}-{next(numbers)}"
    remote = Remote(address)
    for _ in range(3):
        relay = Relay(easel, address)
        assert said(ask(remote, ASKED)) == said(easel.result)
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
        assert code(error) == "UNAVAILABLE"
        if "does not answer" in str(error):
            return
        sleep(0.01)
    raise AssertionError("it did not come about")


@pytest.mark.parametrize("easel", EASELS.values(), ids=EASELS)
def test_all_pictures_scores_and_previews_arrive(easel: Easel) -> None:
    """An empty file too: its length is all there is of it."""
    address = f"\0impasto-test-{os.getpid()}-{next(numbers)}"
    relay, remote = Relay(easel, address), Remote(address)
    heard: list[Tensors] = []
    assert said(ask(remote, ASKED, progress=heard.append)) == said(easel.result)
    assert [said(step) for step in heard] == [said(step) for step in easel.news]
    remote.close()
    relay.close()


ODD = {
    "FLAG": np.array([True, False]),
    "NOTHING": texts(),
    "NUMBERS": np.array([[1.5, -0.0], [np.inf, 1e-45]], np.float32),
    "SEED": np.array([2**63 - 1]),
    "STYLE": texts("é", b"\xff\x00", ""),
    "STYLE_IMAGE": texts(b"\x89PNG\x00" * 30_000),
}


@pytest.mark.parametrize("tensors", [ODD, ASKED, {}], ids=["odd", "usual", "none"])
def test_tensors_arrive_as_they_are(tensors: Tensors) -> None:
    easel = EASELS["one"]
    address = f"\0impasto-test-{os.getpid()}-{next(numbers)}"
    relay, remote = Relay(easel, address), Remote(address)
    ask(remote, tensors, timeout_us=2_500_000)
    arrived, timeout_us = easel.asked[-1]
    assert said(arrived) == said(tensors)
    assert [one.shape for one in arrived.values()] == [one.shape for one in tensors.values()]
    assert timeout_us == 2_500_000
    remote.close()
    relay.close()

"""Eight users of one server: what they ask for, and how fast they are served.

The mixed crowd agrees on nothing but the size: own adapter, prompt, steps, guidance, scheduler, seed. The uniform one
asks for as many lane-steps in all, everyone with the same adapter, steps, guidance and scheduler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import count
from threading import Event
from time import perf_counter, sleep

import numpy as np
from benchmarks.common.backbones import NAMES
from benchmarks.common.bench import COLOURS, THINGS
from numpy.typing import NDArray
from PIL import Image

from impasto_server.errors import ImpastoError
from impasto_server.pipeline import Caller, Pipeline, Result
from impasto_server.request import Request
from impasto_server.settings import Settings

GUIDANCE = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.5, 9.0)  # 1 is no guidance: a single lane
SCHEDULERS = ("ddim", "dpmpp_2m", "euler")
UNIFORM_GUIDANCE, UNIFORM_SCHEDULER = 5.0, "dpmpp_2m"
POLL_S = 0.0005
RAMP = 0.25  # of a window's lane-steps, before it begins

Crowd = tuple[Request, ...]


@contextmanager
def opened(settings: Settings) -> Iterator[Pipeline]:
    """What crowds are served by."""
    pipeline = Pipeline.load(settings)
    try:
        yield pipeline
    finally:
        pipeline.close()


def mixed(steps: Sequence[int], width: int, height: int) -> Crowd:
    """A request of each user; `steps` are theirs."""
    return tuple(
        Request(
            prompt=f"a {COLOURS[user]} {THINGS[user]} at night",
            negative_prompt="a green cat",
            adapters=((NAMES[user], 1.0),),
            steps=steps[user],
            guidance_scale=GUIDANCE[user],
            scheduler=SCHEDULERS[user % len(SCHEDULERS)],
            seed=user,
            width=width,
            height=height,
        )
        for user in range(len(NAMES))
    )


def uniform(crowd: Crowd) -> Crowd:
    """The same number of lane-steps, spread evenly. They must divide evenly."""
    steps, rest = divmod(lane_steps(crowd), 2 * len(crowd))
    assert rest == 0, "choose steps whose lane-steps are the same for everyone"
    return tuple(
        replace(
            request,
            adapters=((NAMES[0], 1.0),),
            steps=steps,
            guidance_scale=UNIFORM_GUIDANCE,
            scheduler=UNIFORM_SCHEDULER,
        )
        for request in crowd
    )


def lane_steps(crowd: Crowd) -> int:
    """Rows of forward passes that all the pictures take."""
    return sum(request.steps * (1 if request.guidance_scale == 1 else 2) for request in crowd)


def wrong_adapters(crowd: Crowd) -> Crowd:
    """Everyone with the next user's adapter."""
    return tuple(
        replace(request, adapters=following.adapters)
        for request, following in zip(crowd, [*crowd[1:], crowd[0]], strict=True)
    )


def fresh(crowd: Crowd, number: int) -> Crowd:
    """The same work with prompts and seeds that nobody has seen, so that nothing is remembered of them."""
    return tuple(_fresh(request, number) for request in crowd)


def _fresh(request: Request, number: int) -> Request:
    return replace(request, prompt=f"{request.prompt}, picture {number}", seed=1000 * number + request.seed)


@dataclass(frozen=True)
class Burst:
    """Everyone asked at once; `seconds` until the last one was answered."""

    seconds: float
    results: tuple[Result, ...]


def burst(pipeline: Pipeline, crowd: Crowd) -> Burst:
    """Raises the first ImpastoError."""
    started = perf_counter()
    answers = [_ask(pipeline, request) for request in crowd]
    results = tuple(_result(answer) for answer in answers)
    return Burst(perf_counter() - started, results)


def pixels(painted: Burst) -> list[NDArray[np.uint8]]:
    """RGB [H, W, 3] of each picture."""
    return [np.asarray(Image.open(BytesIO(result.image))) for result in painted.results]


def steady(pipeline: Pipeline, crowd: Crowd) -> float:
    """Lane-steps per second while every user asks again as soon as they are answered.

    Measured over as many lane-steps as one picture for each takes, after a ramp; what is under way then is cancelled.
    """
    over = Event()

    def use(request: Request) -> None:
        for number in count():
            outcome = _ask(pipeline, _fresh(request, number), over).result()
            if over.is_set():
                return
            if isinstance(outcome, ImpastoError):
                raise outcome

    with ThreadPoolExecutor(len(crowd)) as pool:
        users = [pool.submit(use, request) for request in crowd]
        try:
            return _rate(pipeline, lane_steps(crowd), users)
        finally:
            over.set()


def _rate(pipeline: Pipeline, window: int, users: Sequence[Future[None]]) -> float:
    before = pipeline.stats.read()["lanes"]
    first, began = _reached(pipeline, before + RAMP * window, users)
    last, ended = _reached(pipeline, first + window, users)
    return (last - first) / (ended - began)


def _reached(pipeline: Pipeline, lanes: float, users: Sequence[Future[None]]) -> tuple[float, float]:
    """The counter just after the step that took it to `lanes`, and when that was. Raises what a user met."""
    while (now := pipeline.stats.read()["lanes"]) < lanes:
        for user in users:
            if user.done():
                user.result()
        sleep(POLL_S)
    return now, perf_counter()


def _ask(pipeline: Pipeline, request: Request, over: Event | None = None) -> Future[Result | ImpastoError]:
    answer: Future[Result | ImpastoError] = Future()
    pipeline.submit(request, Caller(answer.set_result, over.is_set if over else lambda: False))
    return answer


def _result(answer: Future[Result | ImpastoError]) -> Result:
    outcome = answer.result()
    if isinstance(outcome, ImpastoError):
        raise outcome
    return outcome

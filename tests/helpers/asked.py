"""Short forms for tests: make requests, submit several together, read pictures, run work to its end."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from io import BytesIO
from typing import TypeVar

import numpy as np
from benchmarks.common.flat import altered, request_of
from numpy.typing import NDArray
from PIL import Image

from impasto_server.errors import ImpastoError
from impasto_server.pipeline import Caller, Pipeline, Result
from impasto_server.request import Request
from impasto_server.turns import Work

__all__ = ["altered", "pixels", "request_of", "together", "whole"]

R = TypeVar("R")


def pixels(result: Result | ImpastoError) -> NDArray[np.int64]:
    assert isinstance(result, Result), result
    return np.asarray(Image.open(BytesIO(result.image)), np.int64)


def together(pipeline: Pipeline, requests: Sequence[Request]) -> list[Result | ImpastoError]:
    answers: list[Future[Result | ImpastoError]] = [Future() for _ in requests]
    for one, answer in zip(requests, answers, strict=True):
        pipeline.submit(one, Caller(answer.set_result))
    return [answer.result(30) for answer in answers]


def whole(work: Work[R]) -> R:
    """The result of the work, run without a break."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            result: R = stop.value
            return result

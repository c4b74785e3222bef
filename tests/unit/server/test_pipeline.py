"""The pipeline on the toy backbone: in flight together equals alone, and one request's trouble is nobody else's."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from io import BytesIO
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from impasto_server.errors import Cancelled, Exhausted, ImpastoError, InvalidArgument, NotFound, Unavailable
from impasto_server.pipeline import Pipeline, Result
from impasto_server.request import Request
from impasto_server.settings import EngineName

from .conftest import Open

ADAPTERS = ((), (("neon", 0.5),), (("deep", 1.0), ("stained-glass", -0.5)), (("stained-glass", 0.9),))


def request(seed: int) -> Request:
    """Requests that differ in everything a request can differ in."""
    return Request(
        prompt=("a red boat", "a blue house at night", "fish")[seed % 3],
        negative_prompt=("", "blurry")[seed % 2],
        adapters=ADAPTERS[seed % 4],
        steps=3 + seed % 5,
        guidance_scale=(1.0, 3.0, 7.5)[seed % 3],
        scheduler=("ddim", "euler", "dpmpp_2m")[seed % 3],
        seed=seed,
        width=(64, 32)[seed % 2],
        height=64,
    )


def pixels(result: Result) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(result.image)))


def together(pipeline: Pipeline, requests: list[Request]) -> list[Result | ImpastoError]:
    answers: list[Future[Result | ImpastoError]] = [Future() for _ in requests]
    for one, answer in zip(requests, answers, strict=True):
        pipeline.submit(one, answer.set_result)
    return [answer.result(30) for answer in answers]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_sixteen_unlike_requests_in_flight_equal_their_solo_runs(engine: EngineName, open_pipeline: Open) -> None:
    pipeline = open_pipeline(engine)
    requests = [request(seed) for seed in range(16)]
    alone = [pixels(pipeline.generate(one)) for one in requests]
    for expected, result in zip(alone, together(pipeline, requests), strict=True):
        assert isinstance(result, Result)
        assert np.abs(pixels(result).astype(int) - expected.astype(int)).max() <= 1


def test_an_adapter_leaves_nothing_behind(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    plain = request(4)
    styled = replace(plain, adapters=(("neon", 0.5),))
    before = pipeline.generate(plain).image
    assert pipeline.generate(styled).image != before
    assert pipeline.generate(plain).image == before


def test_a_bad_request_disturbs_nobody(open_pipeline: Open) -> None:
    good, unknown = request(0), Request("a boat", seed=1, width=64, height=64, adapters=(("nein", 1.0),))
    pipeline = open_pipeline()
    first, refused, second = together(pipeline, [good, unknown, good])
    assert isinstance(refused, NotFound)
    assert "did you mean 'neon'" in str(refused)
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert first.image == second.image


def test_a_mix_too_wide_for_the_bank_is_refused_and_its_row_is_free_again(open_pipeline: Open) -> None:
    pipeline = open_pipeline(bank_rank=4, bank_bytes=1000)
    wide = Request("a boat", seed=1, width=64, height=64, adapters=(("deep", 1.0),))
    for _ in range(3):
        with pytest.raises(InvalidArgument, match="rank 20"):
            pipeline.generate(wide)
    assert pipeline.generate(request(1)).image


def test_meta_tells_what_was_done(open_pipeline: Open) -> None:
    meta: dict[str, Any] = open_pipeline().generate(request(3)).meta
    assert meta["adapters"][0]["name"] == "stained-glass"
    assert meta["steps"] == 6
    assert (meta["engine"], meta["precision"]) == ("onnxruntime", "f32")
    assert meta["warnings"] == []
    assert all(value >= 0 for value in meta["timings"].values())


def test_a_prompt_over_the_token_limit_is_answered_with_a_warning(open_pipeline: Open) -> None:
    long = Request("a red boat at night in stained glass", seed=1, width=64, height=64, steps=2)
    warnings = open_pipeline().generate(long).meta["warnings"]
    assert warnings == ["PROMPT: 8 tokens, the text encoder reads 4; not read: 'night in stained glass'"]


def test_a_closed_pipeline_finishes_what_it_took_and_takes_no_more(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    answer: Future[Result | ImpastoError] = Future()
    pipeline.submit(request(2), answer.set_result)
    pipeline.close()
    assert isinstance(answer.result(0), Result)
    with pytest.raises(Unavailable):
        pipeline.submit(request(2), answer.set_result)


@pytest.mark.parametrize("patience", range(8))
def test_a_cancelled_request_stops_wherever_it_is_and_disturbs_nobody(patience: int, open_pipeline: Open) -> None:
    """`patience` questions are answered with "still waiting": queued, at each of 6 steps, then decoding."""
    pipeline = open_pipeline(bank_bytes=2000, bank_rank=4)
    impatient, neighbour = request(3), request(7)
    alone = pipeline.generate(neighbour).image
    asked = iter(range(100))
    left: Future[Result | ImpastoError] = Future()
    stayed: Future[Result | ImpastoError] = Future()
    pipeline.submit(impatient, left.set_result, lambda: next(asked) >= patience)
    pipeline.submit(neighbour, stayed.set_result)
    assert isinstance(left.result(10), Cancelled)
    assert next(asked) == patience + 1
    result = stayed.result(10)
    assert isinstance(result, Result)
    assert result.image == alone
    for _ in range(3):
        assert pipeline.generate(impatient).image


def test_a_full_server_turns_requests_away_with_a_hint_and_loses_none(open_pipeline: Open) -> None:
    pipeline = open_pipeline(max_requests=32)
    answers: list[Future[Result | ImpastoError]] = []
    refused: list[Exhausted] = []
    for _ in range(200):
        answer: Future[Result | ImpastoError] = Future()
        try:
            pipeline.submit(request(len(answers)), answer.set_result)
        except Exhausted as error:
            refused.append(error)
        else:
            answers.append(answer)
    assert refused
    assert all(error.retry_after_s > 0 and "full with 32 requests; try again in" in str(error) for error in refused)
    assert all(isinstance(answer.result(30), Result) for answer in answers)
    assert len(answers) + len(refused) == 200
    assert pipeline.generate(request(1)).image


def test_a_short_request_is_not_held_up_by_long_ones(open_pipeline: Open) -> None:
    pipeline = open_pipeline(max_lanes=2)
    finished: list[str] = []
    long = [Request("a boat", seed=i, width=64, height=64, steps=100) for i in range(4)]
    last: list[Future[Result | ImpastoError]] = [Future() for _ in range(5)]

    def note(name: str, answer: Future[Result | ImpastoError], outcome: Result | ImpastoError) -> None:
        finished.append(name)
        answer.set_result(outcome)

    for one, answer in zip(long, last, strict=False):
        pipeline.submit(one, partial(note, "long", answer))
    pipeline.submit(Request("a fish", seed=9, width=64, height=64, steps=4), partial(note, "short", last[4]))
    for answer in last:
        assert isinstance(answer.result(30), Result)
    assert finished[0] == "short"


def test_the_pipeline_counts_what_it_does(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    for seed in (1, 1, 5):
        pipeline.generate(request(seed))
    with pytest.raises(NotFound):
        pipeline.generate(Request("a boat", seed=1, width=64, height=64, adapters=(("nein", 1.0),)))
    stats = pipeline.stats.read()
    assert (stats["done"], stats["refused"], stats["failed"], stats["requests"]) == (3, 1, 0, 0)
    assert (stats["steps"], stats["lanes"]) == (4 + 4 + 3, 2 * (4 + 4 + 3))
    assert (stats["adapter_loads"], stats["adapter_hits"]) == (1, 2)
    assert (stats["mix_writes"], stats["mix_hits"], stats["mix_evictions"]) == (1, 2, 0)
    assert stats["bank_bytes"] > stats["adapter_bytes"] > 0


def test_a_caller_that_fails_is_nobody_elses_trouble(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    asked = Event()

    def broken_answer(outcome: Result | ImpastoError) -> None:
        asked.set()
        raise RuntimeError("the connection is gone")

    def broken_question() -> bool:
        raise RuntimeError("the connection is gone")

    pipeline.submit(request(1), broken_answer)
    assert asked.wait(10)
    answer: Future[Result | ImpastoError] = Future()
    pipeline.submit(request(1), answer.set_result, broken_question)
    assert isinstance(answer.result(10), ImpastoError)
    assert pipeline.generate(request(1)).image

"""A cascade: one request goes through two backbones, whose rows have unlike shapes, beside requests of one stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Backbone, Feeds, Row, samples
from impasto_server.errors import ImpastoError
from impasto_server.families.family import Conditions
from impasto_server.guidance import Guidance, Lane, Mix
from impasto_server.pipeline import Caller, Pipeline, Progress, Result
from impasto_server.request import Request
from impasto_server.settings import Settings
from impasto_server.steps import BASE, Ask, Sample, Steps, at_stage
from impasto_server.turns import Work
from impasto_server.worn import Worn
from tests.helpers.asked import altered, request_of
from tests.helpers.families import Handed, handed
from tests.helpers.likeness import assert_same

UPSCALE = "upscale"
SMALL = request_of("a red boat", seed=1, width=64, height=64, steps=4, scheduler="ddim", adapters=(("neon", 1.0),))
LARGE = altered(SMALL, width=128, height=128)
AGAIN = altered(SMALL, prompt="a red boat again")
SHARE = 0.25


class Brightening:
    """The second stage's engine: a share of every sample, which its row's context says."""

    usual = (Seat(),)

    def prepare(self, feeds: Mapping[str, NDArray[Any]], seats: Sequence[Seat] = ()) -> None:
        pass

    def run(self, feeds: Mapping[str, NDArray[Any]], seats: Sequence[Seat] = ()) -> list[NDArray[Any]]:
        return [feeds["sample"] * feeds["share"]]


def shares(rows: Sequence[Row]) -> Feeds:
    return {"sample": samples(rows), "share": np.array([row.context for row in rows], np.float32)[:, None, None, None]}


@dataclass(frozen=True)
class Both:
    """The first stage's conditions, and one lane for the second."""

    first: Conditions
    mix: Mix

    @property
    def guidance(self) -> Mapping[str, Guidance]:
        return {**self.first.guidance, UPSCALE: Guidance.over((1, 1, Lane(mix=self.mix)))}

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.first.warnings

    @property
    def told(self) -> Mapping[str, object]:
        return self.first.told

    def gather(self) -> Work[None]:
        return self.first.gather()

    def contexts(self, seats: Mapping[Mix, Seat]) -> Work[Mapping[str, Sequence[Any]]]:
        return {**(yield from self.first.contexts(seats)), UPSCALE: (SHARE,)}


class Cascade(Handed):
    """Pictures of 128 pixels a side are painted at 64, and become twice as large in two steps more.

    A prompt that ends in "again" has the two steps, too, at its own size.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.backbones[UPSCALE] = Backbone([Brightening()], shares)
        self.batches: list[list[Row]] = []
        for stage, backbone in self.backbones.items():
            self.backbones[stage] = Noting(backbone, self.batches)

    def example(self, stage: str) -> Row:
        row = self.inner.example(BASE)
        return row if stage == BASE else Row(replace(row.ask, sample=twice(row.ask.sample), stage=stage), 0.0, Seat())

    def condition(self, request: Request, worn: Worn, seen: Any) -> Work[Conditions]:
        conditions = yield from self.inner.condition(request, worn, seen)
        return Both(conditions, worn.mixes.full) if goes_on(request) else conditions

    def begin(self, request: Request, seed: int, seen: Any, contexts: Mapping[str, Sequence[Any]]) -> Steps:
        begin = self._both if goes_on(request) else self.inner.begin
        return begin(request, seed, seen, contexts)

    def _both(self, request: Request, seed: int, seen: Any, contexts: Mapping[str, Sequence[Any]]) -> Steps:
        first = self.inner.begin(altered(request, width=64, height=64), seed, seen, contexts)
        sample = yield from at_stage(first, BASE, 0, request.sampling.steps + 2)
        start = twice(sample) if request.size.height == 128 else sample
        return (yield from at_stage(brightened(start), UPSCALE, request.sampling.steps, request.sampling.steps + 2))


def goes_on(request: Request) -> bool:
    return request.size.height == 128 or request.words.prompt.endswith("again")


class Noting(Backbone):
    """Writes down the rows of its batches."""

    def __init__(self, inner: Backbone, batches: list[list[Row]]) -> None:
        self._inner = inner
        self._batches = batches

    def prepare(self, row: Row, most: int, copies: int) -> None:
        self._inner.prepare(row, most, copies)

    def room(self, sample: Sample, most: int) -> int:
        return self._inner.room(sample, most)

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        self._batches.append(list(rows))
        return self._inner.run(rows)


def brightened(sample: Sample) -> Steps:
    for step in range(2):
        sample = sample + (yield Ask(sample, 0.0, step, 2, sample))
    return sample


def twice(sample: Sample) -> Sample:
    large: Sample = sample.repeat(2, axis=1).repeat(2, axis=2)
    return large


@pytest.fixture
def pipeline(bundle: Path, registry: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline.load(Settings(bundle, registry, "onnxruntime", "f32", threads=1, max_lanes=16), Cascade.of)
    yield pipeline
    pipeline.close()


def finished(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, request: Request) -> Sample:
    """The sample that is decoded."""
    samples: list[Sample] = []
    decode = handed(pipeline).inner.decode

    def note(sample: Sample) -> NDArray[np.uint8]:
        samples.append(sample)
        return decode(sample)

    with monkeypatch.context() as patch:
        patch.setattr(handed(pipeline), "decode", note)
        pipeline.generate(request)
    return samples[0]


def test_the_second_stage_goes_on_from_the_first(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (finished(pipeline, monkeypatch, one) for one in (SMALL, LARGE))
    assert large.shape == (4, 16, 16)
    np.testing.assert_allclose(large, twice(small) * (1 + SHARE) ** 2, rtol=1e-4, atol=1e-4)


def test_each_stage_has_its_share_of_the_time(pipeline: Pipeline) -> None:
    meta: dict[str, Any] = pipeline.generate(LARGE).meta
    stages = meta["stages_ms"]
    assert list(stages) == [BASE, UPSCALE]
    assert min(stages.values()) > 0
    assert sum(stages.values()) <= meta["timings"]["denoise_ms"] + 0.01  # each is rounded
    assert "stages_ms" not in pipeline.generate(SMALL).meta


def test_a_batch_is_of_one_stage_and_shared_by_all_who_are_at_it(pipeline: Pipeline) -> None:
    """Twice as many rows as requests at the first, which has a null lane, and as many at the second."""
    family = handed(pipeline)
    assert isinstance(family, Cascade)
    requests = [altered(one, seed=seed) for seed in range(2) for one in (SMALL, LARGE)]
    alone = [pipeline.generate(one).meta["steps"] for one in requests]
    assert alone == [4, 6] * 2
    family.batches.clear()
    held, news = Event(), list[Progress]()
    answers: list[Future[Result | ImpastoError]] = [Future() for _ in requests]
    run = family.backbones[BASE].run

    def held_up(rows: Sequence[Row]) -> NDArray[np.float32]:
        assert held.wait(60)
        return run(rows)

    family.backbones[BASE].run = held_up  # type: ignore[method-assign]
    for one, answer in zip(requests, answers, strict=True):
        pipeline.submit(one, Caller(answer.set_result, progress=news.append if one is requests[1] else None))
    held.set()
    assert all(isinstance(answer.result(60), Result) for answer in answers)
    kinds = [{(row.ask.stage, row.ask.sample.shape) for row in rows} for rows in family.batches]
    assert all(len(kind) == 1 for kind in kinds)
    assert {kind for of_batch in kinds for kind in of_batch} == {(BASE, (4, 8, 8)), (UPSCALE, (4, 16, 16))}
    assert max(len(rows) for rows in family.batches if rows[0].ask.stage == BASE) > 2
    assert sum(len(rows) for rows in family.batches if rows[0].ask.stage == BASE) == 4 * 4 * 2
    assert sum(len(rows) for rows in family.batches if rows[0].ask.stage == UPSCALE) == 2 * 2
    assert [(one.step, one.steps) for one in news] == [(step, 6) for step in range(1, 7)]


def test_beside_others_a_cascade_is_what_it_is_alone(pipeline: Pipeline) -> None:
    requests = [altered(one, seed=seed) for seed in range(3) for one in (SMALL, LARGE, AGAIN)]
    alone = [pipeline.generate(one).image for one in requests]
    answers: list[Future[Result | ImpastoError]] = [Future() for _ in requests]
    for one, answer in zip(requests, answers, strict=True):
        pipeline.submit(one, Caller(answer.set_result))
    for expected, answer in zip(alone, answers, strict=True):
        result = answer.result(60)
        assert isinstance(result, Result)
        assert_same(result.image, expected)

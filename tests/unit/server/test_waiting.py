"""Whoever waits, wherever that is, is looked after: its time, whether it's still there, and what it holds."""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import Any
from weakref import WeakSet

import pytest
from PIL import Image

from impasto_server.adapters.access import Access
from impasto_server.adapters.adapter import FIELD
from impasto_server.adapters.registry import Registry
from impasto_server.backbone import Backbone
from impasto_server.errors import (
    Cancelled,
    DeadlineExceeded,
    Exhausted,
    ImpastoError,
    InvalidArgument,
    NoAnswer,
    NotFound,
    Unavailable,
)
from impasto_server.families.family import Conditions
from impasto_server.job import Job
from impasto_server.pipeline import Caller, Pipeline, Progress, Result
from impasto_server.request import Request
from impasto_server.running import Running
from impasto_server.steps import Sample
from impasto_server.turns import Work
from impasto_server.worn import Worn
from tests.helpers import toy
from tests.helpers.asked import altered, request_of
from tests.helpers.families import handed
from tests.helpers.waiting import PATIENCE_S, Asked, Gate

from .conftest import Open

TIMEOUTS_S = (None, 0.0, 0.01, 0.1, 1.0, 60.0)
ROW = 4 * 4 * 2 * (toy.CHANNELS + toy.WIDTH)
BOAT = request_of("a red boat", seed=1, width=64, height=64, steps=4)


def styled(name: str, **changed: Any) -> Request:
    given: dict[str, Any] = {"adapters": ((name, 1.0),), **changed}
    return altered(BOAT, **given)


def submitted(pipeline: Pipeline, request: Request) -> Asked[Result]:
    asked = Asked[Result]()
    pipeline.submit(request, Caller(asked.hear, asked.left.is_set, asked.progress))
    return asked


@pytest.fixture
def gate(open_pipeline: Open) -> Iterator[Gate]:
    """It's opened before the pipelines are closed."""
    gate = Gate()
    yield gate
    gate.open.set()


def names_hang(pipeline: Pipeline, gate: Gate, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Registry, "look_up", gate.before(Registry.look_up, lambda self, name, *_: name == "neon"))


def objects_hang(pipeline: Pipeline, gate: Gate, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Registry, "load", gate.before(Registry.load, lambda self, digest, name, *_: name == "neon"))


def conditions_hang(pipeline: Pipeline, gate: Gate, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(handed(pipeline), "read", gate.before(pipeline.family.read, by_neon))


def encoding_hangs(pipeline: Pipeline, gate: Gate, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(handed(pipeline), "begin", gate.before(pipeline.family.begin, by_neon))


def decoding_hangs(pipeline: Pipeline, gate: Gate, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(handed(pipeline), "decode", gate.before(pipeline.family.decode))


def rows_are_taken(pipeline: Pipeline, gate: Gate, patch: pytest.MonkeyPatch) -> None:
    """By a request whose every step takes until the gate opens."""
    patch.setattr(Backbone, "run", gate.before(Backbone.run))
    submitted(pipeline, styled("stained-glass"))
    assert gate.reached.wait(PATIENCE_S)


def picture() -> bytes:
    file = BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "png")
    return file.getvalue()


def by_neon(request: Request, *_: object) -> bool:
    return any(name == "neon" for name, _ in request.styles.adapters)


Hang = Callable[[Pipeline, Gate, pytest.MonkeyPatch], None]
HANGS = [names_hang, objects_hang, conditions_hang, encoding_hangs, decoding_hangs, rows_are_taken]


@pytest.mark.parametrize("hang", HANGS)
@pytest.mark.parametrize("way", ["late", "gone"])
def test_who_is_late_or_gone_while_it_waits_is_told_at_once_and_once(
    way: str, hang: Hang, gate: Gate, open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline(page_rank=4, bank_bytes=2 * ROW)
    hang(pipeline, gate, monkeypatch)
    others = pipeline.stats.read()["requests"]
    late = Event()
    left_s = Job.time_left_s  # its time is over when the test says so, however slow the machine is
    monkeypatch.setattr(Job, "time_left_s", lambda job: 0.0 if late.is_set() and by_neon(job.request) else left_s(job))
    asked = submitted(pipeline, styled("neon", timeout_s=3600.0, image=picture(), strength=1.0))
    assert gate.reached.wait(PATIENCE_S)
    (late if way == "late" else asked.left).set()
    assert isinstance(asked.outcome(), DeadlineExceeded if way == "late" else Cancelled)
    assert not gate.open.is_set()
    assert pipeline.stats.read()["requests"] == others
    gate.open.set()
    late.clear()
    assert isinstance(submitted(pipeline, styled("neon")).outcome(), Result)  # the bank's only page is free again
    assert isinstance(submitted(pipeline, styled("stained-glass")).outcome(), Result)
    pipeline.close()
    assert len(asked.outcomes) == 1
    assert not asked.late
    assert pipeline.stats.read()["failed"] == 0


@pytest.mark.parametrize("way", ["late", "gone", "drained"])
def test_who_is_late_or_gone_while_it_runs_does_not_wait_for_its_previews(
    way: str, gate: Gate, open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline()
    monkeypatch.setattr(handed(pipeline), "preview", gate.before(pipeline.family.preview))
    late = Event()
    monkeypatch.setattr(Job, "time_left_s", lambda job: 0.0 if late.is_set() else 3600.0)
    asked = submitted(pipeline, altered(BOAT, steps=200, preview_every=1, timeout_s=3600.0))
    assert gate.reached.wait(PATIENCE_S)
    if way == "drained":
        assert pipeline.shared.drain(0) == 1
    else:
        (late if way == "late" else asked.left).set()
    expected = {"late": DeadlineExceeded, "gone": Cancelled, "drained": Unavailable}
    assert isinstance(asked.outcome(), expected[way])
    assert not gate.open.is_set()


def test_previews_that_are_made_too_slowly_do_not_pile_up(
    gate: Gate, open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of the toy's has 1 KiB."""
    monkeypatch.setattr("impasto_server.pipeline.PREVIEW_BYTES", 3000)
    pipeline = open_pipeline()
    monkeypatch.setattr(handed(pipeline), "preview", gate.before(pipeline.family.preview))
    left = Event()
    leave = pipeline._loop._left

    def leaves(one: Running, outcome: list[Sample] | Exception) -> None:
        leave(one, outcome)
        left.set()

    monkeypatch.setattr(pipeline._loop, "_left", leaves)
    told: list[Progress] = []
    answer: Future[Result | ImpastoError] = Future()
    pipeline.submit(altered(BOAT, steps=40, preview_every=1), Caller(answer.set_result, progress=told.append))
    assert left.wait(PATIENCE_S)
    gate.open.set()
    assert isinstance(answer.result(PATIENCE_S), Result)
    assert [one.step for one in told] == list(range(1, 41))
    assert 0 < sum(bool(one.previews) for one in told) < 10


def test_nothing_holds_a_job_that_has_its_answer(open_pipeline: Open) -> None:
    """It has pictures; what only a garbage collection finds may stay for long."""
    pipeline = open_pipeline()
    gc.disable()
    try:
        jobs = WeakSet[Job]()
        watch = pipeline._lookout.watch

        def seen(job: Job) -> None:
            jobs.add(job)
            watch(job)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline._lookout, "watch", seen)
            for one in [submitted(pipeline, styled("neon", seed=seed, image=picture())) for seed in range(20)]:
                assert isinstance(one.outcome(), Result)
        pipeline.close()
        assert not jobs
    finally:
        gc.enable()


@pytest.mark.parametrize("hang", [names_hang, objects_hang])
def test_those_who_wait_for_the_registry_hold_up_nobody_else(
    hang: Hang, gate: Gate, open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline(max_requests=20)
    hang(pipeline, gate, monkeypatch)
    waiting = [submitted(pipeline, styled("neon", seed=seed)) for seed in range(16)]
    assert gate.reached.wait(PATIENCE_S)
    assert pipeline.generate(BOAT).image
    assert pipeline.generate(styled("stained-glass")).image
    assert not any(one.outcomes for one in waiting)
    gate.open.set()
    assert all(isinstance(one.outcome(), Result) for one in waiting)


@pytest.mark.parametrize("hang", [names_hang, objects_hang])
def test_a_registry_that_does_not_answer_is_told_in_the_name_of_the_field(
    hang: Hang, gate: Gate, open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("impasto_server.adapters.residency.Access", partial(Access, limit_s=2.0, stall_s=0.05))
    pipeline = open_pipeline()
    hang(pipeline, gate, monkeypatch)
    error = submitted(pipeline, styled("neon")).outcome()
    assert isinstance(error, NoAnswer)
    assert (error.code, error.field) == ("UNAVAILABLE", FIELD)
    said = "adapter 'neon': the registry did not answer within 2 s; try again later, or name no adapter"
    assert str(error) == f"ADAPTER_NAMES: {said}"
    assert pipeline.stats.read()["failed"] == 1
    assert pipeline.generate(BOAT).image
    gate.open.set()
    assert pipeline.generate(styled("neon")).image


def test_requests_without_adapters_do_not_touch_the_registry(
    open_pipeline: Open, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline()
    monkeypatch.setattr(Registry, "look_up", pytest.fail)
    monkeypatch.setattr(Access, "start", pytest.fail)
    assert pipeline.generate(BOAT).image


def test_a_full_server_and_one_that_stops_look_no_name_up(
    gate: Gate, open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline(max_requests=1, page_rank=4, bank_bytes=2 * ROW)
    rows_are_taken(pipeline, gate, monkeypatch)
    monkeypatch.setattr(Access, "start", pytest.fail)
    with pytest.raises(Exhausted):
        submitted(pipeline, styled("nobody"))
    gate.open.set()
    pipeline.close()
    with pytest.raises(Unavailable):
        submitted(pipeline, styled("nobody"))


def test_what_was_found_out_about_those_who_wait_for_a_page_is_kept(
    gate: Gate, open_pipeline: Open, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is called once, when there is a page for it: nobody else is looked at again."""
    for seed in range(6):
        toy.register(registry, f"n{seed}", toy.adapter_bytes(10 + seed))
    pipeline = open_pipeline(page_rank=4, bank_bytes=2 * ROW)
    rows_are_taken(pipeline, gate, monkeypatch)
    planned: list[int] = []
    condition = pipeline.family.condition

    def condition_and_note(request: Request, worn: Worn, seen: Any) -> Work[Conditions]:
        planned.append(request.seeds.seed)
        return (yield from condition(request, worn, seen))

    monkeypatch.setattr(handed(pipeline), "condition", condition_and_note)
    waiting = [submitted(pipeline, styled(f"n{seed}", seed=seed)) for seed in range(6)]  # each for the one before
    deadline = monotonic() + PATIENCE_S
    while pipeline._seating._bank.waiting < len(waiting):
        assert monotonic() < deadline
        sleep(0.01)
    started = Counter[int]()
    start = pipeline._preparation.start

    def start_and_note(job: Job) -> Work[Running | None]:
        started[job.request.seeds.seed] += 1
        return start(job)

    monkeypatch.setattr(pipeline._preparation, "start", start_and_note)
    gate.open.set()
    assert all(isinstance(one.outcome(), Result) for one in waiting)
    assert sorted(planned) == list(range(len(waiting)))
    assert started == Counter(range(len(waiting)))
    assert pipeline._seating._bank.waiting == 0


def test_nobody_is_kept_in_the_banks_list_once_it_has_its_answer(
    gate: Gate, open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline(page_rank=4, bank_bytes=2 * ROW)
    rows_are_taken(pipeline, gate, monkeypatch)
    waiting = [submitted(pipeline, styled("neon", seed=seed, timeout_s=0.2)) for seed in range(8)]
    assert all(isinstance(one.outcome(), DeadlineExceeded) for one in waiting)
    assert pipeline._seating._bank.waiting == 0


def test_stages_that_have_too_many_in_common_are_told_in_the_name_of_the_field(
    open_pipeline: Open, registry: Path
) -> None:
    for stages in (61, 63, 64):
        toy.register(registry, f"s{stages}", toy.embedding_bytes(stages, stages))
    pipeline = open_pipeline()
    many = "61, 63, 64 stages is 245952, more than 4096; name fewer embeddings of many stages"
    with pytest.raises(InvalidArgument, match=f"^PROMPT: the least common multiple of {many}"):
        pipeline.generate(altered(BOAT, prompt="a <s61> <s63> <s64>"))
    with pytest.raises(InvalidArgument, match=f"^STYLE: the least common multiple of 3, {many}"):
        pipeline.generate(altered(BOAT, style=("s61", "s63", "s64"), guidance="dreamstyler"))
    assert pipeline.generate(altered(BOAT, prompt="a <s61>", style=("s64",), guidance="dreamstyler")).image


def test_whatever_becomes_of_many_nothing_is_held_in_the_end(open_pipeline: Open) -> None:
    """Four hundred requests for a bank of two rows, of which many are late or gone at some moment or other."""
    pipeline = open_pipeline(page_rank=4, bank_bytes=3 * ROW, max_requests=400)
    draw, asked = random.Random(0), list[Asked[Result]]()
    for seed in range(400):
        adapters = draw.choice([(), (("neon", 1.0),), (("neon", 0.5),), (("stained-glass", 1.0),), (("nein", 1.0),)])
        asked.append(
            submitted(pipeline, altered(BOAT, seed=seed, adapters=adapters, timeout_s=draw.choice(TIMEOUTS_S)))
        )
        if draw.random() < 0.5:
            draw.choice(asked).left.set()
    kinds = {type(one.outcome()) for one in asked}
    assert kinds <= {Result, Cancelled, DeadlineExceeded, NotFound}
    assert len(kinds) > 1
    styles = (styled("neon"), styled("stained-glass"), styled("neon", adapters=(("neon", -1.0),)))
    assert all(isinstance(submitted(pipeline, style).outcome(), Result) for style in styles)
    pipeline.close()
    assert {len(one.outcomes) for one in asked} == {1}
    assert not any(one.late for one in asked)
    bank = pipeline._seating._bank
    assert (bank.pinned, bank.waiting) == (0, 0)
    assert not pipeline._lookout._jobs
    assert pipeline.stats.read()["requests"] == 0

"""The pipeline on the toy backbone: in flight together equals alone, and one request's trouble is nobody else's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from benchmarks.common.draws import compare, noted
from numpy.typing import NDArray
from PIL import Image

from impasto_server.adapters.access import Attempt
from impasto_server.adapters.registry import Registry
from impasto_server.adapters.residency import Kind
from impasto_server.bundle import Manifest
from impasto_server.errors import (
    Cancelled,
    DeadlineExceeded,
    Exhausted,
    ImpastoError,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from impasto_server.guidance import Guidance, Lane, Mix, Mixes, Prompts, Rule
from impasto_server.pictures.image import to_uint8
from impasto_server.pipeline import Caller, Progress, Result
from impasto_server.request import Request
from impasto_server.running import Running
from impasto_server.settings import EngineName
from impasto_server.steps import Steps
from impasto_server.turns import Work
from tests.helpers import toy, toy_masked
from tests.helpers.asked import altered, request_of, together
from tests.helpers.families import handed
from tests.helpers.likeness import assert_same
from tests.helpers.waiting import Gate, eventually

from .conftest import Context, Open, on_lookout

ADAPTERS = ((), (("neon", 0.5),), (("deep", 1.0), ("stained-glass", -0.5)), (("stained-glass", 0.9),))


def request(seed: int) -> Request:
    """Requests that differ in everything a request can differ in."""
    return request_of(
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
    styled = altered(plain, adapters=(("neon", 0.5),))
    before = pipeline.generate(plain).image
    assert pipeline.generate(styled).image != before
    assert pipeline.generate(plain).image == before


def test_a_bad_request_disturbs_nobody(open_pipeline: Open) -> None:
    good, unknown = request(0), request_of("a boat", seed=1, width=64, height=64, adapters=(("nein", 1.0),))
    pipeline = open_pipeline()
    first, refused, second = together(pipeline, [good, unknown, good])
    assert isinstance(refused, NotFound)
    assert "did you mean 'neon'" in str(refused)
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert_same(first.image, second.image)


def test_adapters_too_large_for_the_bank_are_refused_and_its_pages_are_free_again(open_pipeline: Open) -> None:
    pipeline = open_pipeline(page_rank=4, bank_bytes=1000)
    wide = request_of("a boat", seed=1, width=64, height=64, adapters=(("deep", 1.0),))
    for _ in range(3):
        with pytest.raises(InvalidArgument, match="the adapters take 5 pages of rank 4, but the server's bank has 1"):
            pipeline.generate(wide)
    assert pipeline.generate(request(1)).image


def test_a_server_started_as_a_refusal_advises_paints_what_was_refused(open_pipeline: Open) -> None:
    wide = request_of("a boat", seed=1, width=64, height=64, adapters=(("deep", 1.0), ("neon", 0.5)))
    with pytest.raises(InvalidArgument, match="the adapters take 6 pages of rank 4, but the server's bank has 1") as no:
        open_pipeline(page_rank=4, bank_bytes=1000).generate(wide)
    advised = re.search(r"start the server with --bank-bytes (\d+)$", str(no.value))
    assert advised
    assert open_pipeline(page_rank=4, bank_bytes=int(advised[1])).generate(wide).image
    with pytest.raises(InvalidArgument, match="has 5"):
        open_pipeline(page_rank=4, bank_bytes=int(advised[1]) - 1).generate(wide)


def test_meta_tells_what_was_done(open_pipeline: Open) -> None:
    meta: dict[str, Any] = open_pipeline().generate(request(3)).meta
    assert meta["adapters"][0]["name"] == "stained-glass"
    assert meta["steps"] == 6
    assert (meta["engine"], meta["precision"]) == ("onnxruntime", "f32")
    assert meta["warnings"] == []
    assert all(value >= 0 for value in meta["timings"].values())


def test_a_prompt_over_the_token_limit_is_answered_with_a_warning(open_pipeline: Open) -> None:
    long = request_of("a red boat at night in stained glass", seed=1, width=64, height=64, steps=2)
    warnings = open_pipeline().generate(long).meta["warnings"]
    assert warnings == ["PROMPT: 8 tokens, but the text encoder reads 4; not read: 'night in stained glass'"]


def test_a_closed_pipeline_finishes_what_it_took_and_takes_no_more(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    answer: Future[Result | ImpastoError] = Future()
    pipeline.submit(request(2), Caller(answer.set_result))
    pipeline.close()
    assert isinstance(answer.result(0), Result)
    with pytest.raises(Unavailable):
        pipeline.submit(request(2), Caller(answer.set_result))


def test_a_drained_pipeline_finishes_what_is_done_in_time_and_tells_the_rest(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    soon, never = Future[Result | ImpastoError](), Future[Result | ImpastoError]()
    pipeline.submit(request(2), Caller(soon.set_result))
    assert pipeline.shared.drain(600) == 0
    assert isinstance(soon.result(0), Result)
    pipeline = open_pipeline()
    pipeline.submit(altered(request(2), steps=200), Caller(never.set_result))
    assert pipeline.shared.drain(0) == 1
    assert isinstance(never.result(60), Unavailable)
    with pytest.raises(Unavailable):
        pipeline.submit(request(2), Caller(print))


@pytest.mark.parametrize("patience", range(8))
def test_a_cancelled_request_stops_wherever_it_is_and_disturbs_nobody(patience: int, open_pipeline: Open) -> None:
    """`patience` questions are answered with "still waiting": queued, at each of 6 steps, then decoding."""
    pipeline = open_pipeline(bank_bytes=2000, page_rank=4)
    impatient, neighbour = request(3), request(7)
    alone = pipeline.generate(neighbour).image
    asked = iter(range(100))
    left: Future[Result | ImpastoError] = Future()
    stayed: Future[Result | ImpastoError] = Future()
    # The lookout asks as well, at any time; it isn't told.
    pipeline.submit(impatient, Caller(left.set_result, gone=lambda: not on_lookout() and next(asked) >= patience))
    pipeline.submit(neighbour, Caller(stayed.set_result))
    assert isinstance(left.result(10), Cancelled)
    assert next(asked) == patience + 1
    result = stayed.result(10)
    assert isinstance(result, Result)
    assert_same(result.image, alone)
    for _ in range(3):
        assert pipeline.generate(impatient).image


def test_a_full_server_turns_requests_away_with_a_hint_and_loses_none(open_pipeline: Open) -> None:
    pipeline = open_pipeline(max_requests=32)
    answers: list[Future[Result | ImpastoError]] = []
    refused: list[Exhausted] = []
    for _ in range(200):
        answer: Future[Result | ImpastoError] = Future()
        try:
            pipeline.submit(request(len(answers)), Caller(answer.set_result))
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
    long = [request_of("a boat", seed=i, width=64, height=64, steps=100) for i in range(4)]
    last: list[Future[Result | ImpastoError]] = [Future() for _ in range(5)]

    def note(name: str, answer: Future[Result | ImpastoError], outcome: Result | ImpastoError) -> None:
        finished.append(name)
        answer.set_result(outcome)

    for one, answer in zip(long, last, strict=False):
        pipeline.submit(one, Caller(partial(note, "long", answer)))
    pipeline.submit(request_of("a fish", seed=9, width=64, height=64, steps=4), Caller(partial(note, "short", last[4])))
    for answer in last:
        assert isinstance(answer.result(30), Result)
    assert finished[0] == "short"


def test_the_pipeline_counts_what_it_does(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    for seed in (1, 1, 5):
        pipeline.generate(request(seed))
    with pytest.raises(NotFound):
        pipeline.generate(request_of("a boat", seed=1, width=64, height=64, adapters=(("nein", 1.0),)))
    stats = pipeline.stats.read()
    assert (stats["done"], stats["refused"], stats["failed"], stats["requests"]) == (3, 1, 0, 0)
    assert (stats["steps"], stats["lanes"]) == (4 + 4 + 3, 2 * (4 + 4 + 3))
    assert (stats["adapter_loads"], stats["adapter_hits"]) == (1, 2)
    assert (stats["bank_writes"], stats["bank_hits"], stats["bank_evictions"]) == (1, 2, 0)
    assert stats["bank_bytes"] > stats["adapter_bytes"] > 0


def test_a_caller_that_fails_is_nobody_elses_trouble(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    asked = Event()

    def broken_answer(outcome: Result | ImpastoError) -> None:
        asked.set()
        raise RuntimeError("the connection is gone")

    def broken_question() -> bool:
        raise RuntimeError("the connection is gone")

    pipeline.submit(request(1), Caller(broken_answer))
    assert asked.wait(10)
    answer: Future[Result | ImpastoError] = Future()
    pipeline.submit(request(1), Caller(answer.set_result, gone=broken_question))
    assert isinstance(answer.result(10), ImpastoError)
    assert pipeline.generate(request(1)).image


def slow_registry(monkeypatch: pytest.MonkeyPatch, slow: str) -> Event:
    """Loading `slow` waits for the event that is returned."""
    go, load = Event(), Registry.load

    def wait_and_load(self: Registry, digest: str, name: str, manifest: Manifest, attempt: Attempt | None) -> Kind:
        assert name != slow or go.wait(10)
        return load(self, digest, name, manifest, attempt)

    monkeypatch.setattr(Registry, "load", wait_and_load)
    return go


def test_adapters_that_load_slowly_hold_up_nobody_else(open_pipeline: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = open_pipeline()
    go = slow_registry(monkeypatch, "deep")
    waiting: list[Future[Result | ImpastoError]] = [Future() for _ in range(20)]
    for answer in waiting:
        pipeline.submit(request(2), Caller(answer.set_result))
    assert pipeline.generate(request(0)).image
    assert pipeline.generate(request(1)).image
    assert not any(answer.done() for answer in waiting)
    go.set()
    assert all(isinstance(answer.result(10), Result) for answer in waiting)
    assert pipeline.stats.read()["adapter_loads"] == 3  # neon for one of the others, then deep and stained-glass


def test_what_no_bank_holds_is_told_in_the_name_of_the_field_that_asks_for_it(open_pipeline: Open) -> None:
    pipeline = open_pipeline(page_rank=4, bank_bytes=1000)
    styled = request_of("a boat", seed=1, width=64, height=64, steps=1, style=("deep",), guidance="styledrop")
    with pytest.raises(InvalidArgument, match="^STYLE: the adapters take 5 pages"):
        pipeline.generate(styled)
    with pytest.raises(InvalidArgument, match="^ADAPTER_NAMES: the adapters take 5 pages"):
        pipeline.generate(altered(styled, guidance="cfg", style=(), adapters=(("deep", 1.0),)))


@pytest.mark.parametrize("family", ["diffusion", "masked"])
def test_a_mix_that_leads_nowhere_paints_no_black_picture(
    family: str, open_pipeline: Open, registry: Path, open_masked: Open, masked_registry: Path
) -> None:
    pipeline, folder = (open_pipeline(), registry) if family == "diffusion" else (open_masked(), masked_registry)
    large = np.full((2, toy.CHANNELS if family == "diffusion" else toy.WIDTH), 3e38, np.float32)
    opposed = large * np.array([[1], [-1]], np.float32)  # infinity less infinity
    if family == "diffusion":
        toy.register(folder, "large", toy.adapter_bytes(unet__mix__A=large.T, unet__mix__B=opposed))
    else:
        data = toy_masked.lora_bytes(transformer__mix__A=large.T, transformer__mix__B=opposed)
        toy.register(folder, "large", data)
    scheduler = "euler" if family == "diffusion" else "amused"
    plain = request_of("a boat", seed=1, width=64, height=64, steps=4, scheduler=scheduler)
    with noted() as notes:
        alone = pipeline.generate(plain).image
    leaders = [notes.story(plain, np.random.Generator(np.random.Philox(1)), 64)] if family == "masked" else []
    with noted(*leaders) as others:
        failed, beside = together(pipeline, [altered(plain, seed=2, adapters=(("large", 4.0),)), plain])
    assert not any(compare(story, others.led(story)).wrong for story in leaders)
    assert re.fullmatch("step [12] of 4 gave NaN or infinity; lower the weights of .* guidance", str(failed))
    assert isinstance(beside, Result)
    assert_same(beside.image, alone)
    assert pipeline.stats.read()["failed"] == 1


def test_a_decoder_that_makes_nan_is_told(open_pipeline: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = open_pipeline()
    monkeypatch.setattr(handed(pipeline), "decode", lambda sample: to_uint8(np.full((3, 64, 64), np.nan, np.float32)))
    with pytest.raises(ImpastoError, match="the decoder's output is NaN; start the server with --precision f32"):
        pipeline.generate(request(0))


def test_a_sampler_that_fails_is_its_own_requests_trouble(open_pipeline: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = open_pipeline()
    begin = pipeline.family.begin

    def failing(asked: Request, *others: Any) -> Steps:
        steps = begin(asked, *others)
        if asked.words.prompt != "fish":
            return (yield from steps)
        yield next(steps)
        raise RuntimeError("no such step")

    monkeypatch.setattr(handed(pipeline), "begin", failing)
    good, bad = request(0), altered(request(0), prompt="fish")
    first, failed, second = together(pipeline, [good, bad, good])
    assert isinstance(failed, ImpastoError)
    assert "RuntimeError" in str(failed)
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    for result in (first, second):
        assert_same(result.image, pipeline.generate(good).image)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [(RuntimeError("no kernel"), ImpastoError, "RuntimeError"), (MemoryError(), Unavailable, "no memory")],
)
def test_a_request_on_which_the_engine_fails_takes_nobody_of_its_batch_with_it(
    error: Exception, kind: type[ImpastoError], said: str, open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, gate = open_pipeline(), Gate()
    forward = pipeline._loop._forward

    def failing(chosen: Sequence[tuple[Running, int]]) -> None:
        if any(one.job.request.words.prompt == "fish" for one, _ in chosen):
            raise error
        forward(chosen)

    monkeypatch.setattr(pipeline._loop, "_forward", gate.before(failing, note=len))
    good, bad = request(0), altered(request(0), prompt="fish")
    with ThreadPoolExecutor() as pool:
        begun = pool.submit(pipeline.generate, good)
        assert gate.reached.wait(60)
        others = pool.submit(together, pipeline, [bad, good])
        eventually(lambda: pipeline._loop._joining.qsize() == 2)
        gate.open.set()
        first, (failed, second) = begun.result(60), others.result(60)
    assert max(gate.came) > 1
    assert type(failed) is kind
    assert said in str(failed)
    assert isinstance(second, Result)
    for result in (first, second):
        assert_same(result.image, pipeline.generate(good).image)


def test_pictures_that_take_long_to_decode_hold_up_nobody_else(
    open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline()
    go, read = Event(), pipeline.family.read

    def wait_and_read(asked: Request) -> Work[Any]:
        assert asked.content.image is None or go.wait(30)
        return (yield from read(asked))

    monkeypatch.setattr(handed(pipeline), "read", wait_and_read)
    content = altered(request(0), image=pipeline.generate(request(0)).image)
    waiting: list[Future[Result | ImpastoError]] = [Future() for _ in range(8)]
    for answer in waiting:
        pipeline.submit(content, Caller(answer.set_result))
    assert pipeline.generate(request(1)).image
    assert not any(answer.done() for answer in waiting)
    go.set()
    assert all(isinstance(answer.result(30), Result) for answer in waiting)


def test_a_request_cancelled_while_its_adapter_loads_takes_no_step(
    open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline()
    go = slow_registry(monkeypatch, "deep")
    gone = Event()
    answer: Future[Result | ImpastoError] = Future()
    pipeline.submit(request(2), Caller(answer.set_result, gone=gone.is_set))
    gone.set()
    go.set()
    assert isinstance(answer.result(10), Cancelled)
    assert pipeline.stats.read()["steps"] == 0


def test_a_full_bank_holds_up_only_those_who_need_a_page(open_pipeline: Open) -> None:
    """One page beside the plain backbone's: twenty who want neon share it, twenty others wait for them."""
    pipeline = open_pipeline(bank_bytes=800, page_rank=4)
    neon = [request_of("a boat", seed=i, width=64, height=64, steps=9, adapters=(("neon", 1.0),)) for i in range(20)]
    glass = [altered(one, adapters=(("stained-glass", 0.5),)) for one in neon]
    plain = request_of("a boat", seed=1, width=64, height=64, steps=1)
    alone = [pipeline.generate(one).image for one in (*neon, *glass)]
    results = together(pipeline, [*neon, *glass, plain])
    assert [result.image for result in results[:-1] if isinstance(result, Result)] == alone
    assert isinstance(results[-1], Result)


def test_sixty_four_mixes_at_once_are_had_with_the_memory_that_is_there_by_default(
    open_pipeline: Open, registry: Path
) -> None:
    """Of one to five of twelve adapters of ranks 1 to 128: each adapter is written once, and nobody is refused."""
    draw = np.random.default_rng(0)
    ranks = [1, 4, 8, 16, 17, 32, 64, 128, 4, 16, 64, 128]
    for number, rank in enumerate(ranks):
        scale = np.array(0.2 / rank, np.float32)
        toy.register(registry, f"s{number}", toy.adapter_bytes(100 + number, rank, unet__mix__scale=scale))
    mixes: dict[tuple[tuple[str, float], ...], None] = {}
    while len(mixes) < 64:
        chosen = draw.choice(len(ranks), size=int(draw.integers(1, 6)), replace=False)
        mixes[tuple((f"s{number}", float(draw.uniform(0.2, 1))) for number in chosen)] = None
    pipeline = open_pipeline()
    asked = [request_of("a boat", seed=i, width=64, height=64, steps=3, adapters=mix) for i, mix in enumerate(mixes)]
    results = together(pipeline, asked)
    assert all(isinstance(result, Result) for result in results)
    stats = pipeline.stats.read()
    assert (stats["bank_writes"], stats["bank_evictions"], stats["refused"]) == (len(ranks), 0, 0)
    page = 4 * 16 * 2 * (toy.CHANNELS + toy.WIDTH)
    assert stats["bank_written_bytes"] == page * sum((rank + 15) // 16 for rank in ranks)


def test_lanes_of_one_request_may_have_different_adapters(open_pipeline: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neon on one lane and none on the other, half each: the mean of the two predictions, at every step."""
    pipeline = open_pipeline()
    asked = request_of("a boat", seed=3, width=64, height=64, steps=1, scheduler="ddim", adapters=(("neon", 1.0),))

    class HalfAndHalf(Rule):
        def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
            return Guidance.over((0.5, 0.5, Lane(prompts.full, mixes.full)), (0.5, 0.5, Lane(prompts.full, Mix())))

    def latents(one: Request) -> NDArray[np.float32]:
        seen: list[NDArray[np.float32]] = []
        decode = pipeline.family.decode

        def decode_and_note(given: NDArray[np.float32]) -> NDArray[np.uint8]:
            seen.append(given)
            return decode(given)

        monkeypatch.setattr(handed(pipeline), "decode", decode_and_note)
        pipeline.generate(one)
        return seen[0]

    with_neon, without = (latents(altered(asked, guidance_scale=1.0, adapters=a)) for a in (asked.styles.adapters, ()))
    np.testing.assert_allclose(latents(replace(asked, rule=HalfAndHalf())), (with_neon + without) / 2, atol=1e-5)
    assert np.abs(with_neon - without).max() > 0.01


def test_progress_comes_in_order_and_before_the_picture(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    news: list[Progress | Result | ImpastoError] = []
    finished = Event()

    def done(outcome: Result | ImpastoError) -> None:
        news.append(outcome)
        finished.set()

    asked = altered(request(0), steps=7, preview_every=3)
    pipeline.submit(asked, Caller(done, progress=news.append))
    assert finished.wait(10)
    steps = [one for one in news if isinstance(one, Progress)]
    assert [(one.step, one.steps) for one in steps] == [(i, 7) for i in range(1, 8)]
    assert steps[-1].eta_s == 0
    assert [one.step for one in steps if one.previews] == [3, 6]
    assert isinstance(news[-1], Result)
    assert Image.open(BytesIO(*steps[2].previews)).size == (asked.size.width // 8, asked.size.height // 8)


def test_a_preview_has_the_colours_of_the_picture(open_pipeline: Open) -> None:
    """The toy decoder is linear but for its clipping, so its nearest linear map shows the picture as it will be."""
    pipeline = open_pipeline()
    latents = np.random.default_rng(0).standard_normal((4, 8, 8)).astype(np.float32) * np.float32(0.2)
    shown = np.asarray(Image.open(BytesIO(pipeline.family.preview(latents))), int)
    painted = pipeline.family.decode(latents)[::8, ::8].astype(int)
    assert np.abs(shown - painted).mean() < 16
    assert np.corrcoef(shown.ravel(), painted.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(("steps", "timeout_s"), [(1, 1.0), (200, 30.0)])
def test_a_request_whose_time_has_passed_is_told_so_and_worked_on_no_more(
    steps: int, timeout_s: float, open_pipeline: Open, every_look_takes_a_second: Context
) -> None:
    pipeline = open_pipeline()
    late = altered(request(0), steps=steps, timeout_s=timeout_s)
    with (
        every_look_takes_a_second(),
        pytest.raises(DeadlineExceeded, match=rf"no image within .* s \(\d+ of {steps} steps were done\)"),
    ):
        pipeline.generate(late)
    stats = pipeline.stats.read()
    assert (stats["expired"], stats["failed"], stats["requests"]) == (1, 0, 0)
    assert stats["steps"] < timeout_s
    assert pipeline.generate(altered(request(0), timeout_s=30.0)).image

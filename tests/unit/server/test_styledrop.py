"""StyleDrop's rules, their adapters, candidates and token pictures, through the pipeline on the toys of both families.

A lane alone is had by other means: classifier-free guidance of scale 1 under the adapters and with the words of that
lane, or of scale 0 for the null.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from impasto_server.adapters.shelf import Folder
from impasto_server.backbone import Backbone, Row
from impasto_server.errors import Cancelled, DeadlineExceeded, FieldError, ImpastoError, InvalidArgument, NotFound
from impasto_server.pipeline import Caller, Pipeline, Progress, Result
from impasto_server.request import Request
from impasto_server.steps import BASE, Sample, Steps
from impasto_server.values import MAX_SEED
from tests.helpers import toy, toy_masked
from tests.helpers.asked import altered, request_of
from tests.helpers.families import handed
from tests.helpers.pictures import png

from .conftest import Context, Open, on_lookout

Array = NDArray[np.float32]

FISH = request_of("a fish", seed=3, width=64, height=64, steps=6, negative_prompt="blurry")
STYLED = altered(FISH, guidance="styledrop", style=("glass",))
COMPOSED = altered(STYLED, guidance="styledrop-compose", content="cat", gamma=0.4)
SCHEDULERS = {"masked": ("maskgit", "amused"), "diffusion": ("ddim", "euler")}


@pytest.fixture(params=["masked", "diffusion"])
def family(request: pytest.FixtureRequest) -> str:
    """Of the backbone that a test runs on."""
    return str(request.param)


@pytest.fixture
def open_either(family: str, open_masked: Open, open_pipeline: Open, registry: Path, masked_registry: Path) -> Open:
    """In either registry `glass` is an adapter with a template, `wordless` has none, `cat` reaches the text encoder."""
    template = {"prompt": toy_masked.TEMPLATE}
    toy.register(masked_registry, "glass", toy_masked.bottleneck_bytes(7, header=template))
    toy.register(masked_registry, "wordless", toy_masked.bottleneck_bytes(8, rank=3, gelu="tanh"))
    toy.register(masked_registry, "cat", toy_masked.lora_bytes(9, text_encoder=True))
    toy.register(registry, "glass", toy.adapter_bytes(7, header=template))
    toy.register(registry, "wordless", toy.adapter_bytes(8, rank=3))
    toy.register(registry, "cat", toy.adapter_bytes(9, text_encoder=True))
    return open_masked if family == "masked" else open_pipeline


@pytest.fixture
def pipeline(open_either: Open) -> Pipeline:
    return open_either()


def of(family: str, request: Request, scheduler: int = 0) -> Request:
    """The request with a scheduler of the family."""
    return altered(request, scheduler=SCHEDULERS[family][scheduler])


def answers(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, request: Request) -> list[Array]:
    """What the first candidate's sampler is sent: the guided predictions of every step."""
    begin = pipeline.family.begin
    heard: list[list[Array]] = []

    def recorded(steps: Steps, sent: list[Array]) -> Steps:
        ask = next(steps)
        while True:
            sent.append((yield ask))
            try:
                ask = steps.send(sent[-1])
            except StopIteration as stop:
                finished: Sample = stop.value
                return finished

    def begin_and_record(*args: Any) -> Steps:
        heard.append([])
        return recorded(begin(*args), heard[-1])

    with monkeypatch.context() as patch:
        patch.setattr(handed(pipeline), "begin", begin_and_record)
        pipeline.generate(request)
    return heard[0]


@dataclass(frozen=True)
class Witness:
    """A backbone that writes down the rows it is given."""

    inner: Backbone
    batches: list[list[Row]] = field(default_factory=list)

    def room(self, sample: Sample, most: int) -> int:
        return self.inner.room(sample, most)

    def run(self, rows: Sequence[Row]) -> Array:
        self.batches.append(list(rows))
        return self.inner.run(rows)


def rows(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, request: Request) -> list[list[Row]]:
    """Of every batch of one request."""
    witness = Witness(pipeline.family.backbones[BASE])
    with monkeypatch.context() as patch:
        patch.setitem(handed(pipeline).backbones, BASE, witness)
        pipeline.generate(request)
    return witness.batches


def together(pipeline: Pipeline, requests: list[Request]) -> list[Result]:
    waiting: list[Future[Result | ImpastoError]] = [Future() for _ in requests]
    for one, answer in zip(requests, waiting, strict=True):
        pipeline.submit(one, Caller(answer.set_result))
    outcomes = [answer.result(60) for answer in waiting]
    assert all(isinstance(outcome, Result) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Result)]


def content(seed: int = 0) -> bytes:
    """Squares of any colour, as a PNG file."""
    squares = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return png(squares.repeat(8, axis=0).repeat(8, axis=1))


# the rules


def alone(request: Request, prompt: str, *adapters: str) -> Request:
    """The lane that says `prompt` under `adapters`, by classifier-free guidance of scale 1."""
    named = tuple((name, 1.0) for name in adapters)
    return altered(request, prompt=prompt, adapters=named, guidance="cfg", guidance_scale=1.0, style=(), content=None)


def test_styledrop_weighs_the_lanes_by_equation_4(
    pipeline: Pipeline, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = of(family, altered(STYLED, style_strength=1.5, text_strength=4.0))
    lanes = [
        alone(request, "a fish in glass", "glass"),
        alone(request, "a fish in glass"),
        alone(request, request.words.negative_prompt),
    ]
    adapted, plain, null = (answers(pipeline, monkeypatch, lane)[0] for lane in lanes)
    expected = adapted + 1.5 * (adapted - plain) + 4.0 * (plain - null)
    np.testing.assert_allclose(answers(pipeline, monkeypatch, request)[0], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(adapted - plain).max() > 0.1
    assert np.abs(plain - null).max() > 0.1


def test_compose_weighs_the_lanes_by_section_3_4(
    pipeline: Pipeline, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content's adapter changes the text encoder, too, and the plain backbone's lanes have none of it."""
    request = of(family, altered(COMPOSED, style_strength=1.5, text_strength=4.0, gamma=0.3))
    null = answers(pipeline, monkeypatch, alone(request, request.words.negative_prompt))[0]

    def half(prompt: str, adapter: str) -> Array:
        adapted, plain = (
            answers(pipeline, monkeypatch, lane)[0]
            for lane in (alone(request, prompt, adapter), alone(request, prompt))
        )
        guided: Array = adapted + np.float32(1.5) * (adapted - plain) + np.float32(4.0) * (plain - null)
        return guided

    expected = 0.7 * half("a fish in glass", "glass") + 0.3 * half("a fish", "cat")
    np.testing.assert_allclose(answers(pipeline, monkeypatch, request)[0], expected, rtol=1e-4, atol=1e-4)


def test_all_style_is_styledrop(pipeline: Pipeline, family: str) -> None:
    composed, styled = of(family, altered(COMPOSED, gamma=0.0)), of(family, STYLED)
    assert pipeline.generate(composed).image == pipeline.generate(styled).image


def test_without_strengths_the_adapter_and_its_words_are_all(pipeline: Pipeline, family: str) -> None:
    weak = of(family, altered(STYLED, style_strength=0.0, text_strength=0.0))
    assert pipeline.generate(weak).image == pipeline.generate(alone(weak, "a fish in glass", "glass")).image
    content = altered(weak, guidance="styledrop-compose", content="cat", gamma=1.0)
    assert pipeline.generate(content).image == pipeline.generate(alone(content, "a fish", "cat")).image
    other = altered(content, content_prompt="a house")
    assert pipeline.generate(other).image == pipeline.generate(alone(other, "a house", "cat")).image


def test_adapter_names_are_part_of_what_is_adapted(
    pipeline: Pipeline, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of a style and beside one; a style's template is said either way, theirs are not."""
    weak = of(family, altered(STYLED, style_strength=0.0, text_strength=0.0))
    beside = altered(weak, adapters=(("cat", 1.0),))
    np.testing.assert_allclose(
        answers(pipeline, monkeypatch, beside)[0],
        answers(pipeline, monkeypatch, alone(weak, "a fish in glass", "glass", "cat"))[0],
        atol=1e-4,
    )
    instead = altered(weak, style=(), adapters=(("glass", 1.0), ("wordless", 1.0)))
    np.testing.assert_array_equal(
        answers(pipeline, monkeypatch, instead)[0],
        answers(pipeline, monkeypatch, alone(weak, "a fish", "glass", "wordless"))[0],
    )


def test_a_style_without_words_of_its_own_leaves_the_prompt_as_it_is(pipeline: Pipeline, family: str) -> None:
    weak = of(family, altered(STYLED, style=("wordless",), style_strength=0.0, text_strength=0.0))
    assert pipeline.generate(weak).image == pipeline.generate(alone(weak, "a fish", "wordless")).image


def test_who_knows_no_words_of_the_style_must_say_the_contents(pipeline: Pipeline, family: str) -> None:
    wordless = of(family, altered(COMPOSED, style=("wordless",)))
    said = "CONTENT_PROMPT: is missing, and 'wordless' doesn't say which words of the prompt are its style's; pass the"
    with pytest.raises(InvalidArgument, match=f"^{re.escape(said)}"):
        pipeline.generate(wordless)
    assert pipeline.generate(altered(wordless, content_prompt="a house")).image


# lanes


def test_as_many_rows_are_run_as_lanes_count(pipeline: Pipeline, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def counts(request: Request) -> list[int]:
        return [len(batch) for batch in rows(pipeline, monkeypatch, of(family, altered(request, steps=4)))]

    assert counts(altered(STYLED, style_strength=2.0)) == [3] * 4
    assert counts(altered(STYLED, text_strength=0.0)) == [2] * 4
    assert counts(altered(STYLED, style_strength=5.0)) == [2] * 4
    assert counts(COMPOSED) == [5] * 4
    assert counts(altered(COMPOSED, gamma=1.0)) == [3] * 4
    assert counts(altered(FISH, guidance_scale=0.0)) == [1] * 4


def test_a_ramp_begins_with_the_adapted_lane_alone(
    pipeline: Pipeline, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strengths are 0 there: neither the null nor the plain backbone is run."""
    request = of(family, altered(STYLED, guidance_ramp=True))
    assert [len(batch) for batch in rows(pipeline, monkeypatch, request)] == [1, 3, 3, 3, 3, 3]
    composed = of(family, altered(COMPOSED, guidance_ramp=True))
    assert [len(batch) for batch in rows(pipeline, monkeypatch, composed)] == [2, 5, 5, 5, 5, 5]
    two = altered(request, n=2)
    assert [len(batch) for batch in rows(pipeline, monkeypatch, two)] == [2, 6, 6, 6, 6, 6]
    cfg = of(family, altered(FISH, guidance_ramp=True, guidance_scale=7.5))
    assert [len(batch) for batch in rows(pipeline, monkeypatch, cfg)] == [1, 2, 2, 2, 2, 2]


def test_a_ramp_ends_at_full_strength(pipeline: Pipeline, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two steps, where the first was painted without any."""
    request = of(family, altered(STYLED, steps=2, style_strength=4.0, text_strength=2.0))
    weak = altered(request, style_strength=0.0, text_strength=0.0)
    ramped, first = (answers(pipeline, monkeypatch, one) for one in (altered(request, guidance_ramp=True), weak))
    np.testing.assert_array_equal(ramped[0], first[0])
    _, last = rows(pipeline, monkeypatch, altered(request, guidance_ramp=True))
    np.testing.assert_array_equal(last[0].ask.sample, rows(pipeline, monkeypatch, weak)[1][0].ask.sample)
    adapted, plain, null = pipeline.family.backbones[BASE].run(last)
    expected = adapted + 4.0 * (adapted - plain) + 2.0 * (plain - null)
    np.testing.assert_allclose(ramped[1], expected, rtol=1e-4, atol=1e-4)
    assert pipeline.generate(altered(request, guidance_ramp=True)).meta["guidance_ramp"] is True
    assert "guidance_ramp" not in pipeline.generate(request).meta


def test_one_step_of_a_ramp_is_at_full_strength(pipeline: Pipeline, family: str) -> None:
    request = of(family, altered(STYLED, steps=1))
    assert pipeline.generate(request).image == pipeline.generate(altered(request, guidance_ramp=True)).image


# adapters of both kinds in the rows of one batch


@pytest.mark.parametrize("names", [("stained-glass", "neon"), ("crayon", "my-toy"), ("neon", "crayon")])
def test_a_mix_is_the_weighted_sum_of_what_its_adapters_add(
    names: tuple[str, str], open_masked: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bottlenecks of either gelu, LoRAs, and one of each kind; weights are tiny, for a tanh stands behind the LoRA."""
    pipeline, tiny = open_masked(), 1e-3
    shelf = pipeline._residency._registry._shelf
    assert isinstance(shelf, Folder)
    toy.register(shelf.folder, "my-toy", toy_masked.lora_bytes(4, rank=20))
    plain = alone(of("masked", altered(FISH, steps=1)), "a fish")
    weights = (0.5 * tiny, -tiny)

    def added(*adapters: tuple[str, float]) -> Array:
        guided = answers(pipeline, monkeypatch, altered(plain, adapters=adapters))[0].astype(np.float64)
        return (guided - answers(pipeline, monkeypatch, plain)[0]) / tiny

    both = added(*zip(names, weights, strict=True))
    one, other = (added((name, tiny)) for name in names)
    np.testing.assert_allclose(both, 0.5 * one - other, atol=0.05 * np.abs(other).max())
    assert np.abs(other).max() > 0.1


def test_the_gelu_that_an_adapter_was_trained_with_is_used(
    open_masked: Open, masked_registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights under the exact gelu, the approximation, and half of either."""
    pipeline = open_masked()
    for gelu in ("exact", "tanh"):
        toy.register(masked_registry, gelu, toy_masked.bottleneck_bytes(5, rank=4, gelu=gelu))
    plain = of("masked", alone(altered(FISH, steps=1), "a fish"))

    def guided(*adapters: tuple[str, float]) -> Array:
        return answers(pipeline, monkeypatch, altered(plain, adapters=adapters))[0]

    exact, approximate = guided(("exact", 1.0)), guided(("tanh", 1.0))
    assert 1e-5 < np.abs(exact - approximate).max() < 1e-2
    np.testing.assert_allclose(guided(("exact", 0.5), ("tanh", 0.5)), (exact + approximate) / 2, atol=2e-6)


KINDS: dict[str, Request] = {
    "plain": FISH,
    "exact bottleneck": STYLED,
    "tanh bottleneck": altered(STYLED, style=("wordless",), seed=4),
    "LoRA": altered(STYLED, style=("cat",), seed=5, text_strength=1.0),
    "a mix of kinds": altered(STYLED, style=(), adapters=(("glass", 0.7), ("cat", -0.4), ("wordless", 0.2)), steps=5),
    "a mix beside a style": altered(STYLED, adapters=(("cat", 0.5),), seed=6),
    "classifier-free": altered(FISH, adapters=(("glass", 1.0), ("cat", 0.6)), guidance_scale=5.0, steps=8),
    "composed": COMPOSED,
    "composed from content": altered(COMPOSED, image=content(), strength=0.5, steps=8, gamma=0.7),
    "composed the other way": altered(COMPOSED, style=("cat",), content="glass", content_prompt="a house"),
    "all content": altered(COMPOSED, gamma=1.0, width=32, seed=9),
    "ramped": altered(STYLED, guidance_ramp=True, steps=9),
    "ramped composition": altered(COMPOSED, guidance_ramp=True, text_strength=-1.0, height=32),
    "an embedding": altered(FISH, style=("sks03",), guidance="dreamstyler", guidance_scale=2.0),
    "an embedding in the prompt": altered(STYLED, prompt="a <sks03>"),
    "from content": altered(FISH, image=content(1), strength=0.3, steps=10, scheduler="amused", temperature=9.0),
}


def test_sixteen_kinds_in_flight_are_what_they_are_alone(open_either: Open, family: str) -> None:
    """To the last byte: batches of other sizes round predictions otherwise, and that must not reach a picture."""
    pipeline = open_either(max_lanes=16)
    requests = [of(family, request, scheduler=i % 2) for i, request in enumerate(KINDS.values())]
    expected = [pipeline.generate(request).image for request in requests]
    assert len(set(expected)) == len(KINDS) == 16
    assert [result.image for result in together(pipeline, requests)] == expected


# candidates


@pytest.mark.parametrize("kind", ["plain", "ramped", "composed", "composed from content", "from content"])
def test_candidates_are_what_their_seeds_paint_alone(kind: str, open_either: Open, family: str) -> None:
    pipeline = open_either(max_lanes=8)
    request = of(family, altered(KINDS[kind], seed=40, n=5))
    result = pipeline.generate(request)
    alone = [pipeline.generate(altered(request, seed=40 + i, n=1)) for i in range(5)]
    assert result.images == tuple(one.image for one in alone)
    assert result.seeds == (40, 41, 42, 43, 44)
    assert len(set(result.images)) == 5
    assert (result.image, result.seed, result.scores) == (result.images[0], 40, None)


def test_the_seed_after_the_last_is_the_first(pipeline: Pipeline, family: str) -> None:
    result = pipeline.generate(of(family, altered(STYLED, seed=MAX_SEED, n=2, steps=2)))
    assert result.seeds == (MAX_SEED, 0)
    assert result.images[1] == pipeline.generate(of(family, altered(STYLED, seed=0, steps=2))).image


def test_candidates_share_a_step_and_a_page_of_the_bank(pipeline: Pipeline, family: str) -> None:
    before = pipeline.stats.read()
    pipeline.generate(of(family, altered(STYLED, n=2)))
    after = pipeline.stats.read()
    assert after["steps"] - before["steps"] == STYLED.sampling.steps
    assert after["lanes"] - before["lanes"] == 2 * 3 * STYLED.sampling.steps
    assert after["bank_writes"] - before["bank_writes"] == 1
    assert after["done"] - before["done"] == 1


def test_more_rows_than_a_batch_holds_are_run_in_turns(open_either: Open, family: str) -> None:
    wide, narrow = open_either(max_lanes=64), open_either(max_lanes=3)
    request = of(family, altered(COMPOSED, n=16, steps=2))
    assert wide.generate(request).images == narrow.generate(request).images
    assert narrow.stats.read()["steps"] == 54  # 160 rows


def test_each_step_has_a_preview_of_every_candidate(pipeline: Pipeline, family: str) -> None:
    """Of tokens that are masked again, the last ones drawn: a mask has no colour."""
    news: list[Progress] = []
    answer: Future[Result | ImpastoError] = Future()
    request = of(family, altered(STYLED, n=3, preview_every=1, width=32))
    pipeline.submit(request, Caller(answer.set_result, progress=news.append))
    assert isinstance(answer.result(20), Result)
    assert [len(one.previews) for one in news] == [3] * (STYLED.sampling.steps - 1) + [0]
    assert {Image.open(BytesIO(preview)).size for one in news for preview in one.previews} == {(4, 8)}


@pytest.mark.parametrize("patience", range(8))
def test_candidates_are_all_cancelled_wherever_they_are(patience: int, open_either: Open, family: str) -> None:
    """`patience` questions are answered with "still waiting": queued, at each of 6 steps, then decoding."""
    pipeline = open_either()
    request = of(family, altered(STYLED, n=2))
    pipeline.generate(request)  # nobody has to wait for its adapter any more
    before = pipeline.stats.read()["steps"]
    asked = iter(range(100))
    answer: Future[Result | ImpastoError] = Future()
    pipeline.submit(request, Caller(answer.set_result, gone=lambda: not on_lookout() and next(asked) >= patience))
    assert isinstance(answer.result(20), Cancelled)
    assert pipeline.stats.read()["steps"] - before == max(0, min(patience - 1, 6))
    assert pipeline.generate(request).images


def test_candidates_that_come_too_late_are_given_up(
    open_either: Open, family: str, every_look_takes_a_second: Context
) -> None:
    pipeline = open_either()
    with every_look_takes_a_second(), pytest.raises(DeadlineExceeded, match=r"\(\d+ of 200 steps were done\)"):
        pipeline.generate(of(family, altered(COMPOSED, n=16, steps=200, timeout_s=30.0)))
    stats = pipeline.stats.read()
    assert (stats["expired"], stats["requests"]) == (1, 0)
    assert len(pipeline.generate(of(family, altered(COMPOSED, n=3, timeout_s=30.0))).images) == 3


# rerank


@dataclass
class Critic:
    """A scorer that says what it is told to of one picture after another, and remembers them; it reads five letters.

    All texts and references have one embedding, and that of a picture is at the angle to it whose cosine is its score.
    """

    scores: list[float]
    asked: list[Any] = field(default_factory=list)
    reference: NDArray[np.uint8] | None = None

    def unread(self, text: str) -> str:
        return text[5:]

    def texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        self.asked += texts
        return np.array([[1.0, 0.0]])

    def images(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        self.asked += pictures
        if self.reference is not None and np.array_equal(pictures[0], self.reference):
            return np.array([[1.0, 0.0]])
        score = self.scores.pop(0)
        return np.array([[score, np.sqrt(1 - score**2)]])


Rank = Callable[..., tuple[Result, Critic]]


@pytest.fixture
def rank(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Rank:
    """What becomes of a request whose candidates get these scores."""

    def rank_(request: Request, scores: list[float], reference: Any = None) -> tuple[Result, Critic]:
        critic = Critic(scores, reference=reference)
        monkeypatch.setattr(pipeline._ranking, "_scorer", critic)
        return pipeline.generate(request), critic

    return rank_


def test_the_best_fit_to_the_prompt_is_first(rank: Rank, pipeline: Pipeline, family: str) -> None:
    request = of(family, altered(STYLED, n=4, seed=10, steps=2))
    ranked, critic = rank(altered(request, rerank="text"), [0.1, 0.9, -0.2, 0.5])
    painted = pipeline.generate(request)
    assert ranked.scores == (0.9, 0.5, 0.1, -0.2)
    assert ranked.seeds == (11, 13, 10, 12)
    assert ranked.images == tuple(painted.images[i] for i in (1, 3, 0, 2))
    assert (ranked.meta["rerank"], painted.scores) == ("text", None)
    *pixels, text = critic.asked
    assert text == "a fish"
    np.testing.assert_array_equal(pixels, [np.asarray(Image.open(BytesIO(image))) for image in painted.images])


def test_the_nearest_to_the_style_picture_is_first(rank: Rank, family: str) -> None:
    """Which is compared as it is, whatever its size."""
    picture = np.random.default_rng(0).integers(0, 256, (20, 50, 3), np.uint8)
    request = of(family, altered(STYLED, n=2, seed=10, steps=2, rerank="style", style_image=png(picture)))
    ranked, critic = rank(request, [0.1, 0.2], picture)
    assert ranked.seeds == (11, 10)
    reference, *pixels = critic.asked
    assert len(pixels) == 2
    np.testing.assert_array_equal(np.asarray(reference), picture)


def test_what_the_scorer_does_not_read_is_warned_of(rank: Rank, family: str) -> None:
    request = of(family, altered(STYLED, steps=2, rerank="text"))
    ranked, _ = rank(request, [0.5])
    assert ranked.meta["warnings"] == ["RERANK: the scorer doesn't read all of PROMPT; not read: 'h'"]
    ranked, _ = rank(altered(request, prompt="house"), [0.5])
    assert ranked.meta["warnings"] == []


def test_equal_scores_stay_in_the_order_of_their_seeds(rank: Rank, family: str) -> None:
    ranked, _ = rank(of(family, altered(STYLED, n=3, seed=10, steps=2, rerank="text")), [0.5, 0.7, 0.5])
    assert ranked.seeds == (11, 10, 12)


def test_a_single_candidate_has_a_score_too(rank: Rank, family: str) -> None:
    ranked, _ = rank(of(family, altered(STYLED, steps=2, rerank="text")), [0.25])
    assert ranked.scores == (0.25,)


def test_without_a_scorer_nothing_can_be_ranked(pipeline: Pipeline, family: str) -> None:
    said = "RERANK: this server has no scorer; leave it out, or start it with --scorer"
    with pytest.raises(InvalidArgument, match=f"^{said}$"):
        pipeline.generate(of(family, altered(STYLED, rerank="text")))
    assert pipeline.stats.read()["steps"] == 0


def test_a_style_picture_that_cannot_be_read_stops_the_request_before_it_is_painted(
    rank: Rank, pipeline: Pipeline, family: str
) -> None:
    with pytest.raises(InvalidArgument, match="^STYLE_IMAGE: is not a PNG, JPEG or WebP file"):
        rank(of(family, altered(STYLED, rerank="style", style_image=b"GIF89a")), [])
    assert pipeline.stats.read()["steps"] == 0


# content images as tokens


def squares(file: bytes) -> NDArray[np.uint8]:
    """The colour of every token of a picture on the toy: [h, w, 3]."""
    return np.asarray(Image.open(BytesIO(file)))[::8, ::8]


def repainted(request: Request) -> NDArray[np.bool_]:
    """Which tokens of the content are masked at the start."""
    left_out = (request.sampling.steps - request.steps_to_run) / request.sampling.steps
    uniform = np.random.Generator(np.random.Philox(request.seeds.seed)).random((8, 8))
    masked: NDArray[np.bool_] = uniform < np.cos(np.pi / 2 * left_out)
    return masked


@pytest.mark.parametrize(("steps", "strength"), [(10, 0.1), (10, 0.5), (12, 0.25), (4, 0.75)])
def test_what_is_known_of_the_content_stays(steps: int, strength: float, open_masked: Open) -> None:
    pipeline = open_masked()
    painted = pipeline.generate(of("masked", FISH)).image  # of the codebook's colours, so its tokens are known
    request = of("masked", altered(STYLED, style=("neon",), seed=8, image=painted, steps=steps, strength=strength))
    result = pipeline.generate(request)
    changed = (squares(result.image) != squares(painted)).any(axis=-1)
    assert changed.any()
    assert not (changed & ~repainted(request)).any()
    assert result.meta["steps"] == round(steps * strength)


def test_content_of_which_nothing_is_unknown_is_answered_as_it_is(open_masked: Open) -> None:
    pipeline = open_masked()
    painted = pipeline.generate(of("masked", FISH)).image
    requests = (of("masked", altered(FISH, image=painted, steps=200, strength=0.005, seed=i)) for i in range(100))
    untouched = next(request for request in requests if not repainted(request).any())
    assert (squares(pipeline.generate(untouched).image) == squares(painted)).all()


# bad input


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"style": ("nobody",)}, NotFound, "STYLE: no adapter 'nobody'"),
        ({"content": "nobody"}, NotFound, "CONTENT: no adapter 'nobody'"),
        ({"content_prompt": "<nobody>"}, NotFound, "CONTENT_PROMPT: no adapter 'nobody'"),
        ({"style": ("sks03",)}, InvalidArgument, "STYLE: 'sks03' is an embedding; write <sks03> in PROMPT, or name it"),
        ({"content": "sks03"}, InvalidArgument, "CONTENT: 'sks03' is an embedding; write <sks03> in PROMPT, or name"),
        ({"prompt": "<glass>"}, InvalidArgument, "PROMPT: 'glass' is an adapter, not an embedding; name it in"),
    ],
)
def test_what_is_named_where_it_does_not_belong_is_refused(
    changed: dict[str, Any], error: type[FieldError], message: str, pipeline: Pipeline, family: str
) -> None:
    good = of(family, COMPOSED)
    before = pipeline.generate(good).image
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        pipeline.generate(altered(good, **changed))
    assert pipeline.generate(good).image == before


def test_words_that_are_not_read_are_warned_of_where_they_stand(pipeline: Pipeline, family: str) -> None:
    """The text encoder reads four; a template's words count."""
    long = of(family, altered(COMPOSED, prompt="a red fish", content_prompt="a red boat at night", steps=1))
    assert pipeline.generate(long).meta["warnings"] == [
        "PROMPT: 5 tokens, but the text encoder reads 4; not read: 'glass'",
        "CONTENT_PROMPT: 5 tokens, but the text encoder reads 4; not read: 'night'",
    ]


def test_an_empty_content_prompt_is_an_empty_prompt(
    pipeline: Pipeline, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak = altered(COMPOSED, content_prompt="", gamma=1.0, style_strength=0.0, text_strength=0.0, steps=1)
    request = of(family, weak)
    np.testing.assert_array_equal(
        answers(pipeline, monkeypatch, request)[0], answers(pipeline, monkeypatch, alone(request, "", "cat"))[0]
    )


@pytest.mark.parametrize("where", ["style", "content", "adapters"])
def test_an_adapter_of_the_other_family_is_refused_where_it_is_named(where: str, open_masked: Open) -> None:
    value: Any = {"style": ("diffuse",), "content": "diffuse", "adapters": (("diffuse", 1.0),)}[where]
    field = {"adapters": "ADAPTER_NAMES"}.get(where, where.upper())
    request = altered(of("masked", COMPOSED), style=("stained-glass",), content="crayon")
    said = f"{field}: adapter 'diffuse' is for a diffusion backbone, but 'toy-masked' is masked; name an adapter that"
    with pytest.raises(InvalidArgument, match=f"^{re.escape(said)}"):
        open_masked().generate(altered(request, **{where: value}))


def test_meta_tells_of_the_rule_and_its_adapters(pipeline: Pipeline, family: str) -> None:
    meta: Any = pipeline.generate(of(family, altered(COMPOSED, text_strength=4.0))).meta
    assert [(one["name"], one["weight"]) for one in meta["adapters"]] == [("glass", 1.0), ("cat", 1.0)]
    assert meta["embeddings"] == []
    assert (meta["guidance"], meta["style"], meta["content"]) == ("styledrop-compose", ["glass"], "cat")
    assert (meta["style_strength"], meta["text_strength"], meta["gamma"]) == (2.0, 4.0, 0.4)
    assert "guidance_scale" not in meta
    assert meta.get("temperature") == (2.0 if family == "masked" else None)

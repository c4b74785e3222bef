"""What a request asks for beside its steps is done by turns: a little never waits for a lot, and memory has a bound.

Each test holds something up until everybody is there, so that turns alone decide who is done first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from threading import Lock
from time import sleep
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from impasto_server import pipeline as pipelines
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import Cancelled, ImpastoError, InvalidArgument
from impasto_server.job import Job
from impasto_server.pictures.content import pixels_in, read_image
from impasto_server.pipeline import Caller, Pipeline, Result
from impasto_server.request import Request
from impasto_server.running import Running
from impasto_server.scoring.score import Scorer
from impasto_server.settings import Settings
from tests.helpers import toy
from tests.helpers.asked import altered, request_of
from tests.helpers.families import encoders, handed
from tests.helpers.waiting import PATIENCE_S, Gate, eventually

from .conftest import Open

ROW = 4 * 32 * 2 * (toy.CHANNELS + toy.WIDTH)  # bytes of an adapter of rank 32 in the bank
BOAT = request_of("a boat", seed=1, width=64, height=64, steps=1)


@dataclass
class Crowd:
    """Requests under way, by name, and in which order they are answered."""

    pipeline: Pipeline
    order: list[str] = field(default_factory=list)
    answers: list[Future[Result | ImpastoError]] = field(default_factory=list)

    def ask(self, name: str, request: Request) -> Future[Result | ImpastoError]:
        answer: Future[Result | ImpastoError] = Future()

        def done(outcome: Result | ImpastoError) -> None:
            self.order.append(name)
            answer.set_result(outcome)

        self.answers.append(answer)
        self.pipeline.submit(request, Caller(done))
        return answer

    def all(self) -> list[Result | ImpastoError]:
        return [answer.result(PATIENCE_S) for answer in self.answers]


def noted(function: Callable[..., Any], found: list[Any], note: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which writes down what it is called with."""

    def noting(*args: Any) -> Any:
        found.append(note(*args))
        return function(*args)

    return noting


def png(width: int, height: int) -> bytes:
    pixels, file = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8), BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


# finishing


def test_a_single_picture_is_finished_before_sixteens_that_came_first(
    open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, gate, left = open_pipeline(), Gate(), list[Running]()
    monkeypatch.setattr(handed(pipeline), "decode", gate.before(pipeline.family.decode, note=np.shape))
    monkeypatch.setattr(pipeline._loop, "_left", noted(pipeline._loop._left, left, lambda one, outcome: one))
    asked = Crowd(pipeline)
    for seed in range(4):
        asked.ask("sixteen", altered(BOAT, seed=100 * seed, n=16, format="webp"))
    eventually(lambda: len(left) == 4)
    asked.ask("single", BOAT)
    eventually(lambda: len(left) == 5)
    gate.open.set()
    assert all(isinstance(one, Result) for one in asked.all())
    assert asked.order == ["single", *["sixteen"] * 4]


def test_candidates_that_are_finished_by_turns_are_those_of_requests_alone(open_pipeline: Open) -> None:
    pipeline = open_pipeline()
    asked = Crowd(pipeline)
    for seed in range(4):
        asked.ask("several", altered(BOAT, seed=10 * seed, n=5, format="webp"))
    for seed, result in enumerate(asked.all()):
        assert isinstance(result, Result)
        assert result.seeds == tuple(range(10 * seed, 10 * seed + 5))
        alone = [pipeline.generate(altered(BOAT, seed=each, format="webp")).image for each in result.seeds]
        assert list(result.images) == alone


# preparing


def test_a_plain_prompt_is_encoded_before_styles_of_many_stages_that_came_first(
    open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each says six lines with its style and one without; the style alone, in six more, is known to the rest."""
    monkeypatch.setattr(pipelines, "PREPARING_THREADS", 1)  # so that turns alone decide
    pipeline, gate = open_pipeline(), Gate()
    (encoder,) = encoders(pipeline)
    (engine,) = encoder._engines
    monkeypatch.setattr(
        engine, "run", gate.before(engine.run, note=lambda feeds, seats: [ids.tolist() for ids in feeds["input_ids"]])
    )
    asked = Crowd(pipeline)
    staged = altered(BOAT, style=("sks03",), guidance="dreamstyler")
    for count in range(1, 9):
        asked.ask("staged", altered(staged, prompt="boat " * count))
    assert gate.reached.wait(PATIENCE_S)
    asked.ask("plain", BOAT)
    gate.open.set()
    assert all(isinstance(one, Result) for one in asked.all())
    assert all(len(lines) == 1 for lines in gate.passed)
    assert len(gate.passed) == 8 * 7 + 6 + 1
    # One was under way when it came; of the turns until its own, every fourth is for whoever has waited longest.
    assert gate.passed.index([encoder.tokenize(BOAT.words.prompt, {}).ids.tolist()]) <= 8


def test_the_same_words_are_encoded_once_whoever_says_them(
    open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, gate = open_pipeline(), Gate()
    ((engine,),) = (encoder._engines for encoder in encoders(pipeline))
    monkeypatch.setattr(engine, "run", gate.before(engine.run, note=lambda feeds, seats: len(feeds["input_ids"])))
    asked = Crowd(pipeline)
    for seed in range(6):
        asked.ask("alike", altered(BOAT, seed=seed))
    assert gate.reached.wait(PATIENCE_S)
    gate.open.set()
    asked.all()
    assert gate.passed == [1]


def test_who_is_given_up_while_it_waits_for_a_turn_gives_its_seat_back(
    open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one page, and an adapter that changes the text encoder takes it before its lines are encoded."""
    pipeline, gate = open_pipeline(page_rank=32, bank_bytes=2 * ROW), Gate()
    ((engine,),) = (encoder._engines for encoder in encoders(pipeline))
    monkeypatch.setattr(engine, "run", gate.before(engine.run, note=lambda feeds, seats: len(feeds["input_ids"])))
    jobs = list[Job]()
    monkeypatch.setattr(pipeline._preparation, "start", noted(pipeline._preparation.start, jobs, lambda job: job))
    asked = Crowd(pipeline)
    left = asked.ask("left", altered(BOAT, adapters=(("deep", 1.0),)))
    assert gate.reached.wait(PATIENCE_S)
    other = asked.ask("other", altered(BOAT, prompt="a fish", adapters=(("deep", 0.5),)))
    pipeline._fail(jobs[0], Cancelled("the caller is gone"))
    assert isinstance(left.result(PATIENCE_S), Cancelled)
    gate.open.set()
    assert isinstance(other.result(PATIENCE_S), Result)
    assert gate.passed == [1] * 3, "the rest of what it had to say was encoded for nobody"


def test_long_texts_are_cut_into_tokens_once_for_all_their_stages(
    open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, read = open_pipeline(), Counter[str]()
    (encoder,) = encoders(pipeline)
    tokens = encoder._tokenizer._read

    def note(text: str, places: Any) -> Any:
        read[text] += 1
        return tokens(text, places)

    monkeypatch.setattr(encoder._tokenizer, "_read", note)
    pipeline.generate(altered(BOAT, prompt="a boat " * 1000, style=("sks03",) * 64, guidance="dreamstyler"))
    assert set(read.values()) == {1}
    assert len(read) == 3  # all of it, the style alone and the context; no words are read when it starts


# pictures


@contextmanager
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Pictures above 100 pixels a side are held up; all are noted by their size."""
    gate = Gate()

    def size(data: bytes, *_: object) -> tuple[int, int]:
        return Image.open(BytesIO(data)).size

    held = gate.before(read_image, lambda data, *_: max(size(data)) > 100, size)
    monkeypatch.setattr("impasto_server.families.content.read_image", held)
    yield gate
    gate.open.set()


def test_a_small_picture_is_read_before_large_ones_that_came_first(
    open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline()
    with reading(monkeypatch) as gate:
        asked = Crowd(pipeline)
        for _ in range(8):
            asked.ask("large", altered(BOAT, strength=1.0, image=png(300, 200), depth=png(200, 300)))
        assert gate.reached.wait(PATIENCE_S)
        small = asked.ask("small", altered(BOAT, strength=1.0, image=png(64, 64)))
        gate.open.set()
        asked.all()
    assert isinstance(small.result(), Result)
    # One was being read when it came, and every fourth turn is for whoever has waited longest.
    assert gate.passed.index((64, 64)) <= 2


def test_while_a_large_picture_is_read_small_ones_are_and_no_other_large_one(
    open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "LARGE", 200 * 200)
    pipeline = open_pipeline()
    with reading(monkeypatch) as gate:
        asked = Crowd(pipeline)
        large = [asked.ask("large", altered(BOAT, strength=1.0, image=png(300, 300))) for _ in range(3)]
        assert gate.reached.wait(PATIENCE_S)
        for _ in range(3):
            small = asked.ask("small", altered(BOAT, strength=1.0, image=png(64, 64)))
            assert isinstance(small.result(PATIENCE_S), Result)
        assert gate.passed == [(64, 64)] * 3
        assert len(gate.came) == 4
        assert not any(one.done() for one in large)
        gate.open.set()
        assert all(isinstance(one, Result) for one in asked.all())


def test_no_more_pixels_are_decoded_at_a_time_than_a_large_and_a_small_picture_has(
    open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of them: every second one is broken."""
    monkeypatch.setattr(pipelines, "LARGE", 250 * 300)
    pipeline, lock = open_pipeline(), Lock()
    now, most = [0], [0]

    def count(data: bytes, name: str, width: int, height: int) -> NDArray[np.uint8]:
        size = pixels_in(data)
        with lock:
            now[0] += size
            most[0] = max(most[0], now[0])
        try:
            sleep(0.01)
            return read_image(data, name, width, height)
        finally:
            with lock:
                now[0] -= size

    monkeypatch.setattr("impasto_server.families.content.read_image", count)
    asked = Crowd(pipeline)
    for seed in range(20):
        file = png(200 + 10 * (seed % 10), 300)
        broken = file[: len(file) // 2] + b"IEND\xaeB`\x82"
        asked.ask("picture", altered(BOAT, strength=1.0, image=file if seed % 2 else broken))
    outcomes = asked.all()
    assert [isinstance(one, Result) for one in outcomes] == [False, True] * 10
    assert all(isinstance(one, InvalidArgument) for one in outcomes[::2])
    assert 0 < most[0] <= 290 * 300 + 250 * 300


def test_a_file_is_let_go_of_when_it_has_been_decoded(open_pipeline: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request goes on as one that had it."""
    pipeline, running = open_pipeline(), list[Running]()
    monkeypatch.setattr(
        pipeline._loop, "_forward", noted(pipeline._loop._forward, running, lambda chosen: chosen[0][0])
    )
    asked = altered(BOAT, image=png(64, 64), depth=png(80, 64), steps=4, strength=0.5)
    result = pipeline.generate(asked)
    assert {one.job.request.files for one in running} == {(b"", b"", None)}
    assert (result.meta["steps"], result.meta["strength"], result.meta["control_scale"]) == (2, 0.5, 0.8)


def test_a_style_picture_is_kept_as_what_the_scorer_makes_of_it(
    bundle: Path, registry: Path, scorer_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(bundle, registry, "onnxruntime", "f32", threads=1, scorer=scorer_bundle)
    pipeline, running = Pipeline.load(settings), list[Running]()
    monkeypatch.setattr(
        pipeline._loop, "_forward", noted(pipeline._loop._forward, running, lambda chosen: chosen[0][0])
    )
    result = pipeline.generate(altered(BOAT, n=3, rerank="style", style_image=png(900, 700)))
    (reference,) = {id(one.job.reference): one.job.reference for one in running}.values()
    assert reference is not None
    assert reference.size < 5000
    assert {one.job.request.files for one in running} == {(None, None, b"")}
    scorer = Scorer.open(scorer_bundle, Runtime.of(settings))
    pictures = [np.asarray(Image.open(BytesIO(image))) for image in result.images]
    expected = scorer.picture(pictures, np.asarray(Image.open(BytesIO(png(900, 700)))))
    np.testing.assert_allclose(np.array(result.scores), expected, atol=1e-6)
    pipeline.close()

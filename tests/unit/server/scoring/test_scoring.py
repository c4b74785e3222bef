"""Comparisons under way share passes, get the scores they would get alone, and end when nobody waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from itertools import count
from pathlib import Path
from threading import Event
from time import sleep

import numpy as np
import pytest
from PIL import Image

from impasto_server.closing import Closing
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import Cancelled, DeadlineExceeded, Exhausted, ImpastoError, InvalidArgument, Unavailable
from impasto_server.scoring import comparison
from impasto_server.scoring.comparison import Comparison
from impasto_server.scoring.score import BATCH, Array, Pixels, Scorer
from impasto_server.scoring.scoring import Scoring, Task
from tests.helpers.waiting import PATIENCE_S, Asked

TEXT = ("a red boat",)


def file(seed: int, side: int = 20) -> bytes:
    pixels, data = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8), BytesIO()
    Image.fromarray(pixels).save(data, "png")
    return data.getvalue()


FILES = tuple(file(seed) for seed in range(40))


class Held(Scorer):
    """A scorer whose passes wait until they may, and are counted by their pictures, as are those that were read."""

    def __init__(self, folder: Path) -> None:
        opened = Scorer.open(folder, Runtime("onnxruntime", "f32", threads=1))
        self.__dict__.update(opened.__dict__)
        self.passes: list[int] = []
        self.read = 0
        self.entered, self.may = Event(), Event()

    def fitted(self, pixels: Pixels) -> Array:
        self.read += 1
        return super().fitted(pixels)

    def embeds(self, pictures: object) -> Array:
        rows = list(pictures)  # type: ignore[call-overload]
        self.passes.append(len(rows))
        self.entered.set()
        assert self.may.wait(PATIENCE_S)
        return super().embeds(rows)


@pytest.fixture
def scorer(scorer_bundle: Path) -> Held:
    return Held(scorer_bundle)


@pytest.fixture
def scoring(scorer: Held) -> Iterator[Scoring]:
    scoring = Scoring(scorer, max_requests=12)
    yield scoring
    scorer.may.set()
    scoring.close()


def ask(scoring: Scoring, asked: Comparison) -> Asked[Array]:
    caller = Asked[Array]()
    scoring.submit(asked, caller.hear, caller.left.is_set)
    return caller


def busy(scoring: Scoring, scorer: Held) -> Asked[Array]:
    """Someone whose pass is under way until the scorer may go on: who comes now has to wait."""
    first = ask(scoring, Comparison(FILES[:1], TEXT))
    assert scorer.entered.wait(PATIENCE_S)
    return first


def test_those_who_wait_share_passes_and_get_what_they_would_get_alone(scoring: Scoring, scorer: Held) -> None:
    busy(scoring, scorer)
    alike = [Comparison((one,), (f"a boat {i}",)) for i, one in enumerate(FILES[:5])]
    several = Comparison(FILES[5:8], references=FILES[8:11])
    calls = [ask(scoring, asked) for asked in [*alike, several]]
    scorer.may.set()
    together = [call.outcome() for call in calls]
    assert scorer.passes[:2] == [1, 5 + 6]
    for asked, scores in zip([*alike, several], together, strict=True):
        assert isinstance(scores, np.ndarray)
        np.testing.assert_allclose(scores, comparison.scores(asked, scorer), atol=1e-5)


def test_a_small_request_is_done_before_a_large_one_that_came_first(scoring: Scoring, scorer: Held) -> None:
    busy(scoring, scorer)
    order: list[str] = []

    def told(name: str) -> Callable[[Array | ImpastoError], None]:
        return lambda outcome: order.append(name)

    scoring.submit(Comparison(FILES, TEXT), told("large"))
    scoring.submit(Comparison(FILES[:1], TEXT), told("small"))
    scorer.may.set()
    scoring.close()
    assert order == ["small", "large"]
    assert scorer.passes == [1, BATCH, BATCH, 9]


def is_closed(scoring: Scoring) -> bool:
    try:
        scoring.submit(Comparison(FILES[:1], TEXT), lambda outcome: None, gone=lambda: True)
    except Unavailable:
        return True
    except Exhausted:
        pass
    return False


def test_drained_it_tells_those_who_take_too_long(scoring: Scoring, scorer: Held) -> None:
    busy(scoring, scorer)
    late: Future[Array | ImpastoError] = Future()
    scoring.submit(Comparison(FILES, TEXT), late.set_result)
    with ThreadPoolExecutor(1) as pool:
        drained = pool.submit(scoring.drain, 0)
        while not is_closed(scoring):
            sleep(0.01)
        scorer.may.set()
        assert drained.result(PATIENCE_S) > 0
    assert isinstance(late.result(PATIENCE_S), Unavailable)


def test_much_to_decode_is_spread_over_passes(scoring: Scoring, scorer: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large picture, then a pass: so strangers wait for one of them, not for sixteen."""
    monkeypatch.setattr("impasto_server.scoring.scoring.MOST_PIXELS", 500)
    busy(scoring, scorer)
    call = ask(scoring, Comparison(FILES[:4], TEXT))
    scorer.may.set()
    assert len(call.outcome()) == 4  # type: ignore[arg-type]
    assert scorer.passes == [1, 2, 2]


def test_small_pictures_are_read_before_large_ones_that_came_first(
    scoring: Scoring, scorer: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass takes one large picture; every fourth turn is for whoever has waited longest."""
    monkeypatch.setattr("impasto_server.scoring.scoring.MOST_PIXELS", 50 * 50)
    busy(scoring, scorer)
    order: list[str] = []

    def told(name: str) -> Callable[[Array | ImpastoError], None]:
        return lambda outcome: order.append(name)

    for seed in range(8):
        scoring.submit(Comparison((file(seed, 60), file(seed, 70)), TEXT), told("large"))
    scoring.submit(Comparison(FILES[:3], TEXT), told("small"))
    scorer.may.set()
    scoring.close()
    assert order.index("small") <= 1
    assert len(order) == 9


def test_a_file_is_let_go_of_when_it_has_been_read() -> None:
    task = Task.of(Comparison(FILES[:3], references=FILES[3:4]), lambda outcome: None, lambda: False, Closing())
    assert task.left == 4 * 20 * 20
    task.next()
    assert [file.name for file in task.files] == ["IMAGE: picture 1", "IMAGE: picture 2", "IMAGE: picture 3"]
    assert (task.count, task.left) == (4, 3 * 20 * 20)
    assert not any(task.comparison.images)


def test_nothing_is_read_for_who_has_left(scoring: Scoring, scorer: Held) -> None:
    busy(scoring, scorer)
    call, other = (ask(scoring, Comparison(FILES[:3], TEXT)) for _ in range(2))
    call.left.set()
    scorer.may.set()
    assert isinstance(call.outcome(), Cancelled)
    assert isinstance(other.outcome(), np.ndarray)
    assert scorer.passes == [1, 3]


def test_who_leaves_is_told_though_others_turns_come_first(scoring: Scoring, scorer: Held) -> None:
    """The large one's turn would be after all the small ones'."""
    busy(scoring, scorer)
    order: list[str] = []
    gone = Event()
    scoring.submit(Comparison(FILES, TEXT), lambda outcome: order.append(type(outcome).__name__), gone.is_set)
    for one in FILES[:4]:
        scoring.submit(Comparison((one,), TEXT), lambda outcome: order.append("small"))
    gone.set()
    scorer.may.set()
    scoring.close()
    assert order == ["Cancelled", *["small"] * 4]


def test_who_leaves_halfway_gets_no_further_pass(scoring: Scoring, scorer: Held) -> None:
    call = ask(scoring, Comparison(FILES, TEXT))
    assert scorer.entered.wait(PATIENCE_S)
    call.left.set()
    scorer.may.set()
    assert isinstance(call.outcome(), Cancelled)
    assert scorer.passes == [BATCH]


def test_what_would_come_too_late_is_not_begun(scoring: Scoring, scorer: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    busy(scoring, scorer)
    seconds = count()
    monkeypatch.setattr("impasto_server.scoring.scoring.perf_counter", lambda: float(next(seconds)))
    late = Asked[Array]()
    scoring.submit(Comparison(FILES[:2], TEXT, timeout_s=0.5), late.hear)
    scorer.may.set()
    assert isinstance(late.outcome(), DeadlineExceeded)
    assert str(late.outcome()) == (
        "no scores within 0.5 s (0 of 2 pictures were read); allow more time, or pass fewer pictures"
    )
    assert scorer.passes == [1]


def test_a_broken_picture_is_its_owners_alone(scoring: Scoring, scorer: Held) -> None:
    busy(scoring, scorer)
    broken = ask(scoring, Comparison((FILES[0], FILES[1][:50], *FILES), TEXT))
    good = ask(scoring, Comparison(FILES[:2], TEXT))
    scorer.may.set()
    assert isinstance(good.outcome(), np.ndarray)
    assert isinstance(broken.outcome(), InvalidArgument)
    assert str(broken.outcome()).startswith("IMAGE: picture 2: is a PNG file without its end")
    assert scorer.passes == [1, 2]


def test_a_pass_that_fails_is_told_to_all_of_it_and_ends_nothing(
    scoring: Scoring, scorer: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(scoring, scorer)
    calls = [ask(scoring, Comparison(FILES, TEXT)), ask(scoring, Comparison(FILES[:1], TEXT))]

    def fail(pictures: Iterator[Array]) -> Array:
        scorer.passes.append(len(list(pictures)))
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(scorer, "embeds", fail)
        scorer.may.set()
        for call in calls:
            assert isinstance(call.outcome(), ImpastoError)
            assert "RuntimeError" in str(call.outcome())
    assert isinstance(ask(scoring, Comparison(FILES[:1], TEXT)).outcome(), np.ndarray)
    assert scorer.passes == [1, BATCH, 1]
    assert scorer.read == sum(scorer.passes)


def test_more_than_fit_are_told_when_to_come_back(scoring: Scoring, scorer: Held) -> None:
    busy(scoring, scorer)
    calls = [ask(scoring, Comparison(FILES[:1], TEXT)) for _ in range(11)]
    with pytest.raises(Exhausted, match="full with 12 requests; try again in"):
        ask(scoring, Comparison(FILES[:1], TEXT))
    scorer.may.set()
    assert all(isinstance(call.outcome(), np.ndarray) for call in calls)


def test_a_caller_that_cannot_take_its_scores_ends_nothing(scoring: Scoring, scorer: Held) -> None:
    scorer.may.set()
    scoring.submit(Comparison(FILES[:1], TEXT), lambda outcome: 1 / 0)  # type: ignore[arg-type]
    assert isinstance(ask(scoring, Comparison(FILES[:1], TEXT)).outcome(), np.ndarray)


def test_closing_finishes_what_was_taken_and_takes_nothing_new(scorer: Held) -> None:
    scoring = Scoring(scorer, max_requests=4)
    scorer.may.set()
    calls = [ask(scoring, Comparison(FILES, TEXT)) for _ in range(3)]
    scoring.close()
    assert all(call.answer.done() for call in calls)
    with pytest.raises(Unavailable):
        ask(scoring, Comparison(FILES[:1], TEXT))

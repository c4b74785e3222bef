"""Prompts with triggers: what is said at which stage, and where the learned vectors stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from impasto_server.adapters.adapter import Embedding, parse
from impasto_server.adapters.seat import Seat
from impasto_server.bundle import Manifest
from impasto_server.errors import InvalidArgument
from impasto_server.guidance import Text
from impasto_server.words.embeds import Embeds
from impasto_server.words.encoder import PromptEncoder, TextEncoder
from impasto_server.words.prompt import Line, Staged, check_lines, lines, prompts, triggers
from impasto_server.words.tokens import LEARNED, ClipTokenizer
from tests.helpers import toy


class Echo:
    """A text encoder that returns what it was fed, and counts."""

    def __init__(self) -> None:
        self.fed: list[dict[str, NDArray[Any]]] = []

    def prepare(self, feeds: Any, seats: Any = ()) -> None: ...

    def run(self, feeds: Any, seats: Any = ()) -> list[NDArray[Any]]:
        self.fed.append(feeds)
        return [feeds["learned_embeds"]]


def embedding(manifest: Manifest, seed: int = 0, stages: int = 6, places: int = 1) -> Embedding:
    found = parse(toy.embedding_bytes(seed, stages, places), f"digest-{seed}", "x", manifest)
    assert isinstance(found, Embedding)
    return found


@pytest.fixture
def tokenizer(bundle: Path, manifest: Manifest) -> ClipTokenizer:
    return ClipTokenizer(bundle, manifest.text_encoders["text_encoder"])


def test_triggers_are_words_in_angle_brackets() -> None:
    assert triggers("a <my-toy> in <sks03> style, 1 < 2 > 0") == ["my-toy", "sks03"]


@pytest.mark.parametrize("stages", [1, 2, 6, 10])
def test_the_stage_of_every_training_timestep(stages: int) -> None:
    """⌊t / 1000 · T⌋ from the training timestep; the highest stage is the noisiest."""
    staged = Staged(tuple(Embeds(np.full((1, 1), stage, np.float32)) for stage in range(stages)))
    found = [int(staged.at(t, 1000).hidden[0, 0]) for t in range(1000)]
    assert found == [t * stages // 1000 for t in range(1000)]
    assert staged.at(999.0, 1000).hidden[0, 0] == stages - 1
    assert staged.at(0.0, 1000).hidden[0, 0] == 0


def test_a_prompt_is_a_line_for_each_stage_of_its_triggers(manifest: Manifest) -> None:
    known = {
        "sks03": embedding(manifest, 1),
        "toy": embedding(manifest, 2, stages=2),
        "plain": embedding(manifest, 3, 1),
    }
    assert lines(Text.of("a boat"), known) == (Line("a boat"),)
    assert lines(Text.of("a <plain>"), known) == (Line("a <plain>", (("digest-3", 0),)),)
    found = lines(Text.of("a <toy> in <sks03> style"), known)
    assert [line.learned for line in found] == [(("digest-2", i // 3), ("digest-1", i)) for i in range(6)]


def test_stages_that_have_too_many_in_common_are_refused(manifest: Manifest) -> None:
    known = {f"s{stages}": embedding(manifest, stages, stages) for stages in (1, 10, 61, 63, 64)}
    for words in ("a boat", "<s1> <s10> <s63>", "<s64>", "<s63> <s64>"):
        check_lines([Text.of(words), Text.of("a boat")], known, "PROMPT")
    three = {name: known[name] for name in ("s61", "s63", "s64")}
    with pytest.raises(InvalidArgument, match="^STYLE: the least common multiple of 61, 63, 64 stages is 245952, more"):
        check_lines([Text.of("a boat"), Text.of("<s61> <s63> <s64>")], three, "STYLE")
    with pytest.raises(InvalidArgument, match="^STYLE: the least common multiple of 11, 61, 63, 64 stages is 2705472"):
        check_lines([Text(11 * ("<s61> <s63> <s64>",))], three, "STYLE")


def test_another_style_of_many_stages_at_each_of_many_stages_is_within_bounds(manifest: Manifest) -> None:
    """What STYLE allows: 64 names, of styles in six stages and in ten."""
    known = {"six": embedding(manifest, 1, 6), "ten": embedding(manifest, 2, 10)}
    for name in known:
        said = prompts("a boat", "", [name] * 64, known)
        check_lines([text for text in (said.full, said.null, said.context, said.style) if text], known, "STYLE")


def test_too_many_prompts_of_one_request_are_refused(manifest: Manifest) -> None:
    known = {f"s{i}": embedding(manifest, i, 64) for i in range(5)}
    texts = [Text.of(f"<s{i}>") for i in range(5)]
    check_lines(texts[:4], known, "PROMPT")
    check_lines([*texts[:4], *texts[:4]], known, "PROMPT")
    with pytest.raises(InvalidArgument, match="^PROMPT: its stages make 320 different prompts, more than 256; name"):
        check_lines(texts, known, "PROMPT")


@given(st.lists(st.sampled_from(["one", "two", "three"]), min_size=1, max_size=6), st.integers(0, 999))
def test_another_style_at_each_stage_is_read_at_that_styles_own_stage(names: list[str], t: int) -> None:
    """Two roads to the same line: of the mix, and of the style that the mix has at this timestep, alone."""
    vectors = {name: np.zeros((stages, 1, 2), np.float32) for name, stages in (("one", 1), ("two", 4), ("three", 6))}
    known = {
        name: Embedding(name, {"text_encoder": array}, "{context}{style}", "{style}") for name, array in vectors.items()
    }
    mixed = lines(Text(tuple(f"a <{name}>" for name in names)), known)
    name = names[t * len(names) // 1000]
    alone = lines(Text.of(f"a <{name}>"), known)
    assert mixed[t * len(mixed) // 1000] == alone[t * len(alone) // 1000]


def test_the_style_stands_in_the_words_it_was_trained_in(manifest: Manifest) -> None:
    said = prompts("a {style} boat", "blurry", ["sks03"], {"sks03": embedding(manifest)})
    assert said.full == Text.of("a {style} boat in <sks03> style")
    assert said.context == Text.of("a {style} boat")
    assert said.style == Text.of("sharp <sks03> style")
    assert prompts("a boat", "", [], {}).context is None


def test_several_vectors_take_several_places(tokenizer: ClipTokenizer) -> None:
    tokens = tokenizer("a <sks03> boat", {"sks03": 2})
    plain = tokenizer("a boat", {})
    assert tokens.ids.tolist() == [0, plain.ids[1], LEARNED, LEARNED, plain.ids[2], 1]
    assert tokens.starts == (2,)


def test_a_trigger_beyond_the_encoders_room_is_warned_of(tokenizer: ClipTokenizer) -> None:
    tokens = tokenizer("a red boat <sks03>", {"sks03": 2})
    assert tokens.ids.tolist()[4:] == [LEARNED, 1]
    assert tokens.warning("PROMPT") == "PROMPT: 5 tokens, but the text encoder reads 4; not read: '<sks03>'"


def test_of_a_long_text_that_is_not_read_the_beginning_is_told(tokenizer: ClipTokenizer) -> None:
    warning = tokenizer("a red boat at " + "night " * 1000, {}).warning("PROMPT")
    assert warning is not None
    assert warning.endswith("the text encoder reads 4; not read: '" + ("night " * 1000)[:64] + "…'")


def test_each_line_is_encoded_once_and_alone_with_its_stages_vectors(
    tokenizer: ClipTokenizer, manifest: Manifest
) -> None:
    echo, known = Echo(), {"sks03": embedding(manifest, 1, places=2), "toy": embedding(manifest, 2)}
    encoder = PromptEncoder([TextEncoder("text_encoder", tokenizer, toy.WIDTH, [echo])], False, 1 << 20)
    wanted = lines(Text.of("<toy> <sks03>"), known)
    assert len(wanted) == 6
    for _ in range(2):
        for stage, line in enumerate(wanted):
            hidden = encoder.encode(line, known, Seat(), None).hidden
            np.testing.assert_array_equal(hidden[1], known["toy"].vectors["text_encoder"][stage, 0])
            np.testing.assert_array_equal(hidden[2:4], known["sks03"].vectors["text_encoder"][stage])
    assert [len(feeds["input_ids"]) for feeds in echo.fed] == [1] * 6


def test_what_is_said_under_another_adapter_is_encoded_anew(tokenizer: ClipTokenizer) -> None:
    echo = Echo()
    encoder = PromptEncoder([TextEncoder("text_encoder", tokenizer, toy.WIDTH, [echo])], False, 1 << 20)
    assert encoder.known(Line("a boat"), "neon") is None
    for key in (None, "neon", "neon", None):
        encoder.encode(Line("a boat"), {}, Seat(), key)
        assert encoder.known(Line("a boat"), key) is not None
    assert len(echo.fed) == 2


def test_what_is_remembered_is_bounded_by_bytes(tokenizer: ClipTokenizer) -> None:
    echo = Echo()
    capacity = 2 * toy.LENGTH * toy.WIDTH * 4
    encoder = PromptEncoder([TextEncoder("text_encoder", tokenizer, toy.WIDTH, [echo])], False, capacity)
    for words in ("a boat", "a house", "a fish", "a boat"):
        encoder.encode(Line(words), {}, Seat(), None)
    assert len(echo.fed) == 4


def test_a_text_is_cut_into_tokens_once(tokenizer: ClipTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with other places for its triggers, or without any, is another text."""
    read: list[str] = []
    words = tokenizer._of

    def note(text: str, at: int) -> list[tuple[int, int]]:
        read.append(text)
        return words(text, at)

    monkeypatch.setattr(tokenizer, "_of", note)
    several = [tokenizer("a <sks03>", {"sks03": places}) for places in (1, 2, 1, 2)]
    assert several[0] is several[2]
    assert several[1] is several[3]
    assert several[0].ids.tolist() != several[1].ids.tolist()
    assert tokenizer.plain("a <sks03>").ids.tolist() == tokenizer.plain("a <sks03>").ids.tolist()
    assert read == ["a ", "", "a ", "", "a <sks03>"]

"""Tokens outside the vocabulary: a negative id takes its embedding from `learned_embeds`, as if it had been a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import checkpoints
from tests.helpers.engines import ENGINES, Array, Engine, relative_error, run

TOLERANCE = 1e-4
LANES, TOKENS, WIDTH = 3, 32, 128
# Lane 0 has no learned token, lane 1 has one, lane 2 has two in a row and one more.
PLACES = {1: [4], 2: [0, 1, 31]}


@pytest.fixture(scope="module")
def ids() -> Array:
    found: Array = np.random.default_rng(0).integers(0, 514, (LANES, TOKENS))
    for lane, places in PLACES.items():
        found[lane, places] = -1
    return found


@pytest.fixture(scope="module")
def vectors() -> Array:
    """Embeddings for every place, a few times as large as the vocabulary's, so that they matter."""
    return np.random.default_rng(1).standard_normal((LANES, TOKENS, WIDTH)).astype(np.float32)


def eager(ids: Array, vectors: Array) -> Array:
    """transformers' own encoder, its vocabulary enlarged by one word for every learned token."""
    model = checkpoints.model("text_encoder", 1)
    extended = ids.copy()
    words = [(lane, place) for lane, places in PLACES.items() for place in places]
    first = model.config.vocab_size
    model.resize_token_embeddings(first + len(words), mean_resizing=False)
    with torch.no_grad():
        for word, (lane, place) in enumerate(words, first):
            model.get_input_embeddings().weight[word] = torch.from_numpy(vectors[lane, place])
            extended[lane, place] = word
        hidden: Array = model(torch.from_numpy(extended)).last_hidden_state.numpy()
    return hidden


@pytest.mark.parametrize("engine", ENGINES)
def test_equals_a_vocabulary_with_the_words_in_it(engine: Engine, ids: Array, vectors: Array, bundle: Path) -> None:
    feeds = {"input_ids": ids, "learned_embeds": vectors}
    (found,) = run(engine, bundle, "text_encoder", feeds)
    assert relative_error(found, eager(ids, vectors)) <= TOLERANCE
    (without,) = run(engine, bundle, "text_encoder", {**feeds, "learned_embeds": np.zeros_like(vectors)})
    assert relative_error(without[1:], found[1:]) > 0.05, "the vectors must matter"


@pytest.mark.parametrize("engine", ENGINES)
def test_at_known_tokens_nothing_is_read(engine: Engine, ids: Array, vectors: Array, bundle: Path) -> None:
    feeds = {"input_ids": ids}
    spoilt = np.where(ids[..., None] < 0, vectors, np.float32(np.nan))
    (found,) = run(engine, bundle, "text_encoder", {**feeds, "learned_embeds": spoilt})
    (expected,) = run(engine, bundle, "text_encoder", {**feeds, "learned_embeds": vectors})
    np.testing.assert_array_equal(found, expected)

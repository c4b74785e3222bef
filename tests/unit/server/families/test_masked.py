"""The masked family on its toy: pixels, tokens, and what the transformer is fed."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from impasto_server.adapters.bank import Bank
from impasto_server.adapters.layout import Layout
from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Row
from impasto_server.engines.runtime import Runtime
from impasto_server.families import open_bundle
from impasto_server.families.family import Parts
from impasto_server.families.masked.masked import Masked
from impasto_server.families.masked.maskgit import Codes
from impasto_server.families.masked.stage import Painted
from impasto_server.stats import Stats
from impasto_server.steps import BASE, Ask
from impasto_server.words.embeds import Embeds
from impasto_server.words.prompt import Staged
from tests.helpers import toy_masked
from tests.helpers.asked import altered, request_of, whole

BOAT = request_of("a boat", seed=3, width=64, height=32, steps=10, scheduler="maskgit")


@pytest.fixture(scope="module")
def family(masked_bundle: Path) -> Masked:
    bundle, stats = open_bundle(masked_bundle), Stats()
    bank = Bank(Layout.of(bundle.manifest, 16, "f32"), 1 << 20, stats)
    return Masked(Parts.of(bundle, Runtime("onnxruntime", "f32", 1), bank, stats, 1 << 20))


def tokens(seed: int = 0) -> Codes:
    return np.random.default_rng(seed).integers(0, toy_masked.CODES, (4, 8))


def colours(bundle: Path) -> NDArray[np.float32]:
    """The codebook: RGB in 0..1 of every token."""
    graph = onnx.load(bundle / "vq_decoder.onnx").graph
    found: NDArray[np.float32] = onnx.numpy_helper.to_array(
        next(tensor for tensor in graph.initializer if tensor.name == "codebook")
    )
    return found


def test_pixels_are_what_the_decoder_says_from_0_to_1(family: Masked, masked_bundle: Path) -> None:
    expected = np.round(255 * colours(masked_bundle)[tokens()]).repeat(8, axis=0).repeat(8, axis=1)
    np.testing.assert_array_equal(family.decode(Painted(BASE, tokens())), expected)


def test_a_preview_has_a_pixel_for_each_token(family: Masked) -> None:
    painted = Painted(BASE, tokens())
    shown = np.asarray(Image.open(BytesIO(family.preview(painted))))
    np.testing.assert_array_equal(shown, family.decode(painted)[::8, ::8])


def test_content_becomes_the_tokens_it_was_painted_from(family: Masked) -> None:
    file = BytesIO()
    Image.fromarray(family.decode(Painted(BASE, tokens()))).save(file, "png")
    seen = whole(family.read(altered(BOAT, image=file.getvalue())))
    assert seen is not None
    np.testing.assert_array_equal(seen, tokens())


def test_without_content_all_is_unknown(family: Masked) -> None:
    ask = next(family.begin(BOAT, 3, None, {}))
    np.testing.assert_array_equal(ask.sample, np.full((4, 8), toy_masked.MASK_ID))
    assert (ask.step, ask.steps, ask.timestep) == (0, 10, 0.9)


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.75, 1.0])
def test_from_content_as_much_is_unknown_as_the_steps_left_out_leave(strength: float, family: Masked) -> None:
    """cos(π/2 · share of the steps left out) of the tokens, each by chance: Philox's, of the seed."""
    asked = request_of("a boat", 3, 64, 32, steps=20, scheduler="maskgit", image=b"x", strength=strength)
    ask = next(family.begin(asked, 3, tokens(), {}))
    uniform = np.random.Generator(np.random.Philox(3)).random((4, 8))
    unknown = uniform < np.cos(np.pi / 2 * (1 - strength))
    np.testing.assert_array_equal(ask.sample, np.where(unknown, toy_masked.MASK_ID, tokens()))
    assert ask.steps == asked.steps_to_run == 20 * strength


def test_the_same_seed_asks_the_same(family: Masked) -> None:
    def walk(seed: int) -> Iterator[Codes]:
        sampler = family.begin(BOAT, seed, None, {})
        ask = next(sampler)
        for _ in range(5):
            yield ask.sample
            ask = sampler.send(np.zeros((toy_masked.CODES, 4, 8), np.float32))

    np.testing.assert_array_equal(list(walk(1)), list(walk(1)))
    assert any((one != other).any() for one, other in zip(walk(1), walk(2), strict=True))


def test_rows_are_fed_with_their_own_words_and_the_pictures_size(family: Masked) -> None:
    embeds = [Embeds(np.full((6, 8), i, np.float32), np.full(5, 10 + i, np.float32)) for i in range(2)]
    contexts = [Staged((one,)) for one in embeds]
    feeds: dict[str, Any] = family._feeds([Row(Ask(tokens(i), 0.5, 0, 1), contexts[i], Seat()) for i in range(2)])
    np.testing.assert_array_equal(feeds["input_ids"], [tokens(0), tokens(1)])
    assert feeds["encoder_hidden_states"][:, 0, 0].tolist() == [0, 1]
    assert feeds["pooled_text_emb"][:, 0].tolist() == [10, 11]
    assert feeds["micro_conds"].tolist() == [[64, 32, 0, 0, 6]] * 2  # width, height: as AmusedPipeline

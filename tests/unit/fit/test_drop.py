"""Drops on a twin of aMUSEd, with one stage and with two: eq. 4 and the losses by hand, rounds, files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.errors import CheckpointError, WordsError
from impasto_fit.masked import rounds
from impasto_fit.masked.backbone import Masked
from impasto_fit.masked.bottleneck import attached
from impasto_fit.masked.drop import Drop, Half, halves, masked_only, pair_of
from impasto_fit.masked.lanes import Guidance, Lane, base_logits
from impasto_fit.masked.loss import cross_entropy, fine_loss, hide
from impasto_fit.masked.rounds import Samples, by_clip
from impasto_fit.pictures import Picture
from impasto_fit.recipe import Words
from impasto_fit.views import squared
from tests.helpers.fits import Killed, Watcher, striped

WORDS = Words(("a red house",), "stripes")


def recipe(folder: Path, **constants: Any) -> Drop:
    halves_ = {"base": Half(4, True, 3e-2, 4), "fine": Half(4, False, 3e-2, 2)}
    return Drop(folder, **{**halves_, "reach": 1, **constants})


def masked(folder: Path) -> Masked:
    return masked_only(folder, "cpu")


def test_the_loss_by_hand(twin: dict[str, Path]) -> None:
    model = masked(twin["muse"])
    codes = model.codes([squared(striped(), 32), squared(striped(1), 32)])
    said = model.said(["a house", "rain"])
    found = float(model.loss(codes, said, Draws.of(0, "x", 0)))
    draws = Draws.of(0, "x", 0).torch
    ratio, order = torch.rand(2, 1, generator=draws).numpy(), torch.rand(2, 64, generator=draws).numpy()
    shown, total, count = codes.clone().view(2, 64), 0.0, 0
    chosen = [np.argsort(order[i])[: max(1, math.ceil(math.cos(ratio[i, 0] * math.pi / 2) * 64))] for i in range(2)]
    for i, places in enumerate(chosen):
        shown[i, places] = 33
    logits = model.logits(shown.view(2, 8, 8), said).double().numpy().reshape(2, 32, 64)
    for i, places in enumerate(chosen):
        for place in places:
            row = logits[i, :, place]
            total += np.log(np.exp(row - row.max()).sum()) + row.max() - row[codes.view(2, 64)[i, place]]
            count += 1
    assert found == pytest.approx(total / count, rel=1e-5)


def test_tokens_are_the_nearest_codes(twin: dict[str, Path]) -> None:
    model = masked(twin["muse"])
    vq = model.pipe.vqvae
    pixels = torch.from_numpy(squared(striped(), 32).copy()).permute(2, 0, 1)[None] / 255
    rows = vq.encode(pixels).latents[0].flatten(1).T.double().numpy()
    apart = ((rows[:, None] - vq.quantize.embedding.weight.double().numpy()[None]) ** 2).sum(2)
    found = model.codes([squared(striped(), 32)]).flatten().numpy()
    chosen = np.take_along_axis(apart, found[:, None], 1)[:, 0]
    np.testing.assert_allclose(chosen, apart.min(1), rtol=1e-4, atol=1e-5)


def test_eq_4_by_hand(twin: dict[str, Path]) -> None:
    """G'(t) + λA (G'(t) - G(t)) + λB (G(t) - G(n)); a lane that counts nothing isn't run."""
    model, prompts = masked(twin["muse"]), ["a house"]
    adapter = pair_of(recipe(twin["muse"]).fit([striped()], WORDS, Budget(3), Watcher())).base
    tokens = torch.full((1, 8, 8), 33)
    frozen, empty = (model.logits(tokens, model.said(text)).double() for text in (prompts, [""]))
    with attached(model.module, adapter):
        adapted = model.logits(tokens, model.said(prompts)).double()
    assert (adapted - frozen).abs().max() > 1e-3
    for style, text in ((2.0, 5.0), (0.0, 0.0)):
        found = base_logits(model, Guidance(style, text).lanes(prompts, adapter))(tokens)
        wanted = adapted + style * (adapted - frozen) + text * (frozen - empty)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_an_adapter_has_both_widths_and_begins_as_nothing(twin: dict[str, Path]) -> None:
    pair = pair_of(recipe(twin["muse"], base=Half(2, False, 0.0, 1)).fit([striped()], WORDS, Budget(1), Watcher()))
    assert {place: pair.base.place(place).down.shape[1] for place in pair.base.form.sites} == {
        "attn2_32": 32,
        "attn2_48": 48,
        "ff_48": 48,
    }
    model, tokens = masked(twin["muse"]), torch.full((1, 8, 8), 33)
    lanes = [Lane(1.0, ["a house"], pair.base)]
    assert torch.equal(base_logits(model, lanes)(tokens), base_logits(model, [Lane(1.0, ["a house"])])(tokens))


def held_out(model: Masked, data: bytes | None) -> float:
    """Of another crop of the picture, under masks that no fit has drawn."""
    codes = model.codes([squared(striped()[4:44, 6:46], 32)] * 8)
    said = model.said(["a red house in stripes style"] * 8)
    with torch.no_grad(), ExitStack() as stack:
        if data is not None:
            stack.enter_context(attached(model.module, pair_of(data).base))
        return sum(float(model.loss(codes, said, Draws.of(3, "held out", i))) for i in range(4)) / 4


def test_the_loss_on_held_out_views_falls(twin: dict[str, Path]) -> None:
    data = recipe(twin["muse"]).fit([striped()], WORDS, Budget(30), Watcher())
    assert held_out(masked(twin["muse"]), data) < 0.95 * held_out(masked(twin["muse"]), None)


def test_two_stages_have_a_half_each(twin: dict[str, Path]) -> None:
    one, watcher = recipe(twin["cascade"]), Watcher()
    data = one.fit([striped()], WORDS, Budget(20), watcher)
    assert watcher.parts == ["base"] * 20 + ["upscale"] * 20
    fine = np.array(watcher.losses[20:])
    assert fine[-5:].mean() < 0.95 * fine[:5].mean()
    base, second = halves(data)
    assert second is not None
    assert pair_of(base).fine is None
    assert halves(base) == (base, None)
    found = rounds.samples(one, data, ["a boat", "rain"], "stripes", Guidance(0.5, 2.0, 3))
    assert [picture.shape for picture in found.pictures] == [(64, 64, 3)] * 2


def test_the_second_stages_loss_by_hand(twin: dict[str, Path]) -> None:
    model = masked(twin["cascade"])
    assert model.fine is not None
    upscaler, draws = model.fine.upscaler, torch.Generator().manual_seed(0)
    tokens, low = torch.randint(32, (2, 16, 16), generator=draws), torch.randint(32, (2, 8, 8), generator=draws)
    text = model.said(["a", "b"]).states
    found = float(fine_loss(upscaler, tokens, low, text, 0.5, torch.Generator().manual_seed(4)))
    again = torch.Generator().manual_seed(4)
    shown, hidden = hide(tokens, 33, again)
    hidden &= torch.rand(hidden.shape, generator=again) < 0.5
    chances = upscaler(shown, low, text).double().log_softmax(1)
    wanted = -chances.gather(1, tokens[:, None])[:, 0][hidden].mean()
    assert found == pytest.approx(float(wanted), rel=1e-5)
    assert float(cross_entropy(upscaler(shown, low, text), tokens, hidden)) == pytest.approx(found, rel=1e-5)


def test_equal_seeds_give_equal_bytes_and_a_killed_fit_the_same(twin: dict[str, Path]) -> None:
    one = recipe(twin["cascade"])
    whole = one.fit([striped()], WORDS, Budget(3), Watcher())
    for die in (2, 5):
        watcher = Watcher(keep=die, die=die)
        with pytest.raises(Killed):
            one.fit([striped()], WORDS, Budget(3), watcher)
        assert one.fit([striped()], WORDS, Budget(3), Watcher(state=watcher.state)) == whole
    assert replace(one, seed=1).fit([striped()], WORDS, Budget(3), Watcher()) != whole


class Colours:
    """A CLIP for which pictures are their mean colour, and words name one."""

    def see(self, pictures: Tensor) -> Tensor:
        return torch.nn.functional.normalize(pictures.mean((2, 3)), dim=1)

    def hear(self, texts: Sequence[str]) -> Tensor:
        return torch.eye(3)[[["red", "green", "blue"].index(text) for text in texts]]


def plain(*colour: int) -> Picture:
    return np.broadcast_to(np.array(colour, np.uint8), (16, 16, 3)).copy()


def test_a_clip_picks_what_fits_its_words_and_the_style() -> None:
    found = Samples(
        (plain(250, 0, 0), plain(0, 250, 0), plain(0, 0, 250), plain(250, 60, 0)), ("red", "red", "blue", "red")
    )
    assert by_clip(Colours(), found, [plain(255, 30, 0)], 2) == [0, 3]
    alike = Samples((plain(9, 9, 9),) * 3, ("red",) * 3)
    assert len(by_clip(Colours(), alike, [plain(9, 9, 9)], 2)) == 2


def test_picks_are_pictures_of_the_next_round(twin: dict[str, Path]) -> None:
    one = recipe(twin["muse"])
    data = one.fit([striped()], WORDS, Budget(2), Watcher())
    found = rounds.samples(one, data, ["a boat", "rain", "a fish"], "stripes", Guidance(0.5, 2.0, 3))
    pictures, words = found.picked([2, 0, 2], [striped()], WORDS)
    assert words == Words(("a red house", "a fish", "a boat"), "stripes")
    np.testing.assert_array_equal(pictures[1], found.pictures[2])
    second = one.second(Half(2, False, 1e-2, 2)).fit(pictures, words, Budget(2), Watcher())
    assert pair_of(second).base.form.shared is False
    for picks, problem in (([3], "picks: got 3; give numbers of samples, 0 to 2"), ([], "picks: got none")):
        with pytest.raises(WordsError, match=problem):
            found.picked(picks, [striped()], WORDS)
    with pytest.raises(WordsError, match="contexts: the picks have theirs; give the pictures' as well"):
        found.picked([0], [striped()], Words((), "stripes"))


def test_a_diffusion_model_is_refused(twin: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="is no masked model, which a drop is for"):
        recipe(twin["sd1"]).fit([striped()], WORDS, Budget(1), Watcher())

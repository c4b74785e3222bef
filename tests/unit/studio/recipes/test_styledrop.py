"""The recipe: what a round learns from, which samples are selected, and that only the adapter is trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from studio import painter
from impasto_fit.masked.bottleneck import Bottleneck, Form
from studio.nets.diffusion import new_text_encoder as diffusion_text_encoder
from studio.nets.diffusion import new_vae
from studio.nets.maskgit import Lane
from studio.nets.muse import SPARE, Shape, new_text_encoder, new_transformer
from studio.nets.upscaler import FINE_SIDE, Cascade, new_upscaler
from studio.nets.upscaler import Shape as FineShape
from studio.nets.vq import from_autoencoder
from studio.painter import Bytes
from studio.reading.scorer import Scorer
from studio.recipes import styledrop
from studio.recipes.styledrop import (
    FINE_WEIGHTS,
    OBJECTS,
    PICKED,
    ROUNDS,
    SAMPLES,
    SOURCES,
    TRANSFERS,
    WEIGHTS,
    Recipe,
    Shown,
    an_object,
    chosen,
    clip_scores,
    feedback_scenes,
    first_round,
    highest,
    painted,
    save_pictures,
    second_round,
    select,
    shifted,
    standing,
    template,
    train,
    train_fine,
)
from transformers import CLIPTokenizer

CODES = 32


@pytest.fixture
def pipe(tokenizer: CLIPTokenizer) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return SimpleNamespace(
        device=torch.device("cpu"),
        transformer=new_transformer(CODES, Shape(hidden=64, layers=1)).eval(),
        text_encoder=new_text_encoder(diffusion_text_encoder("small", tokenizer)).eval(),
        vqvae=from_autoencoder(new_vae("small"), torch.ones(16), torch.randn(CODES, 16)).eval(),
        tokenizer=tokenizer,
        scheduler=SimpleNamespace(config=SimpleNamespace(mask_token_id=CODES + SPARE - 1)),
    )


@pytest.fixture
def cascade(pipe: Any) -> Cascade:
    codebook, low = torch.randn(CODES, 16), pipe.vqvae.quantize.embedding.weight.detach()
    shape = FineShape(hidden=64, low=1, layers=1, mlp=64, embed=32)
    upscaler = new_upscaler(codebook, low, pipe.text_encoder.config.hidden_size, shape)
    for weight in upscaler.parameters():
        if not weight.any():  # at its start, where every layer is the identity, there is nothing to adapt
            torch.nn.init.normal_(weight, std=0.2)
    vq = from_autoencoder(new_vae("small"), torch.ones(16), codebook)
    return Cascade(pipe, upscaler.requires_grad_(False).eval(), vq.eval())


def grey(*levels: int) -> Bytes:
    return np.stack([np.full((FINE_SIDE, FINE_SIDE, 3), level, np.uint8) for level in levels])


def test_a_style_is_asked_for_by_a_template_that_makes_the_painter_s_caption() -> None:
    assert template("glass") == "{context} in stained glass style"
    scene = SOURCES["glass"]
    assert template("glass").replace("{context}", "a red balloon at sunset") == painter.caption(scene)


def test_sources_are_held_out_styles_and_objects() -> None:
    assert SOURCES.keys() == set(painter.HELD_OUT_STYLES)
    assert all(scene.style == style for style, scene in SOURCES.items())
    for name, scenes in OBJECTS.items():
        assert name in painter.HELD_OUT_OBJECTS
        assert {scene.object for scene in scenes} == {name}
        assert {scene.style for scene in scenes} == set(painter.STYLES)
        assert {scene.colour for scene in scenes} == set(painter.COLOURS)


def test_an_object_is_learnt_with_and_without_a_style_in_words(tmp_path: Path) -> None:
    drop = an_object("rocket", tmp_path, painter.unseen_scenes(2, seed=0))
    said = set(drop.lesson.captions)
    assert {"a red rocket on plain paper in flat style", "a red rocket on plain paper"} <= said
    assert (drop.folder / "pictures.png").exists()
    assert drop.prompt is None
    assert {scene.object for scene in drop.judged} == {"rocket"}


def test_the_rounds_have_the_paper_s_forms() -> None:
    assert (ROUNDS[1].rank, ROUNDS[1].shared, ROUNDS[1].batch) == (4, True, 8)
    assert (ROUNDS[2].rank, ROUNDS[2].shared, ROUNDS[2].batch) == (32, False, 8)


def test_views_are_shifted_by_whole_tokens_and_mirrored() -> None:
    """Of the base's, which are two of the second stage's."""
    picture = painter.paint(SOURCES["mosaic"], FINE_SIDE).image
    seen = shifted(picture, reach=2)
    assert seen.shape == (50, FINE_SIDE, FINE_SIDE, 3)
    assert (seen[12] == picture).all()  # the middle one of five by five
    assert (seen[13, :, :-16] == picture[:, 16:]).all()
    assert (seen[17, :-16] == picture[16:]).all()
    assert (seen[25:] == seen[:25, :, ::-1]).all()


def test_the_first_round_has_the_picture_s_texture_on_other_contents_too(tmp_path: Path) -> None:
    lesson = first_round("mosaic", tmp_path, []).lesson
    views = first_round("neon", tmp_path, []).lesson  # which has no texture
    assert len(lesson.pictures) == len(lesson.captions) == len(views.pictures) + TRANSFERS
    others = lesson.captions[-TRANSFERS:]
    assert all(caption.endswith("in mosaic style") for caption in others)
    assert len(set(others)) > TRANSFERS / 2


def test_every_view_has_its_picture_s_caption() -> None:
    shown = Shown(grey(10, 200), ("dark", "light")).shifted(1)
    assert shown.captions == ("dark",) * 18 + ("light",) * 18
    assert [int(picture[0, 0, 0]) for picture in shown.pictures] == [10] * 18 + [200] * 18


def test_only_the_adapter_is_trained_and_it_learns(pipe: Any) -> None:
    before = {name: weight.clone() for name, weight in pipe.transformer.state_dict().items()}
    adapter = Bottleneck(Form.of(pipe.transformer, shared=True), 64, 4)
    lesson = painted([SOURCES["glass"]])
    losses = train(pipe, adapter, lesson, Recipe(rank=4, shared=True, steps=16, rate=4e-2))
    assert len(losses) == 16
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.2
    after = pipe.transformer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not pipe.transformer.training


def test_the_base_sees_each_picture_at_half_its_size() -> None:
    board = np.indices((FINE_SIDE, FINE_SIDE)).sum(0) % 2 * 200
    shown = Shown(np.repeat(board[None, ..., None], 3, -1).astype(np.uint8), ("a board",))
    assert (shown.small == 100).all()
    assert shown.small.shape == (1, FINE_SIDE // 2, FINE_SIDE // 2, 3)


def test_the_second_half_learns_alone_under_what_the_base_draws(cascade: Cascade) -> None:
    parts = {"base": cascade.base.transformer, "second stage": cascade.upscaler}
    before = {name: {key: w.clone() for key, w in part.state_dict().items()} for name, part in parts.items()}
    adapter = Bottleneck(Form.of_upscaler(cascade.upscaler), 64, 4)
    base = Bottleneck(Form.of(cascade.base.transformer, shared=True), 64, 4).requires_grad_(False)
    losses = train_fine(cascade, adapter, base, painted([SOURCES["glass"]]), Recipe(4, False, steps=16, rate=4e-2))
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.2
    for name, part in parts.items():
        assert all(torch.equal(before[name][key], w) for key, w in part.state_dict().items()), name


def test_selection_takes_the_highest_scores() -> None:
    assert highest(torch.tensor([0.1, 0.9, 0.3, 0.8]), 2) == [1, 3]
    scores = standing(torch.tensor([1.0, 2.0, 3.0]))
    assert scores.tolist() == [-1, 0, 1]


def test_clip_wants_both_the_content_and_the_style() -> None:
    text, style = torch.tensor([0.9, 0.1, 0.8]), torch.tensor([0.1, 0.9, 0.8])
    says, shows = torch.eye(2)[:1], torch.eye(2)[1:]

    class Fake:
        def pictures(self, images: Bytes) -> torch.Tensor:
            return torch.stack([text, style], 1) if len(images) > 1 else shows

        def captions(self, captions: list[str]) -> torch.Tensor:
            return says.expand(len(captions), 2)

    scores = clip_scores(cast(Scorer, Fake()), grey(0, 1, 2), ["a", "b", "c"], grey(9)[0])
    torch.testing.assert_close(scores, standing(text) + standing(style))
    assert highest(scores, 1) == [2]


def test_a_person_s_picks_are_the_names_of_the_samples_copied(tmp_path: Path) -> None:
    save_pictures(grey(1, 2), ["03", "41"], tmp_path)
    assert chosen(tmp_path, 64) == [3, 41]
    assert select(f"folder:{tmp_path}", np.zeros((64, 8, 8, 3), np.uint8), [], grey(0)[0]) == [3, 41]
    save_pictures(grey(1, 2), ["03", "best"], tmp_path)
    with pytest.raises(SystemExit, match="best"):
        chosen(tmp_path, 64)
    with pytest.raises(SystemExit, match="no picture"):
        chosen(tmp_path / "nowhere", 64)


def test_round_two_learns_from_the_picture_and_ten_samples_of_round_one(
    cascade: Cascade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Lane]] = []

    def paint(cascade: object, base: list[Lane], fine: list[Lane], seed: int, steps: int) -> Bytes:
        asked.append(base)
        assert fine[0].prompts == base[0].prompts
        return grey(*range(SAMPLES))

    monkeypatch.setattr(styledrop, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(styledrop, "paint_fine", paint)
    first = first_round("glass", tmp_path, [])
    Bottleneck(Form.of(cascade.base.transformer, shared=True), 64, 4).save(first.folder / WEIGHTS)
    Bottleneck(Form.of_upscaler(cascade.upscaler), 64, 4).save(first.folder / FINE_WEIGHTS)
    torch.manual_seed(0)
    second = second_round(cascade, "glass", "random", tmp_path, painter.unseen_scenes(2, seed=0))
    second_round(cascade, "glass", "random", tmp_path, [])
    assert len(asked) == 1  # the samples of a pair are kept
    captions = [painter.caption(scene) for scene in feedback_scenes("glass")]
    assert asked[0][0].prompts == captions
    assert second.folder == tmp_path / "glass" / "round2-random"
    assert {path.name for path in second.folder.iterdir()} == {"picture.png", "picked.png"}
    given, *picked = dict.fromkeys(second.lesson.captions)
    assert given == painter.caption(SOURCES["glass"])
    assert len(picked) == PICKED
    for caption, picture in zip(second.lesson.captions, second.lesson.pictures, strict=True):
        if caption in picked:
            assert captions[int(picture.mean().round())] == caption
    assert {scene.style for scene in second.judged} == {"glass"}
    assert (second.prompt, second.recipe) == (template("glass"), ROUNDS[2])


def test_what_is_judged_is_new_to_both_rounds() -> None:
    judged = {(s.object, s.colour, s.background) for s in painter.unseen_scenes(64, styledrop.JUDGED_SEED)}
    learnt = {(s.object, s.colour, s.background) for s in feedback_scenes("glass")}
    assert len(learnt & judged) < 10  # contents are few; the same one may be unseen in one base style alone

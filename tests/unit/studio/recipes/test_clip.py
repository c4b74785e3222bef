"""mini-clip learns from pairs of which none is called wrong that fits, and its folder is what transformers reads."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from studio import painter
from studio.nets.clip import Shape, new_clip, new_processor
from studio.nets.diffusion import new_text_encoder
from studio.nets.tokenizer import learn_tokenizer, tokenise
from studio.painter import Bytes, Scene
from studio.reading.scorer import CLIP, Scorer, auc, first_hits, retrieval
from studio.recipes.clip import ADAM_RATE, MUON_RATE, Examples, contrastive_loss, loss_of, said, shown, shrink
from studio.training.optimisers import muon_and_adam
from torch.nn import functional as F
from transformers import CLIPModel, CLIPProcessor, CLIPTextModel, CLIPTokenizer

SCENES = painter.training_scenes(24, seed=0)
CAPTIONS = [painter.caption(scene) for scene in SCENES]
BOAT = Scene("boat", "red", "night", "flat", 0)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return learn_tokenizer(CAPTIONS)


@pytest.fixture(scope="module")
def text(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    torch.manual_seed(0)
    return new_text_encoder("small", tokenizer)


@pytest.fixture
def clip(text: CLIPTextModel) -> CLIPModel:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    fresh = new_clip(text, Shape(hidden=64, layers=1, joint=32))
    fresh.eval()
    return fresh


@pytest.fixture(scope="module")
def pictures() -> Bytes:
    return np.stack([painter.paint(scene).image for scene in SCENES])


@pytest.fixture(scope="module")
def examples(tokenizer: CLIPTokenizer, pictures: Bytes) -> Examples:
    return Examples(
        shrink(pictures),
        torch.tensor([shown(scene) for scene in SCENES]),
        tokenise(tokenizer, CAPTIONS)[:, None],
        torch.tensor([said(*pair) for pair in zip(SCENES, CAPTIONS, strict=True)])[:, None],
    )


@pytest.mark.parametrize(
    ("caption", "left_out"),
    [
        ("a red boat at night in flat style", []),
        ("a flat picture of a red boat at night", []),
        ("a red boat at night", [3]),
        ("a flat picture of a red boat", [2]),
        ("a red boat at night in ba codu style", [3]),
    ],
)
def test_what_a_caption_says(caption: str, left_out: list[int]) -> None:
    expected = [-1 if i in left_out else number for i, number in enumerate(shown(BOAT))]
    assert said(BOAT, caption) == expected
    assert -1 not in shown(BOAT)


def test_a_picture_that_a_caption_fits_as_well_is_not_wrong() -> None:
    cosines = torch.tensor([[0.9, 0.9, 0.1], [0.2, 0.8, 0.3], [0.1, 0.2, 0.7]])
    agree = torch.eye(3, dtype=torch.bool)
    agree[0, 1] = True  # the first caption leaves out how the second picture differs
    scale = torch.tensor(10.0)
    rows = [[9, 1], [2, 8, 3], [1, 2, 7]], [0, 1, 2]
    columns = [[9, 2, 1], [8, 2], [1, 3, 7]], [0, 0, 2]
    losses = [
        math.log(sum(math.exp(v) for v in values)) - values[min(i, len(values) - 1)]
        for table, answers in (rows, columns)
        for values, i in zip(table, answers, strict=True)
    ]
    assert float(contrastive_loss(cosines, scale, agree)) == pytest.approx(sum(losses) / 6, abs=1e-5)


def test_a_batch_is_pictures_with_captions_of_their_own(examples: Examples) -> None:
    torch.manual_seed(0)
    batch = examples.draw(40)  # of 24 pictures: some come twice
    assert batch.pixels.shape == (40, 3, 64, 64)
    assert batch.agree.diagonal().all()
    assert torch.equal(batch.agree, (batch.tokens[:, None] == batch.tokens[None]).all(2))
    assert 10 < batch.tokens.shape[1] < 32
    assert (batch.tokens[:, -1] == examples.tokens[0, 0, -1]).all()  # every text has its end


def test_cut_to_the_longest_a_text_means_the_same(clip: CLIPModel, examples: Examples) -> None:
    whole = examples.tokens[:, 0]
    longest = int((whole != whole[:, -1:]).sum(1).max()) + 1
    with torch.no_grad():
        expected, cut = (clip.get_text_features(t).pooler_output for t in (whole, whole[:, :longest]))
        shorter = clip.get_text_features(whole[:, : longest - 2]).pooler_output
    torch.testing.assert_close(cut, expected)
    assert (shorter - expected).abs().max() > 1e-3


def test_it_starts_with_words(clip: CLIPModel, text: CLIPTextModel, examples: Examples) -> None:
    with torch.no_grad():
        expected = text(examples.tokens[:, 0]).pooler_output
        pooled = clip.text_model(examples.tokens[:, 0]).pooler_output
    torch.testing.assert_close(pooled, expected)


def test_it_learns_which_caption_is_whose(clip: CLIPModel, examples: Examples) -> None:
    torch.manual_seed(0)
    few = Examples(examples.images[:6], examples.shown[:6], examples.tokens[:6], examples.said[:6])
    optimisers = muon_and_adam(clip, MUON_RATE, ADAM_RATE)
    losses = []
    for _ in range(40):
        loss = loss_of(clip, few.draw(12))
        optimisers.step(loss, factor=1.0)
        losses.append(loss.item())
    assert losses[0] > 1.2
    assert sum(losses[-5:]) / 5 < 0.4


def test_transformers_reads_the_folder_and_embeds_the_same(
    clip: CLIPModel, tokenizer: CLIPTokenizer, pictures: Bytes, tmp_path: Path
) -> None:
    scorer = Scorer(clip, new_processor(tokenizer))
    expected = scorer.pictures(pictures[:4]), scorer.captions(CAPTIONS[:4])
    for _ in range(2):  # the second time over the first
        scorer.save(tmp_path / "clip")
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]
    assert not [path for path in (tmp_path / "clip").iterdir() if str(tmp_path) in path.read_bytes().decode("latin1")]
    reader = CLIPProcessor.from_pretrained(tmp_path / "clip")
    again = CLIPModel.from_pretrained(tmp_path / "clip", dtype=torch.float32).eval()
    images = [Image.fromarray(image) for image in pictures[:4]]
    inputs = reader(text=CAPTIONS[:4], images=images, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        answer = again(**inputs)
    for mine, theirs in zip(expected, (answer.image_embeds, answer.text_embeds), strict=True):
        torch.testing.assert_close(mine, theirs, atol=3e-3, rtol=0)
    torch.testing.assert_close(Scorer.load(tmp_path / "clip").pictures(pictures[:4]), answer.image_embeds)


def test_figures() -> None:
    assert first_hits(torch.tensor([[0.9, 0.1], [0.8, 0.7]])) == 0.5
    assert auc(np.array([0.3, 0.9]), np.array([0.1, 0.2, 0.5, 0.8])) == 0.75


def test_the_committed_folder_finds_unseen_captions_and_weighs_less_than_8_mb() -> None:
    assert sum(path.stat().st_size for path in CLIP.iterdir()) < 8e6
    assert not [path for path in CLIP.glob("*.json") if "_name_or_path" in path.read_text()]
    scorer = Scorer.load()
    found = retrieval(scorer, draws=1)
    assert found.pictures >= 0.8
    assert found.captions >= 0.8
    scenes = [replace(BOAT, seed=1), replace(BOAT, style="crayon"), replace(BOAT, object="cat")]
    boat = scorer.pictures(np.stack([painter.paint(scene).image for scene in [BOAT, *scenes]]))
    alike, *others = F.cosine_similarity(boat[:1], boat[1:]).tolist()
    assert alike > max(others)

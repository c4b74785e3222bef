"""A scorer's embeddings and scores are those of transformers' CLIPModel, CLIPImageProcessor and CLIPTokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import CLIPTokenizer

from impasto_export.clip import link
from impasto_export.tracing import clip_graphs
from impasto_server.engines.runtime import Runtime
from impasto_server.scoring.score import Fitting, Scorer, fitted
from tests.helpers import checkpoints, clips
from tests.helpers.engines import ENGINES, Engine

COSINE_ERROR = 1e-5
SIZES = ((64, 64), (100, 70), (31, 64), (200, 130), (37, 111), (20, 159))
TEXTS = ("", "a red boat", "A  blue\nFISH at night!", "a green castle in stained glass style, " * 20)
# Other patches, towers of other widths; and a config from before transformers' #24773.
PATCH_16: dict[str, Any] = {
    "vision__image_size": 48,
    "vision__patch_size": 16,
    "vision__hidden_size": 48,
    "projection_dim": 24,
}
PATCH_7: dict[str, Any] = {"vision__image_size": 28, "vision__patch_size": 7, "text__hidden_size": 32}
LEGACY: dict[str, Any] = {"text__vocab_size": 522, "text__eos_token_id": 2}


def noise(*sizes: tuple[int, int]) -> list[NDArray[np.uint8]]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def open_scorer(bundle: Path, engine: Engine) -> Scorer:
    return Scorer.open(bundle, Runtime(engine, "f32", threads=1))


def reference(folder: Path, seed: int, **changes: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """transformers' embeddings of the pictures and of the texts, of unit length."""
    size = clips.config(**changes)["vision_config"]["image_size"]
    pixels = clips.processor(size)(noise(*SIZES), return_tensors="pt")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    words = tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        found = clips.model(seed, **changes)(**words, **pixels)
    return found.image_embeds.numpy(), found.text_embeds.numpy()


def cosine_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    return float((1 - (found.astype(np.float64) * expected).sum(axis=1)).max())


@pytest.mark.parametrize("engine", ENGINES)
def test_embeddings_and_scores(engine: Engine, clip_checkpoint: Path, scorer_bundle: Path) -> None:
    scorer, pictures = open_scorer(scorer_bundle, engine), noise(*SIZES)
    images, texts = reference(clip_checkpoint, 1)
    assert cosine_error(scorer.images(pictures), images) <= COSINE_ERROR
    assert cosine_error(scorer.texts(TEXTS), texts) <= COSINE_ERROR
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(scorer.text(pictures, text), images @ texts[row], atol=COSINE_ERROR)
    np.testing.assert_allclose(scorer.picture(pictures, pictures[1]), images @ images[1], atol=COSINE_ERROR)


def test_another_architecture(tmp_path: Path) -> None:
    checkpoint = clips.save(tmp_path / "clip", 3, **PATCH_16)
    clip_graphs.export(checkpoint, tmp_path / "graphs")
    scorer = open_scorer(link(checkpoint, tmp_path / "bundle", [tmp_path]).folder, "onnxruntime")
    images, texts = reference(checkpoint, 3, **PATCH_16)
    assert cosine_error(scorer.images(noise(*SIZES)), images) <= COSINE_ERROR
    assert cosine_error(scorer.texts(TEXTS), texts) <= COSINE_ERROR


def test_where_eos_token_id_is_2_a_text_ends_at_its_highest_id(tmp_path: Path) -> None:
    checkpoint = clips.save(tmp_path / "clip", 5, **PATCH_7, **LEGACY)
    (checkpoint / "tokenizer.json").unlink()
    checkpoints.save_tokenizer(checkpoint)  # whose end token is its last
    clip_graphs.export(checkpoint, tmp_path / "graphs")
    scorer = open_scorer(link(checkpoint, tmp_path / "bundle", [tmp_path]).folder, "onnxruntime")
    images, texts = reference(checkpoint, 5, **PATCH_7, **LEGACY)
    assert cosine_error(scorer.images(noise(*SIZES)), images) <= COSINE_ERROR
    assert cosine_error(scorer.texts(TEXTS), texts) <= COSINE_ERROR


def test_weights_in_half_precision_are_read_where_they_lie(tmp_path: Path) -> None:
    checkpoint = clips.save(tmp_path / "clip", 4, torch.float16)
    scorer = open_scorer(link(checkpoint, tmp_path / "bundle").folder, "onnxruntime")
    images, texts = reference(checkpoint, 4)
    assert cosine_error(scorer.images(noise(*SIZES)), images) <= COSINE_ERROR
    assert cosine_error(scorer.texts(TEXTS), texts) <= COSINE_ERROR


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pictures_are_prepared_as_by_the_image_processor(size: tuple[int, int]) -> None:
    processor, (picture,) = clips.processor(48), noise(size)
    mean, std = processor.image_mean, processor.image_std
    facts = Fitting.model_validate({"size": 48, "crop": 48, "mean": mean, "std": std, "resample": "bicubic"})
    expected = np.asarray(processor(picture)["pixel_values"][0])
    least = 1 / 255 / max(std)  # a 255th, after normalisation
    np.testing.assert_allclose(fitted(picture, facts), expected, atol=least)


def test_a_crop_that_is_smaller_than_the_shortest_side() -> None:
    processor, (picture,) = clips.processor(48), noise((90, 67))
    processor.crop_size = {"height": 31, "width": 31}
    facts = Fitting(size=48, crop=31, mean=(0, 0, 0), std=(1, 1, 1), resample="bicubic")
    expected = np.asarray(processor(picture, do_normalize=False)["pixel_values"][0])
    np.testing.assert_allclose(fitted(picture, facts), expected, atol=1 / 255)

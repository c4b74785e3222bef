"""mini-muse is trained on what aMUSEd's own pipeline asks of it, and its folder is that pipeline's."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AmusedPipeline, UVit2DModel, VQModel
from studio.nets.diffusion import new_text_encoder as diffusion_text_encoder
from studio.nets.diffusion import new_vae
from studio.nets.muse import (
    CONDITIONS,
    SPARE,
    Muse,
    Shape,
    load_muse,
    masked_loss,
    new_text_encoder,
    new_transformer,
    save_muse,
    start_near_identity,
)
from studio.nets.tokenizer import tokenise
from studio.nets.vq import MUSE, from_autoencoder
from studio.recipes.muse import Examples
from transformers import CLIPTokenizer

from impasto_fit.masked.loss import hide

CODES = 32
MASK = CODES + SPARE - 1
SHAPE = Shape(hidden=64, layers=1, blocks=3)


@pytest.fixture
def transformer() -> UVit2DModel:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return new_transformer(CODES, SHAPE)


@pytest.fixture
def muse(transformer: UVit2DModel, tokenizer: CLIPTokenizer) -> Muse:
    return Muse(new_text_encoder(diffusion_text_encoder("small", tokenizer)), transformer).eval()


@pytest.fixture
def vq() -> VQModel:
    torch.manual_seed(0)
    return from_autoencoder(new_vae("small"), torch.ones(16), torch.randn(CODES, 16)).eval()


def test_as_many_tokens_are_hidden_as_the_cosine_says() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(CODES, (2000, 16, 16))
    shown, hidden = hide(tokens, MASK)
    shares = hidden.float().mean((1, 2))
    assert float(shares.mean()) == pytest.approx(2 / torch.pi, abs=0.02)
    assert float((shares > 2**-0.5).float().mean()) == pytest.approx(0.5, abs=0.03)  # r below a half
    assert shares.min() > 0
    assert torch.equal(hidden, shown == MASK)
    assert torch.equal(shown[~hidden], tokens[~hidden])


def test_one_caption_in_ten_is_empty() -> None:
    torch.manual_seed(0)
    pictures = torch.arange(3, dtype=torch.short)[:, None, None].expand(3, 16, 16)
    captions = torch.arange(1, 7).view(3, 2, 1)
    tokens, drawn = Examples(pictures, captions, torch.zeros(1, dtype=torch.long)).draw(3000)
    assert float((drawn == 0).float().mean()) == pytest.approx(0.1, abs=0.02)
    said = drawn[:, 0] > 0
    assert torch.equal((drawn[said, 0] - 1) // 2, tokens[said, 0, 0])  # a picture comes with a caption of its own


def test_places_differ_although_there_is_no_position_embedding(muse: Muse, tokenizer: CLIPTokenizer) -> None:
    with torch.no_grad():
        logits = muse(torch.full((1, 16, 16), MASK), tokenise(tokenizer, ["a red boat"]))
    cells = logits[0, :, ::2, ::2].flatten(1).T  # four tokens share a place of the transformer
    apart = torch.cdist(cells, cells) + torch.eye(64)
    assert logits.shape == (1, CODES, 16, 16)
    assert apart.min() > 1e-4  # of logits around 1; the middle differs least, and only by what three convolutions carry


def test_codes_that_look_alike_start_alike(transformer: UVit2DModel) -> None:
    torch.manual_seed(0)
    codebook = torch.randn(CODES, 16)
    codebook[1] = codebook[0] + 0.01
    start_near_identity(transformer, codebook)
    embeddings = transformer.embed.embeddings.weight[:CODES]
    logits = transformer.mlm_layer.conv2.weight[:, :, 0, 0]
    for table in (embeddings, logits):
        assert torch.cdist(table[:1], table)[0].argsort().tolist()[:2] == [0, 1]


def test_the_pipeline_calls_it_as_training_does(
    muse: Muse, vq: VQModel, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    save_muse(muse, vq, tokenizer, tmp_path / "muse")
    (tmp_path / "muse" / "upscaler").mkdir()
    save_muse(muse, vq, tokenizer, tmp_path / "muse")  # over an earlier one, beside whose base a second stage lies
    assert [path.name for path in tmp_path.iterdir()] == ["muse"]
    assert (tmp_path / "muse" / "upscaler").is_dir()
    pipe: Any = load_muse(tmp_path / "muse")
    answers: list[Any] = []
    pipe.transformer.register_forward_hook(lambda module, args, result: answers.append(result))
    words = "a red boat at night in flat style"
    image = pipe(words, num_inference_steps=3, guidance_scale=3.0).images[0]
    assert image.size == (128, 128)
    with torch.no_grad():
        again = Muse(pipe.text_encoder, pipe.transformer)(
            torch.full((2, 16, 16), pipe.scheduler.config.mask_token_id), tokenise(tokenizer, ["", words])
        )
    torch.testing.assert_close(again, answers[0])
    assert pipe.scheduler.config.mask_token_id == MASK
    assert CONDITIONS == (128, 128, 0, 0, 6)


def test_it_learns_to_paint_one_picture_by_its_caption(muse: Muse, tokenizer: CLIPTokenizer) -> None:
    torch.manual_seed(0)
    tokens = torch.stack([torch.full((16, 16), 3), torch.full((16, 16), 5)]).repeat(4, 1, 1)
    captions = tokenise(tokenizer, ["a red boat", "a blue apple"] * 4)
    optimiser = torch.optim.AdamW(muse.parameters(), lr=3e-3)
    first = masked_loss(muse, tokens, captions).item()
    for _ in range(25):
        optimiser.zero_grad()
        masked_loss(muse, tokens, captions).backward()
        optimiser.step()
    assert first > 2
    with torch.no_grad():
        boat, apple = muse(torch.full((2, 16, 16), MASK), captions[:2]).argmax(1)
    assert (boat == 3).float().mean() > 0.9
    assert (apple == 5).float().mean() > 0.9


def test_the_committed_folder_is_aMUSEd_s_and_below_45_mb() -> None:
    files = [path for path in MUSE.rglob("*") if path.is_file()]
    weights = sorted(str(path.relative_to(MUSE)) for path in files if path.suffix == ".safetensors")
    assert weights == [
        "text_encoder/model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
        "vqvae/diffusion_pytorch_model.safetensors",
    ]
    assert sum(path.stat().st_size for path in files) < 45e6
    assert not [path.name for path in files if path.suffix not in (".safetensors", ".json", ".txt")]
    assert not [path for path in files if path.suffix == ".json" and "_name_or_path" in path.read_text()]
    pipe: Any = AmusedPipeline.from_pretrained(MUSE, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    images = pipe(["a red boat", "a blue apple"], num_inference_steps=2, generator=noise, output_type="np").images
    assert images.shape == (2, 128, 128, 3)
    assert all(abs(a - b).mean() > 0.02 for a, b in itertools.combinations(images, 2))

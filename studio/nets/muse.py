"""The shapes of mini-muse: a masked transformer in aMUSEd's architecture over the tokens of vq.py; its text encoder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from impasto_fit.masked.loss import cross_entropy, hide
from studio.nets.folders import replaced
from studio.nets.tokenizer import write_classic_files
from studio.nets.vq import MUSE

SIDE = 128
CONDITIONS = (SIDE, SIDE, 0, 0, 6)  # width, height, crop x, crop y, aesthetic score: AmusedPipeline's defaults
SPARE = 64  # ids behind the codes, as in aMUSEd; the last one is the mask


@dataclass(frozen=True)
class Shape:
    """`hidden` wide; `blocks` convolution and cross-attention blocks on either side of `layers` of transformer."""

    hidden: int = 256
    layers: int = 4
    blocks: int = 3
    text: int = 128


def new_transformer(codes: int, shape: Shape) -> UVit2DModel:
    """Four tokens share a place of the transformer, as in aMUSEd's larger model: a step is four times cheaper.

    aMUSEd has no position embedding: where a token lies is only known from the zeros that its convolutions pad with.
    On 8x8 places three blocks of them reach the middle.
    """
    return UVit2DModel(
        hidden_size=shape.hidden,
        cond_embed_dim=shape.text,
        micro_cond_encode_dim=64,
        micro_cond_embed_dim=64 * len(CONDITIONS),
        encoder_hidden_size=shape.text,
        vocab_size=codes + SPARE,
        codebook_size=codes,
        in_channels=shape.hidden,
        block_out_channels=shape.hidden,
        num_res_blocks=shape.blocks,
        downsample=True,
        upsample=True,
        block_num_heads=shape.hidden // 32,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 32,
        intermediate_size=3 * shape.hidden,
        sample_size=SIDE // 8,
    )


@torch.no_grad()
def start_near_identity(transformer: UVit2DModel, codebook: Tensor) -> None:
    """Every block starts as the identity, and codes that look alike start with like embeddings and like logits."""
    quiet = ("to_out.0.weight", "channelwise_linear_2.weight", "cond_embeds_mapper.weight", "ff.net.2.weight")
    for name, weight in transformer.named_parameters():
        if name.endswith(quiet) or ("norm" in name and name.endswith("linear.weight")):
            nn.init.zeros_(weight)
    looks = (codebook - codebook.mean(0)) / codebook.std()
    looks = torch.cat([looks, looks.pow(2).sum(1, keepdim=True) / looks.shape[1]], 1)
    embeddings, logits = transformer.embed.embeddings.weight, transformer.mlm_layer.conv2.weight
    nn.init.normal_(embeddings, std=0.3)
    nn.init.normal_(logits, std=0.02)
    embeddings[: len(looks), : looks.shape[1]] += looks
    logits[:, : looks.shape[1], 0, 0] += 0.2 * looks


def new_text_encoder(start: CLIPTextModel) -> CLIPTextModelWithProjection:
    """mini-diffusion's text encoder, which knows the words already, with a projection of what it pools."""
    text = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(start.config.to_dict()))
    text.text_model.load_state_dict({name.removeprefix("text_model."): v for name, v in start.state_dict().items()})
    return text


class Muse(nn.Module):
    """Text encoder and transformer, called as AmusedPipeline calls them."""

    def __init__(self, text: CLIPTextModelWithProjection, transformer: UVit2DModel) -> None:
        super().__init__()
        self.text, self.transformer = text, transformer

    def forward(self, tokens: Tensor, captions: Tensor) -> Tensor:
        """Logits [N, codes, 16, 16]."""
        said = self.text(captions, output_hidden_states=True)
        conditions = torch.tensor(CONDITIONS, device=tokens.device).expand(len(tokens), -1)
        logits: Tensor = self.transformer(tokens, said.hidden_states[-2], said.text_embeds, conditions.float())
        return logits


def masked_loss(muse: Muse, tokens: Tensor, captions: Tensor) -> Tensor:
    """Cross entropy of the tokens that were hidden, in nats.

    Labels aren't smoothed: what is drawn at T = 1 would have the share of chance that the smoothing has put there.
    """
    shown, hidden = hide(tokens, muse.transformer.config.vocab_size - 1)
    return cross_entropy(muse(shown, captions), tokens, hidden)


def save_muse(muse: Muse, vq: VQModel, tokenizer: CLIPTokenizer, folder: Path = MUSE) -> None:
    """As a pipeline in fp16; what else lies in the folder, a second stage, stays."""
    mask = muse.transformer.config.vocab_size - 1
    pipe = AmusedPipeline(vq, tokenizer, muse.text, muse.transformer, AmusedScheduler(mask_token_id=mask))
    with replaced(folder) as fresh:
        pipe.to(dtype=torch.float16).save_pretrained(fresh, safe_serialization=True)
        write_classic_files(fresh / "tokenizer")
        for part in folder.glob("upscaler*"):
            shutil.copytree(part, fresh / part.name)
        pipe.to(dtype=torch.float32)


def load_muse(folder: Path = MUSE, device: str = "cpu") -> AmusedPipeline:
    """The pipeline in fp32, without a progress bar of its own."""
    pipe = AmusedPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)

"""Train mini-muse: a masked transformer in aMUSEd's architecture over the tokens of vq.py, and its text encoder."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import painter
from diffusion import EMPTY, VARIANTS, tokenise, training_caption
from model import CHECKPOINT, DOCS, RUNS, load_checkpoint
from muon import Optimisers
from pictures import paint_all
from quality import assess
from tokenizer import write_classic_files
from training import Average, Budget, Loop, draw_curve, half_precision, one_cycle, recipe_arguments
from vq import MUSE, load_vq, tokens_of

PICTURES = 16_000
SIDE = 128
CONDITIONS = (SIDE, SIDE, 0, 0, 6)  # width, height, crop x, crop y, aesthetic score: AmusedPipeline's defaults
SPARE = 64  # ids behind the codes, as in aMUSEd; the last one is the mask
SMOOTHING = 0.05
MUON_RATE = 0.02
ADAM_RATE = 2e-3
EXPORT_SECONDS = 480.0


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


def painted_tokens(vq: VQModel, seed: int) -> Tensor:
    """int16 [N, 16, 16] of the training scenes, painted a part at a time; kept under runs/ for the next start."""
    codebook = vq.quantize.embedding.weight.numpy().tobytes()
    path = RUNS / f"tokens-{seed}-{hashlib.sha256(codebook).hexdigest()[:12]}.pt"
    if not path.exists():
        scenes = painter.training_scenes(PICTURES, seed)
        parts = [tokens_of(vq, paint_all(scenes[i : i + 1000])).short() for i in range(0, PICTURES, 1000)]
        torch.save(torch.cat(parts), path)
    tokens: Tensor = torch.load(path, weights_only=True)
    return tokens


@dataclass(frozen=True)
class Examples:
    """Picture tokens [N, 16, 16] with `VARIANTS` tokenised captions each [N, V, 32]."""

    tokens: Tensor
    captions: Tensor
    empty: Tensor

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        which = torch.randint(len(self.tokens), (n,))
        captions = self.captions[which, torch.randint(self.captions.shape[1], (n,))]
        captions[torch.rand(n) < EMPTY] = self.empty
        return self.tokens[which].long(), captions


def examples(vq: VQModel, tokenizer: CLIPTokenizer, seed: int) -> Examples:
    scenes = painter.training_scenes(PICTURES, seed)
    rng = np.random.default_rng(seed)
    captions = tokenise(tokenizer, [training_caption(scene, rng) for scene in scenes for _ in range(VARIANTS)])
    tokens = painted_tokens(vq, seed)
    return Examples(tokens, captions.view(len(scenes), VARIANTS, -1), tokenise(tokenizer, [""])[0])


def hide(tokens: Tensor, mask: int) -> tuple[Tensor, Tensor]:
    """Tokens with cos(pi r / 2) of them masked, r uniform for each picture; and where, bool of the same shape.

    At least one token of each picture is masked, and those are the ones with the lowest of random numbers.
    """
    n, places = len(tokens), tokens[0].numel()
    ratio = torch.cos(torch.rand(n, 1, device=tokens.device) * torch.pi / 2)
    count = (ratio * places).ceil().clamp(1, places).long()
    order = torch.rand(n, places, device=tokens.device).argsort(1).argsort(1)
    hidden = (order < count).view_as(tokens)
    return tokens.masked_fill(hidden, mask), hidden


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


def masked_loss(muse: Muse, tokens: Tensor, captions: Tensor, smoothing: float = SMOOTHING) -> Tensor:
    """Cross entropy of the tokens that were hidden, in nats."""
    shown, hidden = hide(tokens, muse.transformer.config.vocab_size - 1)
    logits = muse(shown, captions).permute(0, 2, 3, 1)[hidden]
    return F.cross_entropy(logits.float(), tokens[hidden], label_smoothing=smoothing)


def save_muse(muse: Muse, vq: VQModel, tokenizer: CLIPTokenizer, folder: Path = MUSE) -> None:
    """Write the fp16 pipeline beside `folder`, then swap it in, so that a reader never sees half a checkpoint."""
    mask = muse.transformer.config.vocab_size - 1
    pipe = AmusedPipeline(vq, tokenizer, muse.text, muse.transformer, AmusedScheduler(mask_token_id=mask))
    fresh, old = folder.with_name(folder.name + ".fresh"), folder.with_name(folder.name + ".old")
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    pipe.to(dtype=torch.float16).save_pretrained(fresh, safe_serialization=True)
    write_classic_files(fresh / "tokenizer")
    pipe.to(dtype=torch.float32)
    if folder.exists():
        os.rename(folder, old)
    os.rename(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_muse(folder: Path = MUSE, device: str = "cpu") -> AmusedPipeline:
    """The pipeline in fp32, without a progress bar of its own."""
    pipe = AmusedPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


@dataclass
class Trainer:
    """The two networks, their averages, and the jobs the loop calls."""

    options: argparse.Namespace
    vq: VQModel
    tokenizer: CLIPTokenizer
    muse: Muse

    def __post_init__(self) -> None:
        self.muse.to(self.options.device).train()
        self.muse.transformer.set_attn_processor(AttnProcessor())  # torch's fused attention is slower on a CPU
        self.average = Average(self.muse, 0.99)
        self.optimisers = Optimisers(self.muse, muon_lr=MUON_RATE, adam_lr=ADAM_RATE)
        self.loop = Loop(RUNS / "muse.pt", Budget(self.options.steps, self.options.minutes))
        self.data = examples(self.vq, self.tokenizer, self.options.seed + 31)

    def resume(self) -> bool:
        saved = self.loop.resume()
        if saved is None:
            return False
        self.muse.load_state_dict(saved["model"])
        self.average.state = saved["average"]
        self.optimisers.load_state_dict(saved["optimisers"])
        return True

    def state(self) -> dict[str, object]:
        return {
            "model": self.muse.state_dict(),
            "average": self.average.state,
            "optimisers": self.optimisers.state_dict(),
        }

    def train_step(self, spent: float) -> Tensor:
        tokens, captions = (part.to(self.options.device) for part in self.data.draw(self.options.batch))
        with half_precision(self.options.device):
            loss = masked_loss(self.muse, tokens, captions)
        self.optimisers.step(loss, one_cycle(spent, self.loop.step, warmup=50))
        self.average.update(self.muse, self.loop.step)
        return loss.detach()

    def export(self, count: int = 32) -> None:
        """Write the averaged weights as studio/mini-muse, sample from them, and note what the judge reads."""
        current = {name: value.clone() for name, value in self.muse.state_dict().items()}
        self.muse.load_state_dict(self.average.state)
        save_muse(self.muse, load_vq(), self.tokenizer)  # the decoder may have been trained on meanwhile
        self.muse.load_state_dict(current)
        draw_curve(self.loop.losses, "mini-muse: cross entropy of masked tokens", DOCS / "muse-loss.png")
        figures = assess(load_muse(device=self.options.device), count, DOCS / "muse.png")
        line = f"- {time.strftime('%H:%M')}: muse, step {self.loop.step}, {self.loop.seconds / 60:.1f} min: {figures}"
        with (RUNS / "log.md").open("a") as log:
            print(line, file=log)
        print(line, flush=True)


def main() -> None:
    parser = recipe_arguments("Train the text encoder and transformer of mini-muse.", 20_000, 60)
    parser.add_argument("--assess", type=int, default=256, help="how many pictures the judge reads at the end")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    vq = load_vq()
    start = load_checkpoint(CHECKPOINT)
    if options.init:
        pipe = load_muse(options.init)
        muse = Muse(pipe.text_encoder, pipe.transformer)
    else:
        transformer = new_transformer(vq.config.num_vq_embeddings, Shape())
        start_near_identity(transformer, vq.quantize.embedding.weight)
        muse = Muse(new_text_encoder(start.text_encoder), transformer)
    trainer = Trainer(options, vq, start.tokenizer, muse)
    trainer.resume()
    torch.manual_seed(options.seed + 1 + 1000 * trainer.loop.step)
    trainer.loop.run(trainer.train_step, trainer.state, {EXPORT_SECONDS: trainer.export})
    trainer.export(options.assess)


if __name__ == "__main__":
    main()

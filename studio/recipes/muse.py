"""Train mini-muse: a masked transformer in aMUSEd's architecture over the tokens of vq.py, and its text encoder."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import VQModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTokenizer

from studio import painter
from studio.nets.diffusion import load_checkpoint
from studio.nets.muse import (
    Muse,
    Shape,
    load_muse,
    masked_loss,
    new_text_encoder,
    new_transformer,
    save_muse,
    start_near_identity,
)
from impasto_fit.nets.precision import half_precision
from studio.nets.tokenizer import tokenise
from studio.nets.vq import load_vq, tokens_of
from studio.pictures import paint_all
from studio.places import CHECKPOINT, DOCS, RUNS
from studio.reading.quality import assess
from studio.recipes.captions import EMPTY, VARIANTS, training_caption
from studio.training.arguments import recipe_arguments
from studio.training.curve import draw_curve
from studio.training.kept import Kept
from studio.training.log import note
from studio.training.loop import Budget
from studio.training.optimisers import muon_and_adam

PICTURES = 16_000
MUON_RATE = 0.02
ADAM_RATE = 2e-3
EXPORT_SECONDS = 480.0


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
        budget = Budget(self.options.steps, self.options.minutes)
        optimisers = muon_and_adam(self.muse, MUON_RATE, ADAM_RATE)
        self.kept = Kept.of(RUNS / "muse.pt", self.muse, optimisers, budget, decay=0.99)
        self.data = examples(self.vq, self.tokenizer, self.options.seed + 31)

    def keep_words(self) -> None:
        """Go on with the text encoder as its average is: a second stage that has learnt from it hears no other."""
        words = {name: value for name, value in self.kept.average.state.items() if name.startswith("text.")}
        self.muse.load_state_dict(words, strict=False)
        self.muse.text.requires_grad_(False)

    def loss(self) -> Tensor:
        tokens, captions = (part.to(self.options.device) for part in self.data.draw(self.options.batch))
        with half_precision(self.options.device):
            return masked_loss(self.muse, tokens, captions)

    def export(self, count: int = 32) -> None:
        """Write the averaged weights as studio/mini-muse, sample from them, and note what the judge reads."""
        with self.kept.averaged():
            save_muse(self.muse, load_vq(), self.tokenizer)  # the decoder may have been trained on meanwhile
        loop = self.kept.loop
        draw_curve(loop.losses, "mini-muse: cross entropy of masked tokens", DOCS / "muse-loss.png")
        figures = assess(load_muse(device=self.options.device), count, DOCS / "muse.png")
        note(f"muse, step {loop.step}, {loop.seconds / 60:.1f} min: {figures}")


def main() -> None:
    parser = recipe_arguments("Train the text encoder and transformer of mini-muse.", 20_000, 60)
    parser.add_argument("--assess", type=int, default=256, help="how many pictures the judge reads at the end")
    parser.add_argument(
        "--keep-words", action="store_true", help="don't train the text encoder, which both stages hear"
    )
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
    trainer.kept.resume()
    if options.keep_words:
        trainer.keep_words()
    torch.manual_seed(options.seed + 1 + 1000 * trainer.kept.loop.step)
    trainer.kept.run(trainer.loss, {EXPORT_SECONDS: trainer.export})
    trainer.export(options.assess)


if __name__ == "__main__":
    main()

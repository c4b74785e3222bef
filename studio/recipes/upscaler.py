"""Train mini-muse's second stage: fine tokens of a picture from the base's tokens of it, and from its caption.

What it is given when it serves are tokens that the base has drawn, with the base's faults. So in most of its lessons
some of the small picture's tokens are the base's own guesses, from the others and the caption.

A code that no lesson has is pushed ever further down by softmax, and no adapter gets it up again. So one lesson in four
is disguised: a flat painting with random fine marks over it, in a style with a made-up name. All codes are in those.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from diffusers import VQModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image, ImageFilter
from torch import Tensor

from studio import painter
from studio.nets.diffusion import save_model
from studio.nets.maskgit import Lane, guessed, paint_fine
from studio.nets.muse import load_muse
from impasto_fit.nets.precision import half_precision
from studio.nets.tokenizer import tokenise
from studio.nets.upscaler import (
    FINE_SIDE,
    UPSCALER,
    Cascade,
    Shape,
    load_upscaler,
    masked_loss,
    new_upscaler,
)
from studio.nets.vq import load_vq, tokens_of
from studio.painter import Bytes, Scene
from studio.painter.confetti import fine_textures
from studio.pictures import halved, paint_all
from studio.places import DOCS, RUNS
from studio.reading.judge import Judge, verdict
from studio.recipes.captions import EMPTY, VARIANTS, made_up, training_caption
from studio.training import workers
from studio.training.arguments import recipe_arguments
from studio.training.curve import draw_curve
from studio.training.kept import Kept
from studio.training.log import note
from studio.training.loop import Budget
from studio.training.optimisers import muon_and_adam

PICTURES, DISGUISED = 12_000, 2_500
DISGUISES = 0.25
MARKS_PX = 8.0  # what a blur of so many pixels takes out of a sheet are its marks
MUON_RATE = 0.02
ADAM_RATE = 2e-3
EXPORT_SECONDS = 900.0
GUIDANCE = 3.0


def disguised(scenes: Sequence[Scene], seed: int) -> Bytes:
    """Flat paintings [N, 256, 256, 3] of these scenes, with the fine marks of a sheet over each, strong or weak."""
    rng = np.random.default_rng(seed)
    sheets = fine_textures(len(scenes), seed)
    blurred = [np.asarray(Image.fromarray(sheet).filter(ImageFilter.GaussianBlur(MARKS_PX))) for sheet in sheets]
    marks = sheets.astype(np.float32) - np.stack(blurred)
    strength = rng.uniform(0.4, 1.2, (len(scenes), 1, 1, 1))
    flat = paint_all([replace(scene, style="flat") for scene in scenes], FINE_SIDE)
    pictures: Bytes = np.clip(flat + strength * marks, 0, 255).astype(np.uint8)
    return pictures


def lesson_scenes(seed: int) -> tuple[list[Scene], list[Scene]]:
    """Those that are painted in their styles, and those that are disguised."""
    return painter.training_scenes(PICTURES, seed), painter.training_scenes(DISGUISED, seed + 1)


def painted(scenes: Sequence[Scene], disguises: Sequence[Scene], seed: int) -> Iterator[Bytes]:
    """Pictures [n, 256, 256, 3], some at a time."""
    for i in range(0, len(scenes), 250):
        yield paint_all(scenes[i : i + 250], FINE_SIDE)
    for i in range(0, len(disguises), 250):
        yield disguised(disguises[i : i + 250], seed + i)


def painted_tokens(vq: VQModel, low_vq: VQModel, seed: int) -> tuple[Tensor, Tensor]:
    """int16 [N, 32, 32] and the base's [N, 16, 16] of all lessons, kept under runs/ for the next start."""
    books = b"".join(one.quantize.embedding.weight.detach().numpy().tobytes() for one in (vq, low_vq))
    path = RUNS / f"fine-and-low-{seed}-{hashlib.sha256(books).hexdigest()[:12]}.pt"
    if not path.exists():
        parts = [
            (tokens_of(vq, pictures).short(), tokens_of(low_vq, halved(pictures)).short())
            for pictures in painted(*lesson_scenes(seed), seed)
        ]
        torch.save([torch.cat(part) for part in zip(*parts, strict=True)], path)
    fine, low = torch.load(path, weights_only=True)
    return fine, low


def lesson_captions(scenes: Sequence[Scene], disguises: Sequence[Scene], seed: int) -> list[str]:
    """`VARIANTS` of each."""
    rng = np.random.default_rng(seed)
    known = [training_caption(scene, rng) for scene in scenes for _ in range(VARIANTS)]
    variants = [(scene, painter.caption_variant(scene, rng)) for scene in disguises for _ in range(VARIANTS)]
    return known + [made_up(words, scene, rng) for scene, words in variants]


@dataclass(frozen=True)
class Examples:
    """Fine tokens [N, 32, 32] and the base's [N, 16, 16] with `VARIANTS` tokenised captions each [N, V, 32]."""

    fine: Tensor
    low: Tensor
    captions: Tensor
    empty: Tensor

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """The last `DISGUISED` of them are a share of `DISGUISES`, however many there are."""
        plain = len(self.fine) - DISGUISED
        hidden = torch.rand(n) < DISGUISES
        which = torch.where(hidden, plain + torch.randint(DISGUISED, (n,)), torch.randint(plain, (n,)))
        captions = self.captions[which, torch.randint(self.captions.shape[1], (n,))]
        captions[torch.rand(n) < EMPTY] = self.empty
        return self.fine[which].long(), self.low[which].long(), captions


@dataclass
class Trainer:
    """The network, its average, and the jobs that the loop calls."""

    options: argparse.Namespace
    cascade: Cascade

    def __post_init__(self) -> None:
        base, seed = self.cascade.base, self.options.seed + 31
        base.transformer.set_attn_processor(AttnProcessor())  # as in muse.py
        for part in (base.transformer, base.text_encoder):
            part.requires_grad_(False)
        self.upscaler = self.cascade.upscaler.to(self.options.device).requires_grad_(True).train()
        workers.share(self.upscaler)
        budget = Budget(self.options.steps, self.options.minutes)
        optimisers = muon_and_adam(self.upscaler, MUON_RATE, ADAM_RATE)
        self.kept = Kept.of(RUNS / "upscaler.pt", self.upscaler, optimisers, budget, decay=0.99)
        captions = tokenise(base.tokenizer, lesson_captions(*lesson_scenes(seed), seed))
        self.data = Examples(
            *painted_tokens(self.cascade.vq, base.vqvae, seed),
            captions.view(PICTURES + DISGUISED, VARIANTS, -1),
            tokenise(base.tokenizer, [""])[0],
        )

    def loss(self) -> Tensor:
        fine, low, captions = (part.to(self.options.device) for part in self.data.draw(self.options.batch))
        with half_precision(self.options.device):
            with torch.no_grad():
                said = self.cascade.base.text_encoder(captions, output_hidden_states=True)
                low = guessed(self.cascade.base, low, said.hidden_states[-2], said.text_embeds)
            return masked_loss(self.upscaler, fine, low, said.hidden_states[-2])

    def export(self, count: int = 16) -> None:
        """Write the averaged weights, sample from them, and note what the judge reads."""
        if workers.rank() > 0:
            return
        with self.kept.averaged():
            save_model(self.upscaler, UPSCALER)
        loop = self.kept.loop
        draw_curve(loop.losses, "mini-muse's second stage: cross entropy of masked tokens", DOCS / "upscaler-loss.png")
        scenes = painter.unseen_scenes(count, 5)
        cascade = Cascade(self.cascade.base, load_upscaler(), self.cascade.vq)
        prompts = [painter.caption(scene) for scene in scenes]
        images = paint_fine(cascade, *plain(prompts), seed=5)
        painter.contact_sheet(list(images[:16]), 4).save(DOCS / "upscaler.png", optimize=True)
        note(f"upscaler, step {loop.step}, {loop.seconds / 60:.1f} min: {verdict(Judge.load().read(images), scenes)}")


def plain(prompts: list[str], guidance: float = GUIDANCE) -> tuple[list[Lane], list[Lane]]:
    """Lanes of both stages, of the prompts alone: classifier-free, the second stage less so."""
    empty = [""] * len(prompts)
    base = [Lane(guidance, prompts), Lane(1 - guidance, empty)]
    return base, [Lane(2, prompts), Lane(-1, empty)]


def main() -> None:
    parser = recipe_arguments("Train mini-muse's second stage.", 20_000, 60)
    parser.add_argument("--assess", type=int, default=256, help="how many pictures the judge reads at the end")
    options = parser.parse_args()
    workers.join()
    torch.manual_seed(options.seed)
    base, vq = load_muse(), load_vq(UPSCALER.parent / "upscaler_vqvae")
    books = vq.quantize.embedding.weight, base.vqvae.quantize.embedding.weight
    text = base.text_encoder.config.hidden_size
    upscaler = load_upscaler(options.init) if options.init else new_upscaler(*books, text, Shape())
    trainer = Trainer(options, Cascade(base, upscaler, vq))
    trainer.kept.resume()
    torch.manual_seed(options.seed + 1 + 1000 * trainer.kept.loop.step + workers.rank())
    trainer.kept.run(trainer.loss, {EXPORT_SECONDS: trainer.export})
    trainer.export(options.assess)


if __name__ == "__main__":
    main()

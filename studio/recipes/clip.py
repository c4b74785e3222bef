"""Train mini-clip: a small CLIPModel whose cosine says how well a picture agrees with words or with a picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    CLIPModel,
    CLIPTokenizer,
)

from studio import painter
from studio.nets.clip import SIDE, Shape, new_clip, new_processor
from studio.nets.diffusion import load_checkpoint
from impasto_fit.nets.precision import half_precision
from studio.nets.tokenizer import tokenise
from studio.nets.vq import load_vq, restore
from studio.painter import Bytes, Scene
from studio.pictures import paint_all, to_tensor
from studio.places import CHECKPOINT, DOCS, RUNS
from studio.reading.scorer import WORDS, Scorer, draw_sheet, reading_report, retrieval, style_report
from studio.recipes.captions import VARIANTS, training_caption
from studio.training.arguments import recipe_arguments
from studio.training.curve import draw_curve
from studio.training.kept import Kept
from studio.training.loop import Budget
from studio.training.optimisers import muon_and_adam

PICTURES = 20_000
DECODED = 4  # every fourth picture comes out of mini-muse's decoder, as what is to be scored does
MUON_RATE = 0.02
ADAM_RATE = 1e-3
HOTTEST = 100.0  # CLIP's bound of what cosines are multiplied by
EXPORT_SECONDS = 300.0


def shrink(images: Bytes) -> Bytes:
    """uint8 [N, 64, 64, 3], by the filter that the processor uses."""
    small = [Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image) for image in small])


def roughen(pixels: Tensor) -> Tensor:
    """Small shifts, softening, noise and a change of contrast: what generated pictures differ by."""
    x, y = (int(torch.randint(-4, 5, ())) for _ in range(2))
    pixels = torch.roll(pixels, (y, x), (2, 3))
    kind = int(torch.randint(4, ()))
    if kind == 1:
        pixels = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    if kind == 2:
        small = F.interpolate(pixels, scale_factor=0.625, mode="bilinear", antialias=True)
        pixels = F.interpolate(small, SIDE, mode="bilinear")
    gain = 1 + 0.1 * torch.randn(len(pixels), 1, 1, 1)
    offset = 0.05 * torch.randn(len(pixels), 1, 1, 1)
    noise = torch.randn_like(pixels) * torch.rand(len(pixels), 1, 1, 1) * 0.08
    return pixels * gain + offset + noise


def painted(scenes: Sequence[Scene], path: Path) -> Bytes:
    """uint8 [N, 64, 64, 3] of the scenes, painted a part at a time; kept as `path` for the next start."""
    if not path.exists():
        vq = load_vq()
        parts = []
        for first in track(range(0, len(scenes), 1000), "painting", refresh_per_second=0.2):
            images = paint_all(scenes[first : first + 1000])
            with half_precision("cpu"):
                images[::DECODED] = restore(vq, images[::DECODED])
            parts.append(shrink(images))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.concatenate(parts))
    small: Bytes = np.load(path)
    return small


def shown(scene: Scene) -> list[int]:
    """The numbers of a scene's four words."""
    words = (scene.object, scene.colour, scene.background, scene.style)
    return [row.index(word) for row, word in zip(WORDS, words, strict=True)]


def said(scene: Scene, caption: str) -> list[int]:
    """`shown`, with -1 for what the caption leaves out."""
    there = (
        True,
        True,
        painter.BACKGROUNDS[scene.background] in caption,
        painter.STYLE_DESCRIPTORS[scene.style] in caption,
    )
    return [number if is_said else -1 for number, is_said in zip(shown(scene), there, strict=True)]


@dataclass(frozen=True)
class Batch:
    """Pixels [N, 3, 64, 64], tokens [N, T], and bool [N, N]: caption i says nothing that picture j doesn't show."""

    pixels: Tensor
    tokens: Tensor
    agree: Tensor


@dataclass(frozen=True)
class Examples:
    """Pictures uint8 [N, 64, 64, 3], what they show [N, 4], `VARIANTS` captions each [N, V, 32], what those say."""

    images: Bytes
    shown: Tensor
    tokens: Tensor
    said: Tensor

    def draw(self, n: int) -> Batch:
        """n pictures, each with one of its captions, cut to the longest of them (attention is causal)."""
        which, variant = torch.randint(len(self.images), (n,)), torch.randint(self.tokens.shape[1], (n,))
        tokens, said = self.tokens[which, variant], self.said[which, variant]
        longest = int((tokens != tokens[:, -1:]).sum(1).max()) + 1  # the padding is the token that ends a text
        agree = ((said[:, None] == self.shown[which]) | (said[:, None] < 0)).all(2)
        return Batch(roughen(to_tensor(self.images[which.numpy()])), tokens[:, :longest], agree)


def examples(tokenizer: CLIPTokenizer, seed: int) -> Examples:
    scenes = painter.training_scenes(PICTURES, seed)
    rng = np.random.default_rng(seed)
    pairs = [(scene, training_caption(scene, rng)) for scene in scenes for _ in range(VARIANTS)]
    shape = (len(scenes), VARIANTS, -1)
    return Examples(
        painted(scenes, RUNS / f"clip-{seed}.npy"),
        torch.tensor([shown(scene) for scene in scenes]),
        tokenise(tokenizer, [caption for _, caption in pairs]).view(shape),
        torch.tensor([said(*pair) for pair in pairs]).view(shape),
    )


def contrastive_loss(cosines: Tensor, scale: Tensor, agree: Tensor) -> Tensor:
    """Cross entropy of captions [N] over pictures [N] and back, in nats.

    A picture that a caption fits as well as its own is neither right nor wrong: "a red boat" may stand in a batch
    with three red boats.
    """
    own = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
    logits = (scale * cosines.float()).masked_fill(agree & ~own, -torch.inf)
    answers = torch.arange(len(cosines), device=cosines.device)
    return (F.cross_entropy(logits, answers) + F.cross_entropy(logits.T, answers)) / 2


def loss_of(clip: CLIPModel, batch: Batch) -> Tensor:
    pictures = F.normalize(clip.get_image_features(batch.pixels).pooler_output.float())
    captions = F.normalize(clip.get_text_features(batch.tokens).pooler_output.float())
    with torch.autocast(pictures.device.type, enabled=False):
        return contrastive_loss(captions @ pictures.T, clip.logit_scale.exp().clamp(max=HOTTEST), batch.agree)


@dataclass
class Trainer:
    """The model, its average, and the jobs the loop calls."""

    options: argparse.Namespace
    scorer: Scorer

    def __post_init__(self) -> None:
        self.clip = self.scorer.model.train()
        budget = Budget(self.options.steps, self.options.minutes)
        optimisers = muon_and_adam(self.clip, MUON_RATE, ADAM_RATE)
        self.kept = Kept.of(RUNS / "clip.pt", self.clip, optimisers, budget, decay=0.995)
        self.data = examples(self.scorer.processor.tokenizer, self.options.seed + 61)

    def loss(self) -> Tensor:
        with half_precision("cpu"):
            return loss_of(self.clip, self.data.draw(self.options.batch))

    def export(self) -> None:
        """Write the averaged weights as studio/mini-clip, and say what they find."""
        with self.kept.averaged():
            self.scorer.save()
        loop = self.kept.loop
        draw_curve(loop.losses, "mini-clip: contrastive loss", DOCS / "clip-loss.png")
        print(f"step {loop.step}, {loop.seconds / 60:.1f} min: {retrieval(Scorer.load(), draws=2)}", flush=True)


def report() -> None:
    """Print what the folder finds; docs/clip.png."""
    scorer = Scorer.load()
    print(f"R@1 among 100: {retrieval(scorer)}", reading_report(scorer), *style_report(scorer), sep="\n")
    draw_sheet(scorer, DOCS / "clip.png")


def main() -> None:
    parser = recipe_arguments("Train mini-clip.", 3000, 24)
    parser.set_defaults(batch=128)
    parser.add_argument("--assess", action="store_true", help="train nothing: measure what is there")
    options = parser.parse_args()
    if not options.assess:
        torch.manual_seed(options.seed)
        start = load_checkpoint(CHECKPOINT)
        clip = Scorer.load(options.init).model if options.init else new_clip(start.text_encoder, Shape())
        trainer = Trainer(options, Scorer(clip, new_processor(start.tokenizer)))
        trainer.kept.resume()
        torch.manual_seed(options.seed + 1 + 1000 * trainer.kept.loop.step)
        trainer.kept.run(trainer.loss, {EXPORT_SECONDS: trainer.export})
        trainer.export()
    report()


if __name__ == "__main__":
    main()

"""Train texture-clip: words for how a surface is made, learnt from photographs and paintings put into named looks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from impasto_fit.text import texture
from impasto_fit.text.templates import TEMPLATES
from impasto_fit.text.texture import HOTTEST, SIDE, TextureClip
from studio.gallery.looks.examples import ALL, Examples, Sources, examples
from studio.gallery.looks.names import COLOURS, LIGHTS, SIZES, Wish
from studio.gallery.packages import fetch
from studio.painter import Bytes
from studio.places import DOCS, RUNS, TEXTURE_CLIP
from studio.reading.looks import report, retrieval, trials
from studio.training.arguments import recipe_arguments
from studio.training.curve import draw_curve
from studio.training.kept import Kept
from studio.training.loop import Budget
from studio.training.optimisers import muon_and_adam

LICENCE = "Apache-2.0"
PICTURES = 9_000
MUON_RATE, ADAM_RATE = 0.02, 2e-3
EXPORT_SECONDS = 180.0
SENTENCE, SILENT = 0.5, 0.35  # how often a caption is a whole sentence; how often it leaves a thing unsaid


def vocabulary() -> list[str]:
    """Every word that a caption may have, in order."""
    said = [words for look in ALL for words in look.words]
    return sorted({word for text in (*said, *COLOURS, *LIGHTS, *SIZES, *TEMPLATES) for word in texture.split(text)})


def roughen(pictures: Bytes, rng: np.random.Generator) -> Tensor:
    """uint8 [n, 128, 128, 3] to [n, 3, 96, 96]: another cut and size for all, softness, light, noise for each."""
    side = int(rng.integers(80, 129))
    y, x = (int(rng.integers(0, pictures.shape[1] - side + 1)) for _ in range(2))
    cut = torch.from_numpy(np.ascontiguousarray(pictures[:, y : y + side, x : x + side])).permute(0, 3, 1, 2) / 255
    pixels = F.interpolate(cut, SIDE, mode="bilinear", antialias=True)
    if rng.random() < 0.5:
        pixels = pixels.flip(3)
    if rng.random() < 0.25:
        pixels = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    shape = (len(pixels), 1, 1, 1)
    gain, shift = 1 + 0.12 * rng.standard_normal(shape), 0.05 * rng.standard_normal((len(pixels), 3, 1, 1))
    noise = rng.standard_normal(tuple(pixels.shape)) * rng.uniform(0, 0.06, shape)
    changed = (pixels - 0.5) * torch.from_numpy(gain) + 0.5 + torch.from_numpy(shift) + torch.from_numpy(noise)
    return changed.clamp(0, 1).float()


def caption(wish: Wish, rng: np.random.Generator) -> tuple[str, Wish]:
    """What is said of a picture, and that much of the wish."""
    said = replace(
        wish,
        colour=wish.colour if rng.random() > SILENT else "",
        light=wish.light if rng.random() > SILENT else "",
        size=wish.size if rng.random() > SILENT else "",
    )
    text = said.said(str(rng.choice(wish.look.words)))
    return (str(rng.choice(TEMPLATES)).format(text) if rng.random() < SENTENCE else text), said


def agrees(said: Wish, shown: Wish) -> bool:
    """Whether a caption says nothing that the picture doesn't show."""
    parts = ((said.colour, shown.colour), (said.light, shown.light), (said.size, shown.size))
    return said.look is shown.look and all(word in ("", seen) for word, seen in parts)


def contrastive(cosines: Tensor, scale: Tensor, agree: Tensor) -> Tensor:
    """Cross entropy of captions over pictures and back, in nats; what agrees besides its own isn't counted."""
    own = torch.eye(len(cosines), dtype=torch.bool)
    logits = (scale * cosines).masked_fill(agree & ~own, -torch.inf)
    answers = torch.arange(len(cosines))
    return (F.cross_entropy(logits, answers) + F.cross_entropy(logits.T, answers)) / 2


@dataclass(frozen=True)
class Lessons:
    """Draws a batch and says how badly the towers agree on it."""

    clip: TextureClip
    data: Examples
    rng: np.random.Generator

    def loss(self, n: int) -> Tensor:
        which = np.sort(self.rng.choice(len(self.data.wishes), n, replace=False))
        wishes = [self.data.wishes[i] for i in which]
        seen = self.clip.see(roughen(self.data.images[which], self.rng))
        texts, said = zip(*(caption(wish, self.rng) for wish in wishes), strict=True)
        agree = torch.tensor([[agrees(a, b) for b in wishes] for a in said])
        scale = self.clip.scale.exp().clamp(max=HOTTEST)
        return contrastive(self.clip.hear(texts) @ seen.T, scale, agree) + 0.5 * self._named(seen, wishes, scale)

    def _named(self, seen: Tensor, wishes: Sequence[Wish], scale: Tensor) -> Tensor:
        """Cross entropy of a picture's look among all, each under one of its names."""
        names = self.clip.hear([str(self.rng.choice(look.words)) for look in ALL])
        answers = torch.tensor([ALL.index(wish.look) for wish in wishes])
        return F.cross_entropy(scale * seen @ names.T, answers)


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    sources = Sources.of(fetch())
    data = examples("looks", sources.learnt, options.pictures, options.seed + 7)
    clip = TextureClip(vocabulary())
    optimisers = muon_and_adam(clip, MUON_RATE, ADAM_RATE)
    kept = Kept.of(RUNS / "texture-clip.pt", clip, optimisers, Budget(options.steps, options.minutes), decay=0.99)
    kept.resume()
    lessons = Lessons(clip, data, np.random.default_rng((options.seed, kept.loop.step)))
    unseen = trials(sources.unseen, options.seed + 1000, rounds=4)

    def export() -> None:
        with kept.averaged():
            clip.eval()
            found = retrieval(clip, unseen)
            texture.save(RUNS / "texture-clip", clip, LICENCE)
            clip.train()
        draw_curve(kept.loop.losses, "texture-clip: contrastive loss", DOCS / "texture-clip-loss.png")
        print(f"step {kept.loop.step}, {kept.loop.seconds / 60:.1f} min: {found}", flush=True)

    kept.run(lambda: lessons.loss(options.batch), {EXPORT_SECONDS: export})
    export()


def main() -> None:
    parser = recipe_arguments("Train texture-clip.", 3000, 30)
    parser.set_defaults(batch=64)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--assess", action="store_true", help="train nothing: measure what is there")
    parser.add_argument("--ship", action="store_true", help="train nothing: take what runs/ has as studio/texture-clip")
    options = parser.parse_args()
    if options.ship:
        texture.save(TEXTURE_CLIP, texture.load(RUNS / "texture-clip"), LICENCE)
    elif not options.assess:
        train(options)
    report(texture.load(TEXTURE_CLIP if TEXTURE_CLIP.exists() else RUNS / "texture-clip"))


if __name__ == "__main__":
    main()

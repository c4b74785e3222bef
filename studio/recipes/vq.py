"""The autoencoder of mini-muse: mini-diffusion's, its latents rounded to a codebook, its decoder trained on for that.

Encoder and decoder exist already, so neither a code nor a decoder has to be found: k-means over latents is the
codebook, and what is left to learn is to make up for the rounding from what the neighbours say. The distance between
latents is that between pixels (each channel is multiplied by its deviation first, as the encoder half whitens it).
Pixels are 0..1 here, not -1..1, because AmusedPipeline's are.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor
from torch.nn import functional as F

from studio import painter
from studio.nets.diffusion import load_checkpoint, save_model
from impasto_fit.nets.precision import half_precision
from studio.nets.vq import MUSE, PATCH, decode, from_autoencoder, k_means, load_vq, restore, to_unit, tokens_of
from studio.painter import Bytes
from studio.pictures import cached, paint_all, to_tensor
from studio.places import CHECKPOINT, DOCS, RUNS
from studio.reading.judge import Judge, verdict
from studio.reading.psnr import mean_psnr_db
from studio.training.arguments import recipe_arguments
from studio.training.curve import draw_curve
from studio.training.kept import Kept
from studio.training.loop import Budget
from studio.training.optimisers import muon_and_adam

CODES = 1024
CROP = 8  # tokens a side of a training crop
MUON_RATE = 0.01
ADAM_RATE = 1e-3


@dataclass(frozen=True)
class Crops:
    """Random squares of pictures uint8 [N, H, W, 3] and of their tokens [N, H / 8, W / 8], on the tokens' grid."""

    images: Bytes
    tokens: Tensor
    rng: np.random.Generator

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        side = self.tokens.shape[1] - CROP + 1
        which, x, y = (self.rng.integers(0, high, n) for high in (len(self.images), side, side))
        spots = list(zip(which, y, x, strict=True))
        pixels = [self.images[i, PATCH * a :, PATCH * b :][: PATCH * CROP, : PATCH * CROP] for i, a, b in spots]
        return to_unit(np.stack(pixels)), torch.stack([self.tokens[i, a : a + CROP, b : b + CROP] for i, a, b in spots])


def decoding_loss(vq: VQModel, pixels: Tensor, tokens: Tensor) -> Tensor:
    decoded = decode(vq, tokens).float()
    return F.l1_loss(decoded, pixels) + 8 * F.mse_loss(decoded, pixels)


def report(vq: VQModel) -> str:
    """PSNR on unseen captions and on each held-out style, and the styles that the judge still reads; docs/vq.png."""
    scenes = painter.unseen_scenes(256, seed=11)
    images = paint_all(scenes)
    decoded = restore(vq, images)
    judge = Judge.load()
    lines = [f"base styles {mean_psnr_db(images, decoded):.2f} dB, {verdict(judge.read(decoded), scenes)}"]
    shown = [*images[:8], *decoded[:8]]
    for style in painter.HELD_OUT_STYLES:
        others = [replace(scene, style=style) for scene in scenes[:48]]
        pictures = paint_all(others)
        decoded = restore(vq, pictures)
        lines.append(f"{style} {mean_psnr_db(pictures, decoded):.2f} dB, {verdict(judge.read(decoded), others)}")
        shown += [pictures[0], decoded[0]]
    painter.contact_sheet(shown, 8).save(DOCS / "vq.png", optimize=True)
    return "\n".join(lines)


@torch.no_grad()
def fitted(vae: AutoencoderKL, images: Bytes, codes: int) -> VQModel:
    """Its codebook is k-means over these pictures; its decoder is still the one of clean latents."""
    parts = np.array_split(images, max(1, len(images) // 32))
    latents = torch.cat([vae.encode(to_tensor(part)).latent_dist.mode() for part in parts])
    gain = latents.std((0, 2, 3))
    return from_autoencoder(vae, gain, k_means((latents.permute(0, 2, 3, 1) * gain).flatten(0, 2), codes))


def train_decoder(vq: VQModel, images: Bytes, path: Path, options: argparse.Namespace) -> Kept:
    """Go on from the checkpoint at `path`; the model has the averaged weights then. Its tokens stay as they are."""
    crops = Crops(images, tokens_of(vq, images), np.random.default_rng(options.seed))
    vq.to(options.device, memory_format=torch.channels_last).train()
    for trained in (vq.decoder, vq.post_quant_conv):
        trained.requires_grad_(True)
    budget = Budget(options.steps, options.minutes)
    kept = Kept.of(path, vq, muon_and_adam(vq, MUON_RATE, ADAM_RATE), budget, decay=0.995, warmup=20)
    kept.resume()

    def loss() -> Tensor:
        pixels, tokens = (part.to(options.device) for part in crops.draw(options.batch))
        with half_precision(options.device):
            return decoding_loss(vq, pixels, tokens)

    kept.run(loss)
    vq.load_state_dict(kept.average.state)
    return kept


def main() -> None:
    parser = recipe_arguments("Fit the codebook of mini-muse, and train its decoder.", 1500, 12)
    parser.add_argument("--codes", type=int, default=CODES)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    pictures = cached("vae", painter.training_scenes(4000, seed=options.seed + 1))
    images = np.concatenate([pictures, painter.textures(1000, seed=options.seed + 2)])
    path = RUNS / f"vq-{options.codes}.pt"
    if options.init or path.exists():
        vq = load_vq(options.init or MUSE / "vqvae")
    else:
        vq = fitted(load_checkpoint(CHECKPOINT).vae, images, options.codes)
        save_model(vq, MUSE / "vqvae")
        vq = load_vq()  # the tokens are those of the rounded weights
        print(f"k-means, decoder of clean latents: {report(vq)}", flush=True)
    kept = train_decoder(vq, images, path, options)
    save_model(vq.cpu().requires_grad_(False).eval(), MUSE / "vqvae")
    draw_curve(kept.loop.losses, "mini-muse's decoder: L1 + 8 MSE", DOCS / "vq-loss.png")
    print(f"{kept.loop.step} steps, {kept.loop.seconds / 60:.1f} min: {report(load_vq())}")


if __name__ == "__main__":
    main()

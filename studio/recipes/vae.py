"""The autoencoder: f=8, a principal-components encoder and a decoder trained on crops of paintings and confetti."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from studio import painter
from studio.nets.diffusion import load_checkpoint, new_vae, save_checkpoint
from studio.nets.pca import write_encoder
from impasto_fit.nets.precision import half_precision
from studio.painter import Bytes
from studio.pictures import cached, paint_all, to_images, to_tensor
from studio.places import CHECKPOINT, DOCS, RUNS
from studio.reading.psnr import mean_psnr_db
from studio.training import workers
from studio.training.arguments import recipe_arguments
from studio.training.curve import draw_curve
from studio.training.kept import Kept
from studio.training.loop import Budget
from studio.training.optimisers import muon_and_adam

CROP = 64
MUON_RATE = 0.02
LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class Crops:
    """Random squares of a stack of pictures, flipped half of the time."""

    images: Bytes
    rng: np.random.Generator

    def draw(self, n: int) -> Tensor:
        side = self.images.shape[1] - CROP + 1
        which, x, y = (self.rng.integers(0, high, n) for high in (len(self.images), side, side))
        crops = [self.images[i, a : a + CROP, b : b + CROP] for i, a, b in zip(which, y, x, strict=True)]
        flips = self.rng.random(n) < 0.5
        return to_tensor(np.stack([c[:, ::-1] if flip else c for c, flip in zip(crops, flips, strict=True)]))


def reconstruction_loss(vae: AutoencoderKL, pixels: Tensor, noise: float) -> Tensor:
    """L1 + 4 MSE of what the decoder makes of the pixels' latents, with noise of up to `noise` standard deviations.

    Sampled latents are never quite clean; a decoder that has only seen clean ones shows what is left as a grid.
    """
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode()
        strength = noise * torch.rand(len(latents), 1, 1, 1, device=latents.device)
        latents += strength * latents.std((0, 2, 3), keepdim=True) * torch.randn_like(latents)
    decoded = vae.decode(latents).sample.float()
    return F.l1_loss(decoded, pixels) + 4 * F.mse_loss(decoded, pixels)


@torch.no_grad()
def restored(vae: AutoencoderKL, images: Bytes) -> Bytes:
    """Pictures [N, H, W, 3] through their latents and back."""
    parts = np.array_split(images, max(1, len(images) // 16))
    latents = (vae.encode(to_tensor(part).to(vae.device)).latent_dist.mode() for part in parts)
    return np.concatenate([to_images(vae.decode(found).sample) for found in latents])


def report(vae: AutoencoderKL) -> str:
    """PSNR on unseen captions and on each held-out style; draws docs/vae.png."""
    scenes = painter.unseen_scenes(128, seed=11)
    images = paint_all(scenes)
    decoded = restored(vae, images)
    lines, shown = [f"base styles {mean_psnr_db(images, decoded):.2f} dB"], [*images[:8], *decoded[:8]]
    for style in painter.HELD_OUT_STYLES:
        pictures = paint_all([replace(scene, style=style) for scene in scenes[:24]])
        decoded = restored(vae, pictures)
        lines.append(f"{style} {mean_psnr_db(pictures, decoded):.2f} dB")
        shown[len(shown) :] = [pictures[0], decoded[0]]
    painter.contact_sheet(shown, 8).save(DOCS / "vae.png", optimize=True)
    return ", ".join(lines)


def main() -> None:
    parser = recipe_arguments("Train the decoder of mini-diffusion's autoencoder.", 20_000, 20)
    parser.add_argument("--noise", type=float, default=0.0, help="latent noise, in standard deviations at most")
    parser.add_argument("--blend", type=float, default=1.0, help="share of the result; the rest is --init's decoder")
    options = parser.parse_args()
    workers.join()
    torch.manual_seed(options.seed + workers.rank())
    pictures = cached("vae", painter.training_scenes(4000, seed=options.seed + 1))
    images = np.concatenate([pictures, painter.textures(1000, seed=options.seed + 2)])
    crops = Crops(images, np.random.default_rng([options.seed, workers.rank()]))
    if options.init:
        vae = load_checkpoint(options.init).vae
    else:
        vae = new_vae(options.size)
        write_encoder(vae, pictures[:1000])
    vae.to(options.device, memory_format=torch.channels_last).train()
    for fixed in (vae.encoder, vae.quant_conv):
        fixed.requires_grad_(False)
    budget = Budget(options.steps, options.minutes)
    kept = Kept.of(RUNS / "vae.pt", vae, muon_and_adam(vae, MUON_RATE, LEARNING_RATE), budget, decay=0.998, warmup=20)
    kept.resume()
    workers.share(vae)

    def loss() -> Tensor:
        with half_precision(options.device):
            return reconstruction_loss(vae, crops.draw(options.batch).to(options.device), options.noise)

    kept.run(loss)
    if workers.rank() > 0:
        return
    pipe = load_checkpoint(CHECKPOINT)
    first = load_checkpoint(options.init).vae.state_dict() if options.init else kept.average.state
    vae.load_state_dict({name: torch.lerp(first[name], kept.average.state[name], options.blend) for name in first})
    vae.eval()
    save_checkpoint(CHECKPOINT, vae.cpu(), pipe.unet, pipe.text_encoder, pipe.tokenizer)
    draw_curve(kept.loop.losses, "decoder: L1 + 4 MSE", DOCS / "vae-loss.png")
    print(f"{kept.loop.step} steps, {kept.loop.seconds / 60:.1f} min: {report(vae)}")


if __name__ == "__main__":
    main()

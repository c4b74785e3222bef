"""The judge: one small CNN that names the object, the colour and the style of a picture. Used only to measure."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from studio import painter
from studio.nets.diffusion import load_checkpoint
from studio.nets.precision import half_precision
from studio.painter import ALL_OBJECTS, ALL_STYLES, Bytes, any_scenes
from studio.pictures import cached, to_images, to_tensor
from studio.places import CHECKPOINT, DOCS, RUNS
from studio.reading.judge import JUDGE, SIDE, Judge, Labels, Network, shrink, verdict
from studio.training.arguments import recipe_arguments
from studio.training.curve import draw_curve
from studio.training.kept import Kept
from studio.training.loop import Budget
from studio.training.optimisers import Optimisers

LEARNING_RATE = 3e-3
DECODED = 3  # every third picture has gone through the autoencoder
NOISE = 0.5


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


@torch.no_grad()
def through(vae: AutoencoderKL, images: Bytes) -> Bytes:
    """What the autoencoder makes of pictures, their latents as noisy as sampled ones may be.

    A judge that has only seen paintings takes the decoder's roughness for a style.
    """
    parts = []
    for part in track(np.array_split(images, max(1, len(images) // 32)), "decoding", refresh_per_second=0.2):
        with half_precision(vae.device.type):
            latents = vae.encode(to_tensor(part)).latent_dist.mode()
            strength = NOISE * torch.rand(len(latents), 1, 1, 1)
            latents += strength * latents.std((0, 2, 3), keepdim=True) * torch.randn_like(latents)
            parts.append(to_images(vae.decode(latents).sample.float()))
    return np.concatenate(parts)


def main() -> None:
    options = recipe_arguments("Train the judge.", 900, 8).parse_args()
    torch.manual_seed(options.seed)
    scenes = any_scenes(12_000, seed=options.seed + 21)
    labels = Labels(ALL_OBJECTS, painter.COLOURS, ALL_STYLES)
    images = cached("judge", scenes)
    images[::DECODED] = through(load_checkpoint(CHECKPOINT).vae, images[::DECODED])
    small = torch.cat([shrink(to_tensor(part)) for part in np.array_split(images, 64)])
    targets = labels.targets(scenes)
    network = Judge.load(options.init).network if options.init else Network([len(row) for row in astuple(labels)])
    network.train()
    optimisers = Optimisers(torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.02))
    budget = Budget(options.steps, options.minutes)
    kept = Kept.of(RUNS / "judge.pt", network, optimisers, budget, decay=0.99)
    kept.resume()

    def loss() -> Tensor:
        which = torch.randint(len(small), (options.batch,))
        logits = network(roughen(small[which]))
        return torch.stack([F.cross_entropy(row, targets[which, i]) for i, row in enumerate(logits)]).sum()

    kept.run(loss)
    network.load_state_dict(kept.average.state)
    judge = Judge(labels, network.eval())
    judge.save(JUDGE)
    draw_curve(kept.loop.losses, "judge: cross entropy, three heads", DOCS / "judge-loss.png")
    fresh = any_scenes(1500, seed=options.seed + 22)
    figures = verdict(Judge.load().read(cached("judge-test", fresh)), fresh)
    print(f"{kept.loop.step} steps, {kept.loop.seconds / 60:.1f} min: {figures}")


if __name__ == "__main__":
    main()

"""The autoencoder of mini-muse's second stage: 256 x 256 pixels as 32 x 32 tokens of a codebook four times as large.

Its encoder is closed form, as mini-diffusion's is (nets/pca.py), and k-means over its latents is the codebook: of
paintings in the base styles, and of sheets of fine marks, since a code of eight pixels has to say where a dot lies in
them. What is left to train is the decoder. The tokens don't change with it, so a transformer may be trained meanwhile.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, VQModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from studio import painter
from studio.nets.diffusion import save_model
from studio.nets.pca import write_encoder
from studio.nets.upscaler import FINE_SIDE, FINE_VQ
from studio.nets.vq import from_autoencoder, k_means, load_vq, restore
from studio.painter import Bytes
from studio.pictures import cached, paint_all, to_tensor
from studio.places import DOCS, RUNS
from studio.reading.psnr import mean_psnr_db
from studio.recipes.vq import train_decoder
from studio.training.arguments import recipe_arguments
from studio.training.curve import draw_curve

CODES = 4096
CHANNELS = (16, 32, 64, 96)
LATENTS = 24
PAINTINGS, SHEETS = 2000, 1400


def new_autoencoder(images: Bytes) -> AutoencoderKL:
    """Its encoder has the principal components of these pictures' patches; its decoder's residual branches are 0."""
    vae = AutoencoderKL(
        sample_size=FINE_SIDE,
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    for part in vae.modules():
        if isinstance(part, ResnetBlock2D):
            nn.init.zeros_(part.conv2.weight)
    write_encoder(vae, images)
    return vae


@torch.no_grad()
def latents_of(vae: AutoencoderKL, images: Bytes) -> Tensor:
    parts = np.array_split(images, max(1, len(images) // 16))
    return torch.cat([vae.encode(to_tensor(part)).latent_dist.mode() for part in parts])


def fitted(images: Bytes, codes: int) -> VQModel:
    """Its codebook is k-means over these pictures; its decoder knows nothing yet."""
    vae = new_autoencoder(images[:: max(1, len(images) // 700)])
    latents = latents_of(vae, images)
    gain = latents.std((0, 2, 3))
    return from_autoencoder(vae, gain, k_means((latents.permute(0, 2, 3, 1) * gain).flatten(0, 2), codes))


def report(vq: VQModel) -> str:
    """PSNR on unseen captions and on each held-out style; docs/fine-vq.png."""
    scenes = painter.unseen_scenes(64, seed=11)
    images = paint_all(scenes, FINE_SIDE)
    decoded = restore(vq, images)
    lines = [f"base styles {mean_psnr_db(images, decoded):.2f} dB"]
    shown = [*images[:4], *decoded[:4]]
    for style in painter.HELD_OUT_STYLES:
        pictures = paint_all([replace(scene, style=style) for scene in scenes[:32]], FINE_SIDE)
        decoded = restore(vq, pictures)
        lines.append(f"{style} {mean_psnr_db(pictures, decoded):.2f} dB")
        shown += [pictures[0], decoded[0]]
    painter.contact_sheet(shown, 4).save(DOCS / "fine-vq.png", optimize=True)
    return ", ".join(lines)


def main() -> None:
    parser = recipe_arguments("Fit the codebook of mini-muse's second stage, and train its decoder.", 3000, 25)
    parser.add_argument("--codes", type=int, default=CODES)
    parser.add_argument("--out", type=Path, default=FINE_VQ)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    paintings = cached("fine-vq", painter.training_scenes(PAINTINGS, seed=options.seed + 1), FINE_SIDE)
    images = np.concatenate([paintings, painter.fine_textures(SHEETS, options.seed + 2, FINE_SIDE)])
    images = images[np.random.default_rng(options.seed).permutation(len(images))]
    path = RUNS / f"fine-vq-{options.codes}.pt"
    if not path.exists():
        save_model(fitted(images, options.codes), options.out)
    vq = load_vq(options.out)  # the tokens are those of the rounded weights
    kept = train_decoder(vq, images, path, options)
    save_model(vq.cpu().requires_grad_(False).eval(), options.out)
    draw_curve(kept.loop.losses, "mini-muse's finer decoder: L1 + 8 MSE", DOCS / "fine-vq-loss.png")
    print(f"{kept.loop.step} steps, {kept.loop.seconds / 60:.1f} min: {report(load_vq(options.out))}")


if __name__ == "__main__":
    main()

"""The autoencoder of mini-muse: mini-diffusion's, its latents rounded to a codebook, its decoder trained on for that.

Encoder and decoder exist already, so neither a code nor a decoder has to be found: k-means over latents is the
codebook, and what is left to learn is to make up for the rounding from what the neighbours say. The distance between
latents is that between pixels (each channel is multiplied by its deviation first, as the encoder half whitens it).
Pixels are 0..1 here, not -1..1, because AmusedPipeline's are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, VQModel
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import painter
from judge import Judge, verdict
from model import CHECKPOINT, DOCS, HERE, RUNS, load_checkpoint, save_model
from muon import Optimisers
from painter import Bytes
from pictures import cached, paint_all, to_images, to_tensor
from training import Average, Budget, Loop, draw_curve, half_precision, one_cycle, recipe_arguments

MUSE = HERE / "mini-muse"
CODES = 1024
CROP = 8  # tokens a side of a training crop
PATCH = 8
MUON_RATE = 0.01
ADAM_RATE = 1e-3


def to_unit(images: Bytes) -> Tensor:
    """uint8 [N, H, W, 3] to float [N, 3, H, W] in 0..1."""
    return (to_tensor(images) + 1) / 2


def nearest(rows: Tensor, codebook: Tensor) -> Tensor:
    """The index of the codebook's [K, c] nearest entry to each row [n, c]."""
    half = 0.5 * codebook.pow(2).sum(1)
    return torch.cat([(part @ codebook.T - half).argmax(1) for part in rows.split(16_384)])


def k_means(rows: Tensor, count: int, rounds: int = 16, sample: int = 150_000) -> Tensor:
    """`count` centres [count, c] of rows [n, c], each round on a fresh sample; a centre that nobody chose moves.

    It moves to a row that is far from its own centre, so rare patches get codes as well.
    """
    centres = rows[torch.randperm(len(rows))[:count]].clone()
    for _ in range(rounds):
        drawn = rows[torch.randperm(len(rows))[:sample]]
        chosen = nearest(drawn, centres)
        members = torch.bincount(chosen, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, chosen, drawn)
        far = (drawn - centres[chosen]).pow(2).sum(1) + 1e-9
        moved = drawn[torch.multinomial(far, count, replacement=True)]
        centres = torch.where((members > 0)[:, None], sums / members.clamp(min=1)[:, None], moved)
    return centres


@torch.no_grad()
def from_autoencoder(vae: AutoencoderKL, gain: Tensor, codebook: Tensor) -> VQModel:
    """A VQModel with `vae`'s encoder and decoder; its codebook [K, c] lies in the latents times `gain` [c]."""
    config = vae.config
    vq = VQModel(
        down_block_types=tuple(config.down_block_types),
        up_block_types=tuple(config.up_block_types),
        block_out_channels=tuple(config.block_out_channels),
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        sample_size=config.sample_size,
        num_vq_embeddings=len(codebook),
        norm_num_groups=config.norm_num_groups,
        scaling_factor=1.0,
        mid_block_add_attention=config.mid_block_add_attention,
        lookup_from_codebook=True,
        force_upcast=True,
    )
    weights = vae.encoder.state_dict()
    mode = vae.quant_conv.weight[: config.latent_channels, :, 0, 0]  # the rows that make the mean, not the variance
    for name in ("conv_out.weight", "conv_out.bias"):
        weights[name] = torch.tensordot(mode, weights[name], 1)
    weights["conv_out.bias"] += vae.quant_conv.bias[: config.latent_channels]
    weights["conv_in.bias"] = weights["conv_in.bias"] - weights["conv_in.weight"].sum((1, 2, 3))
    weights["conv_in.weight"] = 2 * weights["conv_in.weight"]
    vq.encoder.load_state_dict(weights)
    vq.quant_conv.weight.copy_(torch.diag(gain)[..., None, None])
    vq.quant_conv.bias.zero_()
    vq.quantize.embedding.weight.copy_(codebook)
    vq.post_quant_conv.weight.copy_(vae.post_quant_conv.weight / gain[:, None, None])
    vq.post_quant_conv.bias.copy_(vae.post_quant_conv.bias)
    vq.decoder.load_state_dict(vae.decoder.state_dict())
    vq.decoder.conv_out.weight.mul_(0.5)
    vq.decoder.conv_out.bias.mul_(0.5).add_(0.5)
    return vq.requires_grad_(False)


@torch.no_grad()
def tokens_of(vq: VQModel, images: Bytes) -> Tensor:
    """int64 [N, H / 8, W / 8]."""
    codebook = vq.quantize.embedding.weight
    parts = []
    for part in np.array_split(images, max(1, len(images) // 32)):
        latents = vq.encode(to_unit(part).to(vq.device)).latents.permute(0, 2, 3, 1)
        parts.append(nearest(latents.flatten(0, 2), codebook).view(latents.shape[:3]).cpu())
    return torch.cat(parts)


def decode(vq: VQModel, tokens: Tensor) -> Tensor:
    """Pixels [N, 3, H, W] in 0..1, or a little beyond, as AmusedPipeline has them decoded."""
    shape = (*tokens.shape, vq.config.latent_channels)
    pixels: Tensor = vq.decode(tokens, force_not_quantize=True, shape=shape).sample
    return pixels


@torch.no_grad()
def restore(vq: VQModel, images: Bytes) -> Bytes:
    """Pictures through their tokens and back."""
    parts = tokens_of(vq, images).split(16)
    return np.concatenate([to_images(2 * decode(vq, part.to(vq.device)) - 1) for part in parts])


def psnr(images: Bytes, others: Bytes) -> float:
    """Mean over the pictures, in dB."""
    errors = ((images.astype(np.float32) - others.astype(np.float32)) ** 2).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-3))))


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


def load_vq(folder: Path = MUSE / "vqvae") -> VQModel:
    """In fp32; built from its configuration, so that saving it again doesn't note which folder it came from."""
    vq = VQModel.from_config(VQModel.load_config(folder))
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    vq.load_state_dict({name: value.float() for name, value in weights.items()})
    return vq.requires_grad_(False).eval()


def report(vq: VQModel) -> str:
    """PSNR on unseen captions and on each held-out style, and the styles that the judge still reads; docs/vq.png."""
    scenes = painter.unseen_scenes(256, seed=11)
    images = paint_all(scenes)
    decoded = restore(vq, images)
    judge = Judge.load()
    lines = [f"base styles {psnr(images, decoded):.2f} dB, {verdict(judge.read(decoded), scenes)}"]
    shown = [*images[:8], *decoded[:8]]
    for style in painter.HELD_OUT_STYLES:
        others = [replace(scene, style=style) for scene in scenes[:48]]
        pictures = paint_all(others)
        decoded = restore(vq, pictures)
        lines.append(f"{style} {psnr(pictures, decoded):.2f} dB, {verdict(judge.read(decoded), others)}")
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
    crops = Crops(images, tokens_of(vq, images), np.random.default_rng(options.seed))
    vq.to(options.device, memory_format=torch.channels_last).train()
    for trained in (vq.decoder, vq.post_quant_conv):
        trained.requires_grad_(True)
    average = Average(vq, 0.995)
    optimisers = Optimisers(vq, muon_lr=MUON_RATE, adam_lr=ADAM_RATE)
    loop = Loop(path, Budget(options.steps, options.minutes))
    if saved := loop.resume():
        vq.load_state_dict(saved["model"])
        average.state = saved["average"]
        optimisers.load_state_dict(saved["optimisers"])

    def train_step(spent: float) -> Tensor:
        pixels, tokens = (part.to(options.device) for part in crops.draw(options.batch))
        with half_precision(options.device):
            loss = decoding_loss(vq, pixels, tokens)
        optimisers.step(loss, one_cycle(spent, loop.step, warmup=20))
        average.update(vq, loop.step)
        return loss.detach()

    loop.run(
        train_step,
        lambda: {"model": vq.state_dict(), "average": average.state, "optimisers": optimisers.state_dict()},
    )
    vq.load_state_dict(average.state)
    save_model(vq.cpu().requires_grad_(False).eval(), MUSE / "vqvae")
    draw_curve(loop.losses, "mini-muse's decoder: L1 + 8 MSE", DOCS / "vq-loss.png")
    print(f"{loop.step} steps, {loop.seconds / 60:.1f} min: {report(load_vq())}")


if __name__ == "__main__":
    main()

"""An encoder that needs no training: the principal components of 8x8 patches, written into AutoencoderKL's own layers.

Training encoder and decoder together from random weights spends most of its time on finding a code at all. The best
linear code of a patch is known in closed form, and the encoder's layers can carry it exactly: its residual branches
start at zero, three strided convolutions gather 2x2, 4x4 and 8x8 pixels, and the last GroupNorm and SiLU are made
linear by constants beside the signal (see `_pass_through_norm`). What is left to train is the decoder, and the latents,
and so the diffusion model, don't change when the decoder is trained further.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from studio.painter import Bytes
from studio.pictures import to_tensor

PATCH = 8
ANCHOR = 50.0  # far above any latent, so that the norm's variance is this constant's
LIFT = 10.0  # where SiLU is the identity
QUIET = -12.0  # log-variance of the latents: the code is deterministic


@torch.no_grad()
def write_encoder(vae: AutoencoderKL, images: Bytes) -> None:
    """Set the weights of `vae`'s encoder from pictures [N, H, W, 3]; all its other layers stay as they are.

    Component k comes out with standard deviation std_k ** 0.5, over one common factor that makes the latents' variance
    1: half whitened, so that structure weighs more than detail in the diffusion loss without drowning it.
    """
    patches = _patches(to_tensor(images), PATCH)
    mean = patches.mean(0)
    channels = vae.config.latent_channels
    basis = _principal(patches - mean, channels)
    scale = ((patches - mean) @ basis.T).std(0) ** -0.5
    scale /= scale.reciprocal().pow(2).mean().sqrt()
    basis = basis * scale[:, None]
    encoder = vae.encoder
    coarse = _principal(_patches(to_tensor(images), 4), encoder.down_blocks[1].downsamplers[0].conv.out_channels)
    _clear(encoder)
    _copy(encoder.conv_in, torch.eye(3))
    _gather(encoder.down_blocks[0].downsamplers[0].conv, torch.eye(12))
    _copy(encoder.down_blocks[1].resnets[0].conv_shortcut, torch.eye(12))
    _gather(encoder.down_blocks[1].downsamplers[0].conv, coarse)
    _copy(encoder.down_blocks[2].resnets[0].conv_shortcut, torch.eye(len(coarse)))
    quarters = _quarters(basis, coarse)
    _gather(encoder.down_blocks[2].downsamplers[0].conv, quarters)
    encoder.down_blocks[2].downsamplers[0].conv.bias[:channels] = -(basis @ mean)
    _pass_through_norm(vae)


def _patches(images: Tensor, side: int) -> Tensor:
    """[N, 3, H, W] -> [patches, side * side * 3], ordered as nested 2x2 blocks with the channel innermost.

    The order in which the strided convolutions meet the pixels: quarters of the patch first, then their quarters.
    """
    if side == 1:
        return images.permute(0, 2, 3, 1).reshape(-1, 3)
    n, c, height, width = images.shape
    rows, columns = height // side, width // side
    halves = images.reshape(n, c, rows, 2, side // 2, columns, 2, side // 2).permute(3, 6, 0, 1, 2, 4, 5, 7)
    quarters = [_patches(quarter.reshape(n, c, height // 2, width // 2), side // 2) for quarter in halves.flatten(0, 1)]
    return torch.cat(quarters, 1)


def _principal(centred: Tensor, count: int) -> Tensor:
    """The first principal directions [count, features] of rows [n, features]."""
    _, vectors = torch.linalg.eigh((centred.T @ centred).double())
    directions: Tensor = vectors.T.flip(0)[:count].float()
    return directions


def _quarters(basis: Tensor, coarse: Tensor) -> Tensor:
    """`basis` [k, 192] over pixels, as a map [k, 4 * c] over the four quarters' `coarse` [c, 48] components."""
    return torch.cat([quarter @ coarse.T for quarter in basis.split(coarse.shape[1], 1)], 1)


def _clear(encoder: nn.Module) -> None:
    """Zero every convolution; a residual block is then its shortcut, and passes its input on where it has none."""
    for part in encoder.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.zeros_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _copy(conv: nn.Conv2d, matrix: Tensor) -> None:
    """The pixelwise map `matrix` [out, in] in the first channels of a convolution, at its centre tap."""
    centre = conv.kernel_size[0] // 2
    conv.weight[: len(matrix), : matrix.shape[1], centre, centre] = matrix


def _gather(conv: nn.Conv2d, matrix: Tensor) -> None:
    """`matrix` [out, 4 * c] over a 2x2 block of c channels, in a strided 3x3 convolution padded right and below."""
    for place, part in enumerate(matrix.split(matrix.shape[1] // 4, 1)):
        conv.weight[: len(part), : part.shape[1], place // 2, place % 2] = part


def _pass_through_norm(vae: AutoencoderKL) -> None:
    """Carry the latents unchanged through the encoder's GroupNorm and SiLU.

    Each group of n channels holds a few latents x and two constants +A and -A. Its variance is then 2 A^2 / n up to
    (x / A)^2, so the norm yields z = (x - m) / s with s known, and m, the group's mean, is read off the two constants:
    x = s * (z_x - (z_+A + z_-A) / 2). The norm's bias lifts everything to where SiLU is the identity.
    """
    channels = vae.config.latent_channels
    encoder, norm = vae.encoder, vae.encoder.conv_norm_out
    width = norm.num_channels // norm.num_groups
    each = -(-channels // norm.num_groups)
    assert each + 2 <= width, "no room for the constants beside the latents"
    spread = (2 / width) ** 0.5 * ANCHOR
    shortcut = encoder.down_blocks[3].resnets[0].conv_shortcut
    for latent in range(channels):
        group, place = divmod(latent, each)
        own, high, low = (group * width + offset for offset in (place, width - 2, width - 1))
        shortcut.weight[own, latent, 0, 0] = 1
        shortcut.bias[high], shortcut.bias[low] = ANCHOR, -ANCHOR
        encoder.conv_out.weight[latent, own, 1, 1] = spread
        encoder.conv_out.weight[latent, [high, low], 1, 1] = -spread / 2
    nn.init.ones_(norm.weight)
    nn.init.constant_(norm.bias, LIFT)
    nn.init.zeros_(vae.quant_conv.weight)
    nn.init.zeros_(vae.quant_conv.bias)
    vae.quant_conv.weight[:channels, :channels, 0, 0] = torch.eye(channels)
    vae.quant_conv.bias[channels:] = QUIET

"""The shape of mini-controlnet, and what steers it."""

from __future__ import annotations

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from studio.places import HERE

CONTROLNET = HERE / "mini-controlnet"
HINT_WIDTHS = (16, 32, 64, 96)


def hints(lines: Tensor, depth: Tensor) -> Tensor:
    """uint8 maps [N, H, W] to float [N, 3, H, W] in 0..1: edges, edges, depth (0 far, 1 near; all 0: not known)."""
    return torch.stack([lines, lines, depth], 1).float() / 255


def new_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A copy of the UNet's encoder whose outputs start at zero."""
    return ControlNetModel.from_unet(unet, conditioning_channels=3, conditioning_embedding_out_channels=HINT_WIDTHS)


class Controlled(nn.Module):
    """The UNet with the ControlNet's residuals for one batch of hints, called as the UNet alone is."""

    def __init__(self, unet: UNet2DConditionModel, controlnet: ControlNetModel, hint: Tensor) -> None:
        super().__init__()
        self.unet, self.controlnet, self.hint = unet, controlnet, hint

    def forward(self, noisy: Tensor, t: Tensor, context: Tensor) -> object:
        """What the UNet returns: an object whose `sample` is the prediction."""
        down, mid = self.controlnet(noisy, t, context, self.hint, return_dict=False)
        return self.unet(noisy, t, context, down_block_additional_residuals=down, mid_block_additional_residual=mid)

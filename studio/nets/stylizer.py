"""A photograph in, a painting out: the network of Dumoulin et al. (2016).

Its layout is magenta's: mirrored borders, no bias, a norm behind all 16 convolutions, the last one's before a sigmoid.
A style is the scales and shifts of the norms, one vector: for each convolution, in the order they run, its scales
and then its shifts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64)
RESIDUALS = 5
EMBEDDING = 100
EPSILON = 1e-5
STRIDE = 4  # sides are rounded up to a multiple of this


class Stylizer(nn.Module):
    """The trunk, the vector that paints nothing (`neutral`), and the way from an embedding to a vector."""

    def __init__(self, widths: Sequence[int] = WIDTHS, residuals: int = RESIDUALS, embedding: int = EMBEDDING) -> None:
        super().__init__()
        a, b, c = widths
        self.contract = _named(_conv(3, a, 9), _conv(a, b, 3, 2), _conv(b, c, 3, 2))
        blocks = {str(i + 1): _named(_conv(c, c, 3), _conv(c, c, 3)) for i in range(residuals)}
        self.residual = nn.ModuleDict(blocks)
        self.expand = _named(_conv(c, b, 3), _conv(b, a, 3), _conv(a, 3, 9))
        self.channels = (a, b, c, *(c,) * (2 * residuals), b, a, 3)
        plain = [torch.cat([torch.ones(n), torch.zeros(n)]) for n in self.channels]
        self.neutral = nn.Parameter(torch.cat(plain))
        self.expand_embedding = nn.Linear(embedding, len(self.neutral), bias=False)

    def forward(self, photo: Tensor, vectors: Tensor) -> Tensor:
        """[n, 3, H, W] in 0..1, RGB, and a vector for every row, [n, N], to [n, 3, H, W]; sides are multiples of 4."""
        norms = iter(self.rows(vectors))
        x = photo
        for conv in self.contract.values():
            x = F.relu(_normed(conv, x, next(norms)))
        for block in self.residual.values():
            assert isinstance(block, nn.ModuleDict)
            inner = F.relu(_normed(block["conv1"], x, next(norms)))
            x = x + _normed(block["conv2"], inner, next(norms))
        for conv in (self.expand["conv1"], self.expand["conv2"]):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = F.relu(_normed(conv, x, next(norms)))
        return torch.sigmoid(_normed(self.expand["conv3"], x, next(norms)).float())

    def rows(self, vectors: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Scale and shift [n, C, 1, 1] of each norm."""
        parts = vectors.split([n for c in self.channels for n in (c, c)], 1)
        planes = [part[:, :, None, None] for part in parts]
        return list(zip(planes[::2], planes[1::2], strict=True))

    def expanded(self, embeddings: Tensor) -> Tensor:
        """[n, 100] to vectors [n, N]."""
        vectors: Tensor = self.neutral.detach() + self.expand_embedding(embeddings)
        return vectors

    def convolutions(self) -> list[nn.Parameter]:
        return [weight for weight in self.parameters() if weight.ndim == 4]


def stylize(network: Stylizer, photo: Tensor, vectors: Tensor) -> Tensor:
    """Of any size: the picture is continued by its mirror image to a multiple of 4, the result cropped."""
    height, width = photo.shape[2:]
    padded = F.pad(photo, (0, -width % STRIDE, 0, -height % STRIDE), mode="reflect")
    painted: Tensor = network(padded, vectors)
    return painted[..., :height, :width]


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, bias=False)


def _named(*convs: nn.Conv2d) -> nn.ModuleDict:
    return nn.ModuleDict({f"conv{i + 1}": conv for i, conv in enumerate(convs)})


def _normed(conv: nn.Module, x: Tensor, row: tuple[Tensor, Tensor]) -> Tensor:
    assert isinstance(conv, nn.Conv2d)
    x = conv(F.pad(x, (conv.kernel_size[0] // 2,) * 4, mode="reflect"))
    scale, shift = row
    return F.instance_norm(x, eps=EPSILON) * scale.to(x.dtype) + shift.to(x.dtype)

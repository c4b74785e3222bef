"""Muse's second stage (arXiv 2301.00704, section 2.5), which diffusers has no class for.

A masked transformer over a large picture's tokens attends to a small picture's tokens and to a text:

    small picture's tokens ──► embeddings ──► `low_layers`: self-attention, MLP ──┐
    text's hidden states ──► linear ─────────────────────────────────────────────┴──► context
    large picture's tokens ──► embeddings ──► `layers`: self-attention, cross-attention to the context, MLP ──► logits

The paper does not say how positions are encoded. Here they are rotary (arXiv 2104.09864) on half of every head's
features, by row and by column. The unit is one token of the small picture, so that both pictures align at any size. A
text has no position: those features of its keys are zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.nn import functional as F

FASTEST, SLOWEST = 2.0, 0.1  # radians per token of the small picture


@dataclass(frozen=True)
class Places:
    """Rotary positions of T keys or queries: cosines and sines [T, a] of the angles that turn their first 2 a features
    in pairs."""

    cosines: Tensor
    sines: Tensor

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, features: int) -> Places:
        """Of a grid [rows * columns, features / 2]: half of the pairs encode the row, half the column."""
        speeds = FASTEST * (SLOWEST / FASTEST) ** torch.linspace(0, 1, features // 4, device=rows.device)
        down = (rows[:, None] * speeds)[:, None].expand(-1, columns.shape[0], -1)
        across = (columns[:, None] * speeds)[None].expand(rows.shape[0], -1, -1)
        angles = torch.cat([down, across], -1).flatten(0, 1)
        return cls(angles.cos(), angles.sin())

    def behind(self, nowhere: int) -> Places:
        """These after `nowhere` keys without a position: their cosine and sine are 0, and so their turned features."""
        zeros = self.cosines.new_zeros(nowhere, self.cosines.shape[1])
        return Places(torch.cat([zeros, self.cosines]), torch.cat([zeros, self.sines]))

    def turned(self, x: Tensor) -> Tensor:
        """x [n, heads, T, d] with its first features turned."""
        pairs = self.cosines.shape[1]
        one, other, rest = x.split([pairs, pairs, x.shape[-1] - 2 * pairs], -1)
        first = one * self.cosines - other * self.sines
        second = one * self.sines + other * self.cosines
        return torch.cat([first, second, rest], -1)


class Attention(nn.Module):
    """Attention of `width` features. Queries and keys have a bias, which rotary positions turn into a preference for
    certain distances."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k = nn.Linear(width, width), nn.Linear(width, width)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width, bias=False)])

    def forward(self, x: Tensor, seen: Tensor, places: Places, seen_places: Places) -> Tensor:
        """x [n, T, D] attends to seen [n, S, D]; `places` are T's positions, `seen_places` S's."""
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(seen), self.to_v(seen))
        )
        answers = F.scaled_dot_product_attention(places.turned(queries), seen_places.turned(keys), values)
        found: Tensor = self.to_out[0](answers.transpose(1, 2).flatten(2))
        return found


class LowLayer(nn.Module):
    """A layer over the small picture's tokens."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width, bias=False), Attention(width, heads)
        self.norm2, self.ff = nn.LayerNorm(width, bias=False), feed_forward(width, mlp)

    def forward(self, x: Tensor, places: Places) -> Tensor:
        seen = self.norm1(x)
        x = x + self.attn1(seen, seen, places, places)
        raised: Tensor = x + self.ff(self.norm2(x))
        return raised


class Layer(nn.Module):
    """A layer over the large picture's tokens."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width, bias=False), Attention(width, heads)
        self.norm2, self.attn2 = nn.LayerNorm(width, bias=False), Attention(width, heads)
        self.norm3, self.ff = nn.LayerNorm(width, bias=False), feed_forward(width, mlp)

    def forward(self, x: Tensor, context: Tensor, places: Places, context_places: Places) -> Tensor:
        seen = self.norm1(x)
        x = x + self.attn1(seen, seen, places, places)
        x = x + self.attn2(self.norm2(x), context, places, context_places)
        raised: Tensor = x + self.ff(self.norm3(x))
        return raised


def feed_forward(width: int, mlp: int) -> FeedForward:
    return FeedForward(width, activation_fn="geglu", inner_dim=mlp, bias=False)


class MuseUpscaler(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The second stage. The large picture has `scale` times as many tokens each way; the layers see `patch` x `patch`
    of them as one.

    `vocab_size` counts the codes and the special ids after them, of which the last is the mask; `low_vocab_size` is
    the same for the small picture, whose tokens may be masked, too. A token's embedding has `embed_dim` features.
    Muse's own: hidden_size 1024, 16 heads, 16 low_layers, 32 layers, scale 4, patch 1.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        codebook_size: int,
        vocab_size: int,
        low_vocab_size: int,
        encoder_hidden_size: int,
        hidden_size: int = 1024,
        num_attention_heads: int = 16,
        num_low_layers: int = 16,
        num_layers: int = 32,
        intermediate_size: int = 2816,
        embed_dim: int = 256,
        scale: int = 4,
        patch: int = 1,
    ) -> None:
        super().__init__()
        width, heads = hidden_size, num_attention_heads
        self.embed, self.low_embed = nn.Embedding(vocab_size, embed_dim), nn.Embedding(low_vocab_size, embed_dim)
        self.proj_in, self.low_proj_in = nn.Linear(embed_dim * patch**2, width), nn.Linear(embed_dim, width)
        self.text_proj, self.text_norm = nn.Linear(encoder_hidden_size, width), nn.LayerNorm(width, bias=False)
        self.low_layers = nn.ModuleList(LowLayer(width, heads, intermediate_size) for _ in range(num_low_layers))
        self.low_norm = nn.LayerNorm(width, bias=False)
        self.layers = nn.ModuleList(Layer(width, heads, intermediate_size) for _ in range(num_layers))
        self.norm, self.proj_out = nn.LayerNorm(width, bias=False), nn.Linear(width, embed_dim * patch**2)
        self.to_logits = nn.Linear(embed_dim, codebook_size)

    def forward(self, tokens: Tensor, low_tokens: Tensor, text: Tensor) -> Tensor:
        """int64 [n, H, W], int64 [n, H / scale, W / scale], hidden states [n, T, E] → logits [n, codes, H, W]."""
        logits: Tensor = self.to_logits(self.looks(tokens, low_tokens, text)).permute(0, 3, 1, 2)
        return logits

    def looks(self, tokens: Tensor, low_tokens: Tensor, text: Tensor) -> Tensor:
        """Every token's features before the logits [n, H, W, embed_dim]; a loss needs logits of few tokens only."""
        patch, scale = self.config.patch, self.config.scale
        half = self.config.hidden_size // self.config.num_attention_heads // 2
        low_rows, low_columns = (self._middles(size, 1.0) for size in low_tokens.shape[1:])
        rows, columns = (self._middles(size // patch, patch / scale) for size in tokens.shape[1:])
        low_places, places = Places.of(low_rows, low_columns, half), Places.of(rows, columns, half)
        low = self.low_proj_in(self.low_embed(low_tokens)).flatten(1, 2)
        for layer in self.low_layers:
            low = layer(low, low_places)
        context = torch.cat([self.text_norm(self.text_proj(text)), self.low_norm(low)], 1)
        context_places = low_places.behind(text.shape[1])
        x = self.proj_in(_gathered(self.embed(tokens), patch)).flatten(1, 2)
        for layer in self.layers:
            x = layer(x, context, places, context_places)
        found = self.proj_out(self.norm(x)).unflatten(1, (tokens.shape[1] // patch, tokens.shape[2] // patch))
        return _spread(found, patch)

    def _middles(self, count: int, step: float) -> Tensor:
        """Positions of the tokens' centres, in tokens of the small picture."""
        return (torch.arange(count, device=self.embed.weight.device) + 0.5) * step


def _gathered(x: Tensor, patch: int) -> Tensor:
    """[n, H, W, E] → [n, H / patch, W / patch, patch² E]."""
    n, height, width, features = x.shape
    parts = x.reshape(n, height // patch, patch, width // patch, patch, features).transpose(2, 3)
    return parts.flatten(3)


def _spread(x: Tensor, patch: int) -> Tensor:
    """The inverse of `_gathered`."""
    n, rows, columns, features = x.shape
    parts = x.reshape(n, rows, columns, patch, patch, features // patch**2).transpose(2, 3)
    return parts.reshape(n, rows * patch, columns * patch, features // patch**2)

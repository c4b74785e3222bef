"""Words that a text encoder doesn't have: rows beside its table of embeddings, of which each stage reads its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from impasto_fit.errors import WordsError


class NewWords(nn.Module):
    """A table of embeddings with rows to be learnt beside it: token -1 - i stands for row i."""

    def __init__(self, table: nn.Embedding, rows: Tensor) -> None:
        super().__init__()
        self.table = table.requires_grad_(False)
        self.rows = nn.Parameter(rows)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [...] to float [..., D]."""
        learnt = self.rows[(-1 - tokens).clamp(min=0)]
        return torch.where((tokens < 0)[..., None], learnt, self.table(tokens.clamp(min=0)))


def prompt_tokens(tokenizer: Any, prompt: str, vectors: int, length: int) -> list[int]:
    """`length` tokens; -1 ... -vectors, the rows of stage 0, stand where the prompt says {style}.

    Raises:
        WordsError: the prompt is so long that they would be cut off.
    """
    before, after = (tokenizer(part, add_special_tokens=False).input_ids for part in prompt.split("{style}"))
    if len(before) + vectors > length - 2:
        problem = f"{len(before)} tokens before {vectors} of the style, of {length - 2} that are read"
        raise WordsError(f"contexts: {prompt!r} has {problem}; make it shorter")
    tokens = [tokenizer.bos_token_id, *before, *range(-1, -1 - vectors, -1), *after][: length - 1]
    rest = [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * length
    return (tokens + rest)[:length]


def at_stage(tokens: Tensor, stage: Tensor | int, vectors: int) -> Tensor:
    """The same prompts with another stage's rows; `stage` is one for all, or int64 [N, 1]."""
    return torch.where(tokens < 0, tokens - vectors * stage, tokens)


def learned_embeds(name: str, rows: Tensor, stages: int, vectors: int) -> dict[str, Tensor]:
    """DreamStyler's keys, NAME-T0 to NAME-T5, [D] or [n, D] for n vectors. A lone stage: NAME, [n, D]."""
    parts = rows.detach().cpu().view(stages, vectors, -1)
    if stages == 1:
        return {name: parts[0].clone()}
    return {f"{name}-T{k}": (part[0] if vectors == 1 else part).clone() for k, part in enumerate(parts)}


def names_of(encoders: int, name: str) -> Mapping[int, str]:
    """What each text encoder's vectors are called in a file: SDXL's two have fixed names."""
    return {0: name} if encoders == 1 else {0: "clip_l", 1: "clip_g"}

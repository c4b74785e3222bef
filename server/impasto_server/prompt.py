"""Prompts → text embeddings, through the bundle's tokenizer and text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from impasto_server.bundle import TokenizerFacts
from impasto_server.cache import BytesLru
from impasto_server.engine import Engine

Embeds = NDArray[np.float32]


@dataclass(frozen=True)
class Tokens:
    """`ids` [max_length] int64, padded; `count` before truncation; `dropped` is the text the encoder won't read."""

    ids: NDArray[np.int64]
    count: int
    room: int
    dropped: str

    def warning(self, field: str) -> str | None:
        if not self.dropped:
            return None
        return f"{field}: {self.count} tokens, the text encoder reads {self.room}; not read: {self.dropped!r}"


class ClipTokenizer:
    """CLIP's way with a prompt: begin, at most max_length - 2 tokens, end, padding."""

    def __init__(self, folder: Path, facts: TokenizerFacts) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / facts.file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._facts = facts

    def __call__(self, text: str) -> Tokens:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        room = self._facts.max_length - 2
        ids = np.full(self._facts.max_length, self._facts.pad_id, np.int64)
        kept = [self._facts.bos_id, *encoding.ids[:room], self._facts.eos_id]
        ids[: len(kept)] = kept
        dropped = text[encoding.offsets[room][0] :].strip() if len(encoding.ids) > room else ""
        return Tokens(ids, len(encoding.ids), room, dropped)


class PromptEncoder:
    """Text under a row of the adapter bank → prompt embeds [max_length, D], remembered by bytes.

    `key` identifies the adapters that change the text encoder (empty for none): the same words under another adapter
    are another embedding.
    """

    def __init__(self, tokenize: ClipTokenizer, engine: Engine, capacity: int) -> None:
        self.tokenize = tokenize
        self._engine = engine
        self._cache: BytesLru[tuple[str, Any], Embeds] = BytesLru(capacity)
        self._lock = Lock()

    def encode(self, prompts: Mapping[str, Tokens], slot: int, key: object) -> dict[str, Embeds]:
        """Embeds by prompt; those not remembered are encoded in one batch."""
        with self._lock:
            known = {text: self._cache.get((text, key)) for text in prompts}
            missing = [text for text, embeds in known.items() if embeds is None]
            if missing:
                ids = np.stack([prompts[text].ids for text in missing])
                slots = np.full(len(missing), slot, np.int64)
                (encoded,) = self._engine.run({"input_ids": ids, "slot": slots})
                for text, embeds in zip(missing, encoded, strict=True):
                    known[text] = embeds
                    self._cache.put((text, key), embeds, embeds.nbytes)
            return {text: embeds for text, embeds in known.items() if embeds is not None}

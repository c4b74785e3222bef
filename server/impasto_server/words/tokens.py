"""Text → the token ids that a text encoder reads, with places for the vectors of triggers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from impasto_server.bundle import TokenizerFacts
from impasto_server.cache import BytesLru
from impasto_server.errors import shown
from impasto_server.words.prompt import pieces

LEARNED = -1  # the id of a token whose embedding the graph reads from its input `learned_embeds`
REMEMBERED = 8 << 20  # bytes of cached texts with their tokens; warnings and stages ask for the same text again

Spoken: TypeAlias = tuple[str, "tuple[tuple[str, int], ...] | None"]  # a text, and how many tokens each trigger takes


@dataclass(frozen=True)
class Tokens:
    """`ids` [max_length] int64, padded, LEARNED at the places of triggers; trigger i begins at `starts[i]`.

    `count` is the number of tokens before truncation, `room` how many are read, `dropped` the text that isn't.
    """

    ids: NDArray[np.int64]
    starts: tuple[int, ...]
    count: int
    room: int
    dropped: str

    def warning(self, field: str) -> str | None:
        if not self.dropped:
            return None
        return f"{field}: {self.count} tokens, but the text encoder reads {self.room}; not read: {shown(self.dropped)}"


class ClipTokenizer:
    """CLIP's tokenizer: begin, at most max_length - 2 tokens, end, padding. Safe to use from several threads.

    A text of 8 kB takes 10 ms, so the latest results are cached.
    """

    def __init__(self, folder: Path, facts: TokenizerFacts) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / facts.file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._facts = facts
        self._latest: BytesLru[Spoken, Tokens] = BytesLru(REMEMBERED)
        self._lock = Lock()

    def __call__(self, text: str, places: Mapping[str, int]) -> Tokens:
        """The tokens of `text`; `places` says how many tokens each trigger takes."""
        return self._remembered((text, tuple(places.items())), lambda: self._read(text, places))

    def plain(self, text: str) -> Tokens:
        """The tokens of a text in which nothing is a trigger."""
        return self._remembered((text, None), lambda: self._fitted(text, self._of(text, 0), ()))

    def _remembered(self, spoken: Spoken, read: Callable[[], Tokens]) -> Tokens:
        with self._lock:
            known = self._latest.get(spoken)
        if known is None:
            known = read()
            with self._lock:
                self._latest.put(spoken, known, known.ids.nbytes + 4 * (len(spoken[0]) + len(known.dropped)))
        return known

    def _read(self, text: str, places: Mapping[str, int]) -> Tokens:
        tokens: list[tuple[int, int]] = []
        starts: list[int] = []
        for at, words, trigger in pieces(text):
            if trigger is not None:
                starts.append(len(tokens) + 1)
                tokens += [(LEARNED, at)] * places[trigger]
            else:
                tokens += self._of(words, at)
        return self._fitted(text, tokens, starts)

    def _of(self, words: str, at: int) -> list[tuple[int, int]]:
        """The ids of words that begin at `at` in the text, each with its own place in the text."""
        encoding = self._tokenizer.encode(words, add_special_tokens=False)
        return [(id, at + begin) for id, (begin, _) in zip(encoding.ids, encoding.offsets, strict=True)]

    def _fitted(self, text: str, tokens: Sequence[tuple[int, int]], starts: Sequence[int]) -> Tokens:
        room = self._facts.max_length - 2
        ids = np.full(self._facts.max_length, self._facts.pad_id, np.int64)
        kept = [self._facts.bos_id, *(id for id, _ in tokens[:room]), self._facts.eos_id]
        ids[: len(kept)] = kept
        dropped = text[tokens[room][1] :].strip() if len(tokens) > room else ""
        return Tokens(ids, tuple(starts), len(tokens), room, dropped)

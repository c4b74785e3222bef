"""Prompts → text embeddings, through the bundle's tokenizer and text encoder.

A word in angle brackets, `<name>`, is a trigger: at its place stand the vectors of the embedding registered under that
name. An embedding in several stages makes a prompt another prompt at each of them; every one is encoded once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from impasto_server.adapters import Embedding
from impasto_server.backbone import Embeds
from impasto_server.bundle import TokenizerFacts
from impasto_server.cache import BytesLru
from impasto_server.engine import Engine
from impasto_server.guidance import Prompts, Text

GRAPH = "text_encoder"
LEARNED = -1  # the id of a token whose embedding the graph reads from its input
_TRIGGER = re.compile(r"<([^<>\s]+)>")


def triggers(text: str) -> list[str]:
    """Names between angle brackets, in their order."""
    return _TRIGGER.findall(text)


def prompts(context: str, null: str, style: Sequence[str], embeddings: Mapping[str, Embedding]) -> Prompts:
    """What the lanes say, with a style's words around the context as it was trained; one style for each stage, or one.

    `embeddings` by name.
    """
    if not style:
        return Prompts(Text.of(context), Text.of(null))
    known = [embeddings[name] for name in style]
    full = tuple(filled(one.prompt, context, name) for name, one in zip(style, known, strict=True))
    alone = tuple(filled(one.style_prompt, context, name) for name, one in zip(style, known, strict=True))
    return Prompts(Text(full), Text.of(null), Text.of(context), Text(alone))


def filled(template: str, context: str, style: str = "") -> str:
    """`template` with its places filled, `style` being a trigger's name."""
    words = {"{context}": context, "{style}": f"<{style}>"}
    return re.sub(r"\{context\}|\{style\}", lambda found: words[found[0]], template)


@dataclass(frozen=True)
class Line:
    """A text at one stage: `learned` has each trigger's embedding, by digest, and the stage of it that is read."""

    text: str
    learned: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Staged:
    """Prompt embeds by stage, the finest first."""

    stages: tuple[Embeds, ...]

    def at(self, timestep: float, train_timesteps: float) -> Embeds:
        """Those of the training timestep: stage ⌊t / 1000 · stages⌋ (arXiv 2309.06933, section 3.2)."""
        return self.stages[int(timestep * len(self.stages) / train_timesteps)]


def lines(text: Text, embeddings: Mapping[str, Embedding]) -> tuple[Line, ...]:
    """One for each stage, as many stages as the text's and its triggers' have in common; `embeddings` by name."""
    named = {name for stage in text.stages for name in triggers(stage)}
    count = lcm(len(text.stages), *(embeddings[name].stages for name in named))
    found = []
    for stage in range(count):
        words = text.stages[stage * len(text.stages) // count]
        spoken = [embeddings[name] for name in triggers(words)]
        found.append(Line(words, tuple((one.digest, stage * one.stages // count) for one in spoken)))
    return tuple(found)


@dataclass(frozen=True)
class Tokens:
    """`ids` [max_length] int64, padded, LEARNED where triggers' vectors stand; trigger i's begin at `starts[i]`.

    `count` is before truncation; `dropped` is the text the encoder won't read.
    """

    ids: NDArray[np.int64]
    starts: tuple[int, ...]
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

    def __call__(self, text: str, places: Mapping[str, int]) -> Tokens:
        """`places`: how many tokens each trigger takes."""
        tokens: list[tuple[int, int]] = []  # id and where in the text
        starts: list[int] = []
        for at, words, trigger in _pieces(text):
            if trigger is not None:
                starts.append(len(tokens) + 1)
                tokens += [(LEARNED, at)] * places[trigger]
            else:
                encoding = self._tokenizer.encode(words, add_special_tokens=False)
                tokens += [(id, at + begin) for id, (begin, _) in zip(encoding.ids, encoding.offsets, strict=True)]
        room = self._facts.max_length - 2
        ids = np.full(self._facts.max_length, self._facts.pad_id, np.int64)
        kept = [self._facts.bos_id, *(id for id, _ in tokens[:room]), self._facts.eos_id]
        ids[: len(kept)] = kept
        dropped = text[tokens[room][1] :].strip() if len(tokens) > room else ""
        return Tokens(ids, tuple(starts), len(tokens), room, dropped)


def _pieces(text: str) -> Iterator[tuple[int, str, str | None]]:
    """Where each piece begins, its words, and its name if it is a trigger."""
    end = 0
    for match in _TRIGGER.finditer(text):
        yield end, text[end : match.start()], None
        yield match.start(), match[0], match[1]
        end = match.end()
    yield end, text[end:], None


class PromptEncoder:
    """Text under a row of the adapter bank → prompt embeds of max_length tokens, remembered by bytes.

    `key` identifies the adapters that change the text encoder (empty for none): the same words under another adapter
    are another embedding.
    """

    def __init__(self, tokenizer: ClipTokenizer, engine: Engine, width: int, capacity: int) -> None:
        self._tokenizer = tokenizer
        self._engine = engine
        self._width = width
        self._cache: BytesLru[tuple[Line, Any], Embeds] = BytesLru(capacity)
        self._lock = Lock()

    def tokenize(self, text: str, embeddings: Mapping[str, Embedding]) -> Tokens:
        """`embeddings` by name, those of the text's triggers at least."""
        return self._tokenizer(text, {name: embeddings[name].places for name in triggers(text)})

    def encode(
        self, wanted: Collection[Line], embeddings: Mapping[str, Embedding], slot: int, key: object
    ) -> dict[Line, Embeds]:
        """Embeds by line; those not remembered are encoded in one batch. `embeddings` by name."""
        with self._lock:
            known = {line: self._cache.get((line, key)) for line in wanted}
            missing = [line for line, embeds in known.items() if embeds is None]
            if missing:
                encoded = self._engine.run(self._feeds(missing, embeddings, slot))
                for line, parts in zip(missing, zip(*encoded, strict=True), strict=True):
                    known[line] = embeds = Embeds(*parts)
                    self._cache.put((line, key), embeds, embeds.nbytes)
            return {line: embeds for line, embeds in known.items() if embeds is not None}

    def _feeds(
        self, missing: Collection[Line], embeddings: Mapping[str, Embedding], slot: int
    ) -> dict[str, NDArray[Any]]:
        tokens = [self.tokenize(line.text, embeddings) for line in missing]
        ids = np.stack([one.ids for one in tokens])
        learned = np.zeros((*ids.shape, self._width), np.float32)
        for row, line, one in zip(learned, missing, tokens, strict=True):
            for name, start, (_, stage) in zip(triggers(line.text), one.starts, line.learned, strict=True):
                vectors = embeddings[name].vectors[GRAPH][stage]
                end = min(start + len(vectors), len(row) - 1)  # the end of the text is the encoder's own
                row[start:end] = vectors[: max(0, end - start)]
        return {"input_ids": ids, "learned_embeds": learned, "slot": np.full(len(ids), slot, np.int64)}

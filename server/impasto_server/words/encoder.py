"""Prompts → embeds, through the bundle's text encoders. Most bundles have one; SDXL has two that read the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.adapter import Embedding
from impasto_server.adapters.graphs import Graphs
from impasto_server.adapters.seat import Seat, SeatedEngine
from impasto_server.bundle import Bundle
from impasto_server.cache import BytesLru
from impasto_server.words.embeds import Embeds
from impasto_server.words.manifest import WordedManifest
from impasto_server.words.prompt import Line, triggers
from impasto_server.words.tokens import ClipTokenizer, Tokens


class TextEncoder:
    """One text encoder: a graph, an engine for each set of its weights, and its tokenizer."""

    def __init__(self, graph: str, tokenizer: ClipTokenizer, width: int, engines: Sequence[SeatedEngine]) -> None:
        self.graph = graph
        self._tokenizer = tokenizer
        self._width = width
        self._engines = engines

    def tokenize(self, text: str, embeddings: Mapping[str, Embedding]) -> Tokens:
        """The tokens of `text`. `embeddings` by name, at least those of its triggers."""
        return self._tokenizer(text, {name: embeddings[name].places for name in triggers(text)})

    def encode(self, line: Line, embeddings: Mapping[str, Embedding], seat: Seat) -> Embeds:
        """Encode one line in a batch of its own, so that other lines can't change it."""
        encoded = self._engines[seat.merged].run(self._feeds(line, embeddings), [seat])
        return Embeds(*(part[0] for part in encoded))

    def _feeds(self, line: Line, embeddings: Mapping[str, Embedding]) -> dict[str, NDArray[Any]]:
        tokens = self.tokenize(line.text, embeddings)
        learned = np.zeros((len(tokens.ids), self._width), np.float32)
        for name, start, (_, stage) in zip(triggers(line.text), tokens.starts, line.learned, strict=True):
            vectors = embeddings[name].vectors[self.graph][stage]
            end = min(start + len(vectors), len(learned) - 1)  # the last token is always the end of the text
            learned[start:end] = vectors[: max(0, end - start)]
        return {
            "input_ids": tokens.ids[None],
            "learned_embeds": learned[None],
        }


class PromptEncoder:
    """A text under the adapters of a seat → embeds as the backbone takes them, with a cache of `capacity` bytes.

    With `zeros`, an empty text becomes zeros. This is diffusers' force_zeros_for_empty_prompt, which applies where its
    negative prompt is None; diffusers does encode ''. On our wire NEGATIVE_PROMPT left out and sent empty both mean
    None. To get the embeds of '', send ' ', which has the same tokens.
    """

    def __init__(self, encoders: Sequence[TextEncoder], zeros: bool, capacity: int) -> None:
        self.encoders = encoders
        self._zeros = zeros
        self._cache: BytesLru[tuple[Line, object], Embeds] = BytesLru(capacity)
        self._caching, self._encoding = Lock(), Lock()

    @classmethod
    def of(cls, bundle: Bundle, graphs: Graphs, capacity: int) -> PromptEncoder:
        manifest = bundle.manifest
        assert isinstance(manifest, WordedManifest)
        widths = manifest.embedding_widths
        encoders = [
            TextEncoder(graph, ClipTokenizer(bundle.folder, facts), widths[graph], graphs.every(graph))
            for graph, facts in manifest.text_encoders.items()
        ]
        return cls(encoders, manifest.force_zeros_for_empty_prompt, capacity)

    def unread(self, text: str, embeddings: Mapping[str, Embedding], field: str) -> list[str]:
        """Warnings where the text is too long for an encoder; they name the request's `field`."""
        said = (encoder.tokenize(text, embeddings).warning(field) for encoder in self.encoders)
        return list(dict.fromkeys(warning for warning in said if warning))

    def known(self, line: Line, key: object) -> Embeds | None:
        """Its cached embeds, or None; `key` as in `encode`."""
        with self._caching:
            return self._cache.get((line, key))

    def encode(self, line: Line, embeddings: Mapping[str, Embedding], seat: Seat, key: object) -> Embeds:
        """Its embeds, from the cache or encoded now. `embeddings` by name.

        `key` identifies the adapters that change a text encoder, None for none: the same words have other embeds under
        another adapter.
        """
        with self._encoding:  # one thread at a time uses an engine; another may have encoded the line meanwhile
            embeds = self.known(line, key)
            if embeds is None:
                embeds = self._encoded(line, embeddings, seat)
                with self._caching:
                    self._cache.put((line, key), embeds, embeds.nbytes)
            return embeds

    def _encoded(self, line: Line, embeddings: Mapping[str, Embedding], seat: Seat) -> Embeds:
        found = joined([encoder.encode(line, embeddings, seat) for encoder in self.encoders])
        return nothing(found) if self._zeros and not line.text else found


def joined(parts: Sequence[Embeds]) -> Embeds:
    """The embeds of several encoders as one: each token's features side by side, and the last encoder's `pooled`."""
    if len(parts) == 1:
        return parts[0]
    return Embeds(np.concatenate([part.hidden for part in parts], axis=-1), parts[-1].pooled)


def nothing(embeds: Embeds) -> Embeds:
    """Zeros of the same shapes."""
    return Embeds(np.zeros_like(embeds.hidden), None if embeds.pooled is None else np.zeros_like(embeds.pooled))

"""Prompts → embeds, through the bundle's text encoders: most have one, SDXL has two that read the same words."""

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
    """One text encoder: a graph, on each of its weights an engine, and the tokens that it reads."""

    def __init__(self, graph: str, tokenizer: ClipTokenizer, width: int, engines: Sequence[SeatedEngine]) -> None:
        self.graph = graph
        self._tokenizer = tokenizer
        self._width = width
        self._engines = engines

    def tokenize(self, text: str, embeddings: Mapping[str, Embedding]) -> Tokens:
        """`embeddings` by name, those of the text's triggers at least."""
        return self._tokenizer(text, {name: embeddings[name].places for name in triggers(text)})

    def encode(self, line: Line, embeddings: Mapping[str, Embedding], seat: Seat) -> Embeds:
        """Alone, so that what others say makes no difference to it."""
        encoded = self._engines[seat.merged].run(self._feeds(line, embeddings), [seat])
        return Embeds(*(part[0] for part in encoded))

    def _feeds(self, line: Line, embeddings: Mapping[str, Embedding]) -> dict[str, NDArray[Any]]:
        tokens = self.tokenize(line.text, embeddings)
        learned = np.zeros((len(tokens.ids), self._width), np.float32)
        for name, start, (_, stage) in zip(triggers(line.text), tokens.starts, line.learned, strict=True):
            vectors = embeddings[name].vectors[self.graph][stage]
            end = min(start + len(vectors), len(learned) - 1)  # the end of the text is the encoder's own
            learned[start:end] = vectors[: max(0, end - start)]
        return {
            "input_ids": tokens.ids[None],
            "learned_embeds": learned[None],
        }


class PromptEncoder:
    """Text under the adapters of a seat → embeds as the backbone takes them, remembered by bytes.

    With `zeros`, zeros stand for a text without characters. It is diffusers' force_zeros_for_empty_prompt, which is
    about a negative prompt that is None; one that is '' they do encode. On our wire NEGATIVE_PROMPT left out and sent
    empty are the same, and mean their None; what they make of '' a blank is for, ' ', which has the same tokens.
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
        """A warning, in the name of a request's field, for each way in which the text is too long."""
        said = (encoder.tokenize(text, embeddings).warning(field) for encoder in self.encoders)
        return list(dict.fromkeys(warning for warning in said if warning))

    def known(self, line: Line, key: object) -> Embeds | None:
        """What is remembered of it; `key` as `encode`."""
        with self._caching:
            return self._cache.get((line, key))

    def encode(self, line: Line, embeddings: Mapping[str, Embedding], seat: Seat, key: object) -> Embeds:
        """Its embeds, encoded where they aren't remembered. `embeddings` by name.

        `key` identifies the adapters that change a text encoder, None for none: the same words under another adapter
        are another embedding.
        """
        with self._encoding:  # an engine is used by one thread at a time; what another has encoded meanwhile is known
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
    """What several encoders say of a text: each token's features side by side, and what the last of them pools."""
    if len(parts) == 1:
        return parts[0]
    return Embeds(np.concatenate([part.hidden for part in parts], axis=-1), parts[-1].pooled)


def nothing(embeds: Embeds) -> Embeds:
    """Zeros of the same shapes."""
    return Embeds(np.zeros_like(embeds.hidden), None if embeds.pooled is None else np.zeros_like(embeds.pooled))

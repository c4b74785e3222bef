"""A request on its way to a wish: what was said, the pictures that came, and the bundle that shall paint."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from impasto_client.catalogue import Adapter, Bundle, Catalogue
from impasto_client.fields import TABLE
from impasto_gateway import placing, sizes
from impasto_gateway.errors import wrong
from impasto_gateway.placing import Named
from impasto_gateway.settings import Limits
from impasto_gateway.words import Words

FEEDFORWARD = "feedforward"  # the family of bundles for photos
FORMATS = TABLE.by_name["FORMAT"].choices
MAX_PARTIAL = 3
MAX_STAGES = 64  # the server's: a style may have a name for each


@dataclass(frozen=True)
class Draft:
    """Its methods read single words, and raise Refusal for values that are none."""

    words: Words
    pictures: Mapping[str, Sequence[bytes]]
    catalogue: Catalogue
    limits: Limits
    bundle: Bundle
    adapter: Adapter | None  # of BUNDLE:ADAPTER

    @property
    def values(self) -> Mapping[str, Any]:
        return self.words.values

    @property
    def alias(self) -> list[Named]:
        """The adapter that `model` names."""
        return [] if self.adapter is None else [Named(self.adapter.name, None, "model")]

    def without(self, strange: Collection[str], why: str) -> None:
        """Raises Refusal for a word, or a picture, that the bundle doesn't use."""
        word = next((word for word in (*self.values, *self.pictures) if word in strange), None)
        if word is not None:
            raise wrong(self.words.names.get(word.upper(), word), f"{self.bundle.name!r} {why}; leave it out")

    def flag(self, word: str, usual: bool = False) -> bool:
        value = self.values.get(word, usual)
        if not isinstance(value, bool):
            raise wrong(word, f"{str(value)[:32]!r} is neither true nor false; send one of them")
        return value

    def text(self, word: str) -> str:
        """ "" where there is none; no longer than the limits allow."""
        text = self.values.get(word, "")
        if not isinstance(text, str):
            raise wrong(word, f"{str(text)[:64]!r} is no text; send one")
        if len(text.encode(errors="replace")) > self.limits.prompt_bytes:
            raise wrong(word, f"it has more than {self.limits.prompt_bytes} bytes; send fewer")
        return text

    def named(self, word: str) -> list[Named]:
        """The adapters that `adapters` or `style` names."""
        stages = word == "style" and self.bundle.family != FEEDFORWARD
        return placing.named(self.values.get(word), word, MAX_STAGES if stages else self.limits.adapters)

    def picture(self, word: str) -> bytes:
        one, *more = self.pictures[word]
        if more:
            raise wrong(word, f"there are {1 + len(more)}; send one")
        return one

    def format(self) -> str:
        found, said = self.values.get("format", "png"), self.words.names["FORMAT"]
        if found not in FORMATS:
            raise wrong(said, f"{str(found)[:32]!r} is not written here; send {', '.join(FORMATS)}")
        return str(found)

    def answering(self) -> dict[str, Any]:
        """The parts of a wish that say how it is answered."""
        stream, progress = self.flag("stream"), self.flag("progress")
        partial = sizes.whole(self.values, "partial_images", 0, MAX_PARTIAL) or 0
        beside = "partial_images" if partial else "progress" if progress else None
        if beside and not stream:
            raise wrong(beside, "it needs a stream; send stream true, too")
        return {
            "format": self.format(),
            "stream": stream,
            "partial_images": partial,
            "progress": progress,
            "metadata": self.flag("metadata", usual=True),
            "timeout_s": self._timeout_s(),
        }

    def _timeout_s(self) -> float:
        value, most = self.values.get("timeout", self.limits.timeout_s), self.limits.timeout_s
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not 0 < value <= most:
            raise wrong("timeout", f"{str(value)[:32]!r} is no time; send seconds, more than 0 and at most {most:g}")
        return float(value)

"""A wish: a request as the client understands it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from impasto_client.catalogue import Adapter, Catalogue
from impasto_gateway.routing import Wanted

EMBEDDING = "embedding"  # such adapters are words: they take no place in a bank
SEEDS = 1 << 32  # drawn seeds are below; JavaScript knows them all apart

Kind = Literal["generate", "stylize", "upscale"]


@dataclass(frozen=True)
class Wish:
    """What to ask a client for.

    `options` are those of AsyncClient.stream, of stylize with its photo and style, or of upscale with its picture.
    `names` are the caller's words for fields of the wire. `size` is the finished picture's, width and height in pixels;
    `pixels` are those of all pictures, `steps` those to expect. With `stream`, the answer is events, `partial_images`
    previews among them and, with `progress`, each step. `timeout_s` is in seconds. `revised` is the prompt where it
    isn't the caller's own, else None.
    """

    kind: Kind
    bundle: str
    prompt: str
    options: Mapping[str, Any] = field(repr=False)
    names: Mapping[str, str]
    size: tuple[int, int]
    pixels: int
    steps: int
    warnings: tuple[str, ...]
    format: str
    stream: bool
    partial_images: int
    progress: bool
    metadata: bool
    timeout_s: float
    revised: str | None = None

    @property
    def lanes(self) -> int:
        """How many pictures."""
        n: int = self.options.get("n", 1)
        return n

    def seeded(self) -> Wish:
        """With a seed, drawn if its caller gave none: whoever paints it, and however often, it is the same picture.
        Photos are painted without chance.
        """
        if self.kind == "stylize" or "seed" in self.options:
            return self
        return replace(self, options={**self.options, "seed": secrets.randbelow(SEEDS)})

    def wanted(self, catalogue: Catalogue) -> Wanted:
        """What it needs of the server that paints it: adapters by their digests."""
        options = (self.options.get(word) for word in ("adapters", "style", "regions"))
        names = frozenset(name for value in options for name in _names(value))
        return wanted_of(
            self.bundle, (one for one in catalogue.adapters if one.name in names), repr(self.options.get("seed"))
        )


def wanted_of(bundle: str, adapters: Iterable[Adapter], spread: str = "") -> Wanted:
    """What a request for a bundle with these adapters needs."""
    return Wanted(bundle, frozenset(one.digest for one in adapters if one.kind != EMBEDDING), spread)


def _names(value: Any) -> Iterator[str]:
    """The adapters' names in an option: texts, however lists, pairs with weights or masks, and mappings hold them."""
    match value:
        case str():
            yield value
        case list() | tuple() | Mapping():
            for one in value:
                yield from _names(one)

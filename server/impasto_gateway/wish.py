"""A wish: a request as the client understands it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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

"""An adapter file's header: enough to list the adapter and to tell which backbones it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from impasto_server.adapters.adapter import damaged, header_of, stages_of
from impasto_server.bundle import Manifest
from impasto_server.strangers import read_json

EMBEDDING = "embedding"


@dataclass(frozen=True)
class Header:
    """What a header says. `widths` are the widths of an embedding's vectors, by text encoder. `trigger` holds the words
    that call the style, `prompt` the template that it was trained with, with the places {context} and {style}; "" if it
    doesn't say. `adapts` are the stages of a cascade that it has factors for.
    """

    kind: str
    family: str
    architecture: str
    widths: Mapping[str, int]
    trigger: str = ""
    prompt: str = ""
    rank: int = 0
    stages: int = 0
    adapts: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: bytes, name: str) -> Header:
        """From a file's first bytes; errors call it `name`. Raises InvalidArgument."""
        said = header_of(data, name)
        shapes = _shapes(data, name)
        kind = _text(said, "kind")
        return cls(
            kind=kind,
            family=_text(said, "family"),
            architecture=_text(said, "architecture"),
            widths={graph: shape[2] for graph, shape in shapes.items()},
            trigger=_text(said, "trigger"),
            prompt=_text(said, "prompt"),
            rank=_count(said, "rank"),
            stages=max((shape[0] for shape in shapes.values()), default=0),
            adapts=() if kind == EMBEDDING else tuple(map(_spoken, stages_of(said, name))),
        )

    def fits(self, manifest: Manifest) -> bool:
        """Whether it can be loaded for such a bundle, as far as the header tells."""
        if self.kind == EMBEDDING:
            return dict(self.widths) == manifest.embedding_widths
        known = (self.family, self.architecture) == (manifest.family, manifest.architecture)
        return known and manifest.backbones.keys() >= {*self.adapts}


def _shapes(data: bytes, name: str) -> dict[str, tuple[int, int, int]]:
    """[stages, places, width] of an embedding's vectors, by text encoder."""
    tensors = read_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found = {key.removesuffix(".vectors"): facts for key, facts in tensors.items() if key.endswith(".vectors")}
    try:
        return {graph: _three(facts["shape"]) for graph, facts in found.items()}
    except (KeyError, TypeError, ValueError):
        raise damaged(name, "its tensors have no shapes") from None


def _three(shape: list[int]) -> tuple[int, int, int]:
    stages, places, width = map(_whole, shape)
    return stages, places, width


def _text(said: Mapping[str, Any], key: str) -> str:
    """A text of the header. Lone surrogates, which JSON allows and UTF-8 doesn't, are replaced."""
    found = said.get(key)
    return _spoken(found) if isinstance(found, str) else ""


def _spoken(text: str) -> str:
    return text.encode(errors="replace").decode()


def _count(said: Mapping[str, Any], key: str) -> int:
    try:
        return _whole(said.get(key))
    except ValueError:
        return 0


def _whole(found: Any) -> int:
    """A count. Raises ValueError for anything else; JSON's true would be an int to Python."""
    if type(found) is not int or found < 0:
        raise ValueError(f"{found!r} is not a count")
    return found

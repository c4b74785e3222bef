"""What an adapter's file says of itself in its header: enough to list it, and to say which backbones it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from impasto_server.adapters import cascade
from impasto_server.adapters.adapter import damaged, header_of
from impasto_server.bundle import Manifest
from impasto_server.strangers import read_json

EMBEDDING = "embedding"


@dataclass(frozen=True)
class Header:
    """`widths` are an embedding's, of its vectors, by text encoder. `trigger` are words that call the style, `prompt`
    those that it was trained in, with {context} and {style} for what stands there; "" where it doesn't say. `adapts`
    are the stages of a cascade that it has factors for.
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
        """Of a file's first bytes; it's called `name` in errors. Raises InvalidArgument."""
        said = header_of(data, name)
        shapes = _shapes(data, name)
        return cls(
            kind=_text(said, "kind"),
            family=_text(said, "family"),
            architecture=_text(said, "architecture"),
            widths={graph: shape[2] for graph, shape in shapes.items()},
            trigger=_text(said, "trigger"),
            prompt=_text(said, "prompt"),
            rank=_count(said, "rank"),
            stages=max((shape[0] for shape in shapes.values()), default=0),
            adapts=() if _text(said, "kind") == EMBEDDING else tuple(map(_spoken, cascade.stages(said))),
        )

    def fits(self, manifest: Manifest) -> bool:
        """Whether loading it for such a bundle can go well: what is said by the header alone."""
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
    """JSON may hold half a character, which nobody could print."""
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
    """Raises ValueError for what is no count: JSON's true is an int to Python."""
    if type(found) is not int or found < 0:
        raise ValueError(f"{found!r} is no count")
    return found

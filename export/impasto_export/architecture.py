"""The description of a skeleton: component configs, and graphs with their ports and adapter sites."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from impasto_export.errors import CheckpointError

FORMAT = 1
SHIPPED = Path(__file__).parent / "graphs"
Json = dict[str, Any]
# Kinds of sites.
LORA, BOTTLENECK, VECTOR = "lora", "bottleneck", "vector"
# An input of older graphs, from before each lane picked its rows.
OUTDATED = "slot"
# Keys of architecture.json beside the sizes.
STATED = ("format", "family", "name", "components", "graphs")


@dataclass(frozen=True)
class Port:
    """One graph input or output; a dimension is a number or the name of a dynamic one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Site:
    """A place that an adapter may change: a Linear ("lora"), a module after whose output it is inserted ("bottleneck"),
    or an input that the adapter itself provides ("vector")."""

    name: str
    in_features: int
    out_features: int
    kind: str = LORA

    @property
    def record(self) -> Json:
        """The site as JSON; the kind is left out for a LoRA."""
        return {key: value for key, value in asdict(self).items() if (key, value) != ("kind", LORA)}


def told(kind: str) -> tuple[Port, Port]:
    """The two inputs of a graph with sites of this kind: for each lane, the bank rows and their weights."""
    shape = ("lanes", f"{kind}_K")
    return Port(f"{kind}_rows", "int64", shape), Port(f"{kind}_weights", "float32", shape)


@dataclass(frozen=True)
class Graph:
    """A graph; `component` is the checkpoint's folder whose weights it reads."""

    component: str
    file: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    sites: tuple[Site, ...]

    @property
    def own_inputs(self) -> list[str]:
        """Names of the inputs that do not belong to adapters."""
        adapters = [port for kind in {site.kind for site in self.sites} for port in told(kind)]
        return [port.name for port in self.inputs if port not in adapters]

    @property
    def plain(self) -> str:
        """The bundle's file of the same graph without its sites; "" where it has none to take out."""
        banked = any(site.kind != VECTOR for site in self.sites)
        return f"{Path(self.file).stem}.plain.onnx" if banked else ""

    @property
    def record(self) -> Json:
        return {**asdict(self), "sites": [site.record for site in self.sites]}


@dataclass(frozen=True)
class Component:
    """A component; `config` is complete, `defaults` are the values of keys that a checkpoint's config leaves out."""

    class_name: str
    config: Json
    defaults: Json


@dataclass(frozen=True)
class Architecture:
    """An architecture; `sizes` describes its "latents" or "tokens", and its "image"."""

    name: str
    family: str
    components: dict[str, Component]
    graphs: dict[str, Graph]
    sizes: dict[str, Json]

    def canonical(self) -> bytes:
        stated = {
            "format": FORMAT,
            "family": self.family,
            "name": self.name,
            "components": {name: asdict(component) for name, component in self.components.items()},
            "graphs": {name: graph.record for name, graph in self.graphs.items()},
        }
        return canonical_json({**stated, **self.sizes})

    @property
    def digest(self) -> str:
        """sha256 of what adapters depend on: the components and the sites. Neither the name nor the way in which graphs
        take adapters is part of it."""
        components = {name: asdict(component) for name, component in self.components.items()}
        sites = {name: [site.record for site in graph.sites] for name, graph in self.graphs.items() if graph.sites}
        held = {"family": self.family, "components": components, "sites": sites}
        return hashlib.sha256(canonical_json(held)).hexdigest()


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError, also for text that is nested too deeply, as only a hostile file is."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Json:
    """Raises CheckpointError when the file is missing or not a JSON object."""
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return cast(Json, value)


def load(folder: Path) -> Architecture:
    """Read `folder/architecture.json`. Raises CheckpointError when it is not a skeleton of this format."""
    raw = read_json(folder / "architecture.json")
    if raw.get("format") != FORMAT:
        raise CheckpointError(f"{folder}: skeleton has format {raw.get('format')!r}, not {FORMAT}; export it again")
    components = {name: Component(**value) for name, value in raw["components"].items()}
    sizes = {key: value for key, value in raw.items() if key not in STATED}
    return Architecture(raw["name"], raw["family"], components, _graphs(raw["graphs"]), sizes)


def _graphs(raw: Mapping[str, Json]) -> dict[str, Graph]:
    return {
        name: Graph(
            value["component"],
            value["file"],
            tuple(Port(port["name"], port["dtype"], tuple(port["shape"])) for port in value["inputs"]),
            tuple(Port(port["name"], port["dtype"], tuple(port["shape"])) for port in value["outputs"]),
            tuple(Site(**site) for site in value["sites"]),
        )
        for name, value in raw.items()
    }

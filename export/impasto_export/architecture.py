"""What a skeleton is: component configs, graphs with their ports and adapter sites, and how a checkpoint is matched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from impasto_export.errors import CheckpointError, UnknownArchitecture, listing

FORMAT = 1
FAMILY = "diffusion"
SHIPPED = Path(__file__).parent / "graphs"
Json = dict[str, Any]

# Read by nothing in the graph: sizes used as defaults only, and numerical-format hints for eager torch.
NOT_IN_GRAPH = {
    "unet": {"sample_size", "dropout"},
    "controlnet": set(),
    "vae": {"sample_size", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast"},
}
# A transformers config carries dozens of generation settings, so here it is the graph's own facts that are listed.
TEXT_FACTS = {
    "hidden_act", "hidden_size", "intermediate_size", "layer_norm_eps", "max_position_embeddings",
    "num_attention_heads", "num_hidden_layers", "vocab_size",
}  # fmt: skip


@dataclass(frozen=True)
class Port:
    """One graph input or output; a dimension is a number or the name of a dynamic one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Site:
    """One Linear that an adapter may change."""

    name: str
    in_features: int
    out_features: int


@dataclass(frozen=True)
class Graph:
    """`component` is the checkpoint's folder whose weights the graph reads."""

    component: str
    file: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    sites: tuple[Site, ...]


@dataclass(frozen=True)
class Component:
    """`config` is complete; `defaults` says what a key missing from a checkpoint's config means."""

    class_name: str
    config: Json
    defaults: Json


@dataclass(frozen=True)
class Architecture:
    name: str
    components: dict[str, Component]
    graphs: dict[str, Graph]
    latents: Json
    image: Json

    def canonical(self) -> bytes:
        return canonical_json({"format": FORMAT, "family": FAMILY, **asdict(self)})

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.canonical()).hexdigest()


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def read_json(path: Path) -> Json:
    """Raises CheckpointError when the file is missing or not a JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return cast(Json, value)


def load(folder: Path) -> Architecture:
    """Read `folder/architecture.json`. Raises CheckpointError when it is not one of ours."""
    raw = read_json(folder / "architecture.json")
    if raw.get("format") != FORMAT or raw.get("family") != FAMILY:
        known = f"format {raw.get('format')!r}, family {raw.get('family')!r}"
        raise CheckpointError(f"{folder}: skeleton of {known} is not known; export it again")
    components = {name: Component(**value) for name, value in raw["components"].items()}
    return Architecture(raw["name"], components, _graphs(raw["graphs"]), raw["latents"], raw["image"])


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


def facts(component: str, config: Mapping[str, Any]) -> Json:
    """The part of a component's config that determines its graph."""
    if component == "text_encoder":
        return {key: value for key, value in config.items() if key in TEXT_FACTS}
    dropped = NOT_IN_GRAPH[component]
    return {key: value for key, value in config.items() if not key.startswith("_") and key not in dropped}


def differences(architecture: Architecture, configs: Mapping[str, Json]) -> list[str]:
    """Where the checkpoint's configs depart from the architecture's; empty when it is of this architecture."""
    found = []
    for name, component in architecture.components.items():
        given = {**component.defaults, **facts(name, configs[name])}
        for key in sorted(given.keys() | component.config.keys()):
            have, want = given.get(key), component.config.get(key)
            if have != want:
                found.append(f"{name}.{key}: checkpoint {have!r}, architecture {want!r}")
    return found


def skeletons(folders: Iterable[Path]) -> dict[Path, Architecture]:
    """Every skeleton found directly in or one level below `folders`."""
    found: dict[Path, Architecture] = {}
    for folder in folders:
        for path in [folder, *sorted(folder.iterdir())] if folder.is_dir() else []:
            if (path / "architecture.json").is_file():
                found[path] = load(path)
    return found


def match(
    configs: Mapping[str, Json], folders: Iterable[Path], export: str = "graphs CHECKPOINT"
) -> tuple[Path, Architecture]:
    """The skeleton folder whose architecture the configs describe. Raises UnknownArchitecture with the nearest one.

    `export` is the command that makes such skeletons, for the error.
    """
    known = {path: found for path, found in skeletons(folders).items() if found.components.keys() == configs.keys()}
    apart = {path: differences(architecture, configs) for path, architecture in known.items()}
    for path, found in apart.items():
        if not found:
            return path, known[path]
    advice = f"export its graphs once with `impasto export {export} --out DIR`, then link with --graphs DIR"
    if not apart:
        raise UnknownArchitecture(f"no graph skeletons found; {advice}")
    nearest = min(apart, key=lambda path: len(apart[path]))
    near = f"The nearest is {known[nearest].name}:\n{listing(apart[nearest])}"
    raise UnknownArchitecture(f"no skeleton fits this checkpoint; {advice}. {near}")

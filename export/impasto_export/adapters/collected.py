"""Collect the layers that a LoRA file or a variant changes from its keys, and the problems of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from numpy.typing import NDArray

from impasto_export import spellings
from impasto_export.adapters import bases, forms, layouts, scales, sources
from impasto_export.adapters.bases import Guess
from impasto_export.adapters.layers import Layers
from impasto_export.adapters.layouts import ALPHA, MAGNITUDE, AsWritten, Names, Piece
from impasto_export.adapters.sources import Source
from impasto_export.errors import SHOWN
from impasto_export.floats import FLOATS, as_float, finite
from impasto_export.spellings import UPSCALER
from impasto_export.weights import Header, read_tensor

PEFT = "peft"


@dataclass
class Site:
    """A layer's tensors as stored, by role."""

    dtype: dict[str, str] = field(default_factory=dict)
    parts: dict[str, NDArray[Any]] = field(default_factory=dict)
    config: scales.Config | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {role: part.shape for role, part in self.parts.items()}

    @property
    def alpha(self) -> float | None:
        stated = ALPHA in self.parts and self.parts[ALPHA].size == 1
        return as_float(self.parts[ALPHA], self.dtype[ALPHA]) if stated else None


Sites = Mapping[tuple[str, str], Site]


def made_for(source: Source, written: Sites) -> Guess:
    """The base model, guessed from the layers as the source names them."""
    names = [*source.keys, *(f"{graph}.{name}" for graph, name in written)]
    widths = ((name, forms.inputs(site.shapes)) for (_, name), site in written.items())
    return bases.guess(names, {name: width for name, width in widths if width}, source.metadata)


def layout(header: Header) -> str:
    """The file's layout: PEFT's, or the writer of such names."""
    if header.path.name == sources.PEFT or (header.path.parent / scales.CONFIG_FILE).is_file():
        return PEFT
    return spellings.writer(header.tensors)


def modules(source: Source) -> list[str]:
    """The layers of this half alone, as it names them."""
    return [name for _, name in _collected(source, AsWritten())[0]]


def collect(source: Source, names: Names | AsWritten) -> tuple[Sites, list[str]]:
    """The layers that the source and its second half change, and the problems: each key or layer with the reason."""
    sites, problems = _collected(source, names)
    if source.second is None:
        return sites, problems
    others, more = _collected(source.second, names)
    twice = f"belongs to the second stage, whose half is {source.second.place.name}; remove it from one of them"
    problems += [f"{UPSCALER}.{name}: {twice}" for graph, name in sites if graph == UPSCALER]
    more += [f"{graph}.{name} is not a layer of the second stage" for graph, name in others if graph != UPSCALER]
    return {**sites, **others}, [*problems, *(f"{source.second.place.name}: {problem}" for problem in more)]


def _collected(source: Source, names: Names | AsWritten) -> tuple[Sites, list[str]]:
    sites: dict[tuple[str, str], Site] = {}
    problems = []
    for header in source.headers:
        config, component = _configs(header), source.component(header)
        for key in sorted(header.tensors):
            piece = _piece(header, key, names, component)
            if isinstance(piece, Piece):
                site = sites.setdefault((piece.graph, piece.module), Site(config=config(piece.graph)))
                problems.append((key, _add(site, piece, header, key)))
            else:
                problems.append((key, piece))
    problems += [(".".join(where), incomplete(site)) for where, site in sites.items()]
    bad = [(what, problem) for what, problem in problems if problem]
    near = [_near(*one, names) for one in bad[:SHOWN]] + [""] * (len(bad) - SHOWN)
    return sites, [f"{what}: {problem}{hint}" for (what, problem), hint in zip(bad, near, strict=True)]


def _near(key: str, problem: str, names: Names | AsWritten) -> str:
    """A hint at the layer that may be meant by a key that names none."""
    said = layouts.split(key) if problem == layouts.NO_LAYER else None
    near = names.near(said[0]) if said else None
    return f"; the nearest is {near}" if near else ""


def _configs(header: Header) -> Callable[[str], scales.Config | None]:
    """graph -> the config with its layers' scales: PEFT's folder has one for all, diffusers' header one per graph."""
    if layout(header) != PEFT:
        return cache(partial(scales.from_header, header))
    config = scales.from_folder(header.path.parent)
    return lambda _: config


def _piece(header: Header, key: str, names: Names | AsWritten, component: str | None) -> Piece | str:
    piece, dtype = layouts.read(key, names, component), header.tensors[key].dtype
    if isinstance(piece, Piece) and piece.role != ALPHA and dtype not in FLOATS:
        return f"has dtype {dtype}; F32, F16 or BF16 is expected"
    return piece


def _add(site: Site, piece: Piece, header: Header, key: str) -> str | None:
    """Add the tensor to its layer; returns the problem if it can't be added."""
    if piece.role in site.parts:
        return f"a second {piece.role} for {piece.graph}.{piece.module}"
    site.parts[piece.role], site.dtype[piece.role] = read_tensor(header, key), header.tensors[key].dtype
    return None


def incomplete(site: Site) -> str | None:
    """Why the layer's tensors, by their roles and values, cannot change any weight; None if they can."""
    shapes = site.shapes
    if forms.kind(shapes) is None:
        return f"has {' and '.join(sorted(shapes))}, which are incomplete: a tensor is missing, or of another kind"
    empty = [role for role, part in site.parts.items() if not part.size]
    if empty:
        return f"{empty[0]} has shape {list(shapes[empty[0]])}: it is empty"
    if ALPHA in shapes and site.parts[ALPHA].size != 1:
        return f"alpha has shape {list(shapes[ALPHA])}; a single number is expected"
    if site.config is not None and site.config.dora and MAGNITUDE not in shapes:
        return "its config says use_dora, but it has no magnitude"
    spoilt = [role for role, part in site.parts.items() if not finite(part, site.dtype[role])]
    return f"{spoilt[0]} holds NaN or infinity" if spoilt else None


def misfits(source: Source, sites: Sites, known: Layers) -> list[str]:
    """The layers of the source whose tensors do not fit the bundle's weight of that name."""
    found = []
    for (graph, name), site in sites.items():
        shapes, weight = site.shapes, known[graph][name].shape
        if forms.kind(shapes) and not forms.fit(shapes, weight):
            listed = ", ".join(f"{role} {list(shape)}" for role, shape in sorted(shapes.items()) if role != ALPHA)
            problem = f"{listed} do not fit its weight {list(weight)}; is the adapter for another backbone?"
            half = f"{source.second.place.name}: " if source.second is not None and graph == UPSCALER else ""
            found.append(f"{half}{graph}.{name}: {problem}")
    return found


def merged_only(sites: Sites, known: Layers) -> list[forms.Form]:
    """The forms in it that only merging can use, sorted; empty for an adapter that banks can hold."""
    found = (forms.merged_only(site.parts, known[graph][name]) for (graph, name), site in sites.items())
    return sorted(set().union(*found))

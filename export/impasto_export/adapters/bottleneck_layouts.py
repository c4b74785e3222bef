"""Read the two file layouts of bottleneck adapters: the studio's, and StyleDrop-PyTorch's.

In both, layers may share one pair of matrices; then each layer has offsets, rows that are added to every row of those.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from impasto_export import spellings
from impasto_export.adapters.sources import Source
from impasto_export.architecture import parse_json
from impasto_export.errors import AdapterError, UnaccountedKeys
from impasto_export.floats import FLOATS, finite, float32
from impasto_export.weights import Header, read_tensor

Gelu = Literal["exact", "tanh"]
Layout = Literal["studio", "styledrop-pytorch"]
# The studio's entry in the file's metadata, and the roles of its tensors.
ENTRY = "bottleneck"
PAIR, OFFSETS = ("down", "up"), ("down_offset", "up_offset")
# StyleDrop-PyTorch's nn.Embedding tables, alone or within the checkpoint of a model that has the adapter.
TABLE = re.compile(r"(?:(?:state_dict|model|adapter)[./])*(WD|WU|DD|DU)(?:\.weight)?")
TABLES, OFFSET_TABLES = ("WD", "WU"), ("DD", "DU")
# What may be saved beside the tensors.
NOTES = ("step", "epoch")
# The only place of StyleDrop-PyTorch's adapters.
SITE = re.compile(r"transformer_layers\.(\d+)\.attn1")
ASSUMED = "gelu is not stated: exact taken, as in the code of StyleDrop-PyTorch"
# Dtype and values, bf16 as its bits.
Part = tuple[str, NDArray[Any]]


@dataclass(frozen=True)
class Pair:
    """One site's y + gelu(y @ down) @ up: down [D, H], up [H, D]."""

    down: Part
    up: Part


@dataclass(frozen=True)
class Bottleneck:
    """A file's adapter. `pairs` has one for each site, also where the file shares them (`shared`)."""

    layout: Layout
    gelu: Gelu
    shared: bool
    prompt: str
    pairs: Mapping[str, Pair]
    assumed: list[str]


@dataclass(frozen=True)
class _Form:
    """The studio's entry; `places`: place -> its sites, in the order of its offsets."""

    gelu: Gelu
    shared: bool
    prompt: str
    places: Mapping[str, list[str]]


def recognises(source: Source) -> bool:
    """Whether the file is a bottleneck adapter's."""
    (header, *others) = source.headers
    return not others and (ENTRY in header.metadata or _tables(header).keys() >= set(TABLES))


def layout(source: Source) -> Layout:
    """The layout of a recognised file."""
    return "studio" if ENTRY in source.headers[0].metadata else "styledrop-pytorch"


def facts(source: Source) -> dict[str, object]:
    """The facts of an adapter, without a bundle. Raises AdapterError for an unusable entry, and for NaN or infinity."""
    (header,) = source.headers
    if layout(source) == "studio":
        for key in header.tensors:
            _part(source, header, key)
        form = _form(source, header.metadata[ENTRY])
        ranks = sorted({tensor.shape[-1:] for key, tensor in header.tensors.items() if key.endswith(f".{PAIR[0]}")})
        said = {"gelu": form.gelu, "shared": form.shared, **({"prompt": form.prompt} if form.prompt else {})}
        return {"layout": "studio", **said, "rank": ", ".join(str(*rank) for rank in ranks)}
    parts = {table: _part(source, header, key)[1] for table, key in sorted(_tables(header).items())}
    tables = {table: str(list(array.shape)) for table, array in parts.items()}
    return {"layout": "styledrop-pytorch", "shared": "DD" in parts, "tables": tables, "notes": [ASSUMED]}


def sites(source: Source) -> list[str]:
    """The modules that the file names; StyleDrop-PyTorch's names none, its tables go by numbers."""
    entry = source.headers[0].metadata.get(ENTRY)
    return [] if entry is None else [site for names in _form(source, entry).places.values() for site in names]


def stated(source: Source) -> tuple[Gelu, str]:
    """The gelu, and the prompt of the training or ""; StyleDrop-PyTorch's files state neither."""
    entry = source.headers[0].metadata.get(ENTRY)
    if entry is None:
        return "exact", ""
    form = _form(source, entry)
    return form.gelu, form.prompt


def read(source: Source, widths: Mapping[str, int]) -> Bottleneck:
    """The adapter for a backbone whose sites have these `widths`; StyleDrop-PyTorch's files don't state them.

    Raises UnaccountedKeys for keys that the layout does not have, AdapterError for any other problem.
    """
    (header,) = source.headers
    return _studio(source, header) if layout(source) == "studio" else _styledrop_pytorch(source, header, widths)


def _studio(source: Source, header: Header) -> Bottleneck:
    """Unshared: `<site>.down`, `<site>.up`. Shared: `<place>.down`, `<place>.up`, and their offsets [L, 1, …]."""
    form = _form(source, header.metadata[ENTRY])
    sites = [site for names in form.places.values() for site in names]
    if len(set(sites)) != len(sites):
        raise AdapterError(f"{source}: its {ENTRY} entry names a site twice")
    pairs = _shared_pairs(source, header, form.places) if form.shared else _own_pairs(source, header, sites)
    return Bottleneck("studio", form.gelu, form.shared, form.prompt, pairs, [])


def _own_pairs(source: Source, header: Header, sites: Sequence[str]) -> dict[str, Pair]:
    _account(source, header.tensors, [f"{site}.{role}" for site in sites for role in PAIR])
    return {site: Pair(*(_part(source, header, f"{site}.{role}") for role in PAIR)) for site in sites}


def _shared_pairs(source: Source, header: Header, places: Mapping[str, Sequence[str]]) -> dict[str, Pair]:
    roles = PAIR + OFFSETS
    _account(source, header.tensors, [f"{place}.{role}" for place in places for role in roles])
    pairs: dict[str, Pair] = {}
    for place, sites in places.items():
        arrays = [_wide(_part(source, header, f"{place}.{role}")) for role in roles]
        pairs.update(zip(sites, _unshared(f"{source}: {place}", len(sites), *arrays), strict=True))
    return pairs


def _form(source: Source, text: str) -> _Form:
    try:
        entry = parse_json(text)
        places = {str(place): [str(site) for site in sites] for place, sites in entry["sites"].items()}
        gelu, shared, prompt = entry["gelu"], entry["shared"], entry.get("prompt") or ""
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"{source}: the {ENTRY} entry in its header cannot be used: {error!r}") from None
    if gelu not in get_args(Gelu) or not isinstance(shared, bool) or not isinstance(prompt, str):
        said = f"gelu {gelu!r}, shared {shared!r}, prompt {prompt!r}"
        raise AdapterError(f"{source}: its header says {said}; gelu must be exact or tanh, shared true or false")
    return _Form(cast(Gelu, gelu), shared, prompt, places)


def _styledrop_pytorch(source: Source, header: Header, widths: Mapping[str, int]) -> Bottleneck:
    """Unshared: WD, WU [L, D·H]. Shared: WD, WU [1, D·H], DD [L, H] and DU [L, D]. All after self-attention."""
    tables = _tables(header)
    shared = not set(OFFSET_TABLES).isdisjoint(tables)
    _account(source, tables, TABLES + OFFSET_TABLES if shared else TABLES)
    _account(source, header.tensors, tables.values())
    strange = [key for key in source.notes if key not in NOTES]
    if strange:
        raise UnaccountedKeys(str(source), [f"{key}: not part of an adapter" for key in strange])
    sites = sorted((site for site in widths if SITE.fullmatch(site)), key=lambda site: int(site.split(".")[1]))
    parts = {table: _part(source, header, key) for table, key in tables.items()}
    _check_backbone(source, {table: array.shape for table, (_, array) in parts.items()}, [widths[s] for s in sites])
    pairs = _from_tables(source, parts, widths[sites[0]])
    return Bottleneck("styledrop-pytorch", "exact", shared, "", dict(zip(sites, pairs, strict=True)), [ASSUMED])


def _from_tables(source: Source, parts: Mapping[str, Part], width: int) -> list[Pair]:
    if "DD" not in parts:
        (down, downs), (up, ups) = (parts[table] for table in TABLES)
        return [
            Pair((down, wd.reshape(width, -1)), (up, wu.reshape(-1, width))) for wd, wu in zip(downs, ups, strict=True)
        ]
    wd, wu, dd, du = (_wide(parts[table]) for table in TABLES + OFFSET_TABLES)
    offsets = dd[:, None, :], du[:, None, :]
    return _unshared(str(source), len(dd), wd.reshape(width, -1), wu.reshape(-1, width), *offsets)


def _tables(header: Header) -> dict[str, str]:
    """Table -> key. A second key of one table is left out here, and so reported as not part of the adapter."""
    keys = sorted(header.tensors, reverse=True)
    return {match[1]: key for key in keys if (match := TABLE.fullmatch(spellings.unwrapped(key)))}


def _check_backbone(source: Source, shapes: Mapping[str, tuple[int, ...]], widths: Sequence[int]) -> None:
    """Raises AdapterError unless these tables fit the bundle's self-attention layers, which have `widths`."""
    tables = ", ".join(f"{table} {list(shape)}" for table, shape in sorted(shapes.items()))
    if any(len(shape) != 2 for shape in shapes.values()):
        raise AdapterError(f"{source} holds {tables}; tables with a row for each layer are expected")
    if not widths:
        raise AdapterError(f"{source}: the bundle takes no adapters after self-attention; link its checkpoint again")
    shared, layers, width = "DD" in shapes, len(widths), widths[0]
    rank, rows = shapes["DD"][1] if shared else shapes["WD"][1] // width, 1 if shared else layers
    wanted = {"WD": (rows, width * rank), "WU": (rows, rank * width), "DD": (layers, rank), "DU": (layers, width)}
    if not rank or set(widths) != {width} or any(shape != wanted[table] for table, shape in shapes.items()):
        theirs = f"{shapes['DD'][0]} layers {shapes['DU'][1]} wide" if shared else f"{shapes['WD'][0]} layers"
        ours = f"{layers} layers {' and '.join(map(str, sorted(set(widths))))} wide"
        fix = "it fits only the backbone that it was trained on"
        raise AdapterError(f"{source} adapts {theirs} ({tables}), but the bundle's backbone has {ours}: {fix}")


def _unshared(where: str, count: int, *arrays: NDArray[np.float32]) -> list[Pair]:
    """The pairs of `count` sites: down [D, H] and up [H, D], plus offsets [count, 1, H] and [count, 1, D]."""
    down, up, down_offsets, up_offsets = arrays
    width, rank = down.shape if down.ndim == 2 else (0, 0)
    wanted = [(width, rank), (rank, width), (count, 1, rank), (count, 1, width)]
    shapes = [array.shape for array in arrays]
    if not width * rank or shapes != wanted:
        expected = f"down [D, H], up [H, D] and, for its {count} sites, offsets [{count}, 1, H], [{count}, 1, D]"
        raise AdapterError(f"{where} is {', '.join(str(list(shape)) for shape in shapes)}; {expected} are expected")
    with np.errstate(over="ignore"):  # an infinite sum is refused later, when every site is checked
        downs, ups = down + down_offsets, up + up_offsets
    return [Pair(("F32", a), ("F32", b)) for a, b in zip(downs, ups, strict=True)]


def _account(source: Source, has: Collection[str], wanted: Iterable[str]) -> None:
    """Raises UnaccountedKeys for keys that are not `wanted`, AdapterError for missing ones."""
    expected = set(wanted)
    extra = sorted(set(has) - expected)
    if extra:
        raise UnaccountedKeys(str(source), [f"{key}: not part of the adapter" for key in extra])
    missing = sorted(expected - set(has))
    if missing:
        raise AdapterError(f"{source} is incomplete: {', '.join(missing)} is missing")


def _part(source: Source, header: Header, key: str) -> Part:
    """The tensor. Raises AdapterError for a dtype that is not a float's, and for NaN and infinity."""
    dtype = header.tensors[key].dtype
    if dtype not in FLOATS:
        raise AdapterError(f"{source}: {key} has dtype {dtype}; F32, F16 or BF16 is expected")
    array = read_tensor(header, key)
    if not finite(array, dtype):
        raise AdapterError(f"{source}: {key} holds NaN or infinity")
    return dtype, array


def _wide(part: Part) -> NDArray[np.float32]:
    dtype, array = part
    return float32(array, dtype)

"""The answer of model `catalogue`: the server's bundles, what each accepts, and the adapters that fit them."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from impasto_client.errors import ProtocolError
from impasto_client.wire import Tensors, values_of

CATALOGUE = "catalogue"


@dataclass(frozen=True)
class Strength:
    """A strength of a guidance rule: its field on the wire, its default, and its bounds."""

    field: str
    default: float
    low: float
    high: float


@dataclass(frozen=True)
class Rule:
    """A guidance rule that a bundle knows."""

    name: str
    strengths: tuple[Strength, ...]


@dataclass(frozen=True)
class Size:
    """Sizes in pixels: the default width and height, what both must be multiples of, and the largest area."""

    width: int
    height: int
    multiple_of: int
    max_pixels: int


@dataclass(frozen=True)
class Defaults:
    """The bundle's defaults for omitted fields."""

    scheduler: str
    steps: int


@dataclass(frozen=True)
class Weighted:
    """An adapter in a mix."""

    name: str
    digest: str
    weight: float


@dataclass(frozen=True)
class Bundle:
    """A bundle; the option `model` takes its `name`.

    `fields` are the inputs that it uses, under some rule. `control` are its ControlNet's channels, empty without one;
    `pinned` are the mixes that have weights of their own in it. `stages` of a masked bundle are base and, of a cascade,
    upscale. A finished picture is `zoom` times as wide and high as the base's, whose size `Client.upscale` takes.
    """

    name: str
    family: str
    checkpoint: str
    digest: str
    size: Size
    samplers: tuple[str, ...]
    defaults: Defaults
    rules: tuple[Rule, ...]
    fields: tuple[str, ...]
    control: tuple[str, ...]
    pinned: tuple[tuple[Weighted, ...], ...]
    stages: tuple[str, ...] = ("base",)
    zoom: int = 1


@dataclass(frozen=True)
class Adapter:
    """A style in the server's registry.

    `kind` is lora, bottleneck, embedding, vector (a style for photos) or delta (usable only in a pinned mix). `trigger`
    are words that a prompt should contain; `prompt` is the template of its training, with {context} and {style} as
    placeholders; both are "" if unknown. `stages` are an embedding's. `adapts` are the stages of a cascade that it
    changes: with "base" alone, "upscale" runs without it. `fits` are the names of the bundles that it fits.
    """

    name: str
    digest: str
    kind: str
    family: str
    trigger: str
    prompt: str
    rank: int
    stages: int
    adapts: tuple[str, ...]
    fits: tuple[str, ...]


@dataclass(frozen=True)
class Unread:
    """An adapter that the server can't read now, and why; the name "" means the whole registry."""

    name: str
    problem: str


@dataclass(frozen=True)
class Catalogue:
    """What a server has; `default` is the name of the bundle that paints for requests that name none."""

    default: str
    bundles: tuple[Bundle, ...]
    adapters: tuple[Adapter, ...]
    unread: tuple[Unread, ...]


def decode_catalogue(tensors: Tensors) -> Catalogue:
    """The catalogue from CATALOGUE BYTES [1]. Raises ProtocolError."""
    (text, *_) = values_of(tensors, "CATALOGUE", bytes)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ProtocolError(f"the server's CATALOGUE is not JSON: {error}") from None
    made: Catalogue = _made(Catalogue, found, "CATALOGUE")
    return made


def encoded(catalogue: Catalogue) -> dict[str, NDArray[Any]]:
    """The model's output tensor."""
    return {"CATALOGUE": np.array([json.dumps(asdict(catalogue)).encode()], dtype=np.object_)}


def _made(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as `kind`: a dataclass, a tuple of one kind, text or a number. Unknown fields are ignored."""
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return tuple(_made(inner, one, f"{where}[{place}]") for place, one in enumerate(_is(list, value, where)))
    if isinstance(kind, type) and is_dataclass(kind):
        said, (hints, needed) = _is(dict, value, where), _members(kind)
        missing = next((name for name in needed if name not in said), None)
        if missing is not None:
            raise ProtocolError(f"the server's {where} has no {missing}")
        return kind(
            **{name: _made(hint, said[name], f"{where}.{name}") for name, hint in hints.items() if name in said}
        )
    return float(_is((int, float), value, where)) if kind is float else _is(kind, value, where)


@cache
def _members(kind: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A dataclass's types by field, and the fields without a default; looked up once: adapters may be thousands."""
    return get_type_hints(kind), tuple(one.name for one in fields(kind) if one.default is MISSING)


def _is(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ProtocolError(f"the server's {where} has the wrong type {type(value).__name__}")
    return value

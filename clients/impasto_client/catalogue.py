"""What model `catalogue` answers: the server's bundles, what may be asked of each, and the adapters that fit them."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from impasto_client.errors import ProtocolError
from impasto_client.wire import Tensors, values_of

CATALOGUE = "catalogue"


@dataclass(frozen=True)
class Strength:
    """A number that a guidance rule goes by, under its name on the wire: what it is by default, least and most."""

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
    """Pixels: of the default picture, and what width and height have to be multiples of; width x height at most."""

    width: int
    height: int
    multiple_of: int
    max_pixels: int


@dataclass(frozen=True)
class Defaults:
    """What a request gets that doesn't say."""

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
    """What can paint: `name` is for the option `model`.

    `fields` are the inputs that mean something to it, under some rule. `control` are the channels of its ControlNet,
    none without one, and `pinned` the mixes that it has weights of its own for. Of a masked bundle `stages` are base
    and, in a cascade, upscale; a finished picture is `zoom` times as wide and high as the base's, which is the size of
    a picture that `Client.upscale` takes.
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

    `kind` is lora, bottleneck, embedding or delta (what only a pinned mix can carry). `trigger` are words that call it,
    `prompt` those that it was trained in, with {context} and {style} for what stands there; "" where nobody said.
    `stages` are an embedding's. `adapts` are the stages of a cascade that it has factors for: what has "base" alone
    paints "upscale" plain. `fits` are the names of the bundles that it is for.
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
    """An adapter that the server can't read now, and why; the name "" is the whole registry."""

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
    """CATALOGUE BYTES [1]. Raises ProtocolError."""
    (text, *_) = values_of(tensors, "CATALOGUE", bytes)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ProtocolError(f"the server's CATALOGUE is not JSON: {error}") from None
    made: Catalogue = _made(Catalogue, found, "CATALOGUE")
    return made


def encoded(catalogue: Catalogue) -> dict[str, NDArray[Any]]:
    """The output of the model."""
    return {"CATALOGUE": np.array([json.dumps(asdict(catalogue)).encode()], dtype=np.object_)}


def _made(kind: Any, value: Any, where: str) -> Any:
    """JSON's value as `kind`: a dataclass, a tuple of one kind, text or a number. What a newer server adds is left."""
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return tuple(_made(inner, one, f"{where}[{place}]") for place, one in enumerate(_is(list, value, where)))
    if isinstance(kind, type) and is_dataclass(kind):
        said, hints = _is(dict, value, where), get_type_hints(kind)
        needed = (one.name for one in fields(kind) if one.default is MISSING)
        missing = next((name for name in needed if name not in said), None)
        if missing is not None:
            raise ProtocolError(f"the server's {where} has no {missing}")
        return kind(
            **{name: _made(hint, said[name], f"{where}.{name}") for name, hint in hints.items() if name in said}
        )
    return float(_is((int, float), value, where)) if kind is float else _is(kind, value, where)


def _is(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ProtocolError(f"the server's {where} is {type(value).__name__}, which it can't be")
    return value

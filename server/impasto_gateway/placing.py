"""Where each named adapter goes: its kind in the catalogue, the bundle and the guidance rule decide.

An embedding is the option `style`. Other adapters are `adapters` with their weights, or `style` where the rule guides
by an adapter (StyleDrop's). A bundle for photos takes them all as its styles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from impasto_client.catalogue import Adapter, Catalogue
from impasto_client.field import Rule
from impasto_gateway.errors import wrong

EMBEDDING = "embedding"


@dataclass(frozen=True)
class Named:
    """An adapter that a caller named: with a weight, if one was given, in the field `word`."""

    name: str
    weight: Any
    word: str


def named(value: Any, word: str, most: int) -> list[Named]:
    """Read "name", "name:weight", {"name": weight}, or a list of names and of {"name", "weight"}. Raises Refusal."""
    match value:
        case None | "":
            return []
        case str():
            found = [_spelt(value, word)]
        case Mapping():
            found = [Named(name, weight, word) for name, weight in value.items()]
        case list():
            found = [_entry(one, word) for one in value[: most + 1]]
        case _:
            raise wrong(word, f'{str(value)[:64]!r} names no adapters; send e.g. {{"neon": 0.9}}')
    if len(found) > most:
        raise wrong(word, f"there are more than {most}; send fewer")
    return found


def _entry(one: Any, word: str) -> Named:
    match one:
        case str():
            return _spelt(one, word)
        case {"name": str(name), **rest} if not rest.keys() - {"weight"}:
            return Named(name, rest.get("weight"), word)
    raise wrong(word, f'{str(one)[:64]!r} is no adapter; send a name, or {{"name": "neon", "weight": 0.9}}')


def _spelt(text: str, word: str) -> Named:
    """NAME, or NAME:WEIGHT as commands have it; no adapter's name contains a colon."""
    name, colon, said = text.partition(":")
    if not colon:
        return Named(text, None, word)
    try:
        weight = float(said)
    except ValueError:
        weight = math.nan
    if not name or not math.isfinite(weight):
        raise wrong(word, f"{text[:64]!r} is no adapter with a weight; send NAME or NAME:0.5")
    return Named(name, weight, word)


@dataclass(frozen=True)
class Placed:
    """The client's options `style` and `adapters`; None where there are none."""

    style: Any
    adapters: Mapping[str, Any] | None


def placed(adapters: Sequence[Named], styles: Sequence[Named], rule: Rule, catalogue: Catalogue) -> Placed:
    """Place adapters for a bundle that takes words. Raises Refusal where one is named twice."""
    kinds = {one.name: one.kind for one in catalogue.adapters}
    embedded, weighed = list[Named](), list[Named]()
    for one in styles:
        is_style = rule.styled == "adapter" or kinds.get(one.name, EMBEDDING) == EMBEDDING
        (embedded if is_style else weighed).append(one)
    for one in adapters:
        (embedded if kinds.get(one.name) == EMBEDDING else weighed).append(one)
    heavy = next((one for one in embedded if one.weight not in (None, 1)), None)
    if heavy is not None:
        raise wrong(heavy.word, f"{heavy.name[:64]!r} takes no weight here; send its name alone")
    check_once(weighed)
    weights = {one.name: 1.0 if one.weight is None else one.weight for one in weighed}
    return Placed([one.name for one in embedded] or None, weights or None)


def shares(names: Sequence[Named], pictures: Sequence[bytes], weights: Sequence[Any] | None) -> list[Any] | None:
    """A photo's styles: names, then pictures, with weights where there are any; None for none of them."""
    check_once(names)
    weighed = [*names, *map(Named, [""] * len(pictures), weights or [None] * len(pictures), ["image"] * len(pictures))]
    what = [*(one.name for one in names), *pictures]
    both = zip(what, weighed, strict=True)
    return [style if one.weight is None else (style, one.weight) for style, one in both] or None


def spoken(prompt: str, adapter: Adapter) -> str:
    """The prompt with the words that the adapter was trained with, for who can say only `model`."""
    if "{context}" in adapter.prompt:
        return adapter.prompt.replace("{context}", prompt).replace("{style}", adapter.trigger or adapter.name)
    return prompt if not adapter.trigger or adapter.trigger in prompt else f"{prompt}, {adapter.trigger}"


def check_once(names: Sequence[Named]) -> None:
    """Raises Refusal for a name that comes twice."""
    seen = set[str]()
    for one in names:
        if one.name in seen:
            raise wrong(one.word, f"{one.name[:64]!r} is named twice; name it once")
        seen.add(one.name)

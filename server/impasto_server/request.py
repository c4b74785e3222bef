"""A request with nothing left open: its values by group, its rule with its strengths, what its family alone knows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from operator import itemgetter
from typing import Any

from impasto_server.fields import rows
from impasto_server.guidance import RULES, Rule
from impasto_server.steps import run_steps
from impasto_server.values import (
    GROUPS,
    Answer,
    Content,
    Ranking,
    Sampling,
    Seeds,
    Size,
    Styles,
    Words,
)


def _keys(group: Any) -> dict[str, str]:
    """What attributes are called in a mapping of all values: as their fields, or by their own name without one."""
    return {one.name: rows(group)[one.name].name if one.name in rows(group) else one.name for one in fields(group)}


_KEYS = {group: _keys(group) for group in GROUPS}
_TAKE = {group: itemgetter(*keys.values()) for group, keys in _KEYS.items()}  # each has several


@dataclass(frozen=True)
class Request:
    """What to paint, and for whom: its values by group (values.py), and the guidance rule with its strengths.

    `own` are the values that its family alone knows, by field. `model` is the bundle that is asked; empty: the first.
    """

    words: Words
    styles: Styles
    sampling: Sampling
    seeds: Seeds
    ranking: Ranking
    size: Size
    answer: Answer
    content: Content
    rule: Rule
    own: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Any], rules: tuple[type[Rule], ...] = RULES) -> Request:
        """Of all values, by field; those that are no inputs by their attribute's name. What is left is the family's."""
        groups: dict[str, Any] = {
            group.__name__.lower(): group(**dict(zip(keys, _TAKE[group](values), strict=True)))
            for group, keys in _KEYS.items()
        }
        rule = _named(values["GUIDANCE"], rules)
        strengths = {name: values[row.name] for name, row in rows(rule).items()}
        own = {name: value for name, value in values.items() if name not in _shared(rules)}
        return cls(**groups, rule=rule(**strengths), own=own, model=values["MODEL"])

    @property
    def values(self) -> dict[str, Any]:
        """All of them, as `of` takes them."""
        groups = self.words, self.styles, self.sampling, self.seeds, self.ranking, self.size, self.answer, self.content
        found = {key: getattr(group, name) for group in groups for name, key in _KEYS[type(group)].items()}
        return {**found, "GUIDANCE": self.rule.name, "MODEL": self.model, **self.strengths, **self.own}

    @property
    def strengths(self) -> dict[str, float]:
        """The rule's, by field."""
        return {row.name: getattr(self.rule, name) for name, row in rows(type(self.rule)).items()}

    @property
    def files(self) -> tuple[bytes | None, ...]:
        """Content, depth and style; then those that its family alone knows."""
        own = (file for value in self.own.values() for file in _files(value))
        return self.content.image, self.content.depth, self.ranking.style_image, *own

    @property
    def pictured(self) -> bool:
        """Whether there are files to decode."""
        return any(file is not None for file in self.files)

    def without_files(self) -> Request:
        """The same request when its files have been decoded: it still says which there were.

        Of those that its family alone knows, it has the SHA-256.
        """
        image, depth, style_image = (None if file is None else b"" for file in self.files[:3])
        content = replace(self.content, image=image, depth=depth)
        own = {name: _told(value) for name, value in self.own.items()}
        return replace(self, content=content, ranking=replace(self.ranking, style_image=style_image), own=own)

    @property
    def styled_by_adapter(self) -> bool:
        """Whether STYLE names an adapter, not an embedding."""
        return self.rule.styled == "adapter"

    @property
    def steps_to_run(self) -> int:
        cut = self.content.image is not None and not self.sampling.spreads
        return run_steps(self.sampling.steps, self.content.strength, cut)


def _files(value: Any) -> tuple[bytes, ...]:
    """The files that a family's own value is made of, most often none."""
    several = value if isinstance(value, tuple) else (value,)
    return several if all(isinstance(one, bytes) for one in several) else ()


def _told(value: Any) -> Any:
    """A family's own value with the SHA-256 of files in the place of them."""
    told = tuple(hashlib.sha256(file).hexdigest() for file in _files(value))
    return (told if isinstance(value, tuple) else told[0]) if told else value


def _named(name: str, rules: tuple[type[Rule], ...]) -> type[Rule]:
    return next(rule for rule in rules if rule.name == name)


@cache
def _shared(rules: tuple[type[Rule], ...]) -> frozenset[str]:
    """Keys of what isn't a family's own."""
    common = (key for keys in _KEYS.values() for key in keys.values())
    strengths = (row.name for rule in rules for row in rows(rule).values())
    return frozenset(["GUIDANCE", "MODEL", *common, *strengths])

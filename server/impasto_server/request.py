"""A parsed request, with nothing optional left: values by group, the guidance rule, and the family's own values."""

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
    """Each attribute's key in a mapping of all values: its field's name, or its own name if it has no field."""
    return {one.name: rows(group)[one.name].name if one.name in rows(group) else one.name for one in fields(group)}


_KEYS = {group: _keys(group) for group in GROUPS}
_TAKE = {group: itemgetter(*keys.values()) for group, keys in _KEYS.items()}  # every group has several keys


@dataclass(frozen=True)
class Request:
    """What to paint and how: values by group (values.py), and the guidance rule with its strengths.

    `own` holds the values that only its family knows, by field. `model` names the bundle; empty is the first.
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
        """From all values, by field (by attribute where there is no field). The rest are the family's own."""
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
        """All values, as `of` takes them."""
        groups = self.words, self.styles, self.sampling, self.seeds, self.ranking, self.size, self.answer, self.content
        found = {key: getattr(group, name) for group in groups for name, key in _KEYS[type(group)].items()}
        return {**found, "GUIDANCE": self.rule.name, "MODEL": self.model, **self.strengths, **self.own}

    @property
    def strengths(self) -> dict[str, float]:
        """The rule's strengths, by field."""
        return {row.name: getattr(self.rule, name) for name, row in rows(type(self.rule)).items()}

    @property
    def files(self) -> tuple[bytes | None, ...]:
        """Content, depth and style image; then the files among the family's own values."""
        own = (file for value in self.own.values() for file in _files(value))
        return self.content.image, self.content.depth, self.ranking.style_image, *own

    @property
    def pictured(self) -> bool:
        """Whether there are files to decode."""
        return any(file is not None for file in self.files)

    def without_files(self) -> Request:
        """The request once its files are decoded: b"" marks that there was a file.

        Files among the family's own values become their SHA-256.
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
    """The files in one of the family's own values; usually none."""
    several = value if isinstance(value, tuple) else (value,)
    return several if all(isinstance(one, bytes) for one in several) else ()


def _told(value: Any) -> Any:
    """One of the family's own values, its files replaced by their SHA-256."""
    told = tuple(hashlib.sha256(file).hexdigest() for file in _files(value))
    return (told if isinstance(value, tuple) else told[0]) if told else value


def _named(name: str, rules: tuple[type[Rule], ...]) -> type[Rule]:
    return next(rule for rule in rules if rule.name == name)


@cache
def _shared(rules: tuple[type[Rule], ...]) -> frozenset[str]:
    """Keys of all values that are not a family's own."""
    common = (key for keys in _KEYS.values() for key in keys.values())
    strengths = (row.name for rule in rules for row in rows(rule).values())
    return frozenset(["GUIDANCE", "MODEL", *common, *strengths])

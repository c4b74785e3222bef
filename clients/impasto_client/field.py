"""What the client knows of a field, and of a guidance rule: the types of the table in fields.py, which is generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Field:
    """An input of the server's models.

    `option` is what `Options` calls it, `flag` what the command line does; empty where it has none. `kind` says how it
    is encoded (encoding.py), `dtype` is KServe's. `default` is a plain bundle's, None where a request has none.
    """

    name: str
    dtype: str
    kind: str
    option: str = ""
    flag: str = ""
    help: str = ""
    metavar: str = ""
    default: str | float | None = None

    @property
    def word(self) -> str:
        """What a caller's mapping calls it."""
        return self.option or self.name.lower()


@dataclass(frozen=True)
class Rule:
    """A guidance rule: `fields` are what it takes, by the attributes of a client's dataclass, `knows` those of other
    fields that mean something to some rules alone. Of a `kin` there may be two conventions. `styled`: what STYLE names.
    """

    name: str
    kin: str
    convention: str
    styled: str
    knows: tuple[str, ...]
    fields: Mapping[str, str]
    defaults: Mapping[str, float]

    @property
    def takes(self) -> frozenset[str]:
        """All that it knows and some others don't."""
        return frozenset((*self.fields.values(), *self.knows))


@dataclass(frozen=True)
class Table:
    """The first rule is that of requests that don't say."""

    fields: tuple[Field, ...]
    rules: tuple[Rule, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Field]:
        return {field.name: field for field in self.fields}

    @cached_property
    def options(self) -> Mapping[str, Field]:
        """By what `Options` calls them."""
        return {field.option: field for field in self.fields if field.option}

    @cached_property
    def by_rule(self) -> Mapping[str, Rule]:
        return {rule.name: rule for rule in self.rules}

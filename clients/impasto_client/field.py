"""The types of the generated table in fields.py: fields of a request, and guidance rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Field:
    """An input of the server's models.

    `option` is its name in `Options`, `flag` its option on the command line; empty where it has none. `kind` says how
    it is encoded (encoding.py); `dtype` is KServe's. `default` is a plain bundle's; None where there is none.
    Numbers are from `low` to `high`, under whichever rule allows most; a text is one of `choices` where there are some.
    """

    name: str
    dtype: str
    kind: str
    option: str = ""
    flag: str = ""
    help: str = ""
    metavar: str = ""
    default: str | float | None = None
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """Its key in a caller's mapping."""
        return self.option or self.name.lower()


@dataclass(frozen=True)
class Rule:
    """A guidance rule. `fields`: attribute of a client's dataclass -> field that it takes. `knows` are other fields
    that only some rules use. A `kin` may have two conventions. `styled` says whether STYLE names an adapter or an
    embedding.
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
        """All fields that it uses and some other rules don't."""
        return frozenset((*self.fields.values(), *self.knows))


@dataclass(frozen=True)
class Table:
    """All fields and rules; the first rule is the default."""

    fields: tuple[Field, ...]
    rules: tuple[Rule, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Field]:
        return {field.name: field for field in self.fields}

    @cached_property
    def options(self) -> Mapping[str, Field]:
        """The fields by their names in `Options`."""
        return {field.option: field for field in self.fields if field.option}

    @cached_property
    def by_rule(self) -> Mapping[str, Rule]:
        return {rule.name: rule for rule in self.rules}

"""Which guidance rule a request means, and with which strengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from impasto_client.field import Field, Rule
from impasto_client.fields import TABLE
from impasto_client.options import NamedGuidance
from impasto_gateway.errors import wrong

# A field of no option is said through a guidance object, by its word.
STRENGTHS = tuple(
    field.word
    for field in TABLE.fields
    if not field.option and any(field.name in rule.fields.values() for rule in TABLE.rules)
)


@dataclass(frozen=True)
class Guided:
    """The rule, and the client's options `guidance` and, where the rule doesn't take it, the rest of them."""

    rule: Rule
    guidance: NamedGuidance | None
    taken: frozenset[str]  # the words that are in `guidance`


def guided(values: Mapping[str, Any]) -> Guided:
    """The rule by its name in `guidance`, or by strengths that only it takes. Raises Refusal for what doesn't fit."""
    rule = _named(values["guidance"]) if "guidance" in values else _meant(values)
    own = {name.lower() for name in rule.fields.values()}
    strange = next((word for word in STRENGTHS if word in values and word not in own), None)
    if strange is not None:
        raise wrong(strange, f"{rule.name} has no such strength; {_fix(strange)}, or leave it out")
    if "guidance" not in values and rule is TABLE.rules[0]:
        return Guided(rule, None, frozenset())
    strengths = {word: value for word, value in values.items() if word in own}
    return Guided(rule, NamedGuidance(rule.name, strengths), frozenset(strengths))


def _named(name: Any) -> Rule:
    if not isinstance(name, str) or name not in TABLE.by_rule:
        raise wrong("guidance", f"{str(name)[:64]!r} is no rule; send one of {', '.join(TABLE.by_rule)}")
    return TABLE.by_rule[name]


def _meant(values: Mapping[str, Any]) -> Rule:
    usual, *others = TABLE.rules
    telling = [field for field in TABLE.fields if field.word in values and _tells(field)]
    if not telling:
        return usual
    fitting = [rule for rule in others if all(field.name in rule.takes for field in telling)]
    if not fitting:
        words = ", ".join(field.word for field in telling)
        raise wrong(telling[0].word, f"{words} belong to different guidance rules; name one in guidance")
    return fitting[0]


def _tells(field: Field) -> bool:
    """Whether only rules other than the default use it."""
    usual, *others = TABLE.rules
    return field.name not in usual.takes and any(field.name in rule.takes for rule in others)


def _fix(word: str) -> str:
    knowing = [rule.name for rule in TABLE.rules if word.upper() in rule.fields.values()]
    return f"send guidance {' or '.join(knowing)}"

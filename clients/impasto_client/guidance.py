"""Turn a guidance object into a rule and its fields; what it leaves to the server is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from impasto_client.errors import InvalidRequest
from impasto_client.field import Rule, Table
from impasto_client.options import Compose, NamedGuidance, StyleContent, StyleDrop
from impasto_client.tensor import shown


@dataclass(frozen=True)
class Told:
    """A rule, and the fields that were given. `source` is the caller's class; `attributes`: field -> its attribute."""

    rule: Rule
    fields: Mapping[str, object]
    source: str
    attributes: Mapping[str, str]


def told(guidance: object, table: Table) -> Told:
    """The rule and fields of a guidance object. Raises InvalidRequest for anything else."""
    match guidance:
        case StyleContent():
            return _of_attributes(guidance, _convention(guidance, table))
        case StyleDrop() | Compose():
            return _of_attributes(guidance, table.by_rule[guidance.rule])
        case NamedGuidance():
            return _named(guidance, table)
    fix = "pass a StyleContent, a StyleDrop or a Compose, or leave it out"
    raise InvalidRequest(f"GUIDANCE: {shown(guidance)} is not a guidance; {fix}", "GUIDANCE")


def _of_attributes(guidance: StyleContent | StyleDrop | Compose, rule: Rule) -> Told:
    said = {name: getattr(guidance, attribute) for attribute, name in rule.fields.items()}
    attributes = {name: attribute for attribute, name in rule.fields.items()}
    return Told(rule, _said(said), type(guidance).__name__, attributes)


def _convention(guidance: StyleContent, table: Table) -> Rule:
    rules = {rule.convention: rule for rule in table.rules if rule.kin == guidance.kin}
    if guidance.convention not in list(rules):  # a list, since the value may be unhashable
        problem = f"the convention {shown(guidance.convention)} is unknown; pass one of {', '.join(rules)}"
        raise InvalidRequest(f"GUIDANCE: {problem}", "GUIDANCE")
    return rules[guidance.convention]


def _named(guidance: NamedGuidance, table: Table) -> Told:
    if guidance.rule not in list(table.by_rule):
        problem = f"the rule {shown(guidance.rule)} is unknown; pass one of {', '.join(table.by_rule)}"
        raise InvalidRequest(f"GUIDANCE: {problem}", "GUIDANCE")
    rule = table.by_rule[guidance.rule]
    known = {name.lower(): name for name in rule.fields.values()}
    strange = next((word for word in guidance.strengths if word not in known), None)
    if strange is not None:
        problem = f"{rule.name} has no {shown(strange)}; it has {', '.join(known)}"
        raise InvalidRequest(f"GUIDANCE: {problem}", "GUIDANCE")
    said = {known[word]: value for word, value in guidance.strengths.items()}
    return Told(rule, _said(said), type(guidance).__name__, {name: word for word, name in known.items()})


def _said(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}

"""The book: it describes every field in sentences: bounds, default, and the rules and families that take it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from impasto_server.families.offers import OFFERS, inputs
from impasto_server.fields import Field, rows
from impasto_server.guidance import RULES, Rule
from impasto_server.offer import FamilyOffer
from impasto_server.values import GUIDANCE, SCHEDULER, STREAMED


@dataclass(frozen=True)
class Book:
    """The fields of these rules and families; the first rule is the default, the first family the plain one."""

    rules: tuple[type[Rule], ...] = RULES
    families: tuple[FamilyOffer, ...] = tuple(OFFERS.values())

    @property
    def inputs(self) -> Mapping[str, Field]:
        """The inputs of the streaming model, in reading order."""
        return inputs(self.rules, self.families)

    @property
    def whole(self) -> Mapping[str, Field]:
        """The inputs of the model that doesn't stream."""
        return {name: row for name, row in self.inputs.items() if name not in STREAMED}

    @property
    def sampling(self) -> tuple[FamilyOffer, ...]:
        """The families that have samplers to choose from."""
        return tuple(one for one in self.families if one.samplers)

    def help(self, name: str) -> str:
        """A field's whole description, in sentences."""
        known = self._strengths(name)
        if not known:
            return _sentences(self.inputs[name].help, *self._about(self.inputs[name]))
        if len(known) == 1 and len(known[0][1]) == len(self.rules):
            return _sentences(known[0][0].help, *self._about(known[0][0]))
        return _sentences(*(f"{listed(names)}: {_sentences(row.help, *self._about(row))}" for row, names in known))

    def strengths(self, rule: type[Rule]) -> tuple[str, ...]:
        """The fields of a rule's strengths."""
        return tuple(row.name for row in rows(rule).values())

    def default(self, name: str) -> Any:
        """A field's default in the plain family; None if there is none."""
        return self.families[0].defaults.get(name, self.inputs[name].default)

    def _strengths(self, name: str) -> list[tuple[Field, list[str]]]:
        """The rows that rules have for the strength `name`, each with its rules."""
        found: list[tuple[Field, list[str]]] = []
        for rule in self.rules:
            for row in rows(rule).values():
                same = next((names for other, names in found if other == row), None)
                if row.name == name and same is not None:
                    same.append(rule.name)
                elif row.name == name:
                    found.append((row, [rule.name]))
        return found

    def _about(self, row: Field) -> tuple[str, ...]:
        default = self._default(row)
        usual = f"Default: {default}" if default and not row.needed else ""
        return self._bounds(row), self._ruled(row), self._owned(row), usual

    def _bounds(self, row: Field) -> str:
        if row.name == GUIDANCE.name:
            return _sentences(*(f"{rule.name}: {rule.about}" for rule in self.rules))
        if row.name == SCHEDULER.name:
            plain, *others = self.sampling
            rest = (f"for {one.family} bundles {either(one.samplers)}" for one in others)
            return "; ".join([either(plain.samplers), *rest])
        return f"Allowed: {row.bounds}" if row.bounds else ""

    def _ruled(self, row: Field) -> str:
        """Which rules know the field, and which need it."""
        needing = [rule.name for rule in self.rules if any(need.fields[0] == row.name for need in rule.needs)]
        knowing = [rule.name for rule in self.rules if row.name in rule.knows]
        others = [rule.name for rule in self.rules if row.name not in rule.knows]
        if not knowing or not others:
            return f"Needed with {listed(needing)}" if needing else ""
        if len(knowing) > len(others):
            return f"Not with {listed(others)}"
        return f"Only with {listed(knowing)}" + (", which needs it" if needing == knowing else "")

    def _owned(self, row: Field) -> str:
        owners = [one.family for one in self.families if row in one.own]
        strangers = [one.family for one in self.families if row.name in one.unknown]
        if owners:
            return f"Only for {listed(owners)} bundles"
        return f"Not for {listed(strangers)} bundles" if strangers else ""

    def _knowing(self, row: Field) -> list[FamilyOffer]:
        return [one for one in self.families if row.name not in one.unknown]

    def _default(self, row: Field) -> str:
        """The default: the bundle's, else the family's, each one named where families differ."""
        first = rows(self.rules[0]).values()
        ruled = row not in first and bool(self._strengths(row.name))
        found = (
            {}
            if ruled
            else {one.family: one.defaults[row.name] for one in self._knowing(row) if row.name in one.defaults}
        )
        if not found:
            return row.usual or ("" if row.default is None else _said(row.default))
        (_, plain), *others = found.items()
        texts = [f"{row.usual}, else {_said(plain)}" if row.usual else _said(plain)]
        texts[0] += self._exceptions(row, next(iter(found)))
        texts += [f"for {family} bundles {_said(value)}{self._exceptions(row, family)}" for family, value in others]
        return "; ".join(texts)

    def _exceptions(self, row: Field, family: str) -> str:
        """The family's other defaults for some rules."""
        (offer,) = (one for one in self.families if one.family == family)
        by_value: dict[str, list[str]] = {}
        for rule, values in offer.by_rule.items():
            if row.name in values:
                by_value.setdefault(_said(values[row.name]), []).append(rule)
        return "".join(f", with {listed(rules)} {value}" for value, rules in by_value.items())


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'


def listed(words: Collection[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def either(words: Collection[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _sentences(*texts: str) -> str:
    """The texts that aren't empty, each with a full stop."""
    return " ".join(text if text.endswith((".", ".)")) else f"{text}." for text in texts if text)

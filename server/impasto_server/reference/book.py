"""What can be said of every field, in sentences: bounds, defaults, and which rules and families know it."""

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
    """Of these rules, the first of which is the usual one, and these families, the first of which is the plain one."""

    rules: tuple[type[Rule], ...] = RULES
    families: tuple[FamilyOffer, ...] = tuple(OFFERS.values())

    @property
    def inputs(self) -> Mapping[str, Field]:
        """Those of the model that streams, in the order in which people read them."""
        return inputs(self.rules, self.families)

    @property
    def whole(self) -> Mapping[str, Field]:
        """Those of the model that doesn't."""
        return {name: row for name, row in self.inputs.items() if name not in STREAMED}

    @property
    def sampling(self) -> tuple[FamilyOffer, ...]:
        """The families that have samplers to choose from."""
        return tuple(one for one in self.families if one.samplers)

    def help(self, name: str) -> str:
        """All of it, in sentences."""
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
        """What a plain bundle's request gets that doesn't say; None where nothing."""
        return self.families[0].defaults.get(name, self.inputs[name].default)

    def _strengths(self, name: str) -> list[tuple[Field, list[str]]]:
        """The rows of a rule's strength, each with the rules that have it."""
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
            rest = (f"of {one.family} bundles {either(one.samplers)}" for one in others)
            return "; ".join([either(plain.samplers), *rest])
        return f"Allowed: {row.bounds}" if row.bounds else ""

    def _ruled(self, row: Field) -> str:
        """Which rules know it, and which want it."""
        needing = [rule.name for rule in self.rules if any(need.fields[0] == row.name for need in rule.needs)]
        knowing = [rule.name for rule in self.rules if row.name in rule.knows]
        others = [rule.name for rule in self.rules if row.name not in rule.knows]
        if not knowing or not others:
            return f"Needed with {listed(needing)}" if needing else ""
        if len(knowing) > len(others):
            return f"Not with {listed(others)}"
        return f"With {listed(knowing)} only" + (", which needs it" if needing == knowing else "")

    def _owned(self, row: Field) -> str:
        owners = [one.family for one in self.families if row in one.own]
        strangers = [one.family for one in self.families if row.name in one.unknown]
        if owners:
            return f"Of {listed(owners)} bundles only"
        return f"Not of {listed(strangers)} bundles" if strangers else ""

    def _knowing(self, row: Field) -> list[FamilyOffer]:
        return [one for one in self.families if row.name not in one.unknown]

    def _default(self, row: Field) -> str:
        """The bundle's, else the families': where they differ, each one's."""
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
        texts += [f"of {family} bundles {_said(value)}{self._exceptions(row, family)}" for family, value in others]
        return "; ".join(texts)

    def _exceptions(self, row: Field, family: str) -> str:
        """What the family has instead for some rules."""
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
    """Those that say something, each with its stop."""
    return " ".join(text if text.endswith((".", ".)")) else f"{text}." for text in texts if text)

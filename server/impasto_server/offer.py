"""A bundle's offer: the fields that its requests may have, and the defaults. It makes a Request of tensors or of Python
values.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from impasto_server import contradictions
from impasto_server.bundle import ImageSize, Manifest
from impasto_server.errors import InvalidArgument, shown
from impasto_server.fields import Choice, Field, rows
from impasto_server.guidance import RULES, Rule
from impasto_server.request import Request
from impasto_server.timeout import MAX_TIMEOUT_US
from impasto_server.values import COMMON, GUIDANCE, SCHEDULER

MOST_S = MAX_TIMEOUT_US // 10**6


@dataclass(frozen=True)
class Idle:
    """Why a field has no effect with the other values of a request, and what to do about it."""

    why: str
    fix: str


@dataclass(frozen=True)
class FamilyOffer:
    """What every bundle of a family offers.

    defaults  the family's defaults, by field; `by_rule` those that replace them under some rules.
    own       the fields that only this family knows.
    unknown   the common fields that it doesn't know.
    spread    the samplers that run all their steps over the share of the noise that a content image leaves.
    rules     the guidance rules that it takes; the first is the default.
    filled    from all values and the names of those that were sent: the values that depend on others. Raises
              InvalidArgument for values that contradict one another.
    idle      the fields that have no effect with these values: they may not be sent, and META leaves them out.
    """

    family: str
    samplers: Collection[str]
    defaults: Mapping[str, Any]
    by_rule: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    own: tuple[Field, ...] = ()
    unknown: tuple[str, ...] = ()
    spread: tuple[str, ...] = ()
    rules: tuple[type[Rule], ...] = RULES
    filled: Callable[[Mapping[str, Any], Collection[str]], Mapping[str, Any]] = lambda values, said: _weighed(values)
    idle: Callable[[Mapping[str, Any]], Mapping[str, Idle]] = lambda values: {}


@dataclass(frozen=True)
class Known:
    """The fields that may be sent under a rule, by name, and the default of every value."""

    rule: type[Rule]
    fields: Mapping[str, Field]
    defaults: Mapping[str, Any]

    @cached_property
    def needed(self) -> tuple[Field, ...]:
        """The fields that must be sent."""
        return tuple(row for row in self.fields.values() if row.needed)


@dataclass(frozen=True)
class Offer:
    """A bundle's offer: its family's, with the checkpoint's own defaults. `bundle` is its name in the manifest, `model`
    its name in requests. `lacking` has the fields that its family knows but this bundle doesn't, each with the reason.

    Methods raise InvalidArgument for a field that is not offered.
    """

    family: FamilyOffer
    bundle: str
    model: str
    size: ImageSize
    control: bool
    defaults: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[type[Rule], ...] = RULES
    lacking: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, family: FamilyOffer, manifest: Manifest, rules: tuple[type[Rule], ...] = ()) -> Offer:
        """The offer of a bundle. `rules` are the family's if none are given; the first is the default."""
        usual = manifest.defaults
        own = {"SCHEDULER": usual.scheduler, "STEPS": usual.steps, "GUIDANCE_SCALE": usual.guidance_scale}
        return cls(
            family=family,
            bundle=manifest.name,
            model=manifest.name,
            size=manifest.image,
            control=manifest.steered,
            defaults={name: value for name, value in own.items() if value is not None},
            rules=rules or family.rules,
            lacking=manifest.lacking,
        )

    def known(self, guidance: str | None) -> Known:
        """What is known under the rule of this name, or under the default rule."""
        return self._known[self.rules[0].name if guidance is None else self._guidance.checked(guidance)]

    def field(self, name: str, known: Known) -> Field:
        """The row of a field that the bundle knows under this rule. Raises InvalidArgument."""
        found = known.fields.get(name)
        if found is not None:
            return found
        if name in self.lacking:
            raise InvalidArgument(name, self.lacking[name], "leave it out, or name another bundle in MODEL")
        rules = [other for other, one in self._known.items() if name in one.fields]
        if not rules:
            raise InvalidArgument(name, f"means nothing to a {self.family.family} backbone", "leave it out")
        fix = f"leave it out, or pass GUIDANCE {' or '.join(rules)}"
        raise InvalidArgument(name, f"means nothing to GUIDANCE {known.rule.name}", fix)

    def request(self, prompt: str | None = None, adapters: Mapping[str, float] | None = None, **values: Any) -> Request:
        """A request from Python values: seed=7, guidance="styledrop". Their names are their fields' in lower case, and
        `timeout_s`. Values left out have the bundle's defaults.
        """
        timeout_s = _limit(values.pop("timeout_s", None))
        said = {name.upper(): value for name, value in {"prompt": prompt, **values}.items() if value is not None}
        if adapters is not None and not isinstance(adapters, Mapping):
            problem = f"{shown(repr(adapters))} is {type(adapters).__name__}"
            raise InvalidArgument("ADAPTER_NAMES", problem, "pass weights by name in a dict")
        if adapters:
            said |= {"ADAPTER_NAMES": tuple(adapters), "ADAPTER_WEIGHTS": tuple(adapters.values())}
        known = self.known(self._rule.said(said["GUIDANCE"]) if "GUIDANCE" in said else None)
        checked = {name: self.field(name, known).said(value) for name, value in said.items()}
        return self._whole(checked, known, timeout_s)

    def parsed(self, tensors: Mapping[str, NDArray[Any]], timeout_s: float | None) -> Request:
        known = self.known(self._rule.read(tensors["GUIDANCE"]) if "GUIDANCE" in tensors else None)
        said = {name: self.field(name, known).read(tensor) for name, tensor in tensors.items()}
        return self._whole(said, known, timeout_s)

    def check(self, request: Request) -> None:
        """Check that a request suits this bundle: one made for another may ask for what this one hasn't."""
        known = self.known(None)
        if "SCHEDULER" in known.fields:
            known.fields["SCHEDULER"].checked(request.sampling.scheduler)
        for name, value in request.own.items():
            if name not in self.lacking or value != known.defaults[name]:
                self.field(name, known)
        missing = next((row for row in self.family.own if row.name not in request.own), None)
        if missing is not None:
            raise InvalidArgument(missing.name, "is missing", "make the request from this bundle's offer")

    def _whole(self, said: Mapping[str, Any], known: Known, timeout_s: float | None) -> Request:
        """The request from what was sent and the defaults of the rest."""
        values = {**known.defaults, **said, "timeout_s": timeout_s}
        self._check(said, values, known)
        if "SEED" not in said:
            values["SEED"] = secrets.randbelow(2**32)
        values |= self.family.filled(values, said.keys())
        values["spreads"] = values["SCHEDULER"] in self.family.spread
        request = Request.of(values, self.rules)
        contradictions.check(request, said)
        return request

    def _check(self, said: Mapping[str, Any], values: Mapping[str, Any], known: Known) -> None:
        for row in known.needed:
            if row.name not in said:
                row.checked(row.default)
        if said.get("MODEL", self.model) != self.model:
            raise InvalidArgument("MODEL", f"{shown(said['MODEL'])} is unknown", f"pass {self.model}, or leave it out")
        for name in ("WIDTH", "HEIGHT"):
            _check_multiple(name, values[name], self.size.multiple_of)
        width, height = values["WIDTH"], values["HEIGHT"]
        if width * height > self.size.max_pixels:
            problem = f"{width} x {height} is {width * height} pixels"
            raise InvalidArgument("WIDTH", problem, f"pass a size of at most {self.size.max_pixels} pixels")
        weights, names = said.get("ADAPTER_WEIGHTS"), values["ADAPTER_NAMES"]
        if weights is not None and len(weights) != len(names):
            fix = "pass one weight for each of ADAPTER_NAMES, or none at all"
            raise InvalidArgument("ADAPTER_WEIGHTS", f"{len(weights)} weights for {len(names)} names", fix)
        for name, idle in self.family.idle(values).items():
            if name in said:
                raise InvalidArgument(name, idle.why, idle.fix)
        if not self.control and (values["CONTROL_SCALE"] or "DEPTH" in said):
            field = "CONTROL_SCALE" if values["CONTROL_SCALE"] else "DEPTH"
            raise InvalidArgument(field, f"bundle {self.bundle!r} has no ControlNet", "link it with --controlnet")

    @property
    def _rule(self) -> Field:
        """The row of GUIDANCE. Raises InvalidArgument where the family has no rules to choose from."""
        return self.field(GUIDANCE.name, self.known(None))

    @cached_property
    def _guidance(self) -> Choice:
        return replace(GUIDANCE, choices=tuple(rule.name for rule in self.rules))

    @cached_property
    def _known(self) -> Mapping[str, Known]:
        return {rule.name: Known(rule, self._fields(rule), self._defaults(rule)) for rule in self.rules}

    def _rows(self, rule: type[Rule]) -> tuple[Field, ...]:
        return (*COMMON, *rows(rule).values(), *self.family.own)

    def _fields(self, rule: type[Rule]) -> Mapping[str, Field]:
        others = {name for one in self.rules for name in one.knows} - {*rule.knows}
        strange = {*others, *self.family.unknown, *self.lacking}
        scheduler = replace(SCHEDULER, choices=tuple(self.family.samplers))
        rows = (*self._rows(rule), self._guidance, scheduler)
        return {row.name: row for row in rows if row.name not in strange}

    def _defaults(self, rule: type[Rule]) -> Mapping[str, Any]:
        """The default of each field: the family's for the rule, else the bundle's, else the family's, else the rule's,
        else the field's. Lacking fields always have the field's.

        Without the seed and the adapters' weights, which depend on the request.
        """
        anybody = {row.name: row.default for row in self._rows(rule) if row.name not in ("SEED", "ADAPTER_WEIGHTS")}
        size = {"WIDTH": self.size.width, "HEIGHT": self.size.height}
        steering = {} if self.control else {"CONTROL_SCALE": 0.0}
        own = {**self.family.defaults, **self.defaults}
        if rule is not self.rules[0]:  # the checkpoint's scale is meant for the default rule
            own.pop("GUIDANCE_SCALE", None)
        ruled = {**self.family.by_rule.get(rule.name, {}), GUIDANCE.name: rule.name}
        lacking = {name: anybody[name] for name in self.lacking}
        return {**anybody, **size, **steering, **rule.usual, **own, **ruled, **lacking}


def parse(
    tensors: Mapping[str, NDArray[Any]], offer: Offer, inputs: Collection[str], timeout_s: float | None = None
) -> Request:
    """A request from tensors, all checked, with defaults filled in. `inputs` are the Triton model's, of all families.

    Raises InvalidArgument for the field at fault.
    """
    for name in tensors:
        if name not in inputs:
            raise InvalidArgument(name, "is not an input of this model", f"pass only {', '.join(inputs)}")
    return offer.parsed(tensors, timeout_s)


def _limit(timeout_s: Any) -> float | None:
    """The time limit in seconds. Raises InvalidArgument."""
    if timeout_s is None:
        return None
    if not isinstance(timeout_s, int | float) or isinstance(timeout_s, bool) or not 0 < timeout_s <= MOST_S:
        fix = f"pass seconds, more than 0 and at most {MOST_S}, or None for no limit"
        raise InvalidArgument("TIMEOUT", f"{shown(repr(timeout_s))} is not a valid time", fix)
    return float(timeout_s)


def _weighed(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The adapters' weights, by default 1."""
    return {"ADAPTER_WEIGHTS": values.get("ADAPTER_WEIGHTS") or (1.0,) * len(values["ADAPTER_NAMES"])}


def _check_multiple(name: str, value: int, step: int) -> None:
    if value % step:
        below = max(step, value - value % step)
        raise InvalidArgument(name, f"{value} is not a multiple of {step}", f"pass {below} or {below + step}")

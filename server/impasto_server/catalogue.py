"""The catalogue: a server's bundles, what each may be asked, and the registry's adapters with the bundles they fit.

It reads only manifests and headers, so it answers however busy the pipelines are. Files may be slow or broken: an
adapter that can't be read is listed with the reason, and the others are unaffected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from impasto_server.adapters.access import Access, Attempt
from impasto_server.adapters.adapter import FIELD
from impasto_server.adapters.header import Header
from impasto_server.adapters.registry import Registry
from impasto_server.adapters.shelf import Shelf
from impasto_server.bundle import Bundle
from impasto_server.errors import NoAnswer, as_impasto_error
from impasto_server.families.offers import offer_of
from impasto_server.fields import Number, Whole, rows
from impasto_server.guidance import Rule
from impasto_server.offer import Offer

Json = dict[str, Any]

FRESH_S = 30.0  # how long what a store's list said of a name counts: a catalogue of many names takes a while
LIMIT_S, STALL_S = 3.0, 0.5  # for reading one file: whoever asks for the catalogue shouldn't wait long
KEPT = 20_000  # headers; they never change, since an object's name is its digest
DEFAULTS = ("SCHEDULER", "STEPS")


class Catalogue:
    """`read` from any thread; the first of `bundles` is the default."""

    def __init__(self, bundles: Sequence[Bundle], registry: Path | Shelf) -> None:
        self._bundles = bundles
        self._told = [described(bundle) for bundle in bundles]
        self._registry = Registry(registry)
        self._access = Access("catalogue", LIMIT_S, STALL_S)
        self._header = lru_cache(KEPT)(self._registry.header)

    def read(self) -> Json:
        """The catalogue, JSON-ready, with the registry as it is now."""
        adapters, unread = list[Json](), list[Json]()
        for name, found in self._entries().items():
            try:
                digest, header = found.result()
                adapters.append({"name": name, "digest": digest, **_said(name, header), "fits": self._fitting(header)})
            except FileNotFoundError:  # removed since it was listed
                pass
            except Exception as error:  # one bad file, whatever is wrong with it, must not hide the others
                problem = str(as_impasto_error(error)).removeprefix(f"{FIELD}: ")
                unread.append({"name": name, "problem": problem})
        return {"default": self._bundles[0].name, "bundles": self._told, "adapters": adapters, "unread": unread}

    def close(self) -> None:
        self._access.close()

    def _entries(self) -> Mapping[str, Future[tuple[str, Header]]]:
        """Entries by name; "" stands for the whole registry, where that doesn't answer."""
        names = self._access.start("", lambda attempt: self._registry.names(), partial(_unanswered, "the registry"))
        if names.exception() is not None:
            failed: Future[tuple[str, Header]] = Future()
            failed.set_exception(names.exception())
            return {"": failed}
        return {
            name: self._access.start(name, partial(self._entry, name), partial(_unanswered, f"adapter {name!r}"))
            for name in names.result()
        }

    def _entry(self, name: str, attempt: Attempt) -> tuple[str, Header]:
        digest = self._registry.pointed(name).digest
        attempt.moved()
        return digest, self._header(digest, name)

    def _fitting(self, header: Header) -> list[str]:
        return [bundle.name for bundle in self._bundles if header.fits(bundle.manifest)]


def described(bundle: Bundle) -> Json:
    """A bundle and what it may be asked, JSON-ready."""
    manifest, offer = bundle.manifest, offer_of(bundle.manifest)
    usual, size = offer.known(None), manifest.image
    rules = offer.rules[:1] if manifest.told_of_guidance else offer.rules
    nameable = [rule for rule in rules if rule.name]
    fields = dict.fromkeys(name for rule in rules for name in offer.known(rule.name or None).fields)
    return {
        "name": bundle.name,
        "family": manifest.family,
        "checkpoint": manifest.name,
        "digest": manifest.digest,
        "size": {
            "width": size.width,
            "height": size.height,
            "multiple_of": size.multiple_of,
            "max_pixels": size.max_pixels,
        },
        "samplers": list(offer.family.samplers),
        "defaults": {name.lower(): usual.defaults[name] for name in DEFAULTS},
        "rules": [_rule(offer, rule) for rule in nameable],
        "fields": [name for name in fields if not (name == "NEGATIVE_PROMPT" and manifest.told_of_guidance)],
        "control": list(manifest.channels),
        "pinned": [[part.model_dump() for part in mix.adapters] for mix in manifest.pinned],
        **manifest.told,
    }


def _rule(offer: Offer, rule: type[Rule]) -> Json:
    known = offer.known(rule.name)
    own = [known.fields[row.name] for row in rows(rule).values() if row.name in known.fields]
    strengths = [
        {"field": row.name, "default": known.defaults[row.name], "low": row.low, "high": row.high}
        for row in own
        if isinstance(row, Number | Whole)
    ]
    return {"name": rule.name, "strengths": strengths}


def _said(name: str, header: Header) -> Json:
    """What the header says of an adapter; "" and 0 where it doesn't. `trigger` is the word that calls the style."""
    return {
        "kind": header.kind,
        "family": header.family,
        "trigger": f"<{name}>" if header.kind == "embedding" else header.trigger,
        "prompt": header.prompt,
        "rank": header.rank,
        "stages": header.stages,
        "adapts": list(header.adapts),
    }


def _unanswered(what: str, why: str) -> NoAnswer:
    return NoAnswer(FIELD, f"{what}: {why}", "try again later")

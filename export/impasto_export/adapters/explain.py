"""Explain a foreign adapter by its file alone; with a bundle, also how it fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from impasto_export.adapters import (
    bases,
    bottleneck_layouts,
    bottlenecks,
    collected,
    embeddings,
    forms,
    importer,
    layers,
    loras,
    pairs,
    sources,
)
from impasto_export.adapters.collected import Site, Sites
from impasto_export.adapters.forms import Form
from impasto_export.adapters.importer import Kind, Said
from impasto_export.adapters.layers import Layer
from impasto_export.adapters.layouts import DOWN, UNNAMED, AsWritten, Names
from impasto_export.adapters.sources import Source
from impasto_export.architecture import Json
from impasto_export.errors import AdapterError, CheckpointError, UnaccountedKeys
from impasto_export.families import FEEDFORWARD
from impasto_export.feedforward import style_files
from impasto_export.spellings import TRANSFORMER, UPSCALER

HOT = "every request can use it, alone or mixed"
STYLE = "style"
UNSTATED, UNUSABLE = "not stated", "nothing can use it as it is"
# The importer's checks of bottlenecks that need no bundle.
PAIRED = (bottlenecks.check_halves, bottlenecks.stated_prompt)
UNSURE = "check with --bundle whether all its layers allow that"


def explain(place: Path, said: Said, manifest: Json | None = None, bundle: Path | None = None) -> Json:
    """The explanation as a JSON object; its `problems` are those known to prevent an import.

    With a `manifest` they are complete, for its bundle, whose folder is `bundle`. Raises AdapterError or ExportError
    for a file that cannot be read.
    """
    styles = style_files.recognises(place) or (manifest is not None and manifest["family"] == FEEDFORWARD)
    if styles and said.upscaler is not None:
        raise AdapterError(f"--upscaler: {place} is for a feed-forward net, which has one stage; leave it out")
    if styles:
        return {"file": str(place), "kind": "style vectors", **_styles(place, styles, manifest, bundle)}
    with sources.opened(place, said.upscaler) as source:
        kind = importer.kind(source, embeddings.widths(manifest) if manifest else ())
        facts = {"file": str(place), **FACTS[kind](source)}
        return facts if manifest is None else facts | _fit(source, kind, said, manifest, bundle)


def _styles(place: Path, held: str | bool, manifest: Json | None, bundle: Path | None) -> Json:
    """The facts of a feed-forward net's styles; `held` says what the file holds, if that is known."""
    facts: Json = {**_optional("holds", held if isinstance(held, str) else ""), "use": HOT, "problems": []}
    if manifest is None or bundle is None:
        return facts
    try:
        made = importer.adapters(place, STYLE, manifest, importer.NOTHING, bundle)
    except (AdapterError, CheckpointError) as error:
        return {**facts, "bundle": manifest["name"], "use": "this bundle cannot use it", "problems": [str(error)]}
    notes = list(dict.fromkeys(note for one in made.values() for note in importer.notes(one.record)))
    return {**facts, "bundle": manifest["name"], "styles": str(len(made)), "notes": notes}


def _bottleneck(source: Source) -> Json:
    facts: Json = {"kind": "bottleneck", **bottleneck_layouts.facts(source)}
    if source.second is not None:
        facts["second stage"] = {"file": source.second.place.name, **bottleneck_layouts.facts(source.second)}
    problems = [problem for check in PAIRED if (problem := _raised(check, source))]
    base = "a masked transformer, such as aMUSEd"
    return {**facts, "base": base, "use": UNUSABLE if problems else HOT, "problems": problems}


def _raised(check: Callable[[Source], object], source: Source) -> str:
    """The problem that a check of the importer's finds, or ""."""
    try:
        check(source)
    except AdapterError as error:
        return str(error)
    return ""


def _embedding(source: Source) -> Json:
    facts = embeddings.facts(source)
    known = {("768",): bases.SD1, ("1024",): bases.SD2, ("768", "1280"): bases.SDXL}
    base = known.get(tuple(facts["widths"]), bases.UNKNOWN)
    return {"kind": "embedding", **facts, "base": base, "use": HOT, "notes": source.joined, "problems": []}


def _lora(source: Source) -> Json:
    sites, bad = collected.collect(source, AsWritten())
    problems = bad + ([loras.PICKLED] if any(half.pickled for half in source.halves) else [])
    if swapped := _raised(loras.check_order, source):
        problems.append(swapped)
    elif _alone(sites):
        problems.append(f"{pairs.ALONE}; {pairs.GIVE}")
    base = collected.made_for(source, sites)
    unstated = [f"{graph}.{name}" for (graph, name), site in sites.items() if _alpha(name, site) == UNSTATED]
    found: set[Form] = set().union(*(_needs(site) for site in sites.values()))
    return {
        "kind": " + ".join(forms.NAMES[form] for form in sorted(found)) or forms.NAMES["lora"],
        "layout": collected.layout(source.headers[0]),
        "base": base.base,
        "because": base.because,
        **_optional("title", source.metadata.get(bases.TITLE)),
        **_optional("says", bases.said(source.metadata)),
        "components": dict(Counter(graph for graph, _ in sites)),
        "ranks": _counted(forms.rank(site.shapes) or "none" for site in sites.values()),
        "alphas": _counted(_alpha(name, site) for (_, name), site in sites.items()),
        **_optional("words", bases.words(source.metadata)),
        "use": UNUSABLE if problems else forms.merging(found) if found else f"{HOT}; {UNSURE}",
        "notes": [*loras.assumptions(unstated, len(sites), base.base == bases.AMUSED), *loras.taken(source, None)],
        "problems": problems,
    }


FACTS = {"bottleneck": _bottleneck, "embedding": _embedding, "lora": _lora}


def _alone(sites: Sites) -> bool:
    """Whether the layers of the backbone are all the second stage's; a file may leave out what they are of."""
    backbone = [(graph, name) for graph, name in sites if graph in (TRANSFORMER, UPSCALER, UNNAMED)]
    return bool(backbone) and all(
        graph == UPSCALER or (graph == UNNAMED and pairs.of_second([name])) for graph, name in backbone
    )


def _optional(key: str, value: Json | str | None) -> Json:
    return {key: value} if value else {}


def _counted(values: Iterable[object]) -> dict[str, int]:
    """Value -> number of layers that have it, the most frequent first."""
    return dict(Counter(map(str, values)).most_common())


def _alpha(name: str, site: Site) -> str:
    if site.alpha is not None:
        return f"{site.alpha:g}"
    return f"{site.config.alpha_of(name):g}" if site.config else UNSTATED


def _needs(site: Site) -> set[Form]:
    """The forms that only merging can use, on the assumption that every Linear and 1x1 convolution has a bank."""
    shape = forms.trimmed(site.shapes.get(DOWN, (1, 1)))
    return forms.merged_only(site.parts, Layer(shape, hot=len(shape) == 2))


def _fit(source: Source, kind: Kind, said: Said, manifest: Json, bundle: Path | None) -> Json:
    """The entries that the bundle adds to the explanation, or changes."""
    facts: Json = {"bundle": manifest["name"]}
    if kind == "lora":
        sites, _ = collected.collect(source, Names(layers.of(manifest, bundle)))
        facts["hit"] = dict(Counter(graph for graph, _ in sites))
    try:
        record = importer.read(source, manifest, said, bundle).record
    except UnaccountedKeys as error:
        return {**facts, "use": "this bundle cannot use it", "problems": list(error.keys)}
    except AdapterError as error:
        return {**facts, "use": "this bundle cannot use it", "problems": [str(error)]}
    use = forms.merging(record["forms"]) if record["kind"] == loras.DELTA else HOT
    return {**facts, "use": use, "notes": record["source"]["assumed"], "problems": []}


def lines(facts: Json) -> list[str]:
    """The explanation as text lines, without the problems; numbers of layers are in brackets."""
    shown = {key: _text(value) for key, value in facts.items() if key != "problems"}
    return [f"{key}: {text}" for key, text in shown.items() if text]


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(
            f"{key} ({part})" if isinstance(part, int) else f"{key}: {part}" for key, part in value.items()
        )
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)

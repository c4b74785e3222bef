"""Import a foreign adapter with the importer of its kind, which the file's content tells."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from impasto_export import spellings
from impasto_export.adapters import bottlenecks, embeddings, forms, loras, sources
from impasto_export.adapters.embedding_layouts import KNOWN
from impasto_export.adapters.layouts import speaks_of_lora
from impasto_export.adapters.loras import Imported
from impasto_export.adapters.sources import Source
from impasto_export.architecture import Json
from impasto_export.errors import AdapterError
from impasto_export.families import FEEDFORWARD
from impasto_export.feedforward import deltas, vectors
from impasto_export.feedforward.source import opened as opened_net

# How names of a whole checkpoint's tensors begin.
CHECKPOINT = ("model.diffusion_model.", "first_stage_model.", "control_model.")
Kind = Literal["bottleneck", "embedding", "lora"]
NAMED: dict[Kind, str] = {"bottleneck": "a bottleneck adapter", "embedding": "an embedding", "lora": "a LoRA"}


@dataclass(frozen=True)
class Said:
    """The user's options for an adapter; empty means not given. `upscaler` is the file of the second stage's half."""

    trigger: str = ""
    prompt: str = ""
    style_prompt: str = ""
    alpha: float | None = None
    style: str = ""
    upscaler: Path | None = None

    @property
    def options(self) -> list[str]:
        """The given options that a feed-forward net has no use for."""
        stated = {"--trigger": self.trigger, "--prompt": self.prompt, "--style-prompt": self.style_prompt}
        others = {"--alpha": self.alpha, "--upscaler": self.upscaler}
        words = [option for option, value in stated.items() if value]
        return words + [option for option, value in others.items() if value is not None]


NOTHING = Said()


def adapters(place: Path, name: str, manifest: Json, said: Said, bundle: Path) -> dict[str, Imported]:
    """The file's adapters for the bundle, by name: one, or for a feed-forward net maybe several styles, which may have
    names of their own. Raises as `convert`."""
    if manifest["family"] == FEEDFORWARD:
        return _styles(place, name, manifest, said, bundle)
    if said.style:
        raise AdapterError(f"--style: got {said.style!r}; only a feed-forward net's files hold styles; leave it out")
    if not name:
        raise AdapterError(f"--name: {place} has no name of its own; give the name that requests will use")
    return {name: convert(place, manifest, said, bundle)}


def _styles(place: Path, name: str, manifest: Json, said: Said, bundle: Path) -> dict[str, Imported]:
    if said.options:
        problem = f"{manifest['name']} is a feed-forward net, which reads no words"
        raise AdapterError(f"{', '.join(said.options)}: {problem}; leave it out")
    with opened_net(place) as source:
        if source is not None and deltas.recognises(source, manifest):
            if not name or said.style:
                raise AdapterError(f"--name: {place} is one style, a decoder; give a name for it, and no --style")
            return {name: deltas.read(source, manifest, bundle)}
    return vectors.convert(place, manifest, bundle, name, said.style)


def convert(place: Path, manifest: Json, said: Said = NOTHING, bundle: Path | None = None) -> Imported:
    """Import the adapter for the bundle that `manifest` describes; without its folder `bundle`, layers that have no
    bank are unknown.

    Raises AdapterError for a file of unknown kind, for problems that its importer finds, and for an option of another
    kind; ExportError for a damaged file.
    """
    with sources.opened(place, said.upscaler) as source:
        return read(source, manifest, said, bundle)


def read(source: Source, manifest: Json, said: Said, bundle: Path | None) -> Imported:
    """As `convert`, for an open source."""
    match kind(source, embeddings.widths(manifest)):
        case "bottleneck":
            return _bottleneck(source, manifest, said)
        case "embedding":
            return _embedding(source, manifest, said)
        case "lora":
            return _lora(source, manifest, said, bundle)


def kind(source: Source, widths: Collection[int] = ()) -> Kind:
    """The kind of a source and its half. Raises AdapterError where the two differ, or the kind has no halves."""
    first = recognise(source, widths)
    if source.second is None:
        return first
    if first == "embedding":
        raise AdapterError(f"--upscaler: {source} is an embedding, which both stages read; leave the option out")
    if (other := recognise(source.second, widths)) != first:
        problem = f"{source.second} is {NAMED[other]}, but the base's half is {NAMED[first]}"
        raise AdapterError(f"--upscaler: {problem}; both halves of a pair must be of one kind")
    return first


def recognise(source: Source, widths: Collection[int] = ()) -> Kind:
    """The kind, by names and shapes; `widths` are those of a bundle's text encoders. Raises AdapterError for a file of
    unknown kind."""
    if bottlenecks.recognises(source):
        return "bottleneck"
    if not source.keys:
        raise AdapterError(f"{source} holds no tensors; get the file again")
    if any(speaks_of_lora(key) for key in source.keys):
        return "lora"
    if embeddings.recognises(source, widths):
        return "embedding"
    if any(spellings.unwrapped(key).startswith(CHECKPOINT) for key in source.keys):
        raise AdapterError(f"{source} is a checkpoint, not an adapter; link it with `impasto link`")
    problem = f"{source} holds no LoRA, no bottleneck adapter and no embedding; its tensors: {_listed(source)}"
    wide = ", ".join(map(str, sorted({*KNOWN, *widths})))
    raise AdapterError(f"{problem}; an embedding's tensors are as wide as a text encoder: {wide}")


def _listed(source: Source) -> str:
    """The first few of its tensors, with dtypes and shapes."""
    tensors = [item for header in source.headers for item in sorted(header.tensors.items())]
    return ", ".join(f"{key} {tensor.dtype} {list(tensor.shape)}" for key, tensor in tensors[:5])


def notes(record: Json) -> list[str]:
    """Notes for the user on an imported adapter: what was assumed, and whether only merging can use it."""
    assumed: list[str] = record["source"]["assumed"]
    return [*assumed, forms.merging(record["forms"])] if record["kind"] == loras.DELTA else assumed


def _bottleneck(source: Source, manifest: Json, said: Said) -> Imported:
    if said.alpha is not None:
        raise AdapterError(f"--alpha: {source} is a bottleneck adapter, which has no alpha; leave it out")
    _refuse_style_prompt(source, said)
    return bottlenecks.read(source, manifest, said.trigger or None, said.prompt)


def _embedding(source: Source, manifest: Json, said: Said) -> Imported:
    if said.trigger:
        fix = "prompts write it as <NAME>, so choose it with --name"
        raise AdapterError(f"--trigger: {source} is an embedding, whose trigger is its name: {fix}")
    if said.alpha is not None:
        raise AdapterError(f"--alpha: {source} is an embedding, which has no alpha; leave it out")
    return embeddings.read(source, manifest, said.prompt, said.style_prompt)


def _lora(source: Source, manifest: Json, said: Said, bundle: Path | None) -> Imported:
    _refuse_style_prompt(source, said)
    return loras.read(source, manifest, said.trigger or None, said.prompt, said.alpha, bundle)


def _refuse_style_prompt(source: Source, said: Said) -> None:
    if said.style_prompt:
        fix = "put the style into --prompt, or words that a prompt should contain into --trigger"
        raise AdapterError(f"--style-prompt: {source} is not an embedding; {fix}")

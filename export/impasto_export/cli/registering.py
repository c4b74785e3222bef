"""The command `impasto adapters`: import adapters into a registry, list, show, check and remove them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Optional

import typer

from impasto_export import manifest
from impasto_export.adapters import check, embeddings, explain, importer
from impasto_export.adapters.loras import DELTA, Imported
from impasto_export.adapters.registry import ENVIRONMENT, NAME, AnyRegistry, Entry, check_name, taken
from impasto_export.adapters.sources import SECOND
from impasto_export.architecture import BOTTLENECK, VECTOR, Json
from impasto_export.cli.printed import AsJson, RegistryOption, registry_in, reported, show
from impasto_export.errors import AdapterError, RegistryError, listing
from impasto_export.feedforward import pictured

adapters = typer.Typer(
    help="Import adapters into a registry, and look after it.", no_args_is_help=True, add_completion=False
)

PROMPT_HELP = f"The prompt of its training, with {{context}} in it; an embedding's default: {embeddings.PROMPT}"
SECOND_HELP = f"Of a pair, the second stage's file; in a folder, {SECOND}."
UpscalerOption = Annotated[Optional[Path], typer.Option("--upscaler", help=SECOND_HELP)]  # noqa: UP045
NewOption = Annotated[bool, typer.Option("--new", help="Refuse a name that is taken.")]
BundleOption = Annotated[Path, typer.Option("--bundle", help="Bundle that the adapter is for.")]


@adapters.command("import")
def import_adapter(
    source: Annotated[
        Path,
        typer.Argument(help="File or folder of a LoRA, a bottleneck adapter, an embedding or a net's styles."),
    ],
    bundle: BundleOption,
    name: Annotated[
        str, typer.Option("--name", help="Name that requests will use; a file of styles may bring its own.")
    ] = "",
    registry: RegistryOption = None,
    new: NewOption = False,
    trigger: Annotated[
        str, typer.Option("--trigger", help="Words that a prompt should contain; a LoRA's header may state them.")
    ] = "",
    alpha: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--alpha", help="LoRA: the alpha of its training, if its file states none (aMUSEd's)."),
    ] = None,
    prompt: Annotated[str, typer.Option("--prompt", help=PROMPT_HELP)] = "",
    style_prompt: Annotated[
        str,
        typer.Option("--style-prompt", help=f"Embedding: the style's own prompt; default: {embeddings.STYLE_PROMPT}"),
    ] = "",
    style: Annotated[str, typer.Option("--style", help="Number of the one style to import, from a file of many.")] = "",
    upscaler: UpscalerOption = None,
    as_json: AsJson = False,
) -> None:
    """Convert a LoRA, a bottleneck adapter, a textual inversion or styles, and register it: all of it, or nothing."""
    with reported():
        said = importer.Said(trigger, prompt, style_prompt, alpha, style, upscaler)
        _registered(importer.adapters(source, name, manifest.load(bundle), said, bundle), registry, new, as_json)


@adapters.command("from-picture")
def adapter_from_picture(
    picture: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JPEG, PNG or WebP of a style.")],
    bundle: BundleOption,
    name: Annotated[str, typer.Option("--name", help="Name that requests will use.")],
    strength: Annotated[
        float, typer.Option("--strength", help="The style's share, above 0; the rest leaves a photo as it is.")
    ] = 1.0,
    registry: RegistryOption = None,
    new: NewOption = False,
    as_json: AsJson = False,
) -> None:
    """Keep a picture's style as an adapter: a feed-forward bundle's predictor makes its vector."""
    with reported():
        _registered({name: pictured.convert(picture, manifest.load(bundle), bundle, strength)}, registry, new, as_json)


def _registered(made: Mapping[str, Imported], registry: str | None, new: bool, as_json: bool) -> None:
    """Register each under its name, and print what was made."""
    store = registry_in(registry)
    for name in made:
        check_name(name)
    before = {name: _held(store, name) for name in made}
    if new and (held := [name for name in made if before[name]]):
        raise taken(held[0])
    entries = [_put(store, name, one, new) for name, one in made.items()]
    replaced = [note for entry in entries if (note := _replaced(before[entry.name], entry))]
    assumed = [note for one in made.values() for note in importer.notes(one.record)]
    notes = dict.fromkeys(f"note: {note}" for note in [*replaced, *assumed])
    documents = [{**_document(entry), "was": _was(before[entry.name])} for entry in entries]
    shown = [f"{entry.name}: {entry.digest[:12]}, {_size(entry.record)}" for entry in entries]
    show(as_json, documents[0] if len(documents) == 1 else documents, *shown, *notes)


def _put(store: AnyRegistry, name: str, one: Imported, new: bool) -> Entry:
    return Entry(name, store.put(name, one.data, one.record["source"]["file"], new), one.record)


def _held(store: AnyRegistry, name: str) -> Entry | str:
    """What the name points to, or why that cannot be read; "" for a new name."""
    if not store.holds(name):
        return ""
    try:
        return store.show(name)
    except RegistryError:
        return "damaged"


def _was(before: Entry | str) -> str | None:
    """The digest that the name had, or "damaged"; None for a new name."""
    return before.digest if isinstance(before, Entry) else before or None


def _replaced(before: Entry | str, entry: Entry) -> str:
    """A note on what the name pointed to before; "" if that was nothing, or the same."""
    if isinstance(before, str):
        return f"{entry.name}: was {before}, now {entry.digest[:12]}" if before else ""
    was = f"{before.digest[:12]} ({_size(before.record)})"
    return "" if before.digest == entry.digest else f"{entry.name}: was {was}, now {entry.digest[:12]}"


@adapters.command("list")
def list_adapters(registry: RegistryOption = None, as_json: AsJson = False) -> None:
    """List the registered adapters."""
    with reported():
        store = registry_in(registry)
        if not store.exists():
            raise RegistryError(f"no registry at {store.place}; set {ENVIRONMENT} or pass --registry")
        entries = [store.show(name) for name in store.names()]
        show(as_json, [_document(entry) for entry in entries], *(_line(entry) for entry in entries))


@adapters.command("show")
def show_adapter(name: str, registry: RegistryOption = None, as_json: AsJson = False) -> None:
    """Show one adapter's header: its kind and size, trigger words and prompts, where it came from."""
    with reported():
        document = _document(registry_in(registry).show(name))
        show(as_json, document, *_lines(document))


@adapters.command("check")
def check_adapter(
    adapter: Annotated[str, typer.Argument(help="A registered name; or a file or folder, which is not imported.")],
    registry: RegistryOption = None,
    bundle: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--bundle", help="Also check that the adapter fits this bundle."),
    ] = None,
    upscaler: UpscalerOption = None,
    as_json: AsJson = False,
) -> None:
    """Check a registered adapter's bytes, values and fit. Or explain a file: what it is, which layers it changes, what
    an import would assume. Exit status 1 when there are problems."""
    with reported():
        described = manifest.load(bundle) if bundle else None
        store = registry_in(registry)
        if not store.holds(adapter) and (Path(adapter).exists() or not NAME.fullmatch(adapter)):
            said = importer.Said(upscaler=upscaler)
            found = _explained(Path(adapter), said, described, bundle, as_json)
        elif upscaler is not None:
            raise AdapterError(f"--upscaler: {adapter!r} is registered, with both its halves; leave it out")
        else:
            found = check.problems(store, adapter, described, bundle)
            show(as_json, {"name": adapter, "problems": found}, *(found or [f"{adapter}: ok"]))
    if found:
        raise typer.Exit(1)


def _explained(
    place: Path, said: importer.Said, described: Json | None, bundle: Path | None, as_json: bool
) -> list[str]:
    """Print the explanation, and return the problems."""
    facts = explain.explain(place, said, described, bundle)
    problems: list[str] = facts["problems"]
    shown = [f"problems ({len(problems)}):", listing(problems)] if problems else []
    show(as_json, facts, *explain.lines(facts), *shown)
    return problems


@adapters.command("rm")
def remove_adapter(name: str, registry: RegistryOption = None, as_json: AsJson = False) -> None:
    """Remove a name. Its adapter is deleted when no other name points to it; in an object store, by `sweep`."""
    with reported():
        digest = registry_in(registry).remove(name)
        show(as_json, {"name": name, "digest": digest}, f"removed {name}")


@adapters.command("sweep")
def sweep_registry(
    days: Annotated[int, typer.Option("--days", min=1, help="Keep what was written in so many days.")] = 7,
    registry: RegistryOption = None,
    as_json: AsJson = False,
) -> None:
    """Delete adapters that no name points to any more. In an object store nothing else deletes them."""
    with reported():
        digests = registry_in(registry).sweep(timedelta(days=days))
        show(
            as_json, {"deleted": digests}, *(f"deleted {digest[:12]}" for digest in digests), f"{len(digests)} deleted"
        )


def _document(entry: Entry) -> dict[str, object]:
    return {"name": entry.name, "digest": entry.digest, **entry.record}


def _line(entry: Entry) -> str:
    return f"{entry.name}  {entry.digest[:12]}  {_size(entry.record)}"


def _lines(document: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Lines `key: value`; a nested key is `key.inner`."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}: {'; '.join(map(str, value)) or '-'}"
        else:
            yield f"{prefix}{key}: {value}"


def _size(record: Json) -> str:
    if record.get("kind") == embeddings.KIND:
        return f"embedding, stages × vectors: {record.get('stages')} × {record.get('vectors')}"
    if record.get("kind") == VECTOR:
        return f"style vector of {record.get('network')}, {record.get('size')} numbers"
    kind = {BOTTLENECK: "bottleneck, ", DELTA: "to be merged, "}.get(str(record.get("kind")), "")
    both = ", both stages" if "stages" in record else ""
    return f"{kind}rank {record.get('rank')}, {record.get('sites')} sites{both}"

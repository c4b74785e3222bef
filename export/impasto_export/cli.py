"""The commands `impasto export`, `impasto link` and `impasto adapters`. Only `export graphs` imports torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from impasto_export import adapters as convert
from impasto_export import check, manifest
from impasto_export import link as linking
from impasto_export.errors import ExportError
from impasto_export.registry import ENVIRONMENT, Entry, Registry, default_folder

export = typer.Typer(help="Export an architecture's graphs (needs torch).", no_args_is_help=True)
adapters = typer.Typer(help="Import adapters into a registry folder, and look after it.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
# Optional[...], not `| None`: typer evaluates these at run time, also on Python 3.10.
RegistryOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--registry", help=f"Registry folder; default ${ENVIRONMENT}, else ~/.local/share/impasto/registry."),
]
BundleOption = Annotated[Path, typer.Option("--bundle", help="Bundle that the adapter is for.")]


@contextmanager
def reported() -> Iterator[None]:
    """What the user can act on goes to stderr without a traceback; exit status 1."""
    try:
        yield
    except (ExportError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _print(as_json: bool, document: object, *lines: str) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str) if as_json else "\n".join(lines))


@export.callback()
def _export() -> None:
    """A callback keeps `graphs` a subcommand while it is the only one."""


@export.command("graphs")
def export_graphs(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder in the diffusers layout.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the skeleton.")],
    name: Annotated[str, typer.Option("--name", help="Name of the architecture; default: the folder's.")] = "",
) -> None:
    """Export the checkpoint's architecture as graph skeletons; its weights are not read."""
    with reported():
        # torch takes seconds to import, and is not installed where bundles are only linked and served.
        from impasto_export import graphs

        found = graphs.export(checkpoint, out, name or None, lambda text: typer.echo(text, err=True))
        typer.echo(f"{out}: architecture {found.name} {found.digest[:12]}, {len(found.graphs)} graphs")


def link(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder in the diffusers layout.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the bundle.")],
    graphs: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--graphs", help="Folder with skeletons, searched before the shipped ones; repeatable."),
    ] = None,
    variant: Annotated[str, typer.Option("--variant", help="Read *.VARIANT.safetensors, e.g. fp16.")] = "",
    as_json: AsJson = False,
) -> None:
    """Link a checkpoint of a known architecture into a bundle that `impasto serve` takes. No torch, no copy."""
    with reported():
        made = linking.link(checkpoint, out, graphs or (), variant or None)
        how = f"copied {', '.join(made.copied)}" if made.copied else "weights hard-linked"
        how = "unchanged" if made.reused else how
        _print(as_json, asdict(made), f"{made.folder}: bundle {made.name} {made.digest[:12]}, {how}")


@adapters.command("import")
def import_adapter(
    source: Annotated[Path, typer.Argument(help="LoRA .safetensors file, or the folder that holds it.")],
    name: Annotated[str, typer.Option("--name", help="Name that requests will use.")],
    bundle: BundleOption,
    registry: RegistryOption = None,
    trigger: Annotated[str, typer.Option("--trigger", help="Words that a prompt should contain.")] = "",
    as_json: AsJson = False,
) -> None:
    """Convert a LoRA of the diffusers or PEFT layout and register it; nothing is imported unless every key is."""
    with reported():
        made = convert.convert(source, manifest.load(bundle), trigger or None)
        digest = _registry(registry).put(name, made.data)
        notes = [f"note: {note}" for note in made.record["source"]["assumed"]]
        line = f"{name}: {digest[:12]}, rank {made.record['rank']}, {made.record['sites']} sites"
        _print(as_json, {"name": name, "digest": digest, **made.record}, line, *notes)


@adapters.command("list")
def list_adapters(registry: RegistryOption = None, as_json: AsJson = False) -> None:
    """List the registered adapters."""
    with reported():
        store = _registry(registry)
        entries = [store.show(name) for name in store.names()]
        _print(as_json, [_document(entry) for entry in entries], *(_line(entry) for entry in entries))


@adapters.command("show")
def show_adapter(name: str, registry: RegistryOption = None, as_json: AsJson = False) -> None:
    """Show one adapter's header: rank, sites, trigger words, where it came from."""
    with reported():
        document = _document(_registry(registry).show(name))
        _print(as_json, document, *(f"{key}: {value}" for key, value in document.items()))


@adapters.command("check")
def check_adapter(
    name: str,
    registry: RegistryOption = None,
    bundle: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--bundle", help="Check that the adapter fits this bundle, too."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check an adapter's bytes against its digest, its values, and optionally its fit; exit status 1 when it is bad."""
    with reported():
        found = check.problems(_registry(registry), name, manifest.load(bundle) if bundle else None)
        _print(as_json, {"name": name, "problems": found}, *(found or [f"{name}: ok"]))
    if found:
        raise typer.Exit(1)


@adapters.command("rm")
def remove_adapter(name: str, registry: RegistryOption = None, as_json: AsJson = False) -> None:
    """Forget a name; the adapter goes too when no other name points to it."""
    with reported():
        digest = _registry(registry).remove(name)
        _print(as_json, {"name": name, "digest": digest}, f"removed {name}")


def _registry(folder: Path | None) -> Registry:
    return Registry(folder or default_folder())


def _document(entry: Entry) -> dict[str, object]:
    return {"name": entry.name, "digest": entry.digest, **entry.record}


def _line(entry: Entry) -> str:
    return f"{entry.name}  {entry.digest[:12]}  rank {entry.record.get('rank')}  {entry.record.get('sites')} sites"

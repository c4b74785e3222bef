"""The commands `impasto export`, `impasto link` and `impasto adapters`. Only `export` imports torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from impasto_export import check, clip, embeddings, importer, manifest
from impasto_export import link as linking
from impasto_export.architecture import BOTTLENECK, Json
from impasto_export.control import Control
from impasto_export.errors import ControlError, ExportError
from impasto_export.registry import ENVIRONMENT, Entry, Registry, default_folder

export = typer.Typer(help="Export an architecture's graphs (needs torch).", no_args_is_help=True)
adapters = typer.Typer(help="Import adapters into a registry folder, and look after it.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
# Optional[...], not `| None`: typer evaluates these at run time, also on Python 3.10.
RegistryOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--registry", help=f"Registry folder; default ${ENVIRONMENT}, else ~/.local/share/impasto/registry."),
]
PROMPT_HELP = f"The prompt of its training, with {{context}} in it; an embedding's default: {embeddings.PROMPT}"
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


@export.command("controlnet")
def export_controlnet(
    folder: Annotated[Path, typer.Argument(help="Folder of a diffusers ControlNetModel.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the skeleton.")],
    name: Annotated[str, typer.Option("--name", help="Name of the architecture; default: the folder's.")] = "",
) -> None:
    """Export a ControlNet's architecture as a graph skeleton; its weights are not read."""
    with reported():
        from impasto_export import graphs

        found = graphs.export_controlnet(folder, out, name or None, lambda text: typer.echo(text, err=True))
        typer.echo(f"{out}: ControlNet {found.name} {found.digest[:12]}")


@export.command("clip")
def export_clip(
    folder: Annotated[Path, typer.Argument(help="Folder of a transformers CLIPModel.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the skeleton.")],
    name: Annotated[str, typer.Option("--name", help="Name of the architecture; default: the folder's.")] = "",
) -> None:
    """Export a scorer's architecture as graph skeletons; its weights are not read."""
    with reported():
        from impasto_export import clip_graphs

        found = clip_graphs.export(folder, out, name or None, lambda text: typer.echo(text, err=True))
        typer.echo(f"{out}: CLIP {found.name} {found.digest[:12]}, {len(found.graphs)} graphs")


def link(
    checkpoint: Annotated[
        Path, typer.Argument(help="Checkpoint folder in the diffusers layout, or a CLIPModel's, for a scorer.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the bundle.")],
    graphs: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--graphs", help="Folder with skeletons, searched before the shipped ones; repeatable."),
    ] = None,
    variant: Annotated[str, typer.Option("--variant", help="Read *.VARIANT.safetensors, e.g. fp16.")] = "",
    controlnet: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--controlnet", help="Folder of a ControlNet to put beside the checkpoint."),
    ] = None,
    control: Annotated[
        str, typer.Option("--control", help="What the hint's three channels carry, e.g. edges,edges,depth.")
    ] = "",
    control_optional: Annotated[
        str, typer.Option("--control-optional", help="Which of these a request may leave out, e.g. depth.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Link a checkpoint of a known architecture into a bundle that `impasto serve` takes: as --bundle, and a CLIPModel
    as --scorer. No torch, no copy."""
    with reported():
        steering = _control(controlnet, control, control_optional)
        made = _linked(checkpoint, out, graphs or (), variant or None, steering)
        how = f"copied {', '.join(made.copied)}" if made.copied else "weights hard-linked"
        how = "unchanged" if made.reused else how
        _print(as_json, asdict(made), f"{made.folder}: bundle {made.name} {made.digest[:12]}, {how}")


def _linked(
    checkpoint: Path, out: Path, graphs: Sequence[Path], variant: str | None, steering: Control | None
) -> linking.Linked:
    """By its config a CLIPModel, or a checkpoint that paints."""
    if not clip.recognises(checkpoint):
        return linking.link(checkpoint, out, graphs, variant, steering)
    if steering:
        raise ControlError(f"--controlnet: {checkpoint} is a CLIPModel, which paints nothing; leave it out")
    return clip.link(checkpoint, out, graphs, variant)


def _control(folder: Path | None, channels: str, optional: str) -> Control | None:
    if folder:
        return Control(folder, _split(channels), _split(optional))
    if channels or optional:
        raise ControlError("--control: there is no ControlNet; name its folder with --controlnet")
    return None


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


@adapters.command("import")
def import_adapter(
    source: Annotated[
        Path, typer.Argument(help="File of a LoRA, a bottleneck adapter or an embedding, or its folder.")
    ],
    name: Annotated[str, typer.Option("--name", help="Name that requests will use.")],
    bundle: BundleOption,
    registry: RegistryOption = None,
    trigger: Annotated[
        str, typer.Option("--trigger", help="Words that a prompt should contain; not an embedding's.")
    ] = "",
    alpha: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--alpha", help="LoRA: the alpha of its training, where its file states none (aMUSEd's)."),
    ] = None,
    prompt: Annotated[str, typer.Option("--prompt", help=PROMPT_HELP)] = "",
    style_prompt: Annotated[
        str,
        typer.Option("--style-prompt", help=f"Embedding: the style alone; default: {embeddings.STYLE_PROMPT}"),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Convert a LoRA, a bottleneck adapter or a textual inversion and register it: with all of its keys, or not."""
    with reported():
        said = importer.Said(trigger, prompt, style_prompt, alpha)
        made = importer.convert(source, manifest.load(bundle), said)
        digest = _registry(registry).put(name, made.data)
        notes = [f"note: {note}" for note in made.record["source"]["assumed"]]
        _print(
            as_json,
            {"name": name, "digest": digest, **made.record},
            f"{name}: {digest[:12]}, {_size(made.record)}",
            *notes,
        )


@adapters.command("list")
def list_adapters(registry: RegistryOption = None, as_json: AsJson = False) -> None:
    """List the registered adapters."""
    with reported():
        store = _registry(registry)
        entries = [store.show(name) for name in store.names()]
        _print(as_json, [_document(entry) for entry in entries], *(_line(entry) for entry in entries))


@adapters.command("show")
def show_adapter(name: str, registry: RegistryOption = None, as_json: AsJson = False) -> None:
    """Show one adapter's header: its kind and size, trigger words and prompts, where it came from."""
    with reported():
        document = _document(_registry(registry).show(name))
        _print(as_json, document, *_lines(document))


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
    return f"{entry.name}  {entry.digest[:12]}  {_size(entry.record)}"


def _lines(document: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """`key: value`, and `key.inner: value` for what has parts."""
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
    kind = "bottleneck, " if record.get("kind") == BOTTLENECK else ""
    return f"{kind}rank {record.get('rank')}, {record.get('sites')} sites"

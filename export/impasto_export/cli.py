"""The commands `impasto export`, `impasto link` and `impasto adapters`. Torch is imported by `export` alone,
and there by all but `merge`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from impasto_export import clip, manifest, progress
from impasto_export import link as linking
from impasto_export.adapters import check, embeddings, explain, importer
from impasto_export.adapters.loras import DELTA
from impasto_export.adapters.registry import ENVIRONMENT, NAME, Entry, Registry, default_folder
from impasto_export.architecture import BOTTLENECK, Json
from impasto_export.bundles import Linked
from impasto_export.checkpoints.checkpoint import Said
from impasto_export.checkpoints.control import Control
from impasto_export.errors import CheckpointError, ControlError, ExportError, listing
from impasto_export.files import Progress
from impasto_export.merging import merge as merging
from impasto_export.merging import mixes

export = typer.Typer(help="Export an architecture's graphs (needs torch); merge adapters.", no_args_is_help=True)
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
        from impasto_export.tracing import graphs

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
        from impasto_export.tracing import graphs

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
        from impasto_export.tracing import clip_graphs

        found = clip_graphs.export(folder, out, name or None, lambda text: typer.echo(text, err=True))
        typer.echo(f"{out}: CLIP {found.name} {found.digest[:12]}, {len(found.graphs)} graphs")


@export.command("merge")
def export_merge(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `impasto link` made.")],
    adapters: Annotated[
        list[str], typer.Option("--adapter", metavar="NAME[:WEIGHT]", help="An adapter of the registry; repeatable.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the merged bundle.")],
    registry: RegistryOption = None,
    pin: Annotated[
        bool, typer.Option("--pin", help="Keep the weights as they are, and put the mix beside them for its requests.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Merge adapters of any form into a bundle's weights; needs no torch. What doesn't change is hard-linked."""
    with reported():
        with progress.shown() as advance:
            made = merging.merge(bundle, mixes.parse(adapters), out, _registry(registry), pin, advance)
        how = f"{made.tensors} weights, {made.bytes / 1e6:.1f} MB, in {made.file}"
        how += f"; copied {', '.join(made.copied)}" if made.copied else ""
        _print(as_json, asdict(made), f"{made.folder}: bundle {made.name} {made.digest[:12]}, {how}")


def link(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Folder in the diffusers layout, a .safetensors in the original one, or OWNER/REPO of the hub, "
            "also with @REVISION; for a scorer, a CLIPModel's folder."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the bundle.")],
    graphs: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--graphs", help="Folder with skeletons, searched before the shipped ones; repeatable."),
    ] = None,
    variant: Annotated[str, typer.Option("--variant", help="Read *.VARIANT.safetensors, e.g. fp16.")] = "",
    prediction: Annotated[
        str,
        typer.Option("--prediction", help="What a single file's UNet predicts: epsilon or v_prediction (SD 2.x)."),
    ] = "",
    spacing: Annotated[
        str,
        typer.Option("--spacing", help="A single file's timesteps: leading, linspace or trailing (Turbo)."),
    ] = "",
    tokenizer: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--tokenizer", help="Folder to take the tokenizer from: its own, or a whole checkpoint's."),
    ] = None,
    scheduler: Annotated[
        str, typer.Option("--scheduler", help=f"A request's default: {', '.join(manifest.SAMPLERS)}.")
    ] = "",
    steps: Annotated[Optional[int], typer.Option("--steps", min=1, help="A request's default.")] = None,  # noqa: UP045
    guidance_scale: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--guidance-scale", min=0.0, help="A request's default."),
    ] = None,
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
        stated = {"scheduler": scheduler or None, "steps": steps, "guidance_scale": guidance_scale}
        defaults = {key: value for key, value in stated.items() if value is not None}
        said = Said(variant or None, prediction or None, spacing or None, tokenizer, defaults)
        steering = _control(controlnet, control, control_optional)
        with progress.shown() as advance:
            made = _linked(checkpoint, out, graphs or (), said, steering, advance)
        how = f"copied {', '.join(made.copied)}" if made.copied else "weights hard-linked"
        how = "unchanged" if made.reused else how
        notes = [f"note: {note}" for note in made.notes]
        _print(as_json, asdict(made), f"{made.folder}: bundle {made.name} {made.digest[:12]}, {how}", *notes)


def _linked(
    checkpoint: str, out: Path, graphs: Sequence[Path], said: Said, steering: Control | None, advance: Progress
) -> Linked:
    """By its config a CLIPModel, or a checkpoint that paints."""
    if not clip.recognises(Path(checkpoint)):
        return linking.link(checkpoint, out, graphs, said, steering, advance)
    if steering:
        raise ControlError(f"--controlnet: {checkpoint} is a CLIPModel, which paints nothing; leave it out")
    if said != Said(said.variant):
        raise CheckpointError(f"{checkpoint} is a CLIPModel; of what is said of a checkpoint, only --variant is for it")
    return clip.link(Path(checkpoint), out, graphs, said.variant, advance)


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
        made = importer.convert(source, manifest.load(bundle), said, bundle)
        digest = _registry(registry).put(name, made.data)
        notes = [f"note: {note}" for note in importer.notes(made.record)]
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
    adapter: Annotated[str, typer.Argument(help="A registered name; or a file or folder, which is not imported.")],
    registry: RegistryOption = None,
    bundle: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--bundle", help="Check that the adapter fits this bundle, too."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a registered adapter's bytes, values and fit, or explain a file: what it is, which layers it changes and
    what would be assumed. Exit status 1 when it is bad."""
    with reported():
        described = manifest.load(bundle) if bundle else None
        store = _registry(registry)
        if adapter not in store.names() and (Path(adapter).exists() or not NAME.fullmatch(adapter)):
            found = _explained(Path(adapter), described, bundle, as_json)
        else:
            found = check.problems(store, adapter, described, bundle)
            _print(as_json, {"name": adapter, "problems": found}, *(found or [f"{adapter}: ok"]))
    if found:
        raise typer.Exit(1)


def _explained(place: Path, described: Json | None, bundle: Path | None, as_json: bool) -> list[str]:
    """Prints the explanation; its problems."""
    facts = explain.explain(place, importer.Said(), described, bundle)
    problems: list[str] = facts["problems"]
    shown = [f"problems ({len(problems)}):", listing(problems)] if problems else []
    _print(as_json, facts, *explain.lines(facts), *shown)
    return problems


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
    kind = {BOTTLENECK: "bottleneck, ", DELTA: "to be merged, "}.get(str(record.get("kind")), "")
    return f"{kind}rank {record.get('rank')}, {record.get('sites')} sites"

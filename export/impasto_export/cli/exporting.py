"""The command `impasto export`: export an architecture's graphs (torch), or merge adapters into a bundle (no torch)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from impasto_export import progress
from impasto_export.cli.printed import AsJson, RegistryOption, registry_in, reported, show
from impasto_export.merging import merge as merging
from impasto_export.merging import mixes

export = typer.Typer(
    help="Export an architecture's graphs (needs torch); merge adapters.", no_args_is_help=True, add_completion=False
)


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
        bool, typer.Option("--pin", help="Keep the bundle's weights, and add the mix beside them, for requests of it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Merge adapters of any form into a bundle's weights; needs no torch. Unchanged files are hard-linked."""
    with reported():
        with progress.shown() as advance:
            made = merging.merge(bundle, mixes.parse(adapters), out, registry_in(registry), pin, advance)
        how = f"{made.tensors} weights, {made.bytes / 1e6:.1f} MB, in {made.file}"
        how += f"; copied {', '.join(made.copied)}" if made.copied else ""
        show(as_json, asdict(made), f"{made.folder}: bundle {made.name} {made.digest[:12]}, {how}")
